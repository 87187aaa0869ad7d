/** The types that both faces of the library share, Effect and promises. None of them mentions Effect. */
import type { FreshReason, GapReason } from "../../core/Protocol.ts"
import type { State as CircuitState } from "../circuits/circuit.ts"

/**
 * What a peer said when it connected.
 *
 * @since 0.1.0
 * @category models
 */
export interface Request {
  /** Path and query, such as `/chat?room=1`. */
  readonly url: string
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly remoteAddress: string | undefined
}

/**
 * A message as its handler gets it, with the facts around it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Incoming<A> {
  readonly message: A
  readonly session: string
  /** The publisher's id, or `<epoch>-<offset>`; undefined for volatile messages and plain peers. */
  readonly messageId: string | undefined
  /** Whether it was sent volatile: at most once, and not in order with the reliable ones. */
  readonly volatile: boolean
  /**
   * The W3C `traceparent` of the span that sent it, if there was one.
   *
   * @since 0.1.0
   */
  readonly trace: string | undefined
}

/**
 * Why a message waits instead of going out at once. `elsewhere`: another server has the session, or none right now, and
 * this server has put the message in the session's outbox (only where the queue is shared).
 *
 * @since 0.1.0
 * @category models
 */
export type QueuedReason = "disconnected" | "circuitOpen" | "window" | "backlog" | "elsewhere"

/**
 * Why a message was not sent at all.
 *
 * @since 0.1.0
 * @category models
 */
export type SkippedReason = "disconnected" | "circuitOpen" | "backpressure" | "overflow"

/** Why a message could not be delivered; `WebSocketError.DeadLetterReason` says what each means. */
export type DeadLetterReason =
  | "expired"
  | "overflow"
  | "tooLarge"
  | "failed"
  | "rejected"
  | "undecodable"
  | "sessionEnded"
  | "fresh"
  | "shutdown"
  | "skipped"
  | "volatile"

/**
 * A message that could not be delivered (`out`), or that arrived and could not be handled (`in`).
 *
 * @since 0.1.0
 * @category models
 */
export interface DeadLetter<A> {
  readonly direction: "in" | "out"
  readonly session: string
  readonly messageId: string | undefined
  readonly reason: DeadLetterReason
  /**
   * With the reason `rejected`: why, as the receiver's handler says in its `MessageRejected`.
   *
   * @since 0.1.0
   */
  readonly detail: string | undefined
  /** The message; undefined when it can't be decoded. */
  readonly message: A | undefined
  /** The message as it was on the wire, or would have been. */
  readonly payload: unknown
  /** Whether the other side may have handled it anyway (`out`). */
  readonly maybeHandled: boolean
  /** What the handler failed with (`in`). */
  readonly cause: unknown
  readonly atMillis: number
}

/**
 * A hole in the incoming messages: the sender gave up `count` of them. The gap comes in their place in the order.
 *
 * @since 0.1.0
 * @category models
 */
export interface MessageGap {
  readonly session: string
  readonly count: number
  readonly reason: GapReason
}

/**
 * A session of a principal.
 *
 * @since 0.1.0
 * @category models
 */
export interface PrincipalSession {
  readonly session: string
  /** Whether it has a connection, here or at another server. */
  readonly connected: boolean
  /** When it ends unless it reconnects, in ms since the epoch; undefined while it is connected. */
  readonly endsAtMillis: number | undefined
}

/**
 * Where a message is: waiting in the outbox, sent and not acknowledged, handled; or unknown: never seen, given up, or
 * handled too long ago to tell.
 *
 * @since 0.1.0
 * @category models
 */
export type MessageState = "waiting" | "sent" | "handled" | "unknown"

/**
 * One session, as it is now.
 *
 * @since 0.1.0
 * @category models
 */
export interface SessionStats {
  readonly session: string
  readonly principal: string | undefined
  readonly connected: boolean
  readonly plain: boolean
  readonly generation: number
  readonly queuedMessages: number
  readonly queuedBytes: number
  /** Received but not handled yet. */
  readonly pendingMessages: number
  readonly circuit: CircuitState["_tag"]
  /**
   * When its peer was last heard, in ms since the epoch; undefined if this server never heard it.
   *
   * @since 0.1.0
   */
  readonly heardAtMillis: number | undefined
  /**
   * While its circuit is closed: failures of its connections in a row since the peer last acknowledged something. While
   * open: how often the circuit has opened since it was last closed. Otherwise 0.
   *
   * @since 0.1.0
   */
  readonly failures: number
}

/**
 * Something that happened to a session's connection.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionEvent<E> =
  | {
    readonly _tag: "Connected"
    readonly session: string
    readonly principal: string | undefined
    /**
     * Whether the session continued where it was; otherwise at least one side started anew.
     *
     * @since 0.1.0
     */
    readonly resumed: boolean
  }
  | {
    readonly _tag: "Disconnected"
    readonly session: string
    readonly code: number
    readonly reason: string
    readonly error: E | undefined
  }
  | { readonly _tag: "Ended"; readonly session: string }

/**
 * Whether the client is connected; if not, why not and what comes next.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionState<E> =
  | { readonly _tag: "Connecting"; readonly attempt: number }
  | {
    readonly _tag: "Connected"
    readonly session: string
    /** Whether the session continued, or started anew; `reason` says why. */
    readonly result: "resumed" | "fresh"
    readonly reason: FreshReason | undefined
  }
  | { readonly _tag: "Disconnected"; readonly error: E; readonly retryInMillis: number }
  /** The server said to stop: only `reconnect` tries again. What is queued is kept. */
  | { readonly _tag: "Stopped"; readonly error: E }
  | { readonly _tag: "Closed" }

/**
 * What a shutdown did. `pending = flushed + retained + dropped`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ShutdownReport {
  /** Messages that waited or were in flight, and those sent during the shutdown. */
  readonly pending: number
  /** Of them, acknowledged as handled (or as failed) before the end. */
  readonly flushed: number
  /** Of them, kept in a durable store. */
  readonly retained: number
  /** Of them, given up: now dead letters. */
  readonly dropped: number
  /** Connections closed. */
  readonly closed: number
  readonly durationMillis: number
}
