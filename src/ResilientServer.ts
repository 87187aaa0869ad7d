/**
 * The server: sessions that outlive their connections, typed messages both ways, exactly once and in order.
 *
 * **Details.** `send` puts a message in the session's outbox and says at once what became of it; the message is freed
 * when the client's handler has succeeded. Incoming messages go to `onMessage`, one at a time for each session, and are
 * acknowledged when it succeeds; without `onMessage` they are the stream `messages`. Closing the scope drains.
 *
 * **Gotchas.** Handlers that finished in the last milliseconds before a kill may run again, as positions are stored in
 * groups. A handler whose process dies half-way through a message gets it again, unless it stores that the message is
 * handled in one transaction with what it does (`commit` in its context).
 *
 * @since 0.1.0
 */
import type { Duration, Effect, Schedule, Schema, Scope, Stream } from "effect"
import type { CircuitBreaker } from "./CircuitBreaker.ts"
import type { Window } from "./core/Protocol.ts"
import type { Deduplicator } from "./Deduplicator.ts"
import type { Newcomer } from "./internal/connect/newcomer.ts"
import type { RateLimit } from "./internal/handle/intakeLimits.ts"
import type { SendError } from "./internal/send/sending.ts"
import type { ContractName, Handshake, Identity } from "./internal/session/identity.ts"
import type * as Models from "./internal/session/models.ts"
import type { MessageState, SessionStats, ShutdownReport } from "./internal/session/models.ts"
import type { AllowedOrigins } from "./internal/session/origins.ts"
import { makeServer } from "./internal/sides/server.ts"
import type {
  Broadcast,
  BroadcastOptions,
  DeadLetter,
  Incoming,
  MessageGap,
  Receipt,
  SendAllOptions,
  SendOptions,
  TracingOptions
} from "./Message.ts"
import type { MessageQueue, Stats as QueueStats } from "./MessageQueue.ts"
import type { Latencies, Totals } from "./Metrics.ts"
import type { SessionRegistry } from "./SessionRegistry.ts"
import type { Address, Connection, TransportServer } from "./Transport.ts"
import type {
  AcceptError,
  HandshakeError,
  LocateError,
  MessageQueueError,
  MessageRejected,
  PayloadError,
  SessionNotFoundError,
  SessionRegistryError,
  ShutdownError,
  TransportError
} from "./WebSocketError.ts"

export type { Window } from "./core/Protocol.ts"
export type { Newcomer } from "./internal/connect/newcomer.ts"
export type { RateLimit } from "./internal/handle/intakeLimits.ts"
export type { ContractName, Handshake, Identity } from "./internal/session/identity.ts"
export type { MessageState, PrincipalSession, SessionStats, ShutdownReport } from "./internal/session/models.ts"
export type { AllowedOrigins } from "./internal/session/origins.ts"

/**
 * Something that happened to a session's connection.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionEvent = Models.ConnectionEvent<AcceptError>

/**
 * All figures of a server at one moment.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly sessions: number
  readonly connections: number
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
 * A server for messages of type `In` from its clients and `Out` to them.
 *
 * @since 0.1.0
 * @category models
 */
export interface ResilientServer<In, Out> {
  readonly address: Address
  /**
   * Puts a message in the session's outbox. Reliable unless `volatile`. A session that never connected, or has ended,
   * is not found. With shared stores, the session may be at any server, or at none right now.
   */
  readonly send: (
    session: string,
    message: Out,
    options?: SendOptions
  ) => Effect.Effect<Receipt, SendError | SessionNotFoundError | ShutdownError>
  /** Sends many at once, in order: the outbox takes all or none. A batch larger than its bounds never goes in. */
  readonly sendAll: (
    session: string,
    messages: Iterable<Out>,
    options?: SendAllOptions
  ) => Effect.Effect<ReadonlyArray<Receipt>, SendError | SessionNotFoundError | ShutdownError>
  /**
   * Puts one message in the outboxes of many sessions, even of those that are away. A session that can't take it is
   * reported and does not affect the others. With the overflow policy `suspend`, this waits for full ones.
   */
  readonly broadcast: (
    message: Out,
    options?: BroadcastOptions
  ) => Effect.Effect<Broadcast, PayloadError | ShutdownError | SessionRegistryError>
  /**
   * Incoming messages, when there is no `onMessage`; each is acknowledged when the next one is asked for. So what asks
   * ahead (`buffer`, `mapEffect` with a concurrency, `groupedWithin`) acknowledges messages that nobody has handled yet:
   * use `onMessage` for those.
   */
  readonly messages: Stream.Stream<Incoming<In>>
  /** Messages given up, in both directions. Late subscribers get the newest 1,024. */
  readonly deadLetters: Stream.Stream<DeadLetter<In | Out>>
  /** Connections as they come and go, from now on. */
  readonly connections: Stream.Stream<ConnectionEvent>
  /**
   * Takes over a connection that somebody else accepted, for the session `session`, or else for the one that
   * `authenticate` or the peer's hello names. If `session` has to be looked up, pass an effect: the connection is taken
   * over at once, so nothing that comes meanwhile is lost. The effect has as long as the hook (`handshakeTimeout`).
   * Returns the session; if the peer speaks the protocol, after its handshake. The connection is closed if the
   * handshake is refused, if `register` is interrupted, or if its request does not allow it: its origin is not in
   * `allowedOrigins`, or it offered our subprotocol and was refused it. A plain connection that could not be taken over
   * for another reason remains the caller's.
   */
  readonly register: <R = never>(
    connection: Connection,
    options?: { readonly session?: string | Effect.Effect<string | undefined, HandshakeError, R> | undefined }
  ) => Effect.Effect<string, AcceptError | ShutdownError, R>
  /** Gives a connection back without closing it; its session is kept for the retention time. */
  readonly unregister: (connection: Connection) => Effect.Effect<boolean>
  /** Ends a session for good, wherever it is: the client learns of it, and what waits becomes dead letters. */
  readonly endSession: (
    session: string
  ) => Effect.Effect<void, SessionNotFoundError | MessageQueueError | SessionRegistryError>
  /** Where the message with this id is. O(messages of the session). */
  readonly locate: (
    session: string,
    messageId: string
  ) => Effect.Effect<MessageState, LocateError | SessionNotFoundError>
  readonly stats: Effect.Effect<Stats>
  /**
   * The sessions that this server has, connected or not.
   *
   * @since 0.1.0
   */
  readonly sessions: Effect.Effect<ReadonlyArray<string>>
  /**
   * The sessions of a principal, at any server: connected ones first, then those that were connected last. At most
   * 1,000. A tab that was closed or reloaded may have left one.
   *
   * @since 0.1.0
   */
  readonly sessionsOf: (
    principal: string
  ) => Effect.Effect<ReadonlyArray<Models.PrincipalSession>, SessionRegistryError>
  /** Figures of one session. With shared stores, even of one that another server has, as far as the stores know it. */
  readonly sessionStats: (session: string) => Effect.Effect<SessionStats, SessionNotFoundError | SessionRegistryError>
  /** Drains and closes. Idempotent: later calls return the same report. The scope's finalizer does the same. */
  readonly shutdown: Effect.Effect<ShutdownReport>
  /**
   * The same, within another time, without flushing, or without closing the connections. The first call counts.
   *
   * @since 0.1.0
   */
  readonly shutdownWith: (options: ShutdownOptions) => Effect.Effect<ShutdownReport>
  /**
   * Stops the background work until `resume`. What can be written at once still is; what has to wait for a reconnect,
   * the window or an ack goes on waiting. No acks are sent, nothing expires, and nobody is found silent.
   *
   * @since 0.1.0
   */
  readonly pause: Effect.Effect<void>
  /** @since 0.1.0 */
  readonly resume: Effect.Effect<void>
}

/**
 * What a handler gets beside the message.
 *
 * @since 0.1.0
 * @category models
 */
export interface MessageContext<In, Out, Data = unknown> {
  readonly session: string
  /** Who the peer is, as `authenticate` says. */
  readonly principal: string | undefined
  /**
   * What `authenticate` handed on when the session was last connected, or its token renewed. Undefined if it was not
   * asked, as when `register` was told the session.
   *
   * @since 0.1.0
   */
  readonly data: Data | undefined
  readonly incoming: Incoming<In>
  readonly server: ResilientServer<In, Out>
  /**
   * Stores that this message is handled: for handlers that do so in one transaction with their own writes. These then
   * happen exactly once, even if the process dies or the session moves to another server at that moment.
   *
   * ```ts
   * import { Effect } from "effect"
   * import type { ResilientServer } from "resilient-websocket"
   * import type { SqlClient } from "effect/sql"
   *
   * declare const sql: SqlClient.SqlClient
   * declare const write: (message: string) => Effect.Effect<void>
   *
   * const onMessage: ResilientServer.Options<string, string>["onMessage"] = (message, context) =>
   *   sql.withTransaction(Effect.gen(function*() {
   *     yield* write(message)
   *     yield* context.commit
   *   }))
   * ```
   *
   * It is part of the transaction if that is in the store of the `SessionRegistry`; otherwise it is stored at once. If
   * it fails with reason `fenced`, let the handler fail: the transaction rolls back, and the message is not tried again
   * here, because it has been handled, by the session's new owner or by an earlier attempt that failed after its
   * transaction. As always, the message is acknowledged when the handler has succeeded, and retried when it fails. For
   * volatile messages and plain peers, which have no position, it does nothing.
   */
  readonly commit: Effect.Effect<void, SessionRegistryError>
}

/**
 * Options of a server. Everything but the Schemas has a default.
 *
 * **Details.** `Data` is what `authenticate` hands on to the handlers; write it before `onMessage`, so that the compiler
 * knows it there. `E` is what handlers fail with, and the rest what services each function needs; to name the type of
 * some options, the first of these stands for all.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<
  In,
  Out,
  Data = unknown,
  E = unknown,
  RMessage = never,
  RGap = RMessage,
  RLetter = RMessage,
  REvent = RMessage,
  RAuthenticate = RMessage,
  RRetry = RMessage,
  RCoding = RMessage
> extends TracingOptions {
  /** Messages from clients; on the wire they are JSON, by `Schema.toCodecJson`. */
  readonly incoming: Schema.Codec<In, unknown, RCoding, RCoding>
  /** Messages to clients. */
  readonly outgoing: Schema.Codec<Out, unknown, RCoding, RCoding>
  /**
   * What the two sides have agreed to say. A client names it in the handshake; a server with another one, or with another
   * version of it if both name one, turns the client away. `Contract.make` gives its own. Default: not compared.
   *
   * @since 0.1.0
   */
  readonly contract?: ContractName | undefined
  /** Says who a peer is and which session it has. Default: anybody, each with a session of its own. */
  readonly authenticate?:
    | ((handshake: Handshake) => Effect.Effect<Identity<Data>, HandshakeError, RAuthenticate>)
    | undefined
  /**
   * Handles a message, which is acknowledged when this succeeds. Runs for one at a time in each session. If it fails, it
   * is retried (`handlerRetry`), unless it fails with `MessageRejected` or dies: then, and after the retries, the
   * message is a dead letter on both sides.
   */
  readonly onMessage?:
    | ((message: In, context: MessageContext<In, Out, NoInfer<Data>>) => Effect.Effect<unknown, E, RMessage>)
    | undefined
  /** Called, in the order of the messages, for those that will never come. Default: logs a warning. */
  readonly onGap?: ((gap: MessageGap) => Effect.Effect<unknown, unknown, RGap>) | undefined
  /**
   * Run for every dead letter, one after the other in the server's scope. Of those that wait, the newest 16,384 are
   * kept, in 16 MiB at most; `totals.hooksDropped` counts the others. What it fails with is logged.
   */
  readonly onDeadLetter?: ((letter: DeadLetter<In | Out>) => Effect.Effect<unknown, unknown, RLetter>) | undefined
  /** Run for every event of `connections`, in the same way. */
  readonly onConnectionEvent?: ((event: ConnectionEvent) => Effect.Effect<unknown, unknown, REvent>) | undefined
  /**
   * Says which share a peer belongs to. Each share has a part of the bounds on the whole server (`maxHandshakes`,
   * `maxSessions` of the registry, `maxTotalMessages` and `maxTotalBytes` of the queue), so that peers with little are
   * not refused because others have much. It is called when a peer connects, and again when its principal is known, and
   * must return at once. Behind a proxy, return what stands for the address. Default: the principal, or without one the
   * remote address (for IPv6, its first 64 bits).
   *
   * @since 0.1.0
   */
  readonly shareOf?: ((newcomer: Newcomer) => string | undefined) | undefined
  /**
   * How long a stranger's session is kept after its connection is lost: one that has never sent or been sent anything,
   * and for which the hook named neither a principal nor the session. At most the registry's retention. Default 60 s.
   *
   * @since 0.1.0
   */
  readonly strangerRetention?: Duration.Input | undefined
  /**
   * Retries of a failed handler; the schedule is given what it failed with. Default: exponential from 1 s to 60 s with
   * full jitter, 5 attempts in all.
   */
  readonly handlerRetry?: HandlerRetry<E, RRetry> | undefined
  /** Whether to serve WebSockets without the subprotocol. Default `accept`. */
  readonly plainPeers?: "accept" | "reject" | undefined
  /** What a client may have in flight. Default 1,024 messages and 4 MiB. */
  readonly window?: Partial<Window> | undefined
  /** Largest payload either way. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /**
   * Memory, by estimate, for what was received and is not handled, in all sessions together. A session that has a
   * quarter of it is not read until it has less. Above the whole of it, each is read one frame at a time; above twice
   * that, shares (`shareOf`) that have more than their part are not read; above four times that, nobody is. Default 32
   * MiB.
   *
   * @since 0.1.0
   */
  readonly maxUnhandledBytes?: number | undefined
  /**
   * How much one client may send, of any kind, before it is not read for a while. Default 10,000 frames and 256 MiB a
   * second, in bursts of up to 2 seconds' worth.
   *
   * @since 0.1.0
   */
  readonly rateLimit?: RateLimit | "none" | undefined
  /** Silence after which a client is probed. Default 10 s. */
  readonly heartbeat?: Duration.Input | undefined
  /**
   * How long a probe may go unanswered. With the heartbeat's default, a half-open connection is noticed in 20 s.
   * Default 8 s.
   */
  readonly heartbeatTimeout?: Duration.Input | undefined
  /** How long a client may take to confirm that it received something. Default 30 s. */
  readonly ackTimeout?: Duration.Input | undefined
  /** How long a plain peer may be silent. Default 120 s. */
  readonly connectionTimeout?: Duration.Input | undefined
  /** Time for a handshake, the authentication hook included. Default 10 s. */
  readonly handshakeTimeout?: Duration.Input | undefined
  /**
   * The most handshakes under way. For one more, the oldest of the share that has the most is turned away, if that
   * share has more than the newcomer's. Default 10,000.
   */
  readonly maxHandshakes?: number | undefined
  /**
   * Which pages' sockets `register` accepts, by the `Origin` of their request; transports that accept connections have
   * an option of their own. Default `"own"`: pages of the host and port that they connect to.
   *
   * @since 0.1.0
   */
  readonly allowedOrigins?: AllowedOrigins | undefined
  /** How often to look for expired messages and deduplication keys. Default 60 s. */
  readonly expirySweep?: Duration.Input | undefined
  /** The time over which clients spread their reconnects when told to leave. Default 5 s. */
  readonly reconnectJitter?: Duration.Input | undefined
  /** Time for a shutdown, of which flushing may take 70 %. Default 30 s. */
  readonly shutdownTimeout?: Duration.Input | undefined
  /** Restarts of background workers before the server gives up. Default 10 in 60 s. */
  readonly restartIntensity?: { readonly restarts: number; readonly period: Duration.Input } | undefined
}

/**
 * When a handler that fails with `E` is tried again: a schedule, or a function of one, as `Effect.retry` takes it, for a
 * schedule that looks at what it is given. That is anything but a rejection.
 *
 * **Example**
 *
 * ```ts
 * import { Effect, Schedule, Schema } from "effect"
 * import { Contract } from "resilient-websocket"
 *
 * class Chat extends Contract.make("app/Chat", { toServer: Schema.String, toClient: Schema.String }) {}
 * declare const store: (text: string) => Effect.Effect<void, { readonly _tag: "Busy" | "Broken" }>
 *
 * const Server = Chat.layerServer({
 *   onMessage: (text) => store(text),
 *   handlerRetry: ($) => $(Schedule.exponential("1 second")).pipe(Schedule.while(({ input }) => input._tag === "Busy"))
 * })
 * ```
 *
 * @since 0.1.0
 * @category models
 */
export type HandlerRetry<E, R = never> =
  | Schedule.Schedule<unknown, NoInfer<Exclude<E, MessageRejected>>, never, R>
  | ((
    $: <Output, E2, R2>(
      schedule: Schedule.Schedule<Output, NoInfer<Exclude<E, MessageRejected>>, E2, R2>
    ) => Schedule.Schedule<Output, Exclude<E, MessageRejected>, E2, R2>
  ) => Schedule.Schedule<unknown, NoInfer<Exclude<E, MessageRejected>>, never, R>)

/**
 * How to shut down, other than by the options of the server or client.
 *
 * @since 0.1.0
 * @category models
 */
export interface ShutdownOptions {
  /** Time for it, of which flushing may take 70 %. Default: the `shutdownTimeout`, 30 s. */
  readonly timeout?: Duration.Input | undefined
  /** Whether to wait until everything queued for connected peers is handled. Default: true. */
  readonly flush?: boolean | undefined
  /**
   * Whether to close the connections. If not, a server gives them back as `unregister` does, and they stay open. A
   * client always closes its own. Default: true.
   */
  readonly closeConnections?: boolean | undefined
}

/** @since 0.1.0 @category models */
export type Dependencies = MessageQueue | Deduplicator | CircuitBreaker | SessionRegistry | TransportServer

/**
 * A server in the current scope. Most programs use `Contract.make(…).layerServer` instead.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <
  In,
  Out,
  Data = unknown,
  E = never,
  RMessage = never,
  RGap = never,
  RLetter = never,
  REvent = never,
  RAuthenticate = never,
  RRetry = never,
  RCoding = never
>(
  options: Options<In, Out, Data, E, RMessage, RGap, RLetter, REvent, RAuthenticate, RRetry, RCoding>
): Effect.Effect<
  ResilientServer<In, Out>,
  TransportError,
  Dependencies | Scope.Scope | RMessage | RGap | RLetter | REvent | RAuthenticate | RRetry | RCoding
> =>
  // What the parts need and fail with matters to the caller alone.
  makeServer<In, Out, RMessage | RGap | RLetter | REvent | RAuthenticate | RRetry | RCoding>(options as never)
