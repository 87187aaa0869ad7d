/**
 * The options that manager and client have in common, in plain values and functions.
 *
 * @since 0.1.0
 */
import type { WebSocket } from "ws"
import type { DeadLetter, Duration, MessageGap, Receipt, Waiting } from "./models.ts"

/**
 * Options of the queue that messages wait in, for manager and client.
 *
 * @since 0.1.0
 * @category options
 */
export interface QueueOptions {
  /** How long a message may wait to be sent; `Infinity` for ever. Default 5 minutes. */
  readonly ttl?: Duration | undefined
  /** The most messages that may wait for one session. Default 1,000. */
  readonly maxMessages?: number | undefined
  /** The most payload bytes that may wait for one session. Default 16 MiB. */
  readonly maxBytes?: number | undefined
  /** The most messages in all sessions; the last eighth is kept for shares that have little. Default 1,000,000. */
  readonly maxTotalMessages?: number | undefined
  /**
   * The most payload bytes in all sessions, the last eighth likewise. In memory, a message counts as what it takes
   * there: its payload, at two bytes a character unless all are ASCII, and 160 bytes more. Default 256 MiB, in memory
   * 128 MiB.
   */
  readonly maxTotalBytes?: number | undefined
  /** What a full queue does with a new message. Default `reject`: a `QueueOverflowError`. */
  readonly overflow?: "reject" | "dropOldest" | "dropNewest" | "suspend" | undefined
  /** How long `suspend` waits for room. Default for ever. */
  readonly suspendTimeout?: Duration | undefined
}

/**
 * When a session's circuit opens, and how it closes again.
 *
 * @since 0.1.0
 * @category options
 */
export interface BreakerOptions {
  /** How many failures in a row open it. Default 5. */
  readonly consecutiveFailures?: number | undefined
  /** The longest first opening. It doubles each time, and full jitter draws from it. Default 1 second. */
  readonly openBase?: Duration | undefined
  /** The longest opening of all. Default 60 seconds. */
  readonly openCap?: Duration | undefined
  /** How many successes close it when it is half-open. Default 1. */
  readonly successesToClose?: number | undefined
}

/**
 * How often, and after what pauses, a failed handler is tried again.
 *
 * @since 0.1.0
 * @category options
 */
export interface RetryOptions {
  /** The longest first pause. It doubles each time, and full jitter draws from it. Default 1 second. */
  readonly base?: Duration | undefined
  /** The longest pause of all. Default 60 seconds. */
  readonly cap?: Duration | undefined
  /** How many attempts in all, with the first. Default 5. */
  readonly attempts?: number | undefined
}

/**
 * One line of the library's log.
 *
 * @since 0.1.0
 * @category models
 */
export interface LogEntry {
  readonly level: "Trace" | "Debug" | "Info" | "Warn" | "Error" | "Fatal"
  readonly message: string
  /** The error behind the message, as text, if there is one. */
  readonly cause: string | undefined
  readonly at: Date
}

/**
 * Listeners by event name.
 *
 * @since 0.1.0
 * @category models
 */
export type Listeners<Events> = {
  readonly [Name in keyof Events]?: ((value: Events[Name]) => unknown) | undefined
}

/**
 * The options that manager and client have in common.
 *
 * @since 0.1.0
 * @category options
 */
export interface CommonOptions<In, Out> extends QueueOptions {
  /**
   * Checks each message that arrives, such as with a schema's `parse`, and returns it. If this throws, the message
   * becomes a dead letter with the reason `undecodable`, here and at its sender. It must not return a promise: that
   * refuses the message. Default: messages are not checked.
   */
  readonly parse?: ((value: unknown) => In) | undefined
  /** Called in the order of the messages for those that will never come. Default: logs a warning. */
  readonly onGap?: ((gap: MessageGap) => unknown) | undefined
  /** Retries of a failed `onMessage`. Default: 5 attempts in all, after pauses of up to 1 s, doubling up to 60 s. */
  readonly handlerRetry?: RetryOptions | undefined
  /**
   * Called with each message of this side that could not be delivered, and the reason: dead letters, and what `send`
   * skipped. Nothing waits for it, except a shutdown; what it throws is logged. Default none.
   */
  readonly fallbackSend?: ((message: Out, letter: DeadLetter<Out>) => unknown) | undefined
  /** When circuits open, and how they close again. */
  readonly breaker?: BreakerOptions | undefined
  /** How long an `id` is remembered. Default 15 minutes, or the TTL plus the retention if that is longer and finite. */
  readonly messageIdTtl?: Duration | undefined
  /** How much the other side may have in flight, if it speaks the protocol. Default 1,024 messages and 4 MiB. */
  readonly window?: { readonly messages?: number; readonly bytes?: number } | undefined
  /** The largest payload in either direction, in bytes. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /**
   * The estimated memory for what was received and is not handled, in all sessions together. A session that has a
   * quarter of it is not read until it has less. Above the whole of it, each is read one frame at a time. Default 32
   * MiB.
   */
  readonly maxUnhandledBytes?: number | undefined
  /** Silence after which the other side is probed. Default 10 s. */
  readonly heartbeat?: Duration | undefined
  /** How long a probe may go unanswered. Default 8 s. */
  readonly heartbeatTimeout?: Duration | undefined
  /** How long the other side may take to confirm what it received. Default 30 s. */
  readonly ackTimeout?: Duration | undefined
  /** How often expired messages and ids are removed. Default 60 s. */
  readonly expirySweep?: Duration | undefined
  /** Time for a shutdown, of which 70 % may be spent flushing. Default 30 s. */
  readonly shutdownTimeout?: Duration | undefined
  /** How many restarts of background work are allowed before it is given up. Default 10 in 60 s. */
  readonly restartIntensity?: { readonly restarts: number; readonly period: Duration } | undefined
  /** Gets what the library logs; `false` for no log. Default: the console. */
  readonly log?: false | ((entry: LogEntry) => void) | undefined
  /** The lowest level that is logged. Default `Info`. */
  readonly logLevel?: LogEntry["level"] | undefined
}

/**
 * What a handler gets besides the message.
 *
 * @since 0.1.0
 * @category models
 */
export interface MessageContext<Out> {
  readonly session: string
  /** Who the peer is, as `authenticate` says; undefined at a client. */
  readonly principal: string | undefined
  /** What `authenticate` returned as `data`; undefined at a client, and if it was not asked. */
  readonly data: unknown
  /** The publisher's id, or `<epoch>-<offset>`; undefined for volatile messages and plain WebSockets. */
  readonly messageId: string | undefined
  readonly volatile: boolean
  /** The session's socket, if one is registered now; undefined at a client. */
  readonly ws: WebSocket | undefined
  /** Sends to the message's sender, reliably unless the reply is `volatile`. */
  readonly reply: (message: Out, options?: ReliableSendOptions) => Promise<Receipt>
  /** Aborts when the handler should end: at the end of a shutdown, or when another server has the session. */
  readonly signal: AbortSignal
}

/**
 * Options of a client's `send`, and of a handler's `reply`: reliable by default.
 *
 * @since 0.1.0
 * @category options
 */
export interface ReliableSendOptions extends Waiting {
  /** A second send with this id, within `messageIdTtl`, is not sent again. At most 256 characters. Default none. */
  readonly id?: string | undefined
  /** How long the message may wait to be sent. Default: the queue's `ttl`. */
  readonly ttl?: Duration | undefined
  /** Whether the message goes out now or is skipped, and never waits. Default false. */
  readonly volatile?: boolean | undefined
}

/**
 * Options of `sendAll`.
 *
 * @since 0.1.0
 * @category options
 */
export interface SendAllOptions extends Waiting {
  /** How long each message may wait to be sent. Default: the queue's `ttl`. */
  readonly ttl?: Duration | undefined
}
