/** The overflow policies: what a full queue does with a batch, in memory and in stores. */
import type { OverflowPolicy } from "../../MessageQueue.ts"
import type { QueueBounds } from "./queueBounds.ts"

/** What becomes of a batch for which there is no room. */
export type Answer =
  /** The sender gets a `QueueOverflowError`, and nothing changes. */
  | "refuse"
  /** The sender learns that nothing was appended. That is no error. */
  | "skip"
  /**
   * The oldest messages are dropped, as many as it takes, and become dead letters. What was sent may be at the peer, so
   * it stays. If dropping all the others would not make enough room, none is dropped and the batch is refused.
   */
  | "dropOldest"
  /**
   * The sender waits for room, for no longer than `suspendTimeout`; then it is refused. Senders that wait for the same
   * outbox are let in in the order they came, and no later one overtakes them.
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

/** Whether there would be no room for it even in an empty queue. */
export const neverFits = (bounds: QueueBounds, messages: number, bytes: number, inAll: number): boolean =>
  messages > Math.min(bounds.maxMessages, bounds.maxTotalMessages) ||
  bytes > bounds.maxBytes || inAll > bounds.maxTotalBytes

/**
 * How many messages of an outbox may be sent and not acknowledged. Under `dropOldest`, half of the bound stays unsent,
 * so that a peer that stops reading leaves something to drop.
 */
export const maxSent = (policy: OverflowPolicy, bounds: QueueBounds): number =>
  policy === "dropOldest" ? Math.ceil(bounds.maxMessages / 2) : Infinity
