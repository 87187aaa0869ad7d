/** Outboxes as a driver stores them: what a driver is asked, and what it answers. */
import type { FateReason, GapReason } from "../../core/Protocol.ts"
import type { Receipt } from "../../Deduplicator.ts"
import type { PublishKey } from "./publishKeys.ts"

/**
 * Consecutive messages of one outbox that were appended together: one row, one stream entry. `first` and `last` are
 * offsets. `bytes` counts for the bounds. All messages share one `expiresAt`. `body` is opaque.
 */
export interface Chunk {
  readonly first: number
  readonly last: number
  readonly bytes: number
  readonly enqueuedAt: number
  readonly expiresAt: number
  readonly body: string
}

/** Offsets `first..end` were given up; it hides them in chunks that still have them. Gaps never overlap. */
export interface Gap {
  readonly first: number
  readonly end: number
  readonly reason: GapReason
}

/** What became of messages that were given up, for whoever sent them from elsewhere. */
export interface Fate {
  readonly first: number
  readonly end: number
  readonly reason: FateReason
  readonly maybeHandled: boolean
  /**
   * When it was noted, for {@link StoreDriver.sweepFates}. The fraction of a millisecond tells whose it is, so all
   * digits count.
   */
  readonly at: number
}

/**
 * What a sweep leaves of an outbox's fates, as long as the outbox exists: for nothing up to `end` is it known any more
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
 * - `bytes` is the sum over the stored chunks: a chunk goes when all of it is acked or given up.
 * - `revision` is raised by `openOutbox`, `giveUp` and `markSent`, and not by what changes the log at its ends, as
 *   appends, acks and `advance` do.
 * - `sent` is what `markSent` last said (0 at first).
 * - `expiresAt` is a lower bound of its earliest expiry: appends lower it, `giveUp` sets it.
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
   * not, the store may have lost the newest part, and with it offsets that the peer has seen.
   */
  readonly settled: boolean
  /**
   * While the outbox is not settled: what was appended in this history comes after this. Undefined when nothing was.
   */
  readonly unsettledFrom: number | undefined
}

/** The caller knows that offsets of the log `epoch` up to `last` were given out. */
export interface Known {
  readonly epoch: string
  readonly last: number
}

export interface OpenRequest {
  readonly session: string
  readonly generation: number
  readonly node: string
  /** The outbox's epoch if it has to be made. */
  readonly newEpoch: string
  /** The store has lost the outbox and it is made anew: it is not settled, as others know positions of it. */
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
  /** Refused when the outbox would hold more than this afterwards. */
  readonly maxMessages: number
  readonly maxBytes: number
  /**
   * What the store must have at least. If it has less of this log, it lost its newest part: in the same step the
   * offsets in between are taken, by a gap with the reason `fresh` and a fate that says that they may have been
   * handled.
   */
  readonly known?: Known | undefined
  /**
   * What happens when the outbox is not settled:
   *
   * - `settle`, from the owner, who knows all that the peer may have seen: `known` settles the outbox, unless something
   *   was appended in this history before, as that may have to be moved.
   * - `moved` replaces everything appended after `unsettledFrom`, where it leaves a gap, and settles the outbox, if
   *   there is nothing behind `known`.
   * - `refuse`, also the default: the request is refused.
   * - `allow`, from others when there is no owner to ask: appended, and the store notes where such messages begin.
   *
   * An owner of an older `generation` than the newest is refused too.
   */
  readonly unsettled?: "settle" | "moved" | "refuse" | "allow"
  readonly generation?: number
  /**
   * A publish key (only with `count` 1). In the same step, and only if the message is appended, the key is committed
   * with the receipt `{ messageId: key, epoch, offset, atMillis: enqueuedAt }`. If the key is committed already, or
   * somebody else holds a claim on it, nothing is appended.
   */
  readonly publish: PublishKey | undefined
}

export type AppendResult =
  /** `lost`, if not 0, is how many offsets were taken because of `known`. */
  | { readonly _tag: "Appended"; readonly epoch: string; readonly first: number; readonly lost?: number }
  /** The outbox is not settled: ask `node`. */
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
 * A transaction of the application has locked the row for longer than a moment. This request was not done, the others
 * of its batch were. Ask again; an append needs another stamp.
 */
export interface Locked {
  readonly _tag: "Locked"
}

/**
 * Identifies a batch, however often it is tried. For each writer the store remembers the newest sequence done and its
 * results. The same sequence again does nothing and has the same results, even while the first try is still going on
 * somewhere (one of the two waits for the other). A writer's next batch has a higher sequence. It is tried only when
 * the one before is known to be done, or when nobody waits for that one any more: a sequence older than the newest must
 * do nothing, and fails.
 */
export interface Stamp {
  readonly writer: string
  readonly sequence: number
}

export interface ReadRequest {
  readonly session: string
  /** Gives chunks whose `last` is beyond this. */
  readonly after: number
  readonly maxChunks: number
  /** About how many bytes of bodies; the first chunk comes whatever its size. */
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
  /** Everything up to here is done with: chunks and gaps up to it are removed; a gap that reaches beyond is cut. */
  readonly upTo: number
  /** Fates of the messages that the peer could not handle. */
  readonly fates: ReadonlyArray<Fate>
}

export type AckOutcome =
  /**
   * `released` counts the messages (not offsets in gaps) that were removed. An `upTo` at or before `acked` releases
   * none. An `upTo` beyond `last` means that the store lost `lost` offsets (left out when 0): then `last` becomes
   * `upTo`.
   */
  | { readonly _tag: "Acked"; readonly released: number; readonly lost?: number }
  /** The outbox is not settled, and `upTo` is beyond `acked`: settle it first. */
  | { readonly _tag: "Unsettled" }
  | { readonly _tag: "Fenced" }
  | { readonly _tag: "Missing" }
  | Locked

/** Gives messages up. The caller has read the outbox: it is done only while `revision` is the one that was read. */
export interface GiveUpRequest {
  readonly session: string
  readonly revision: number
  /** When given, only the owner of this generation may give up. */
  readonly generation: number | undefined
  /** `first` of the gaps to remove, because new ones cover them. */
  readonly removeGaps: ReadonlyArray<number>
  readonly addGaps: ReadonlyArray<Gap>
  /** `last` of the chunks to remove: everything in them is given up or acked. */
  readonly removeChunks: ReadonlyArray<number>
  readonly fates: ReadonlyArray<Fate>
  /** The new lower bound of the earliest expiry; undefined leaves it. */
  readonly expiresAt: number | undefined
}

export type Conditional =
  | { readonly _tag: "Done"; readonly revision: number }
  /** The revision has changed. */
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
  /** The time for the fate of what is lost. */
  readonly at: number
  readonly isMoved?: boolean
  /** The history in which the caller last settled the outbox: what was noted as unsettled in it no longer counts. */
  readonly settledIn?: string | undefined
}
