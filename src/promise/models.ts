/**
 * The types that go in and out of the promise face: durations, receipts, events and figures, all without Effect.
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
 * A number of milliseconds, or words: `"5 seconds"`, `"1 hour"`. `Infinity` means for ever.
 *
 * @since 0.1.0
 * @category models
 */
export type Duration = number | `${number} ${DurationUnit}`

type DurationUnit = "millis" | `${"second" | "minute" | "hour" | "day" | "week"}${"" | "s"}`

/**
 * The options of every call that may wait.
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
   * Resolves when the other side's handler has succeeded. Rejects with a `DeadLetterError` if it never will, or if
   * nobody will know, as with a volatile message. If you don't call it, nothing rejects.
   */
  readonly handled: (options?: Waiting) => Promise<void>
}

/**
 * What became of a send, known at once: the message goes out now, it waits, it was sent before, or it was not taken.
 *
 * @since 0.1.0
 * @category models
 */
export type Receipt =
  | (ReceiptBase & { readonly _tag: "Sent" })
  | (ReceiptBase & { readonly _tag: "Queued"; readonly reason: QueuedReason })
  /** `messageId`, `handled` and `firstAtMillis` are those of the first send. */
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
 * Whether a client is connected, and if not, why, and what comes next.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionState = Models.ConnectionState<WebSocketError>

/**
 * A change of a circuit's state.
 *
 * @since 0.1.0
 * @category models
 */
export interface CircuitChange {
  /** `session:…` or `endpoint:…`. */
  readonly circuit: string
  /** The session, if it is a session's circuit. */
  readonly session: string | undefined
  readonly from: CircuitState["_tag"]
  readonly to: CircuitState["_tag"]
  readonly reason: string | undefined
  readonly atMillis: number
}

/**
 * The events of a manager, each with what its listeners get.
 *
 * @since 0.1.0
 * @category models
 */
export interface ManagerEvents<In, Out> {
  /** A message was given up, in either direction. */
  readonly deadLetter: DeadLetter<In | Out>
  /** A session has connected, disconnected or ended. */
  readonly stateChange: ConnectionEvent
  readonly circuitChange: CircuitChange
  /** A socket could not be registered, and was closed. `error` says why. */
  readonly refused: { readonly ws: WebSocket; readonly error: unknown }
  /** Background work failed too often, and the manager has shut itself down. */
  readonly failure: unknown
}

/**
 * The events of a client, each with what its listeners get.
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
 * The figures of one session, as `getStats` returns them.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionStats {
  readonly isConnected: boolean
  /** How many connections have failed in a row. */
  readonly retryCount: number
  readonly queueSize: number
  readonly queueBytes: number
  /** When the peer was last heard from, in ms since the epoch; undefined if never. */
  readonly lastActivity: number | undefined
  /** Whether it is away and has been silent for longer than `connectionTimeout`; at a client, whether it was lost. */
  readonly isTimeout: boolean
  readonly circuit: SessionStats["circuit"]
}

/**
 * Figures about messages and connections, since the start and now. Times are in ms.
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
    /** Messages that could not go out at once. */
    readonly queued: number
    readonly acknowledged: number
    readonly redelivered: number
    /** Given up for another reason than their TTL, or skipped. */
    readonly failed: number
    readonly expired: number
    readonly deduplicated: number
    readonly received: number
    readonly handled: number
  }
  readonly queue: {
    readonly currentSize: number
    readonly currentBytes: number
    /** The most messages at once, sampled about once a second. */
    readonly maxSize: number
    readonly overflows: number
  }
  /** Retries of handlers; at a client, of dials too. */
  readonly retry: {
    readonly attempts: number
    readonly successes: number
    readonly failures: number
    /** The share of successes among those that have ended, from 0 to 1; 0 if there are none. */
    readonly successRate: number
  }
  readonly circuitBreaker: { readonly opens: number; readonly halfOpens: number; readonly closes: number }
  readonly latency: {
    /** From `send` to the first write, sampled. */
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
 * The state of all circuits.
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
  /** The policy of sessions' circuits. */
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
  /** By session; empty with `connections: false`. */
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
 * What became of a broadcast: how many outboxes have it, how many full ones skipped it (by the policy `dropNewest`),
 * and which sessions failed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Broadcast {
  readonly accepted: number
  readonly skipped: number
  readonly failures: ReadonlyArray<{ readonly session: string; readonly error: WebSocketError }>
}
