/** A `ws` socket as a Connection. The one place that knows `ws`'s way of buffering, closing and failing. */
import type { WebSocket } from "ws"
import { highWaterBytes } from "../core/Protocol.ts"
import type { Connection, ConnectionSink, Request } from "../Transport.ts"

/** How long an orderly close may take before `ws` destroys the socket, in ms. */
export const closeGraceMillis = 2_000

export class WsConnection implements Connection {
  readonly protocol: string
  readonly request: Request
  private readonly ws: WebSocket
  private sink: ConnectionSink | undefined
  private awaitsDrain = false
  private ended: { readonly code: number; readonly reason: string } | undefined

  constructor(ws: WebSocket, request: Request) {
    this.ws = ws
    this.protocol = ws.protocol
    this.request = request
    // Nothing is lost before `open`: an end is remembered, and frames wait in the paused socket.
    ws.on("close", this.onClose)
    ws.on("error", ignoreError)
    if (ws.readyState === ws.OPEN) ws.pause()
  }

  open(sink: ConnectionSink): void {
    this.sink = sink
    if (this.ended !== undefined) {
      const { code, reason } = this.ended
      queueMicrotask(() => sink.closed(code, reason))
      return
    }
    this.ws.on("message", this.onMessage)
    this.ws.on("pong", this.onPong)
    this.ws.resume()
  }

  send(frame: string, written?: (ok: boolean) => void): void {
    const { ws } = this
    if (ws.readyState !== ws.OPEN) {
      if (written !== undefined) queueMicrotask(() => written(false))
      return
    }
    // Below the mark nobody needs to know when it was taken. A unit is three bytes at most, so without a callback the
    // mark is not crossed.
    if (written === undefined && ws.bufferedAmount + 3 * frame.length < highWaterBytes) {
      ws.send(frame)
      return
    }
    ws.send(frame, (error) => {
      written?.(error === undefined || error === null)
      this.checkDrain()
    })
    if (ws.bufferedAmount >= highWaterBytes) this.awaitsDrain = true
  }

  buffered(): number {
    return this.ws.bufferedAmount
  }

  pause(): void {
    if (this.ws.readyState === this.ws.OPEN) this.ws.pause()
  }

  resume(): void {
    if (this.ws.readyState === this.ws.OPEN) this.ws.resume()
  }

  ping(): void {
    if (this.ws.readyState === this.ws.OPEN) this.ws.ping()
  }

  close(code: number, reason: string): void {
    if (this.ended !== undefined) return
    // A paused socket would never see the peer's close frame.
    if (this.ws.readyState === this.ws.OPEN) this.ws.resume()
    this.ws.close(code, shorten(reason))
  }

  terminate(): void {
    this.ws.terminate()
  }

  /** Lets the socket go to somebody else: nothing is reported any more. */
  release(): WebSocket {
    this.ws.off("message", this.onMessage)
    this.ws.off("pong", this.onPong)
    this.ws.off("close", this.onClose)
    this.ws.off("error", ignoreError)
    this.sink = undefined
    return this.ws
  }

  private checkDrain(): void {
    if (!this.awaitsDrain || this.ended !== undefined || this.ws.bufferedAmount >= highWaterBytes) return
    this.awaitsDrain = false
    this.sink?.drained()
  }

  private readonly onMessage = (data: Buffer, isBinary: boolean): void => {
    this.sink?.frame(isBinary ? data : data.toString(), data.length)
  }

  private readonly onPong = (): void => {
    this.sink?.alive()
  }

  private readonly onClose = (code: number, reason: Buffer): void => {
    if (this.ended !== undefined) return
    this.ended = { code, reason: reason.toString() }
    this.sink?.closed(code, this.ended.reason)
  }
}

/** A close frame has room for 123 bytes of reason (RFC 6455 §5.5). */
const shorten = (reason: string): string => {
  let text = reason.slice(0, 123)
  while (Buffer.byteLength(text) > 123) text = text.slice(0, -1)
  return text
}

// An error is always followed by a close, which is what is reported.
const ignoreError = (): void => {}
