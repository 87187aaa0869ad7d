/** A `ws` socket as a Connection. The one place that knows `ws`'s way of buffering, closing and failing. */
import type { WebSocket } from "ws"
import { highWaterBytes, maxCloseReasonBytes } from "../core/Protocol.ts"
import { beginning } from "../core/Text.ts"
import type { Connection, ConnectionSink, Request } from "../Transport.ts"

/** How long an orderly close may take before `ws` destroys the socket, in ms. */
export const closeGraceMillis = 2_000

/** Where a socket keeps its connection, so that all share the listeners below. */
const owner = Symbol("resilient-websocket/connection")

interface OwnedWebSocket extends WebSocket {
  [owner]?: WsConnection | undefined
}

export class WsConnection implements Connection {
  readonly request: Request
  private readonly ws: OwnedWebSocket
  private readonly onEnd: (() => void) | undefined
  private sink: ConnectionSink | undefined
  private awaitsDrain = false
  private ended: { readonly code: number; readonly reason: string } | undefined

  /** `onEnd` is called when the socket is gone. */
  constructor(ws: OwnedWebSocket, request: Request, onEnd?: () => void) {
    this.ws = ws
    this.request = request
    this.onEnd = onEnd
    ws[owner] = this
    // Nothing is lost before `open`: an end is remembered, and frames wait in the paused socket.
    ws.on("close", onClose)
    ws.on("error", ignoreError)
    if (ws.readyState === ws.OPEN) ws.pause()
  }

  get protocol(): string {
    return this.ws.protocol
  }

  open(sink: ConnectionSink): void {
    this.sink = sink
    if (this.ended !== undefined) {
      const { code, reason } = this.ended
      queueMicrotask(() => sink.closed(code, reason))
      return
    }
    this.ws.on("message", onMessage)
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
    if (this.ws.readyState !== this.ws.OPEN) return
    // Most peers are never pinged.
    if (!this.ws.listeners("pong").includes(onPong)) this.ws.on("pong", onPong)
    this.ws.ping()
  }

  close(code: number, reason: string): void {
    if (this.ended !== undefined) return
    // A paused socket would never see the peer's close frame.
    if (this.ws.readyState === this.ws.OPEN) this.ws.resume()
    this.ws.close(code, beginning(reason, maxCloseReasonBytes))
  }

  terminate(): void {
    this.ws.terminate()
  }

  /** Lets the socket go to somebody else: nothing is reported any more. */
  release(): WebSocket {
    if (this.sink === undefined) this.resume() // it was paused for `open`
    this.ws.off("message", onMessage)
    this.ws.off("pong", onPong)
    this.ws.off("close", onClose)
    this.ws.off("error", ignoreError)
    this.ws[owner] = undefined
    this.sink = undefined
    return this.ws
  }

  // What the listeners below tell.

  received(data: Buffer, isBinary: boolean): void {
    this.sink?.frame(isBinary ? data : data.toString(), data.length)
  }

  alive(): void {
    this.sink?.alive()
  }

  ending(code: number, reason: string): void {
    if (this.ended !== undefined) return
    this.ended = { code, reason }
    this.onEnd?.()
    this.sink?.closed(code, reason)
  }

  private checkDrain(): void {
    if (!this.awaitsDrain || this.ended !== undefined || this.ws.bufferedAmount >= highWaterBytes) return
    this.awaitsDrain = false
    this.sink?.drained()
  }
}

function onMessage(this: OwnedWebSocket, data: Buffer, isBinary: boolean): void {
  this[owner]?.received(data, isBinary)
}

function onPong(this: OwnedWebSocket): void {
  this[owner]?.alive()
}

function onClose(this: OwnedWebSocket, code: number, reason: Buffer): void {
  this[owner]?.ending(code, reason.toString())
}

// An error is always followed by a close, which is what is reported.
const ignoreError = (): void => {}
