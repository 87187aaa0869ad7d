/**
 * The options that manager and client have in common, in plain values and functions.
 *
 * @since 0.1.0
 */
import type { WebSocket } from "ws"
import type { DeadLetter, Duration, MessageGap, Receipt, Waiting } from "./models.ts"

/**
 * The queue that messages wait in, the same for manager and client.
 *
 * @since 0.1.0
 * @category options
 */
export interface QueueOptions {
  /** How long a message may wait to be sent. `Infinity` for ever. Default 5 minutes. */
  readonly ttl?: Duration | undefined
  /** Messages that may wait for one session. Default 1,000. */
  readonly maxMessages?: number | undefined
  /** Their payload bytes. Default 16 MiB. */
  readonly maxBytes?: number | undefined
  /** Messages of all sessions together; the last eighth is kept for shares that have little. Default 1,000,000. */
  readonly maxTotalMessages?: number | undefined
  /**
   * Their payload bytes; the last eighth likewise. In memory, a message counts as what it takes there: 160 bytes more than
   * its payload, of which each character is two bytes unless all are ASCII. Default 256 MiB, in memory 128 MiB.
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
  /** How long the first opening lasts at most; it doubles with each, and is drawn by full jitter. Default 1 second. */
  readonly openBase?: Duration | undefined
  /** What no opening exceeds. Default 60 seconds. */
  readonly openCap?: Duration | undefined
  /** How many successes close it when it is half-open. Default 1. */
  readonly successesToClose?: number | undefined
}

/**
 * How often, and after which pauses, a handler that failed is tried again.
 *
 * @since 0.1.0
 * @category options
 */
export interface RetryOptions {
  /** The first pause at most: it doubles with each, and is drawn by full jitter. Default 1 second. */
  readonly base?: Duration | undefined
  /** What no pause exceeds. Default 60 seconds. */
  readonly cap?: Duration | undefined
  /** In all, the first included. Default 5. */
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
  /** What it is about, in words, if there is more to say. */
  readonly cause: string | undefined
  readonly at: Date
}

/**
 * Listeners by event, as `on` takes them one by one.
 *
 * @since 0.1.0
 * @category models
 */
export type Listeners<Events> = {
  readonly [Name in keyof Events]?: ((value: Events[Name]) => unknown) | undefined
}

/**
 * What manager and client have in common.
 *
 * @since 0.1.0
 * @category options
 */
export interface CommonOptions<In, Out> extends QueueOptions {
  /**
   * Looks at each message that arrives, and returns it, or throws: then it becomes a dead letter with the reason
   * `undecodable`, here and at its sender. Say the `parse` of a schema; one that returns a promise refuses all. Default: every message is what it is said to be.
   */
  readonly parse?: ((value: unknown) => In) | undefined
  /** Told, in the order of the messages, of those that will never come. Default: logs a warning. */
  readonly onGap?: ((gap: MessageGap) => unknown) | undefined
  /** Retries of a failed `onMessage`. Default: 5 attempts in all, after pauses of up to 1 s, which doubles, to 60 s. */
  readonly handlerRetry?: RetryOptions | undefined
  /**
   * Called, without waiting, with each message of ours that could not be delivered and the reason: dead letters, and what
   * `send` skipped. What it throws is logged. Default none.
   */
  readonly fallbackSend?: ((message: Out, letter: DeadLetter<Out>) => unknown) | undefined
  /** Circuits. */
  readonly breaker?: BreakerOptions | undefined
  /** How long an `id` is remembered. Default 15 minutes, or TTL plus retention if that is longer and finite. */
  readonly messageIdTtl?: Duration | undefined
  /** What the other side may have in flight, if it speaks the protocol. Default 1,024 messages and 4 MiB. */
  readonly window?: { readonly messages?: number; readonly bytes?: number } | undefined
  /** Largest payload either way, in bytes. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /**
   * Memory, by estimate, for what was received and is not handled, of all sessions together. A session that has a
   * quarter of it is not read until it has less; over all of it, each is read one frame at a time. Default 32 MiB.
   */
  readonly maxUnhandledBytes?: number | undefined
  /** Silence after which the other side is probed. Default 10 s. */
  readonly heartbeat?: Duration | undefined
  /** How long a probe may go unanswered. Default 8 s. */
  readonly heartbeatTimeout?: Duration | undefined
  /** How long the other side may take to confirm that it received something. Default 30 s. */
  readonly ackTimeout?: Duration | undefined
  /** How often expired messages and ids are looked for. Default 60 s. */
  readonly expirySweep?: Duration | undefined
  /** Time for a shutdown, of which 70 % may be spent flushing. Default 30 s. */
  readonly shutdownTimeout?: Duration | undefined
  /** Restarts of background work before it is given up. Default 10 in 60 s. */
  readonly restartIntensity?: { readonly restarts: number; readonly period: Duration } | undefined
  /** Given what the library logs; `false` for nothing. Default: the console. */
  readonly log?: false | ((entry: LogEntry) => void) | undefined
  /** What is not logged is below this. Default `Info`. */
  readonly logLevel?: LogEntry["level"] | undefined
}

/**
 * What a handler is told beside the message.
 *
 * @since 0.1.0
 * @category models
 */
export interface MessageContext<Out> {
  readonly session: string
  /** The publisher's id, or `<epoch>-<offset>`; undefined for volatile messages and plain WebSockets. */
  readonly messageId: string | undefined
  readonly volatile: boolean
  /** The session's socket, if one is registered now; undefined at a client. */
  readonly ws: WebSocket | undefined
  /** Sends to whom the message came from; reliably, unless it is `volatile`. */
  readonly reply: (message: Out, options?: ReliableSendOptions) => Promise<Receipt>
  /** Aborted when the handler should end: at the end of a shutdown, or when another server has the session. */
  readonly signal: AbortSignal
}

/**
 * Options of a client's `send`, and of a handler's `reply`: reliable by default.
 *
 * @since 0.1.0
 * @category options
 */
export interface ReliableSendOptions extends Waiting {
  /** Within `messageIdTtl` a second send with this id is not sent again. At most 256 characters. Default none. */
  readonly id?: string | undefined
  /** How long the message may wait to be sent. Default: the queue's `ttl`. */
  readonly ttl?: Duration | undefined
  /** Goes out now, or is skipped. Default false. */
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
