/** The overflow policies: what a full queue does with a batch, in memory and in stores. */
import type { OverflowPolicy } from "../../MessageQueue.ts"
import type { QueueBounds } from "./queueBounds.ts"

/** What becomes of a batch for which there is no room. */
export type Answer =
  /** The sender gets a `QueueOverflowError`, and nothing changes. */
  | "refuse"
  /** The sender learns that nothing was appended, which is not an error. */
  | "skip"
  /**
   * The oldest unsent messages are dropped, as many as needed, and become dead letters. Sent ones stay, since the peer
   * may have them. If dropping all unsent ones would not make enough room, none is dropped and the batch is refused.
   */
  | "dropOldest"
  /**
   * The sender waits for room for at most `suspendTimeout`, then it is refused. Senders that wait for the same outbox
   * are let in in the order in which they came; none overtakes another.
   */
  | "wait"

const answers: Record<OverflowPolicy, Answer> = {
  reject: "refuse",
  dropNewest: "skip",
  dropOldest: "dropOldest",
  suspend: "wait"
}

/** Whether senders line up for room. */
export const waitsForRoom = (policy: OverflowPolicy): boolean => answers[policy] === "wait"

/**
 * A batch that is larger than a bound is refused under every policy. `inAll` is its size as counted in the bound on the
 * bytes of all outboxes.
 */
export const answerTo = (
  policy: OverflowPolicy,
  bounds: QueueBounds,
  messages: number,
  bytes: number,
  inAll: number
): Answer => neverFits(bounds, messages, bytes, inAll) ? "refuse" : answers[policy]

/** Whether not even an empty queue has room for the batch. */
export const neverFits = (bounds: QueueBounds, messages: number, bytes: number, inAll: number): boolean =>
  messages > Math.min(bounds.maxMessages, bounds.maxTotalMessages) ||
  bytes > bounds.maxBytes || inAll > bounds.maxTotalBytes

/**
 * How many messages of an outbox may be sent and not acknowledged. Under `dropOldest`, half of the bound stays unsent,
 * so that a peer that stops reading leaves something to drop.
 */
export const maxSent = (policy: OverflowPolicy, bounds: QueueBounds): number =>
  policy === "dropOldest" ? Math.ceil(bounds.maxMessages / 2) : Infinity
