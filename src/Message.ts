/**
 * What goes in and out: incoming messages, receipts of sent ones, dead letters, gaps.
 *
 * @since 0.1.0
 */
import type { Duration, Effect } from "effect"
import type { GapReason } from "./core/Protocol.ts"
import type {
  DeadLetterError,
  DeadLetterReason,
  MessageQueueError,
  PayloadError,
  QueueOverflowError,
  SessionNotFoundError
} from "./WebSocketError.ts"

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
  /** Whether it was sent volatile: at most once, in no order to the reliable ones. */
  readonly volatile: boolean
}

/**
 * Options of a send.
 *
 * @since 0.1.0
 * @category models
 */
export interface SendOptions {
  /**
   * A publish key: within the deduplication window a second send with this id is not sent again, but answered with
   * the first receipt. It becomes the message id. At most 256 characters.
   */
  readonly id?: string | undefined
  /** Uses a hash of the content as the id, when none is given: the same content twice is sent once. */
  readonly deduplicate?: "content" | undefined
  /** How long the message may wait to be sent. Default: the queue's TTL. */
  readonly ttl?: Duration.Input | undefined
  /** Goes out if the connection is up and takes it now, else is skipped and reported so. Default false. */
  readonly volatile?: boolean | undefined
}

/**
 * Why a message waits instead of going out at once. `elsewhere`: the session is at another server, or at none right
 * now, and this server has put the message in its outbox (only where the queue is shared, since 0.2.0).
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

interface ReceiptBase {
  readonly session: string
  readonly messageId: string
  /**
   * Succeeds when the other side's handler has; fails with the dead letter's reason if it never will. Waiting costs
   * nothing until it is run.
   */
  readonly handled: Effect.Effect<void, DeadLetterError>
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
 * Options of `sendAll`.
 *
 * @since 0.1.0
 * @category models
 */
export interface SendAllOptions {
  /** How long each message may wait to be sent. Default: the queue's TTL. */
  readonly ttl?: Duration.Input | undefined
}

/**
 * Options of `broadcast`.
 *
 * @since 0.1.0
 * @category models
 */
export interface BroadcastOptions extends SendAllOptions {
  /** To which sessions; one that is named twice gets the message once. Default: to all that the server has. */
  readonly sessions?: Iterable<string> | undefined
}

/**
 * A session that a broadcast could not be sent to.
 *
 * @since 0.1.0
 * @category models
 */
export interface BroadcastFailure {
  readonly session: string
  readonly error: SessionNotFoundError | PayloadError | QueueOverflowError | MessageQueueError
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
  readonly failures: ReadonlyArray<BroadcastFailure>
}

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
  /** The message; undefined when it can't be decoded. */
  readonly message: A | undefined
  /** The message as it was or would have been on the wire. */
  readonly payload: unknown
  /** Whether the other side may have handled it all the same (`out`). */
  readonly maybeHandled: boolean
  /** What the handler failed with (`in`). */
  readonly cause: unknown
  readonly atMillis: number
}

/**
 * A hole in the incoming messages: the sender gave up `count` of them. It comes in its place in the order.
 *
 * @since 0.1.0
 * @category models
 */
export interface MessageGap {
  readonly session: string
  readonly count: number
  readonly reason: GapReason
}
