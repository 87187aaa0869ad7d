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
import type { Duration, Effect, Redacted, Schema, Scope, Stream } from "effect"
import type { CircuitBreaker } from "./CircuitBreaker.ts"
import type { Window } from "./core/Protocol.ts"
import type { Deduplicator } from "./Deduplicator.ts"
import type { ConnectionState } from "./internal/connect/connector.ts"
import type { SendError } from "./internal/send/sending.ts"
import type { ContractName } from "./internal/session/identity.ts"
import type { MessageState, SessionStats, ShutdownReport } from "./internal/session/models.ts"
import { makeClient } from "./internal/sides/client.ts"
import type {
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
import type { HandlerRetry, ShutdownOptions } from "./ResilientServer.ts"
import type { TransportClient } from "./Transport.ts"
import type { ConnectError, LocateError, MessageQueueError, ShutdownError } from "./WebSocketError.ts"

export type { Window } from "./core/Protocol.ts"
export type { ConnectionState } from "./internal/connect/connector.ts"
export type { ContractName } from "./internal/session/identity.ts"
export type { MessageState, SessionStats, ShutdownReport } from "./internal/session/models.ts"

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
  /**
   * Incoming messages, when there is no `onMessage`; each is acknowledged when the next one is asked for. So what asks
   * ahead (`buffer`, `mapEffect` with a concurrency, `groupedWithin`) acknowledges messages that nobody has handled yet:
   * use `onMessage` for those.
   */
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
  }) => Effect.Effect<void, ConnectError | ShutdownError>
  /**
   * Tries now instead of waiting for the next attempt, the circuit, `url` or `token`; even after the server said stop.
   */
  readonly reconnect: Effect.Effect<void>
  /** Asks the token provider again and sends the token on the open connection. */
  readonly refreshToken: Effect.Effect<void, ConnectError>
  /** Ends the session for good on both sides; what waits becomes dead letters. `reconnect` starts a new one. */
  readonly endSession: Effect.Effect<void, MessageQueueError>
  /** Where the message with this id is. O(messages in the outbox). */
  readonly locate: (messageId: string) => Effect.Effect<MessageState, LocateError>
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
  ) => Effect.Effect<ShutdownReport>
}

/**
 * What a handler gets beside the message.
 *
 * @since 0.1.0
 * @category models
 */
export interface MessageContext<In, Out> {
  readonly incoming: Incoming<In>
  readonly client: ResilientClient<In, Out>
}

/**
 * Options of a client.
 *
 * **Details.** `E` is what handlers fail with, and the rest what services each function needs; to name the type of some
 * options, the first of these stands for all.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<
  In,
  Out,
  E = unknown,
  RMessage = never,
  RGap = RMessage,
  RLetter = RMessage,
  RState = RMessage,
  RUrl = RMessage,
  RToken = RMessage,
  RRetry = RMessage,
  RCoding = RMessage
> extends TracingOptions {
  /**
   * `ws://` or `wss://`; an effect runs at every attempt, and is given up after the `dialTimeout`. If it fails with an
   * error of this library, that decides whether the client comes back; after any other it does.
   */
  readonly url: string | Effect.Effect<string, unknown, RUrl>
  /** Messages from the server. */
  readonly incoming: Schema.Codec<In, unknown, RCoding, RCoding>
  /** Messages to the server; on the wire they are JSON, by `Schema.toCodecJson`. */
  readonly outgoing: Schema.Codec<Out, unknown, RCoding, RCoding>
  /**
   * For the server's authentication hook; an effect runs at every attempt, and is given up after the
   * `handshakeTimeout`. If it fails, the same holds as for `url`.
   */
  readonly token?:
    | Redacted.Redacted
    | Effect.Effect<Redacted.Redacted | undefined, unknown, RToken>
    | undefined
  /**
   * What the two sides have agreed to say. A client names it in the handshake; a server with another one, or with another
   * version of it if both name one, turns the client away. `Contract.make` gives its own. Default: not compared.
   *
   * @since 0.1.0
   */
  readonly contract?: ContractName | undefined
  /** HTTP headers of the dial, if the transport can send any. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /**
   * Handles a message, which is acknowledged when this succeeds. Runs for one at a time, as long as it takes. If it
   * fails, it is retried (`handlerRetry`), unless it fails with `MessageRejected` or dies: then, and after the retries,
   * the message is a dead letter on both sides.
   */
  readonly onMessage?:
    | ((message: In, context: MessageContext<In, Out>) => Effect.Effect<unknown, E, RMessage>)
    | undefined
  /** Called, in the order of the messages, for those that will never come. Default: logs a warning. */
  readonly onGap?: ((gap: MessageGap) => Effect.Effect<unknown, unknown, RGap>) | undefined
  /**
   * Run for every dead letter, one after the other in the client's scope. Of those that wait, the newest 16,384 are
   * kept, in 16 MiB at most; `totals.hooksDropped` counts the others. What it fails with is logged.
   */
  readonly onDeadLetter?: ((letter: DeadLetter<In | Out>) => Effect.Effect<unknown, unknown, RLetter>) | undefined
  /** Run for every state, in the same way. */
  readonly onStateChange?: ((state: ConnectionState) => Effect.Effect<unknown, unknown, RState>) | undefined
  /**
   * What becomes of messages that the server may have handled, if it has lost the session: they come back as dead
   * letters (nothing is handled twice), or are sent again (nothing is lost). Messages that never left are sent in any
   * case. Default `deadLetter`.
   */
  readonly onFresh?: "deadLetter" | "resend" | undefined
  /**
   * Retries of a failed handler; the schedule is given what it failed with. Default: exponential from 1 s to 60 s with
   * full jitter, 5 attempts in all.
   */
  readonly handlerRetry?: HandlerRetry<E, RRetry> | undefined
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
export const make = <
  In,
  Out,
  E = never,
  RMessage = never,
  RGap = never,
  RLetter = never,
  RState = never,
  RUrl = never,
  RToken = never,
  RRetry = never,
  RCoding = never
>(
  options: Options<In, Out, E, RMessage, RGap, RLetter, RState, RUrl, RToken, RRetry, RCoding>
): Effect.Effect<
  ResilientClient<In, Out>,
  MessageQueueError,
  Dependencies | Scope.Scope | RMessage | RGap | RLetter | RState | RUrl | RToken | RRetry | RCoding
> =>
  // What the parts need and fail with matters to the caller alone.
  makeClient<In, Out, RMessage | RGap | RLetter | RState | RUrl | RToken | RRetry | RCoding>(options as never)
