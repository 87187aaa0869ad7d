/** A `ws` socket as a connection. The only place that knows how `ws` buffers, closes and fails. */
import { Duplex, Writable } from "node:stream"
import type { RawData, WebSocket } from "ws"
import { Deque } from "../../core/Deque.ts"
import { highWaterBytes, maxCloseReasonBytes } from "../../core/Protocol.ts"
import { beginning } from "../../core/Text.ts"
import type { Connection, ConnectionSink, Request } from "../../Transport.ts"

/** How long an orderly close may take before `ws` destroys the socket, in ms. */
export const closeGraceMillis = 2_000

/** Connections that are gone but have unread frames: the longest gone first. */
const gone = new Set<WsConnection>()

/** How many of them there may be: each holds 64 KiB of frames, which may take five times that in memory. */
const maxGone = 128

/** The methods that are called on a socket. Browsers' and Node's own have fewer. */
const methods = ["on", "off", "once", "send", "ping", "pause", "resume", "close", "terminate", "listenerCount"]
/** Smaller pieces pass at once, in bytes: Node reads at most 64 KiB. */
const largePiece = 4 * 1024

/** Where a socket keeps its connection, so that all share the listeners below. */
const owner = Symbol("resilient-websocket/connection")

/** Marks the class of sockets that tell their owner themselves, see {@link tellOwner}. */
export const tells = Symbol("resilient-websocket/tells")

interface OwnedWebSocket extends WebSocket {
  /** Undefined: none yet; null: no longer one. */
  [owner]?: WsConnection | null | undefined
  readonly [tells]?: true
}

/**
 * Events of a socket that tells its owner itself, from its `emit`. Listeners, each an entry in a table of their socket,
 * would take some 200 bytes a connection.
 */
export const tellOwner = (ws: OwnedWebSocket, event: string | symbol, first: unknown, second: unknown): void => {
  // What `ws` passes with each event.
  if (event === "message") onMessage.call(ws, first as Buffer, second as boolean)
  else if (event === "ping" || event === "pong") onPing.call(ws)
  else if (event === "close") onClose.call(ws, first as number, second as Buffer)
}

const tellsOwner = (ws: OwnedWebSocket): boolean => ws[tells] === true

/**
 * Why a socket can't be taken over. That it is closed may be the peer's doing; all else is a mistake of the program.
 */
export interface SocketFault {
  readonly detail: string
  readonly isPeers: boolean
}

/** What keeps a socket that somebody else accepted from being taken over, if anything does. */
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
 * Whether a socket without listeners has already emitted a message, which is lost. Only `ws`'s receiver knows, which is
 * not public; with a different one, nothing is noticed. A socket that was ours before had listeners.
 */
const hasMissed = (ws: OwnedWebSocket): boolean => {
  if (ws[owner] === null || ws.listenerCount("message") > 0) return false
  const receiver: unknown = Reflect.get(ws, "_receiver")
  if (typeof receiver !== "object" || receiver === null) return false
  const opcode: unknown = Reflect.get(receiver, "_opcode")
  // It is between two frames, and the last was a text or a binary one. Otherwise its message is still to come.
  return Reflect.get(receiver, "_state") === 0 && (opcode === 1 || opcode === 2)
}

/** Where the stream below a socket keeps the connection, so that all share one listener. */
const above = Symbol("resilient-websocket/above")

interface WatchedStream extends Duplex {
  [above]?: WsConnection
}

function onPiece(this: WatchedStream, piece: Buffer): void {
  this[above]?.incoming(piece, this)
}

/**
 * A socket that was reset: `ws` would take in all that it still holds, however busy this process is, and for all
 * sockets that are found gone at once.
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
  /** What came in while it was paused: the rest of what the socket had given to `ws` by then, at most 64 KiB. */
  private unread: Deque<string | Uint8Array> | undefined
  private readonly onEnd: (() => void) | undefined
  /** Takes incoming bytes apart. */
  private receiver: Writable | undefined
  /** A piece had to wait: when it comes again, it is its turn. */
  private isPutBack = false

  /** `onEnd` is called when the socket is gone. */
  constructor(ws: OwnedWebSocket, request: Request, upgradeMillis = 0, onEnd?: () => void) {
    this.ws = ws
    this.request = request
    this.missed = hasMissed(ws)
    this.upgradeMillis = Math.ceil(upgradeMillis) // a fraction would be an object for as long as the connection
    this.onEnd = onEnd
    ws[owner] = this
    // Nothing gets lost before `open`: an end is remembered, and frames wait in the paused socket.
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
   * From now on, large pieces are taken in only when it is their turn: one may be ten thousand frames, and `ws` does
   * not stop halfway.
   */
  inTurns(): this {
    const receiver: unknown = Reflect.get(this.ws, "_receiver")
    const stream: unknown = Reflect.get(this.ws, "_socket")
    if (!(receiver instanceof Writable && stream instanceof Duplex)) return this // a `ws` that we don't know
    const [listener, ...others] = stream.listeners("data")
    // We can replace only what `ws` itself does with a piece.
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
    if (this.ended !== undefined) return this.forget()
    // What it says now interests nobody. A paused socket would never see the peer's close frame.
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
   * Gives the socket to somebody else: nothing more is reported. Errors are still ignored, as its next owner may not
   * listen for them, and then a peer's nonsense would end the process.
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
    // What was not taken belongs to the next owner.
    for (let data = unread?.popFront(); data !== undefined; data = unread?.popFront()) tellLater(ws, data)
    if (unread !== undefined) queueMicrotask(() => ws.resume()) // later events come after that
    return ws
  }

  // Called by the listeners below.

  received(data: Buffer, isBinary: boolean): void {
    if (this.isDeaf) return
    const frame = isBinary ? bytesOf(data) : data.toString()
    if (this.paused || this.unread !== undefined) (this.unread ??= new Deque()).pushBack(frame)
    else this.sink?.frame(frame, isBinary ? frame.length : data.length)
  }

  /** An incoming piece. One that has to wait goes back to where it came from, and comes again when it is its turn. */
  incoming(piece: Buffer, stream: Duplex): void {
    const { receiver } = this
    if (receiver?.writable !== true) return // it has heard everything
    if (this.mustWait(piece)) {
      this.isPutBack = true
      stream.unshift(piece)
      return
    }
    this.isPutBack = false
    // As `ws` does until it has enough.
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
    // What came before the end is read first.
    gone.add(this)
    if (gone.size > maxGone) gone.values().next().value?.forget()
  }

  /** What came while it was paused comes first. */
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

  /** What was not read never will be. */
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

/** A binary frame, whatever its socket's `binaryType`; a Blob can't be read at once, nor is it of interest. */
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
