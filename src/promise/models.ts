/**
 * What goes in and out of the promise face: durations, receipts, events, figures. Types alone, without Effect.
 *
 * @since 0.1.0
 */
import type { WebSocket } from "ws"
import type { Policy, State as CircuitState } from "../internal/circuits/circuit.ts"
import type * as Models from "../internal/session/models.ts"
import type { DeadLetter, QueuedReason, SessionStats, SkippedReason } from "../internal/session/models.ts"
import type { WebSocketError } from "./errors.ts"

export type {
  DeadLetter,
  DeadLetterReason,
  Incoming,
  MessageGap,
  MessageState,
  PrincipalSession,
  QueuedReason,
  SessionStats,
  ShutdownReport,
  SkippedReason
} from "../internal/session/models.ts"

/**
 * A number of milliseconds, or the same in words: `"5 seconds"`, `"1 hour"`. `Infinity` for ever.
 *
 * @since 0.1.0
 * @category models
 */
export type Duration = number | `${number} ${DurationUnit}`

type DurationUnit = "millis" | `${"second" | "minute" | "hour" | "day" | "week"}${"" | "s"}`

/**
 * For calls that may wait.
 *
 * @since 0.1.0
 * @category models
 */
export interface Waiting {
  /** Ends the wait: the promise rejects with the signal's `reason`. */
  readonly signal?: AbortSignal | undefined
}

interface ReceiptBase {
  readonly session: string
  readonly messageId: string
  /**
   * Resolves when the other side's handler has succeeded; rejects with a `DeadLetterError` if it never will, or if nobody
   * will know, as of a volatile message. Nothing is rejected unless it is called.
   */
  readonly handled: (options?: Waiting) => Promise<void>
}

/**
 * What became of a send, at once: it goes out now, it waits, it was sent before, or it was not taken.
 *
 * @since 0.1.0
 * @category models
 */
export type Receipt =
  | (ReceiptBase & { readonly _tag: "Sent" })
  | (ReceiptBase & { readonly _tag: "Queued"; readonly reason: QueuedReason })
  /** `messageId`, `handled` and `firstAtMillis` are of the first send. */
  | (ReceiptBase & { readonly _tag: "Duplicate"; readonly firstAtMillis: number })
  | (ReceiptBase & { readonly _tag: "Skipped"; readonly reason: SkippedReason })

/**
 * Something that happened to a session's connection.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionEvent = Models.ConnectionEvent<WebSocketError>

/**
 * Whether a client is connected, and if not, why and what next.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionState = Models.ConnectionState<WebSocketError>

/**
 * A circuit changed its state.
 *
 * @since 0.1.0
 * @category models
 */
export interface CircuitChange {
  /** `session:…` or `endpoint:…`. */
  readonly circuit: string
  /** Whose circuit it is, when it is a session's. */
  readonly session: string | undefined
  readonly from: CircuitState["_tag"]
  readonly to: CircuitState["_tag"]
  readonly reason: string | undefined
  readonly atMillis: number
}

/**
 * What a manager tells: by event, what its listeners are given.
 *
 * @since 0.1.0
 * @category models
 */
export interface ManagerEvents<In, Out> {
  /** A message was given up, in either direction. */
  readonly deadLetter: DeadLetter<In | Out>
  /** A session was connected or disconnected, or has ended. */
  readonly stateChange: ConnectionEvent
  readonly circuitChange: CircuitChange
  /** A socket could not be registered, and was closed. `error` says why. */
  readonly refused: { readonly ws: WebSocket; readonly error: unknown }
  /** Background work failed again and again, and the manager has shut itself down. */
  readonly failure: unknown
}

/**
 * What a client tells: by event, what its listeners are given.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientEvents<In, Out> {
  /** A message was given up, in either direction. */
  readonly deadLetter: DeadLetter<In | Out>
  readonly stateChange: ConnectionState
  readonly circuitChange: CircuitChange
}

/**
 * One session, in the words of `getStats`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionStats {
  readonly isConnected: boolean
  /** Connections in a row that failed. */
  readonly retryCount: number
  readonly queueSize: number
  readonly queueBytes: number
  /** When the peer was heard last, in ms since the epoch; undefined where it never was. */
  readonly lastActivity: number | undefined
  /** Whether it is away, and has been silent for longer than the connection timeout; at a client, whether it was lost. */
  readonly isTimeout: boolean
  readonly circuit: SessionStats["circuit"]
}

/**
 * Figures about messages and connections since the start, and what is there now. Times in ms.
 *
 * @since 0.1.0
 * @category models
 */
export interface Metrics {
  readonly connections: {
    readonly total: number
    readonly active: number
    /** Refused in the handshake, or lost before it was done. */
    readonly failed: number
    /** Sessions that went on with a new connection. */
    readonly reconnections: number
    /** Closed because the session connected elsewhere. */
    readonly replaced: number
    readonly timeouts: number
  }
  readonly messages: {
    readonly sent: number
    /** That could not go out at once. */
    readonly queued: number
    readonly acknowledged: number
    readonly redelivered: number
    /** Given up other than by their TTL, or skipped. */
    readonly failed: number
    readonly expired: number
    readonly deduplicated: number
    readonly received: number
    readonly handled: number
  }
  readonly queue: {
    readonly currentSize: number
    readonly currentBytes: number
    /** The most there was at once, as seen about once a second. */
    readonly maxSize: number
    readonly overflows: number
  }
  /** Of handlers. */
  readonly retry: {
    readonly attempts: number
    readonly successes: number
    readonly failures: number
    /** Of those that have ended, from 0 to 1; 0 when there are none. */
    readonly successRate: number
  }
  readonly circuitBreaker: { readonly opens: number; readonly halfOpens: number; readonly closes: number }
  readonly latency: {
    /** From `send` to the first writing, sampled. */
    readonly averageSendMillis: number
    /** From `send` to the acknowledgement as handled, sampled. */
    readonly averageHandledMillis: number
  }
  readonly workerRestarts: number
  readonly uptimeMillis: number
  /** When these figures were taken, in ms since the epoch. */
  readonly lastUpdate: number
}

/**
 * How the circuits are.
 *
 * @since 0.1.0
 * @category models
 */
export interface CircuitBreakerStats {
  /** `Open` if any circuit is, else `HalfOpen` if any is, else `Closed`. */
  readonly state: "Closed" | "Open" | "HalfOpen"
  readonly circuits: number
  readonly open: number
  readonly halfOpen: number
  /** The policy of sessions. */
  readonly config: Policy
}

/**
 * All figures of a manager at one moment.
 *
 * @since 0.1.0
 * @category models
 */
export interface ManagerStats {
  /** Sessions that this manager has, connected or not. */
  readonly totalConnections: number
  readonly connected: number
  readonly disconnected: number
  readonly totalQueuedMessages: number
  /** By session; empty when it was left out. */
  readonly connections: Readonly<Record<string, ConnectionStats>>
  readonly metrics: Metrics
  readonly circuitBreaker: CircuitBreakerStats
}

/**
 * All figures of a client at one moment.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientStats {
  readonly connection: ConnectionStats
  readonly metrics: Metrics
  readonly circuitBreaker: CircuitBreakerStats
}

/**
 * What became of a broadcast: how many outboxes have it, how many full ones did not take it (the policy `dropNewest`),
 * and which could not.
 *
 * @since 0.1.0
 * @category models
 */
export interface Broadcast {
  readonly accepted: number
  readonly skipped: number
  readonly failures: ReadonlyArray<{ readonly session: string; readonly error: WebSocketError }>
}
