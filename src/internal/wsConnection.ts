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
  private paused = false
  /** What came in while it was paused: the rest of what the socket had given to `ws` by then, 64 KiB at most. */
  private unread: Array<string | Uint8Array> | undefined

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
    this.ws.on("ping", onPing)
    this.ws.on("pong", onPing)
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
    this.paused = true
    if (this.ws.readyState === this.ws.OPEN) this.ws.pause()
  }

  resume(): void {
    this.paused = false
    if (this.unread !== undefined) queueMicrotask(() => this.readOn())
    else if (this.ws.readyState === this.ws.OPEN) this.ws.resume()
  }

  ping(): void {
    if (this.ws.readyState === this.ws.OPEN) this.ws.ping()
  }

  close(code: number, reason: string): void {
    if (this.ended !== undefined) return
    // Nobody wants to know what it says now. A paused socket would never see the peer's close frame.
    this.ws.off("message", onMessage)
    this.unread = undefined
    if (this.ws.readyState === this.ws.OPEN) this.ws.resume()
    this.ws.close(code, beginning(reason, maxCloseReasonBytes))
  }

  terminate(): void {
    this.ws.terminate()
  }

  /** Lets the socket go to somebody else: nothing is reported any more. */
  release(): WebSocket {
    const { unread = [], ws } = this
    ws.resume() // it was paused for `open`, perhaps
    ws.off("message", onMessage)
    ws.off("ping", onPing)
    ws.off("pong", onPing)
    ws.off("close", onClose)
    ws.off("error", ignoreError)
    ws[owner] = undefined
    this.sink = undefined
    this.unread = undefined
    // What was not taken is the next owner's.
    for (const data of unread) queueMicrotask(() => ws.emit("message", Buffer.from(data), typeof data !== "string"))
    return ws
  }

  // What the listeners below tell.

  received(data: Buffer, isBinary: boolean): void {
    const frame = isBinary ? data : data.toString()
    if (this.paused || this.unread !== undefined) (this.unread ??= []).push(frame)
    else this.sink?.frame(frame, data.length)
  }

  alive(): void {
    this.sink?.alive()
  }

  ending(code: number, reason: string): void {
    if (this.ended !== undefined) return
    this.ended = { code, reason }
    this.onEnd?.()
    // It came before the end.
    const { unread = [] } = this
    this.unread = undefined
    for (const data of unread) this.sink?.frame(data, Buffer.byteLength(data))
    this.sink?.closed(code, reason)
  }

  /** What came while it was paused comes first. */
  private readOn(): void {
    const { unread } = this
    if (unread === undefined) return
    let read = 0
    for (; read < unread.length && !this.paused; read++) {
      const data = unread[read] as string | Uint8Array // in bounds
      this.sink?.frame(data, Buffer.byteLength(data))
      if (this.unread !== unread) return // it was closed, or let go of
    }
    if (read < unread.length) this.unread = unread.slice(read)
    else {
      this.unread = undefined
      if (!this.paused) this.resume()
    }
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

function onPing(this: OwnedWebSocket): void {
  this[owner]?.alive()
}

function onClose(this: OwnedWebSocket, code: number, reason: Buffer): void {
  this[owner]?.ending(code, reason.toString())
}

// An error is always followed by a close, which is what is reported.
const ignoreError = (): void => {}
