/**
 * An Effect `Socket` as a connection, and a client transport on Effect's WebSockets. Only this file and
 * ResilientSocket.ts know Effect's unstable socket module.
 *
 * Synchronous code drives a Connection and never waits, but a Socket is made of effects. So frames wait in a queue for
 * a writer fiber, which exists only while there is something to write. Another fiber reads.
 */
import { Cause, type Context, Effect, Exit, type Fiber, Predicate, Scope } from "effect"
import { Socket } from "effect/socket"
import { closeGraceMillis, highWaterBytes, maxCloseReasonBytes } from "../../core/Protocol.ts"
import { beginning } from "../../core/Text.ts"
import { utf8Length } from "../../core/utf8.ts"
import type { Connection, ConnectionSink, DialOptions, Request } from "../../Transport.ts"
import { ConnectionTimeoutError, TransportError } from "../../WebSocketError.ts"
import { callbackLater } from "../kit/signal.ts"
import { shownCause, shownUrl, withoutUrl } from "../kit/urls.ts"

/** A socket with this much unwritten is given up. A sender that heeds `buffered` never comes near it. */
const maxQueuedBytes = 64 * highWaterBytes

/** What a Socket does not know about itself. */
interface Facts {
  readonly protocol: string
  readonly request: Request
  /** A larger frame ends the connection. */
  readonly maxFrameBytes: number
  /** What is known of the stream below the WebSocket. */
  readonly stream?: Stream | undefined
}

/** The stream that carries a WebSocket, where the platform shows it: only it knows what the network has taken. */
export interface Stream {
  /** Bytes written that the network has not taken. */
  readonly unsent: () => number
  /** Waits until it has taken all of them, if they are many, or the stream is gone. */
  readonly drained: Effect.Effect<void>
  readonly isGone: () => boolean
  /** Ends it at once. */
  readonly destroy: () => void
}

interface Outgoing {
  readonly frame: string
  readonly bytes: number
  readonly written: ((ok: boolean) => void) | undefined
}

interface Ending {
  readonly code: number
  readonly reason: string
}

/**
 * A connection on `socket`, which lives until it ends or `parent` closes. `factsOf` is called once the socket is open.
 */
const connect = Effect.fnUntraced(function*(socket: Socket.Socket, parent: Scope.Scope, factsOf: () => Facts) {
  const scope = yield* Scope.fork(parent)
  const connection = yield* Effect.onError(
    Scope.provide(attach(socket, factsOf), scope),
    (cause) => Scope.close(scope, Exit.failCause(cause))
  )
  yield* Effect.ensuring(connection.run, Scope.close(scope, Exit.void)).pipe(
    Effect.forkIn(parent, { startImmediately: true })
  )
  return connection
})

/** Opens `socket` in the current scope, whose end tells the sink. The caller has to `run` the connection. */
export const attach = Effect.fnUntraced(function*(
  socket: Socket.Socket,
  factsOf: () => Facts
): Effect.fn.Return<SocketConnection, Socket.SocketError, Scope.Scope> {
  const reader = yield* socket.reader
  const writer = yield* socket.writer
  const context = yield* Effect.context<never>()
  const connection = new SocketConnection(reader, writer, factsOf(), context)
  yield* Effect.addFinalizer(() => Effect.sync(() => connection.finish()))
  return connection
})

/** A Socket as a connection, and the work of the fiber that reads it. */
class SocketConnection implements Connection {
  readonly protocol: string
  readonly request: Request
  private readonly pull: Socket.Reader["pull"]
  private readonly maxFrameBytes: number
  private readonly stream: Stream | undefined
  private readonly context: Context.Context<never>
  private readonly outgoing: OutgoingFrames
  private sink: ConnectionSink | undefined
  private isPaused = false
  /** Wakes the reader, which waits for a sink that may get frames. */
  private wake: ((effect: Effect.Effect<void>) => void) | undefined
  private reading: Fiber.Fiber<unknown, unknown> | undefined
  /** Waits for the peer's answer to a close. */
  private closing: Fiber.Fiber<unknown, unknown> | undefined
  /** Why the connection is over. The sink learns it once the reader has stopped, so that no frame comes after it. */
  private ending: Ending | undefined
  private isStopped = false
  private isOver = false

  constructor(reader: Socket.Reader, writer: Socket.Writer, facts: Facts, context: Context.Context<never>) {
    this.protocol = facts.protocol
    this.request = facts.request
    this.maxFrameBytes = facts.maxFrameBytes
    this.stream = facts.stream
    this.pull = reader.pull
    this.context = context
    this.outgoing = new OutgoingFrames(writer, facts.stream, context, {
      drained: () => this.sink?.drained(),
      failed: (cause) => this.end(1006, messageOf(cause))
    })
  }

  /**
   * Reads until the connection is over. To be run once, before its scope closes. Fails with an interrupt only if
   * something else than the connection interrupts it.
   */
  get run(): Effect.Effect<void> {
    return Effect.withFiber((fiber) => {
      this.reading = fiber
      if (this.isStopped) return Effect.void
      return Effect.uninterruptible(Effect.catchCause(Effect.interruptible(this.read()), (cause) => {
        // A server may interrupt whoever reads from a peer that is gone: that is how the connection ends.
        const isOwn = this.isStopped || this.stream?.isGone() === true
        if (!isOwn && Cause.hasInterruptsOnly(cause)) return Effect.interrupt
        this.ending ??= endingOf(cause)
        return Effect.void
      }))
    })
  }

  /** Tells the sink that it is over. Called when the scope closes. */
  finish(): void {
    this.isOver = true
    const { code, reason } = this.ending ??= { code: 1006, reason: "" }
    this.closing?.interruptUnsafe()
    this.outgoing.drop()
    this.sink?.closed(code, reason)
  }

  open(sink: ConnectionSink): void {
    this.sink = sink
    this.proceed()
    const { code, reason } = this.ending ?? {}
    if (this.isOver && code !== undefined) queueMicrotask(() => sink.closed(code, reason ?? ""))
  }

  send(frame: string, written?: (ok: boolean) => void): void {
    const { buffered, isClosing } = this.outgoing
    if (this.ending !== undefined || isClosing || buffered >= maxQueuedBytes) {
      if (written !== undefined) queueMicrotask(() => written(false))
      if (buffered >= maxQueuedBytes) this.end(1006, `${buffered} bytes wait to be written`)
      return
    }
    this.outgoing.push(frame, written)
  }

  buffered(): number {
    return this.outgoing.buffered
  }

  pause(): void {
    this.isPaused = !this.outgoing.isClosing
  }

  resume(): void {
    this.isPaused = false
    this.proceed()
  }

  /** Effect's Socket has none. */
  ping(): void {}

  close(code: number, reason: string): void {
    if (this.ending !== undefined || this.outgoing.isClosing) return
    this.resume() // a connection that is not read never sees the peer's close
    this.closeWith({ code, reason })
  }

  terminate(): void {
    this.end(1006, "")
  }

  private end(code: number, reason: string): void {
    if (this.isOver) return
    this.ending ??= { code, reason }
    if (this.isStopped) return
    this.isStopped = true
    this.stream?.destroy()
    queueMicrotask(() => this.reading?.interruptUnsafe())
  }

  private closeWith({ code, reason }: Ending): void {
    this.outgoing.close(new Socket.CloseEvent(code, beginning(reason, maxCloseReasonBytes)))
    const late = Effect.sync(() => this.end(1006, "the peer did not close in time"))
    this.closing = Effect.runForkWith(this.context)(Effect.delay(late, closeGraceMillis))
  }

  /** The sink, if it may get frames now. Undefined while paused, and for good once the connection is over. */
  private flowing(): ConnectionSink | undefined {
    return this.isPaused || this.ending !== undefined ? undefined : this.sink
  }

  private proceed(): void {
    const { wake } = this
    this.wake = undefined
    wake?.(Effect.void)
  }

  /** Waits until `proceed`, unless the sink may get frames now. */
  private whenChanged(): Effect.Effect<void> {
    return callbackLater((resume) => {
      if (this.flowing() === undefined) this.wake = resume
      else resume(Effect.void)
      return Effect.sync(() => void (this.wake = undefined))
    })
  }

  /** Gives all frames to the sink. */
  private read(): Effect.Effect<never, Socket.SocketError> {
    return Effect.gen({ self: this }, function*() {
      while (true) {
        while (this.flowing() === undefined) yield* this.whenChanged()
        for (const data of yield* this.pull) {
          while (this.flowing() === undefined) yield* this.whenChanged()
          const bytes = typeof data === "string" ? utf8Length(data) : data.byteLength
          if (bytes > this.maxFrameBytes) return yield* this.refuse(bytes)
          this.flowing()?.frame(data, bytes)
        }
      }
    })
  }

  /** Closes because of a frame that is too large. Until the peer has closed, what else it sends is dropped. */
  private refuse(bytes: number): Effect.Effect<never, Socket.SocketError> {
    const ending = { code: 1009, reason: `a frame of ${bytes} bytes` }
    if (!this.outgoing.isClosing) this.closeWith(ending)
    this.ending = ending
    return Effect.forever(this.pull)
  }
}

/** Frames that wait to be written. Those sent in one turn leave together. */
class OutgoingFrames {
  private readonly writer: Socket.Writer
  private readonly stream: Stream | undefined
  private readonly context: Context.Context<never>
  private readonly told: {
    readonly drained: () => void
    readonly failed: (cause: Cause.Cause<Socket.SocketError>) => void
  }
  private waiting: Array<Outgoing> = []
  private inFlight: ReadonlyArray<Outgoing> = []
  private bytes = 0
  private awaitsDrain = false
  private isWriting = false
  private isDropped = false
  private writing: Fiber.Fiber<unknown, unknown> | undefined
  /** Written after all frames. */
  private closing: Socket.CloseEvent | undefined

  constructor(
    writer: Socket.Writer,
    stream: Stream | undefined,
    context: Context.Context<never>,
    told: OutgoingFrames["told"]
  ) {
    this.writer = writer
    this.stream = stream
    this.context = context
    this.told = told
  }

  /** Bytes that are not written yet, or not taken by the network, as far as that is known. */
  get buffered(): number {
    return this.stream === undefined ? this.bytes : this.bytes + this.stream.unsent()
  }

  get isClosing(): boolean {
    return this.closing !== undefined
  }

  push(frame: string, written: Outgoing["written"]): void {
    const bytes = utf8Length(frame)
    this.bytes += bytes
    if (this.buffered >= highWaterBytes) this.awaitsDrain = true
    this.waiting.push({ frame, bytes, written })
    this.startWriting()
  }

  close(event: Socket.CloseEvent): void {
    this.closing = event
    this.startWriting()
  }

  /** Stops writing; all frames that wait count as not written. */
  drop(): void {
    this.isDropped = true
    this.writing?.interruptUnsafe()
    for (const { written } of [...this.inFlight, ...this.waiting]) written?.(false)
    this.inFlight = []
    this.waiting = []
    this.bytes = 0
  }

  /** Writes in a microtask, so that frames sent in one turn leave together. */
  private startWriting(): void {
    if (this.isWriting) return
    this.isWriting = true
    queueMicrotask(() => {
      if (this.isDropped) return
      const fiber = Effect.runForkWith(this.context)(this.write())
      if (this.isWriting) this.writing = fiber
    })
  }

  private write(): Effect.Effect<void> {
    return Effect.catchCause(
      Effect.gen({ self: this }, function*() {
        while (this.waiting.length > 0) {
          this.inFlight = this.waiting
          this.waiting = []
          // Not empty, as the loop has checked.
          yield* this.writer.writeAll(this.inFlight.map(({ frame }) => frame) as [string, ...Array<string>])
          for (const { bytes } of this.inFlight) this.bytes -= bytes
          if (this.stream !== undefined && this.stream.unsent() >= highWaterBytes) yield* this.stream.drained
          if (this.isDropped) return
          this.taken()
        }
        this.isWriting = false
        this.writing = undefined
        if (this.closing !== undefined) yield* this.writer.write(this.closing)
      }),
      (cause) =>
        Effect.sync(() => {
          if (!Cause.hasInterruptsOnly(cause)) this.told.failed(cause)
        })
    )
  }

  /** The frames in flight are written. */
  private taken(): void {
    const frames = this.inFlight
    this.inFlight = []
    for (const { written } of frames) written?.(true)
    if (!this.awaitsDrain || this.buffered >= highWaterBytes) return
    this.awaitsDrain = false
    this.told.drained()
  }
}

/**
 * Adapts an Effect `Socket` to a `Connection`, for `ResilientServer.register` or a transport of your own. Opens the
 * socket now; the connection ends with the scope at the latest. `protocol` is the negotiated subprotocol, such as
 * `resilient.v1`; without it the peer counts as plain.
 *
 * **Gotchas.** A Socket's writer says when a frame was taken. Effect's writer of a WebSocket says so before the network
 * has taken anything: with it, `buffered` counts only what waits for the writer, and a peer that does not read is
 * noticed only by its missing acks. There is no protocol-level ping. `terminate` closes the socket's scope, which for
 * Effect's WebSockets is an orderly close with 1000.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromSocket = (
  socket: Socket.Socket,
  options?: { readonly protocol?: string | undefined; readonly request?: Request | undefined }
): Effect.Effect<Connection, TransportError, Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) =>
    Effect.mapError(
      connect(socket, scope, () => ({
        protocol: options?.protocol ?? "",
        request: options?.request ?? { url: "/", headers: {}, remoteAddress: undefined },
        maxFrameBytes: Infinity
      })),
      (error) => new TransportError({ operation: "dial", detail: detailOf(error), cause: error })
    ))

/** Dials with the `WebSocketConstructor` of the context. Connections end with the scope at the latest. */
export const makeDialler = Effect.gen(function*() {
  const construct = yield* Socket.WebSocketConstructor
  const scope = yield* Effect.scope
  return { dial: (options: DialOptions) => dial(options, construct, scope) }
})

const dial = (
  { headers, maxFrameBytes, protocol, timeoutMillis, url }: DialOptions,
  construct: Socket.WebSocketConstructor["Service"],
  scope: Scope.Scope
): Effect.Effect<Connection, TransportError | ConnectionTimeoutError> =>
  Effect.suspend(() => {
    let webSocket: Socket.WebSocketLike | undefined
    const socket = Socket.makeWebSocket(url, {
      protocols: protocol,
      openTimeout: timeoutMillis,
      // Where WebSockets can't be paused, as in browsers, more unread bytes than this end the connection.
      highWaterMark: Math.max(maxFrameBytes, maxQueuedBytes),
      // Browsers can't send headers, and their constructor refuses even an empty object.
      headers: Object.keys(headers).length === 0 ? undefined : headers
    }).pipe(
      Effect.provideService(Socket.WebSocketConstructor, (...args) => {
        webSocket = construct(...args)
        return webSocket
      })
    )
    const factsOf = () => ({
      protocol: negotiated(webSocket),
      request: { url: shownUrl(url), headers: {}, remoteAddress: undefined },
      maxFrameBytes
    })
    const failed = (cause: unknown) => {
      const detail = `${shownUrl(url)}: ${withoutUrl(detailOf(cause), url)}`
      return new TransportError({ operation: "dial", detail, cause: shownCause(cause, url) })
    }
    return Effect.flatMap(socket, (socket) => connect(socket, scope, factsOf)).pipe(
      Effect.mapError((error) =>
        error.reason._tag === "SocketOpenError" && error.reason.kind === "Timeout"
          ? new ConnectionTimeoutError({ phase: "dial", afterMillis: timeoutMillis })
          : failed(error)
      ),
      Effect.catchDefect((defect) => Effect.fail(failed(defect))) // an invalid URL or header
    )
  })

/** Every WebSocket has a `protocol`, but Effect's type does not. */
const negotiated = (webSocket: Socket.WebSocketLike | undefined): string =>
  webSocket !== undefined && "protocol" in webSocket && typeof webSocket.protocol === "string" ? webSocket.protocol : ""

const detailOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  const cause = Socket.isSocketError(error) && "cause" in error.reason ? error.reason.cause : error.cause
  // A WebSocket fails with an event, not an Error.
  return Predicate.hasProperty(cause, "message") && cause.message !== ""
    ? `${error.message}: ${String(cause.message)}`
    : error.message
}

const messageOf = (cause: Cause.Cause<unknown>): string => detailOf(Cause.squash(cause))

const endingOf = (cause: Cause.Cause<Socket.SocketError>): Ending => {
  if (Cause.hasInterruptsOnly(cause)) return { code: 1006, reason: "" }
  const error = Cause.squash(cause)
  return Socket.isSocketError(error) && error.reason._tag === "SocketCloseError"
    ? { code: error.reason.code, reason: error.reason.closeReason ?? "" }
    : { code: 1006, reason: detailOf(error) }
}
