/** A `ws` socket as a connection. The only place that knows how `ws` buffers, closes and fails. */
import { Duplex, Writable } from "node:stream"
import type { RawData, WebSocket } from "ws"
import { Deque } from "../../core/Deque.ts"
import { highWaterBytes, maxCloseReasonBytes } from "../../core/Protocol.ts"
import { beginning } from "../../core/Text.ts"
import type { Connection, ConnectionSink, Request } from "../../Transport.ts"

/** Connections that are gone but still have unread frames, the longest gone first. */
const gone = new Set<WsConnection>()

/** The most of these: each may hold 64 KiB of frames, which can take five times that in memory. */
const maxGone = 128

/** The methods that are called on a socket. Sockets of browsers and of Node itself have fewer. */
const methods = ["on", "off", "once", "send", "ping", "pause", "resume", "close", "terminate", "listenerCount"]
/** Pieces smaller than this, in bytes, never wait for their turn. Node reads at most 64 KiB at once. */
const largePiece = 4 * 1024

/** Where a socket keeps its connection, so that all share the listeners below. */
const owner = Symbol("resilient-websocket/connection")

/** Marks the class of sockets that tell their owner themselves, see {@link tellOwner}. */
export const tells = Symbol("resilient-websocket/tells")

interface OwnedWebSocket extends WebSocket {
  /** Undefined if there was none yet, null if it was given back. */
  [owner]?: WsConnection | null | undefined
  readonly [tells]?: true
}

/** Tells a socket's owner of an event, from the socket's `emit`. Listeners would take some 200 bytes a connection. */
export const tellOwner = (ws: OwnedWebSocket, event: string | symbol, first: unknown, second: unknown): void => {
  // The casts: what `ws` passes with each event.
  if (event === "message") onMessage.call(ws, first as Buffer, second as boolean)
  else if (event === "ping" || event === "pong") onPing.call(ws)
  else if (event === "close") onClose.call(ws, first as number, second as Buffer)
}

const tellsOwner = (ws: OwnedWebSocket): boolean => ws[tells] === true

/** Why a socket can't be taken over. The peer may have closed it; everything else is the program's mistake. */
export interface SocketFault {
  readonly detail: string
  readonly isPeers: boolean
}

/** Why a socket that somebody else accepted can't be taken over; undefined if it can. */
export const socketFault = (ws: WebSocket): SocketFault | undefined => {
  if (!isWs(ws)) return { detail: "it is no socket of the package `ws`", isPeers: false }
  if (ws.readyState === ws.CONNECTING) {
    return { detail: "the socket is still connecting: wait for its `open`", isPeers: false }
  }
  if (ws.readyState !== ws.OPEN) return { detail: "the socket is not open any more", isPeers: true }
  if (!hasOwner(ws)) return undefined
  return {
    detail: "the socket has been taken over already, here or elsewhere, and not been given back",
    isPeers: false
  }
}

const isWs = (value: unknown): boolean =>
  typeof value === "object" && value !== null && methods.every((name) => typeof Reflect.get(value, name) === "function")

const hasOwner = (ws: OwnedWebSocket): boolean => ws[owner] !== undefined && ws[owner] !== null

/**
 * Whether a socket has already emitted a message that nobody heard. Only the receiver of `ws` knows, which is private;
 * if that changes, this returns false. A socket that was ours before had listeners.
 */
const hasMissed = (ws: OwnedWebSocket): boolean => {
  if (ws[owner] === null || ws.listenerCount("message") > 0) return false
  const receiver: unknown = Reflect.get(ws, "_receiver")
  if (typeof receiver !== "object" || receiver === null) return false
  const opcode: unknown = Reflect.get(receiver, "_opcode")
  // The receiver is between two frames, and the last was text or binary. Otherwise the message is still to come.
  return Reflect.get(receiver, "_state") === 0 && (opcode === 1 || opcode === 2)
}

/** Where the stream below a socket keeps its connection, so that all share one listener. */
const above = Symbol("resilient-websocket/above")

interface WatchedStream extends Duplex {
  [above]?: WsConnection
}

function onPiece(this: WatchedStream, piece: Buffer): void {
  this[above]?.incoming(piece, this)
}

/**
 * Drops what a closed stream still holds. Otherwise `ws` would take it all in, however busy this process is, and for
 * all sockets that are found gone at once.
 */
function onStreamClose(this: WatchedStream): void {
  if (this.readableLength >= largePiece) this.read()
}

export class WsConnection implements Connection {
  readonly request: Request
  readonly missed: boolean
  private readonly ws: OwnedWebSocket
  /** How long TCP and the upgrade took, in ms. */
  readonly upgradeMillis: number
  private sink: ConnectionSink | undefined
  private awaitsDrain = false
  private ended: { readonly code: number; readonly reason: string } | undefined
  private paused = false
  private isDeaf = false
  /** Frames that came while paused: the rest of what `ws` had read by then, at most 64 KiB. */
  private unread: Deque<string | Uint8Array> | undefined
  private readonly onEnd: (() => void) | undefined
  /** The parser of `ws`. Set by `inTurns`. */
  private receiver: Writable | undefined
  /** Whether a piece had to wait: when it comes again, it passes. */
  private isPutBack = false

  /** `onEnd` is called when the socket is gone. */
  constructor(ws: OwnedWebSocket, request: Request, upgradeMillis = 0, onEnd?: () => void) {
    this.ws = ws
    this.request = request
    this.missed = hasMissed(ws)
    this.upgradeMillis = Math.ceil(upgradeMillis) // V8 would keep a fraction as an object
    this.onEnd = onEnd
    ws[owner] = this
    // Nothing is lost before `open`: an end is remembered, and frames wait in the paused socket.
    if (!tellsOwner(ws)) {
      ws.on("close", onClose)
      if (!ws.listeners("error").includes(ignoreError)) ws.on("error", ignoreError)
    }
    if (ws.readyState === ws.OPEN) ws.pause()
  }

  get protocol(): string {
    return this.ws.protocol
  }

  /**
   * From now on, large pieces wait for their turn: one may hold ten thousand frames, and `ws` does not stop halfway
   * through it.
   */
  inTurns(): this {
    const receiver: unknown = Reflect.get(this.ws, "_receiver")
    const stream: unknown = Reflect.get(this.ws, "_socket")
    if (!(receiver instanceof Writable && stream instanceof Duplex)) return this // a `ws` that we don't know
    const [listener, ...others] = stream.listeners("data")
    // We can replace only the listener of `ws` itself.
    if (listener === undefined || others.length > 0) return this
    this.receiver = receiver
    Object.assign(stream, { [above]: this })
    if (listener === onPiece) return this
    stream.off("data", listener as () => void).on("data", onPiece).prependListener("close", onStreamClose)
    return this
  }

  open(sink: ConnectionSink): void {
    this.sink = sink
    if (this.ended !== undefined) {
      const { code, reason } = this.ended
      queueMicrotask(() => sink.closed(code, reason))
      return
    }
    if (!tellsOwner(this.ws)) {
      this.ws.on("message", onMessage)
      this.ws.on("ping", onPing)
      this.ws.on("pong", onPing)
    }
    this.ws.resume()
  }

  send(frame: string, written?: (ok: boolean) => void): void {
    const { ws } = this
    if (ws.readyState !== ws.OPEN) {
      if (written !== undefined) queueMicrotask(() => written(false))
      return
    }
    // Below the high-water mark, nobody needs to know when a frame was taken. A UTF-16 unit is at most three bytes, so
    // this frame can't cross the mark.
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
    if (this.ended !== undefined) return this.forget()
    // Frames no longer matter, but a paused socket would never see the peer's close frame.
    this.isDeaf = true
    this.unread = undefined
    if (this.ws.readyState === this.ws.OPEN) this.ws.resume()
    this.ws.close(code, beginning(reason, maxCloseReasonBytes))
  }

  terminate(): void {
    this.forget()
    this.ws.terminate()
  }

  /**
   * Gives the socket to somebody else, and reports nothing more. Errors are still ignored: if the next owner does not
   * listen for them, a peer's nonsense would end the process.
   */
  release(): WebSocket {
    const { unread, ws } = this
    if (unread === undefined) ws.resume() // perhaps paused for `open`
    ws.off("message", onMessage)
    ws.off("ping", onPing)
    ws.off("pong", onPing)
    ws.off("close", onClose)
    ws[owner] = null
    this.sink = undefined
    this.unread = undefined
    gone.delete(this)
    // Unread frames belong to the next owner.
    for (let data = unread?.popFront(); data !== undefined; data = unread?.popFront()) tellLater(ws, data)
    if (unread !== undefined) queueMicrotask(() => ws.resume()) // after those frames
    return ws
  }

  // Called by the listeners below.

  received(data: Buffer, isBinary: boolean): void {
    if (this.isDeaf) return
    const frame = isBinary ? bytesOf(data) : data.toString()
    if (this.paused || this.unread !== undefined) (this.unread ??= new Deque()).pushBack(frame)
    else this.sink?.frame(frame, isBinary ? frame.length : data.length)
  }

  /** Takes in a piece of bytes. One that must wait goes back to the stream, and comes again when it is its turn. */
  incoming(piece: Buffer, stream: Duplex): void {
    const { receiver } = this
    if (receiver?.writable !== true) return // the receiver is done
    if (this.mustWait(piece)) {
      this.isPutBack = true
      stream.unshift(piece)
      return
    }
    this.isPutBack = false
    // As `ws` itself does.
    if (!receiver.write(piece)) stream.pause()
  }

  alive(): void {
    this.sink?.alive()
  }

  ending(code: number, reason: string): void {
    if (this.ended !== undefined) return
    this.ended = { code, reason }
    this.onEnd?.()
    if (this.unread === undefined) return this.sink?.closed(code, reason)
    // Frames that came before the end are read first.
    gone.add(this)
    if (gone.size > maxGone) gone.values().next().value?.forget()
  }

  /** Delivers the frames that came while paused, before any others. */
  private readOn(): void {
    const { unread } = this
    if (unread === undefined) return
    while (!this.paused) {
      const data = unread.popFront()
      if (data === undefined) break
      this.sink?.frame(data, Buffer.byteLength(data))
      if (this.unread !== unread) return // closed, or given away
    }
    if (unread.size > 0) return
    this.unread = undefined
    gone.delete(this)
    if (this.ended !== undefined) this.sink?.closed(this.ended.code, this.ended.reason)
    else if (!this.paused) this.resume()
  }

  private mustWait({ length }: Buffer): boolean {
    const isLeft = length < largePiece || this.isPutBack || this.paused || this.isDeaf
    if (isLeft || this.ws.readyState !== this.ws.OPEN) return false
    this.sink?.incoming?.(length)
    return this.paused
  }

  /** Drops unread frames; a connection that has ended then says so. */
  private forget(): void {
    if (this.unread === undefined) return
    this.unread = undefined
    gone.delete(this)
    const { ended } = this
    if (ended !== undefined) queueMicrotask(() => this.sink?.closed(ended.code, ended.reason))
  }

  private checkDrain(): void {
    if (!this.awaitsDrain || this.ended !== undefined || this.ws.bufferedAmount >= highWaterBytes) return
    this.awaitsDrain = false
    this.sink?.drained()
  }
}

/** A binary frame's bytes, whatever the socket's `binaryType`. A Blob can't be read synchronously, so it is empty. */
const bytesOf = (data: RawData | Blob): Uint8Array => {
  if (Buffer.isBuffer(data)) return data
  if (data instanceof Blob) return new Uint8Array(0)
  return Array.isArray(data) ? Buffer.concat(data) : new Uint8Array(data)
}

const tellLater = (ws: WebSocket, data: string | Uint8Array): void =>
  queueMicrotask(() => ws.emit("message", Buffer.from(data), typeof data !== "string"))

function onMessage(this: OwnedWebSocket, data: Buffer, isBinary: boolean): void {
  this[owner]?.received(data, isBinary)
}

function onPing(this: OwnedWebSocket): void {
  this[owner]?.alive()
}

function onClose(this: OwnedWebSocket, code: number, reason: Buffer): void {
  this[owner]?.ending(code, reason.toString())
}

/** A close follows every error, and is what gets reported. */
export const ignoreError = (): void => {}
