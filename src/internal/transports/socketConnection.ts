/**
 * An Effect `Socket` as a connection, and a client transport on Effect's WebSockets. Only this file and
 * ResilientSocket.ts know Effect's unstable socket module.
 *
 * Synchronous code drives a Connection and never waits, but a Socket is made of effects. So frames wait in a queue for
 * a writer fiber, which exists only while there is something to write. Another fiber reads.
 */
import { Cause, Effect, Exit, type Fiber, FiberSet, Predicate, Scope } from "effect"
import { Socket } from "effect/socket"
import { highWaterBytes, maxCloseReasonBytes } from "../../core/Protocol.ts"
import { beginning } from "../../core/Text.ts"
import { utf8Length } from "../../core/utf8.ts"
import type { Connection, ConnectionSink, DialOptions, Request } from "../../Transport.ts"
import { ConnectionTimeoutError, TransportError } from "../../WebSocketError.ts"
import { makeSignal } from "../kit/signal.ts"
import { shownCause, shownUrl, withoutUrl } from "../kit/urls.ts"
import { closeGraceMillis } from "./wsConnection.ts"

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
  /** Waits until the network has taken what was written, or the stream is gone. */
  readonly taken: Effect.Effect<void>
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

/** A connection, and the fiber's work that it needs. */
interface Attached {
  readonly connection: Connection
  /**
   * Reads until the connection is over. Run it once, in the scope of the connection: closing that scope afterwards tells
   * the sink. Fails with an interrupt only if something else than the connection interrupts it.
   */
  readonly run: Effect.Effect<void>
}

/**
 * A connection on `socket`, which lives until it ends or `parent` closes. `factsOf` is called once the socket is open.
 */
const connect = Effect.fnUntraced(function*(socket: Socket.Socket, parent: Scope.Scope, factsOf: () => Facts) {
  const scope = yield* Scope.fork(parent)
  const { connection, run } = yield* Effect.onError(
    Scope.provide(attach(socket, factsOf), scope),
    (cause) => Scope.close(scope, Exit.failCause(cause))
  )
  yield* Effect.ensuring(run, Scope.close(scope, Exit.void)).pipe(Effect.forkIn(parent, { startImmediately: true }))
  return connection
})

/** Opens `socket` in the current scope. The caller reads it by `run`. */
export const attach = Effect.fnUntraced(function*(
  socket: Socket.Socket,
  factsOf: () => Facts
): Effect.fn.Return<Attached, Socket.SocketError, Scope.Scope> {
  const reader = yield* socket.reader
  const writer = yield* socket.writer
  const fork = yield* FiberSet.makeRuntime<never, void>()
  const flow = yield* makeSignal
  const { maxFrameBytes, protocol, request, stream } = factsOf()

  let sink: ConnectionSink | undefined
  let paused = false
  let reading: Fiber.Fiber<unknown, unknown> | undefined
  /** Why the connection is over. The sink learns it once the reader has stopped, so that no frame comes after it. */
  let ending: Ending | undefined
  let isStopped = false
  let over = false

  /** Ends the reader, which ends the connection. */
  const stop = (): void => {
    if (isStopped) return
    isStopped = true
    stream?.destroy()
    queueMicrotask(() => reading?.interruptUnsafe())
  }

  const end = (code: number, reason: string): void => {
    if (over) return
    ending ??= { code, reason }
    stop()
  }

  const outgoing = new OutgoingFrames(stream === undefined ? writer : heeding(writer, stream), (write) => fork(write), {
    drained: () => sink?.drained(),
    failed: (cause) => end(1006, messageOf(cause))
  })

  const closeWith = (code: number, reason: string): void => {
    outgoing.close(new Socket.CloseEvent(code, beginning(reason, maxCloseReasonBytes)))
    fork(Effect.delay(Effect.sync(() => end(1006, "the peer did not close in time")), closeGraceMillis))
  }

  /** The sink, if it may get frames now. Undefined while paused, and for good once the connection is over. */
  const flowing = () => paused || ending !== undefined ? undefined : sink
  const tooLarge = (bytes: number): void => {
    ending ??= { code: 1009, reason: `a frame of ${bytes} bytes` }
    if (!outgoing.isClosing) closeWith(ending.code, ending.reason)
  }

  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      over = true
      ending ??= { code: 1006, reason: "" }
      outgoing.drop()
      sink?.closed(ending.code, ending.reason)
    })
  )

  const run = Effect.withFiber<void>((fiber) => {
    reading = fiber
    if (isStopped) return Effect.void
    return Effect.uninterruptible(Effect.matchCauseEffect(
      Effect.interruptible(read(reader, { maxFrameBytes, flowing, changed: flow.wait, tooLarge })),
      {
        onSuccess: () => Effect.void,
        onFailure: (cause) => {
          if (!isStopped && Cause.hasInterruptsOnly(cause)) return Effect.interrupt
          ending ??= endingOf(cause)
          return Effect.void
        }
      }
    ))
  })

  const connection: Connection = {
    protocol,
    request,
    open: (given) => {
      sink = given
      flow.notify()
      const { code, reason } = ending ?? {}
      if (over && code !== undefined) queueMicrotask(() => given.closed(code, reason ?? ""))
    },
    send: (frame, written) => {
      const { buffered, isClosing } = outgoing
      if (ending !== undefined || isClosing || buffered >= maxQueuedBytes) {
        if (written !== undefined) queueMicrotask(() => written(false))
        if (buffered >= maxQueuedBytes) end(1006, `${buffered} bytes wait to be written`)
        return
      }
      outgoing.push(frame, written)
    },
    buffered: () => outgoing.buffered,
    pause: () => {
      paused = !outgoing.isClosing
    },
    resume: () => {
      paused = false
      flow.notify()
    },
    ping: noop, // Effect's Socket has none
    close: (code, reason) => {
      if (ending !== undefined || outgoing.isClosing) return
      connection.resume() // a connection that is not read never sees the peer's close
      closeWith(code, reason)
    },
    terminate: () => end(1006, "")
  }
  return { connection, run }
})

/** A writer that is done when the network has taken what it wrote. */
const heeding = (writer: Socket.Writer, { taken }: Stream): Socket.Writer => ({
  write: writer.write, // a close, which nobody waits for
  writeAll: (frames) => Effect.andThen(writer.writeAll(frames), taken)
})

/** What a reader asks and tells. */
interface Reading {
  readonly maxFrameBytes: number
  /** The sink, if it may get frames now. */
  readonly flowing: () => ConnectionSink | undefined
  /** Waits until that may have changed. */
  readonly changed: Effect.Effect<void>
  readonly tooLarge: (bytes: number) => void
}

/** Gives all frames to the sink that `flowing` returns. */
const read = Effect.fnUntraced(function*(
  { pull }: Socket.Reader,
  { changed, flowing, maxFrameBytes, tooLarge }: Reading
): Effect.fn.Return<never, Socket.SocketError> {
  const whenFlowing = Effect.gen(function*() {
    while (true) {
      const ready = flowing()
      if (ready !== undefined) return ready
      yield* changed
    }
  })
  while (true) {
    yield* whenFlowing
    for (const data of yield* pull) {
      const ready = flowing() ?? (yield* whenFlowing)
      const bytes = typeof data === "string" ? utf8Length(data) : data.byteLength
      if (bytes > maxFrameBytes) {
        tooLarge(bytes)
        // Until the peer has closed, what else it sends is dropped.
        return yield* Effect.forever(pull)
      }
      ready.frame(data, bytes)
    }
  }
})

/** Frames that wait to be written. Those sent in one turn leave together. */
class OutgoingFrames {
  private readonly writer: Socket.Writer
  private readonly fork: (write: Effect.Effect<void>) => void
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
  /** Written after all frames. */
  private closing: Socket.CloseEvent | undefined

  constructor(writer: Socket.Writer, fork: OutgoingFrames["fork"], told: OutgoingFrames["told"]) {
    this.writer = writer
    this.fork = fork
    this.told = told
  }

  /** Bytes that are not written yet. */
  get buffered(): number {
    return this.bytes
  }

  get isClosing(): boolean {
    return this.closing !== undefined
  }

  push(frame: string, written: Outgoing["written"]): void {
    const bytes = utf8Length(frame)
    this.bytes += bytes
    if (this.bytes >= highWaterBytes) this.awaitsDrain = true
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
    for (const { written } of [...this.inFlight, ...this.waiting]) written?.(false)
    this.inFlight = []
    this.waiting = []
    this.bytes = 0
  }

  /** Writes in a microtask, so that frames sent in one turn leave together. */
  private startWriting(): void {
    if (this.isWriting) return
    this.isWriting = true
    queueMicrotask(() => this.fork(this.write))
  }

  private readonly write: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    while (this.waiting.length > 0) {
      this.inFlight = this.waiting
      this.waiting = []
      // Not empty, as the loop has checked.
      yield* this.writer.writeAll(this.inFlight.map(({ frame }) => frame) as [string, ...Array<string>])
      if (this.isDropped) return
      const taken = this.inFlight
      this.inFlight = []
      for (const { bytes } of taken) this.bytes -= bytes
      for (const { written } of taken) written?.(true)
      if (this.awaitsDrain && this.bytes < highWaterBytes) {
        this.awaitsDrain = false
        this.told.drained()
      }
    }
    this.isWriting = false
    if (this.closing !== undefined) yield* this.writer.write(this.closing)
  }).pipe(Effect.catchCause((cause) =>
    Effect.sync(() => {
      if (!Cause.hasInterruptsOnly(cause)) this.told.failed(cause)
    })
  ))
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

const noop = (): void => {}

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
