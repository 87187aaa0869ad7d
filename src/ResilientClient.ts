/**
 * The client: one session with a server, kept through every connection. Typed messages both ways, exactly once and in
 * order.
 *
 * **Details.** It connects and reconnects by itself, with full-jitter backoff behind a circuit for the endpoint. What
 * is sent while there is no connection waits. `states` shows how it is going. When the server has lost the session,
 * what may or may not have been handled comes back as dead letters, or is sent again (`onFresh`).
 *
 * @since 0.1.0
 */
import {
  type Config,
  type Duration,
  Effect,
  Exit,
  Random,
  type Redacted,
  type Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import { CircuitBreaker } from "./CircuitBreaker.ts"
import { encode, endFrame } from "./core/Codec.ts"
import { CloseCode, type Window } from "./core/Protocol.ts"
import { Session } from "./core/Session.ts"
import { Deduplicator } from "./Deduplicator.ts"
import { type ConnectionState, makeConnector, ownGeneration } from "./internal/connect/connector.ts"
import { rejection } from "./internal/connect/rejection.ts"
import { makeHandling } from "./internal/handle/handling.ts"
import { makeHandoff } from "./internal/handle/handoff.ts"
import { limitsOf as intakeLimitsOf } from "./internal/handle/intake.ts"
import { defaultHandlerRetry, logGap } from "./internal/handle/unhandled.ts"
import { makeEvents } from "./internal/kit/events.ts"
import { makeId } from "./internal/kit/ids.ts"
import { guardedListener } from "./internal/kit/listeners.ts"
import * as Check from "./internal/kit/options.ts"
import { makeRareLog } from "./internal/kit/rareLog.ts"
import { makeCoder } from "./internal/kit/schemas.ts"
import { Closing } from "./internal/run/closing.ts"
import { type Engine, makeEngine } from "./internal/run/engine.ts"
import * as Shapes from "./internal/run/optionShapes.ts"
import { intensityOf, limitsOf, timesOf } from "./internal/run/settings.ts"
import { makeShutdown } from "./internal/run/shutdown.ts"
import { supervise } from "./internal/run/supervisor.ts"
import { makeSerialize } from "./internal/send/payload.ts"
import { makeSending, type SendError } from "./internal/send/sending.ts"
import { makeDeadLetters } from "./internal/session/deadLetters.ts"
import { protocol } from "./internal/session/dialects.ts"
import { locate, statsOf } from "./internal/session/inspect.ts"
import type { MessageState, SessionStats, ShutdownReport } from "./internal/session/models.ts"
import { Peer } from "./internal/session/peer.ts"
import { checkedToken, plainText } from "./internal/session/tokens.ts"
import type { DeadLetter, Incoming, MessageGap, Receipt, SendAllOptions, SendOptions } from "./Message.ts"
import { MessageQueue, type Stats as QueueStats } from "./MessageQueue.ts"
import { type Latencies, makeRecorder, type Totals } from "./Metrics.ts"
import type { ShutdownOptions } from "./ResilientServer.ts"
import { TransportClient } from "./Transport.ts"
import {
  ConnectionTimeoutError,
  type MessageQueueError,
  ProtocolError,
  ShutdownError,
  type WebSocketError
} from "./WebSocketError.ts"

export type { ConnectionState } from "./internal/connect/connector.ts"
export type { ShutdownReport } from "./internal/session/models.ts"
import { onWall } from "./internal/kit/time.ts"

/**
 * All figures of a client at one moment.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly session: SessionStats
  readonly queue: QueueStats
  readonly totals: Totals
  /** @since 0.1.0 */
  readonly latencies: Latencies
  /**
   * The most messages that waited or were in flight, as seen about once a second.
   *
   * @since 0.1.0
   */
  readonly peakQueueMessages: number
}

/**
 * A client for messages of type `In` from its server and `Out` to it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ResilientClient<In, Out> {
  /** Puts a message in the outbox. Reliable unless `volatile`. */
  readonly send: (message: Out, options?: SendOptions) => Effect.Effect<Receipt, SendError | ShutdownError>
  /** Sends many at once, in order: the outbox takes all or none. A batch larger than its bounds never goes in. */
  readonly sendAll: (
    messages: Iterable<Out>,
    options?: SendAllOptions
  ) => Effect.Effect<ReadonlyArray<Receipt>, SendError | ShutdownError>
  /** Incoming messages, when there is no `onMessage`; each is acknowledged when the next one is asked for. */
  readonly messages: Stream.Stream<Incoming<In>>
  /** Messages given up, in both directions. Late subscribers get the newest 1,024. */
  readonly deadLetters: Stream.Stream<DeadLetter<In | Out>>
  readonly state: Effect.Effect<ConnectionState>
  /** The state now and every one after it. A reader that falls 1,024 behind loses the oldest. */
  readonly states: Stream.Stream<ConnectionState>
  /**
   * Waits until connected. Fails when the client is stopped, or after `timeout`, by default never; a `timeout` that is
   * no duration is a defect.
   */
  readonly awaitConnected: (options?: {
    readonly timeout?: Duration.Input | undefined
  }) => Effect.Effect<void, WebSocketError>
  /**
   * Tries now instead of waiting for the next attempt, the circuit, `url` or `token`; even after the server said stop.
   */
  readonly reconnect: Effect.Effect<void>
  /** Asks the token provider again and sends the token on the open connection. */
  readonly refreshToken: Effect.Effect<void, WebSocketError>
  /** Ends the session for good on both sides; what waits becomes dead letters. `reconnect` starts a new one. */
  readonly endSession: Effect.Effect<void, MessageQueueError>
  /** Where the message with this id is. O(messages in the outbox). */
  readonly locate: (messageId: string) => Effect.Effect<MessageState, WebSocketError>
  readonly stats: Effect.Effect<Stats>
  /**
   * Flushes and closes; the server keeps the session for its retention. Idempotent. The scope's finalizer does the
   * same.
   */
  readonly shutdown: Effect.Effect<ShutdownReport>
  /**
   * The same, within another time, or without flushing. The first call counts.
   *
   * @since 0.1.0
   */
  readonly shutdownWith: (
    options: Omit<ShutdownOptions, "closeConnections">
  ) => Effect.Effect<ShutdownReport, Config.ConfigError>
}

/**
 * Options of a client.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<In, Out, R = never> {
  /** `ws://` or `wss://`; an effect runs at every attempt, and is given up after the `dialTimeout`. */
  readonly url: string | Effect.Effect<string, WebSocketError, R>
  /** Messages from the server. */
  readonly incoming: Schema.Codec<In, unknown>
  /** Messages to the server; on the wire they are JSON, by `Schema.toCodecJson`. */
  readonly outgoing: Schema.Codec<Out, unknown>
  /**
   * For the server's authentication hook; an effect runs at every attempt, and is given up after the
   * `handshakeTimeout`.
   */
  readonly token?:
    | string
    | Redacted.Redacted
    | Effect.Effect<string | Redacted.Redacted | undefined, WebSocketError, R>
    | undefined
  /** HTTP headers of the dial, if the transport can send any. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Handles a message, which is acknowledged when this succeeds. Runs for one at a time, as long as it takes. */
  readonly onMessage?:
    | ((
      message: In,
      context: { readonly incoming: Incoming<In>; readonly client: ResilientClient<In, Out> }
    ) => Effect.Effect<unknown, unknown, R>)
    | undefined
  /** Called, in the order of the messages, for those that will never come. Default: logs a warning. */
  readonly onGap?: ((gap: MessageGap) => Effect.Effect<unknown, unknown, R>) | undefined
  /**
   * Gets every dead letter, while `deadLetters` keeps the newest 1,024 for a slow reader. It is called in the middle of
   * other work: it must return at once, and not throw.
   */
  readonly onDeadLetter?: ((letter: DeadLetter<In | Out>) => void) | undefined
  /** Gets every state, in the same way. */
  readonly onStateChange?: ((state: ConnectionState) => void) | undefined
  /**
   * What becomes of messages that the server may have handled, if it has lost the session: they come back as dead
   * letters (nothing is handled twice), or are sent again (nothing is lost). Messages that never left are sent in any
   * case. Default `deadLetter`.
   */
  readonly onFresh?: "deadLetter" | "resend" | undefined
  /** Retries of a failed handler. Default: exponential from 1 s to 60 s with full jitter, 5 attempts in all. */
  readonly handlerRetry?: Schedule.Schedule<unknown, unknown> | undefined
  /**
   * Backoff between attempts to connect, with full jitter. It starts again after a connection that lasted 10 s, or the
   * `cap` if that is shorter. Default from 1 s to 60 s.
   */
  readonly reconnect?:
    | { readonly base?: Duration.Input | undefined; readonly cap?: Duration.Input | undefined }
    | undefined
  /** What the server may have in flight. Default 1,024 messages and 4 MiB. */
  readonly window?: Partial<Window> | undefined
  /** Largest payload either way. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /**
   * Memory, by estimate, for what was received and is not handled. The server is not read while it fills a quarter of
   * that. Default 32 MiB.
   *
   * @since 0.1.0
   */
  readonly maxUnhandledBytes?: number | undefined
  /** Silence after which the server is probed. Default 10 s. */
  readonly heartbeat?: Duration.Input | undefined
  /**
   * How long a probe may go unanswered. With the heartbeat's default, a half-open connection is noticed in 20 s.
   * Default 8 s.
   */
  readonly heartbeatTimeout?: Duration.Input | undefined
  /** How long the server may take to confirm that it received something. Default 30 s. */
  readonly ackTimeout?: Duration.Input | undefined
  /** Time for a dial. Default 10 s. */
  readonly dialTimeout?: Duration.Input | undefined
  /** Time from the open connection to the welcome. Default 10 s. */
  readonly handshakeTimeout?: Duration.Input | undefined
  /** How often to look for expired messages and deduplication keys. Default 60 s. */
  readonly expirySweep?: Duration.Input | undefined
  /** Time for a shutdown, of which flushing may take 70 %. Default 30 s. */
  readonly shutdownTimeout?: Duration.Input | undefined
  /** Restarts of background workers before the client gives up and closes. Default 10 in 60 s. */
  readonly restartIntensity?: { readonly restarts: number; readonly period: Duration.Input } | undefined
}

/** @since 0.1.0 @category models */
export type Dependencies = MessageQueue | Deduplicator | CircuitBreaker | TransportClient

/**
 * A client in the current scope; it starts connecting at once. Most programs use `Contract.make(…).layerClient`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <In, Out, R = never>(
  options: Options<In, Out, R>
): Effect.Effect<
  ResilientClient<In, Out>,
  MessageQueueError | Config.ConfigError,
  Dependencies | R | Scope.Scope
> => Check.checked(build(options))

const build = Effect.fnUntraced(function*<In, Out, R>(options: Options<In, Out, R>): Effect.fn.Return<
  ResilientClient<In, Out>,
  MessageQueueError,
  Dependencies | R | Scope.Scope
> {
  Check.check(options, Shapes.client)
  const queue = yield* MessageQueue
  const deduplicator = yield* Deduplicator
  const breaker = yield* CircuitBreaker
  const transport = yield* TransportClient
  const recorder = yield* makeRecorder
  const context = yield* Effect.context<R>()
  let state: ConnectionState = { _tag: "Connecting", attempt: 0 }
  const states = yield* makeEvents<ConnectionState>({ replay: 1 })
  const onStateChange = yield* guardedListener("onStateChange", options.onStateChange)
  const setState = (next: ConnectionState): void => {
    state = next
    states.publish(next)
    onStateChange(next)
  }
  setState(state)
  const scope = yield* Scope.fork(yield* Effect.scope)
  const rare = yield* makeRareLog.pipe(Scope.provide(scope))
  const handoff = yield* makeHandoff<Incoming<In>>().pipe(Scope.provide(scope))
  const instance = makeId(yield* Random.Random)
  const closing = new Closing(handoff.isConsuming)

  const { maxPayload, window } = limitsOf(options)
  const intake = intakeLimitsOf({ ...options, rateLimit: "none" })
  const times = {
    ...timesOf(options),
    idleTimeout: Infinity
  }
  const provided = <A>(value: A | Effect.Effect<A, WebSocketError, R>): Effect.Effect<A, WebSocketError> =>
    Effect.isEffect(value) ? Effect.provideContext(value, context) : Effect.succeed(value)
  const checked = (given: string | Redacted.Redacted | undefined) => checkedToken(plainText(given))
  const token = Effect.isEffect(options.token)
    ? Effect.flatMap(provided<string | Redacted.Redacted | undefined>(options.token), checked)
    : checked(options.token)

  // The outbox is this client's own, whatever session it gets: two clients may share one store.
  const core = new Session({ role: "client", window, maxPayload })
  const peer = new Peer({ key: `client:${instance}`, session: "", principal: undefined, core, dialect: protocol })
  peer.own.attached({ generation: ownGeneration, here: true })

  const incoming = Check.schema("incoming", options.incoming)
  const outgoing = Check.schema("outgoing", options.outgoing)
  const deadLetters = yield* makeDeadLetters<In, Out>(options, recorder)

  const handling = makeHandling<In, R>({
    decode: makeCoder(incoming).decode,
    onMessage: (incoming) =>
      options.onMessage === undefined
        ? handoff.offer(incoming)
        : options.onMessage(incoming.message, { incoming, client: self }),
    onGap: options.onGap ?? logGap(rare),
    retry: options.handlerRetry ?? defaultHandlerRetry,
    isClosing: () => closing.hasBegun(),
    onHeld: (peer) => engine.held(peer),
    recorder,
    rare,
    deadLetters
  })

  const engine: Engine = yield* makeEngine({
    queue,
    deduplicator,
    breaker,
    recorder,
    rare,
    deadLetters,
    times,
    intake,
    intensity: intensityOf(options.restartIntensity),
    handling,
    handlesIncoming: () => options.onMessage !== undefined || handoff.hasConsumer(),
    savePosition: () => Effect.void,
    onControl: (_, frame) => {
      if (frame.t === "drain") {
        peer.link?.drained()
        connector.onDrain(frame.window, frame.endpoint)
      } else if (frame.t === "reject") connector.onReject(frame)
      else if (frame.t === "end") engine.run(ended)
    },
    onViolation: (_, violation) => {
      recorder.count("protocolErrors")
      const error = new ProtocolError({ code: violation.code, detail: violation.detail, session: peer.session })
      peer.say(encode(rejection(error).reject))
      engine.close(peer, CloseCode.protocol, violation.code, error)
      rare.warn("violation", `the server broke the protocol: ${violation.code}, ${violation.detail}`)
    },
    // Nobody else writes to a client's outbox, unless its store is shared with somebody else.
    onRefused: (_, error) =>
      Effect.sync(() => engine.close(peer, CloseCode.internal, "the outbox has another owner", error)),
    onDetached: (_, ending) => connector.onDetached(ending),
    onTick: (at) => connector.onTick(at),
    onGiveUp: (name) =>
      Effect.andThen(
        Effect.logFatal(`the client closes because its worker ${name} can't go on`),
        // Detached: the worker that calls this lives in the scope that is to be closed.
        Effect.asVoid(Effect.forkDetach(Effect.suspend(() => shutdown)))
      )
  }).pipe(Scope.provide(scope))
  engine.peers.set(peer.key, peer)

  const openOutbox = Effect.map(
    queue.open(peer.key, ownGeneration),
    (out) => peer.outgoing.opened(out, ownGeneration, undefined)
  )

  const connector = yield* makeConnector({
    engine,
    peer,
    queue,
    breaker,
    transport,
    recorder,
    deadLetters,
    instance,
    url: provided(options.url),
    token: Effect.map(token, plainText),
    headers: options.headers ?? {},
    onFresh: options.onFresh ?? "deadLetter",
    dialTimeoutMillis: Check.millis("dialTimeout", options.dialTimeout, "10 seconds"),
    handshakeTimeoutMillis: Check.millis("handshakeTimeout", options.handshakeTimeout, "10 seconds"),
    backoff: {
      baseMillis: Check.millis("reconnect.base", options.reconnect?.base, "1 second"),
      capMillis: Check.millis("reconnect.cap", options.reconnect?.cap, "60 seconds")
    },
    setState
  })

  /** The session is over: empty the outbox into dead letters, and start over with the next connection. */
  const ended = Effect.gen(function*() {
    connector.forget()
    yield* engine.remove(peer, "sessionEnded")
    engine.peers.set(peer.key, peer)
    yield* openOutbox
  })

  const serialize = makeSerialize(outgoing)
  const { send, sendAll } = makeSending<Out>({
    queue: engine.senders,
    deduplicator,
    breaker,
    recorder,
    serialize,
    maxPayload,
    markDirty: engine.markDirty,
    onDropped: (_, epoch, messages) => deadLetters.outgoing(peer.session, peer, epoch, messages, "overflow", 0)
  })

  const connecting = yield* Scope.fork(scope)
  const { shutdown, shutdownWith } = yield* makeShutdown({
    engine,
    queue,
    recorder,
    timeoutMillis: Check.millis("shutdownTimeout", options.shutdownTimeout, "30 seconds"),
    closeCode: CloseCode.normal,
    closing,
    stopConnecting: Scope.close(connecting, Exit.void),
    end: Effect.andThen(Effect.sync(() => setState({ _tag: "Closed" })), Scope.close(scope, Exit.void))
  })

  const self: ResilientClient<In, Out> = {
    send: (message, sendOptions) =>
      Effect.withFiber((fiber): Effect.Effect<Receipt, SendError | ShutdownError> =>
        closing.takesMessagesOf(fiber)
          ? send(fiber, peer, message, sendOptions)
          : Effect.fail(new ShutdownError({ component: "client" }))
      ),
    sendAll: (messages, sendOptions) =>
      Effect.withFiber((fiber): Effect.Effect<ReadonlyArray<Receipt>, SendError | ShutdownError> =>
        closing.takesMessagesOf(fiber)
          ? sendAll(fiber, peer, messages, sendOptions)
          : Effect.fail(new ShutdownError({ component: "client" }))
      ),
    get messages() {
      return handoff.stream
    },
    get deadLetters() {
      return deadLetters.stream
    },
    state: Effect.sync(() => state),
    get states() {
      return states.stream
    },
    awaitConnected: (awaitOptions) =>
      Effect.suspend(() => {
        Check.check(awaitOptions, Shapes.awaitConnected)
        return awaitConnected(states.stream, awaitOptions?.timeout)
      }),
    reconnect: connector.reconnect,
    refreshToken: Effect.flatMap(connector.token, (auth) =>
      Effect.sync(() => {
        if (auth !== undefined) peer.say(encode({ t: "auth", auth }))
      })),
    endSession: Effect.suspend(() => {
      peer.say(endFrame)
      engine.close(peer, CloseCode.sessionEnded, "the session ended")
      return ended
    }),
    locate: (messageId) => locate(queue, deduplicator, peer.key, peer, messageId),
    stats: Effect.gen(function*() {
      const { bytes, messages } = yield* Effect.orElseSucceed(queue.size(peer.key), () => ({ messages: 0, bytes: 0 }))
      const inQueue = yield* queue.stats
      return {
        session: statsOf(peer, messages, bytes, breaker, yield* onWall),
        queue: inQueue,
        totals: { ...recorder.totals },
        latencies: recorder.latencies,
        peakQueueMessages: Math.max(recorder.peaks.queueMessages, inQueue.messages)
      }
    }),
    shutdown,
    shutdownWith
  }

  yield* openOutbox
  yield* Effect.addFinalizer(() => shutdown)
  yield* supervise({ ...engine.worker, name: "connector", loop: connector.loop }).pipe(Scope.provide(connecting))
  return self
})

const awaitConnected = (
  states: Stream.Stream<ConnectionState>,
  timeout: Duration.Input | undefined
): Effect.Effect<void, WebSocketError> =>
  Effect.suspend(() => {
    let cause: WebSocketError | undefined
    const connected = states.pipe(
      Stream.mapEffect((state): Effect.Effect<boolean, WebSocketError> => {
        if (state._tag === "Stopped") return Effect.fail(state.error)
        if (state._tag === "Closed") return Effect.fail(new ShutdownError({ component: "client" }))
        if (state._tag === "Disconnected") cause = state.error
        return Effect.succeed(state._tag === "Connected")
      }),
      Stream.filter((isConnected) => isConnected),
      Stream.runHead,
      Effect.asVoid
    )
    if (timeout === undefined) return connected
    const afterMillis = Check.millisOf(timeout)
    return Effect.timeoutOrElse(connected, {
      duration: afterMillis,
      orElse: () =>
        Effect.fail(
          new ConnectionTimeoutError({ phase: "connect", afterMillis, ...(cause === undefined ? {} : { cause }) })
        )
    })
  })
