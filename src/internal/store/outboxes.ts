/** Outboxes as a driver stores them: what it is asked, and what it answers. */
import type { GapReason } from "../../core/Protocol.ts"
import type { Receipt } from "../../Deduplicator.ts"
import type { DeadLetterReason } from "../../WebSocketError.ts"
import type { PublishKey } from "./publishKeys.ts"

/**
 * Consecutive messages of one outbox that were appended together: one row, one stream entry. `first` and `last` are
 * offsets. `bytes` is what it counts for the bounds. `expiresAt` is one for all of them. `body` is opaque.
 */
export interface Chunk {
  readonly first: number
  readonly last: number
  readonly bytes: number
  readonly enqueuedAt: number
  readonly expiresAt: number
  readonly body: string
}

/** Offsets `first..end` were given up; chunks that still have them are overlaid by this. Gaps never overlap. */
export interface Gap {
  readonly first: number
  readonly end: number
  readonly reason: GapReason
}

/** What became of messages that were given up, for whoever sent them from elsewhere. */
export interface Fate {
  readonly first: number
  readonly end: number
  readonly reason: DeadLetterReason
  readonly maybeHandled: boolean
  /** When it was noted, for {@link StoreDriver.sweepFates}; parts of a millisecond tell whose it is, so all digits count. */
  readonly at: number
}

/**
 * What a sweep leaves of an outbox's fates, as long as the outbox is there: of nothing up to `end` is it known any more
 * whether it was handled. Offsets begin at 1, so no other fate begins at 0; its `at` is infinite, so no sweep takes it.
 */
export const sweptFate = (end: number): Fate => ({
  first: 0,
  end,
  reason: "sessionEnded",
  maybeHandled: true,
  at: Infinity
})

export const isSwept = ({ first }: Fate): boolean => first === 0

/**
 * An outbox as stored.
 *
 * - `messages` is `last - acked` less the offsets after `acked` that are in gaps: always exact.
 * - `bytes` is the sum over the chunks that are stored: a chunk goes when all of it is acked or given up.
 * - `revision` is raised by everything but what changes the log at its ends, as appends, acks and `advance` do:
 *   `openOutbox`, `giveUp`, `markSent`.
 * - `sent` is what `markSent` last said (0 at first).
 * - `expiresAt` is a lower bound of the earliest expiry in it: appends lower it, `giveUp` sets it.
 */
export interface OutboxState {
  readonly session: string
  readonly generation: number
  readonly epoch: string
  readonly acked: number
  readonly last: number
  readonly messages: number
  readonly bytes: number
  readonly sent: number
  readonly revision: number
  readonly expiresAt: number
  /** The server that opened it last; nudged when others append. */
  readonly node: string | undefined
  /**
   * Whether an owner has said, in this history of the store ({@link StoreDriver.history}), how far the outbox goes. If
   * not, the store may have lost its newest part, and with it offsets that the peer has seen.
   */
  readonly settled: boolean
  /** While it is not settled: what was appended in this history comes after this. Undefined when nothing was. */
  readonly unsettledFrom: number | undefined
}

/** Offsets of the log `epoch` up to `last` were given out, as the caller knows. */
export interface Known {
  readonly epoch: string
  readonly last: number
}

export interface OpenRequest {
  readonly session: string
  readonly generation: number
  readonly node: string
  /** Identity of the outbox if it has to be made. */
  readonly newEpoch: string
  /** It is made anew as the store has lost it: it is not settled, as others know positions of it. */
  readonly isPutBack?: boolean
}

/** Messages to append, all or none: they become one chunk. */
export interface AppendRequest {
  readonly session: string
  readonly count: number
  readonly bytes: number
  readonly enqueuedAt: number
  readonly expiresAt: number
  readonly body: string
  /** Refused when more than these would be in the outbox afterwards. */
  readonly maxMessages: number
  readonly maxBytes: number
  /**
   * What the store has to have at least. If it has less of this log, it lost its newest part: in the same step the
   * offsets in between are taken, by a gap with the reason `fresh` and a fate that says that they are perhaps handled.
   */
  readonly known?: Known | undefined
  /**
   * What is done when the outbox is not settled. The owner knows all that the peer may have seen, so `known` settles it,
   * unless something was appended in this history before: that has to be moved, perhaps. What is `moved` takes the
   * place of all that was appended after `unsettledFrom`, where a gap is left, and settles it, if there is nothing behind
   * `known`. Others don't know: they are refused, or, when there is no owner to be asked, it is noted where their messages
   * begin. Without it they are refused; so is an owner of an older `generation` than the newest.
   */
  readonly unsettled?: "settle" | "moved" | "refuse" | "allow"
  readonly generation?: number
  /**
   * A publish key (only with `count` 1): in the same step, and only if the message is appended, it is committed with
   * the receipt `{ messageId: key, epoch, offset, atMillis: enqueuedAt }`. If it is committed already, or somebody
   * else holds a claim on it, nothing is appended.
   */
  readonly publish: PublishKey | undefined
}

export type AppendResult =
  /** `lost`, if not 0: how many offsets were taken because of `known`. */
  | { readonly _tag: "Appended"; readonly epoch: string; readonly first: number; readonly lost?: number }
  /** The outbox is not settled: `node` is to be asked. */
  | { readonly _tag: "Unsettled"; readonly node: string | undefined }
  /** The outbox was never opened, or was removed. */
  | { readonly _tag: "Missing" }
  | { readonly _tag: "Full"; readonly limit: "messages" | "bytes"; readonly messages: number; readonly bytes: number }
  | { readonly _tag: "Duplicate"; readonly receipt: Receipt }
  | { readonly _tag: "Mismatch" }
  | { readonly _tag: "InFlight"; readonly until: number }
  | { readonly _tag: "KeysFull" }
  | Locked

/**
 * A transaction of the application has the row for longer than a moment: this request was not done, the others of its
 * batch were. To be asked again, an append under another stamp.
 */
export interface Locked {
  readonly _tag: "Locked"
}

/**
 * Says which batch this is, however often it is tried. The store remembers for each writer the newest sequence that
 * it has done and what came of it; the same again does nothing and has the same results, also when the first try is
 * still going on somewhere (one of the two waits for the other). A writer's next batch has a higher sequence, and is
 * tried only when the one before is known to be done, or nobody cares for it any more: an older sequence than the
 * newest must do nothing, and fails.
 */
export interface Stamp {
  readonly writer: string
  readonly sequence: number
}

export interface ReadRequest {
  readonly session: string
  /** Chunks whose `last` is beyond this. */
  readonly after: number
  readonly maxChunks: number
  /** Of bodies, about; the first chunk comes whatever its size. */
  readonly maxBytes: number
}

export interface ReadPage {
  readonly state: OutboxState
  /** In order, from the first one beyond `after`. */
  readonly chunks: ReadonlyArray<Chunk>
  /** All gaps that end beyond `after`, in order. */
  readonly gaps: ReadonlyArray<Gap>
  /** Whether there are chunks beyond the last one returned. */
  readonly more: boolean
}

export interface AckRequest {
  readonly session: string
  readonly generation: number
  /** Everything up to here is done with: chunks and gaps up to it go; a gap that reaches beyond is cut. */
  readonly upTo: number
  /** Of those that the peer could not handle. */
  readonly fates: ReadonlyArray<Fate>
}

export type AckOutcome =
  /**
   * `released` counts messages (not offsets in gaps) that went. An `upTo` at or before `acked` releases none. One beyond
   * `last` says that the store lost as many as `lost` (left out when it is 0): then `last` is `upTo`.
   */
  | { readonly _tag: "Acked"; readonly released: number; readonly lost?: number }
  /** The outbox is not settled, and `upTo` is beyond `acked`: it is settled first. */
  | { readonly _tag: "Unsettled" }
  | { readonly _tag: "Fenced" }
  | { readonly _tag: "Missing" }
  | Locked

/** Gives messages up. Made by a caller that has read the outbox, so only as long as `revision` is what it read. */
export interface GiveUpRequest {
  readonly session: string
  readonly revision: number
  /** When given: only for the owner of this generation. */
  readonly generation: number | undefined
  /** `first` of gaps that go, because new ones cover them. */
  readonly removeGaps: ReadonlyArray<number>
  readonly addGaps: ReadonlyArray<Gap>
  /** `last` of chunks that go: all of them is given up (or acked). */
  readonly removeChunks: ReadonlyArray<number>
  readonly fates: ReadonlyArray<Fate>
  /** The new lower bound of the earliest expiry; undefined leaves it. */
  readonly expiresAt: number | undefined
}

export type Conditional =
  | { readonly _tag: "Done"; readonly revision: number }
  /** The revision is another one by now. */
  | { readonly _tag: "Conflict" }
  | { readonly _tag: "Fenced" }
  | { readonly _tag: "Missing" }

export interface MarkSentRequest {
  readonly session: string
  readonly generation: number
  readonly revision: number
  readonly sent: number
}

export interface AdvanceRequest {
  readonly session: string
  readonly generation: number
  readonly last: number
  /** For the fate of what is lost. */
  readonly at: number
  readonly isMoved?: boolean
  /** The history in which the caller has settled it last: what was noted as unsettled there counts no more. */
  readonly settledIn?: string | undefined
}
