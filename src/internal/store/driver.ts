/**
 * What a database must do to hold outboxes, sessions and publish keys: the interface of drivers, and its rules. Few
 * operations, each atomic by itself, each for many sessions at once where many come together. Everything else (bounds
 * policies, expiry, caches, group commit, retries, circuit) is the same for all stores and stands beside this file,
 * once.
 *
 * Rules that hold for every operation:
 *
 * - All or nothing, and durable (at the store's stated setting) before it succeeds.
 * - It may be done again after a failure whose outcome is not known. Only `append` is not idempotent by nature, and
 *   carries a stamp for that.
 * - It fails only with {@link StoreError}, and never throws. What is not there, stale or full is a result.
 * - Times are in ms since the epoch and come from the caller; `Infinity` must survive as "never".
 * - Texts (sessions, keys, nodes, bodies) are any strings without U+0000; bodies reach 2 MiB.
 * - Numbers are safe integers of up to 53 bits, save `Infinity` where said.
 */
import type { Effect, Scope } from "effect"
import type { GapReason } from "../../core/Protocol.ts"
import type { Receipt } from "../../Deduplicator.ts"
import type { DeadLetterReason } from "../../WebSocketError.ts"

/** The store failed: it can't be reached, refused, or answered nonsense. Nothing is known of what it did. */
export class StoreError {
  readonly _tag = "StoreError"
  readonly operation: string
  readonly cause: unknown
  constructor(operation: string, cause: unknown) {
    this.operation = operation
    this.cause = cause
  }
}

type Result<A> = Effect.Effect<A, StoreError>

// --- outboxes

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

export interface PublishKey extends KeyTarget {
  readonly fingerprint: string | undefined
  /** Keys committed before this are forgotten. */
  readonly forgottenBefore: number
  /** No new key is taken when as many are kept. */
  readonly maxKeys: number
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

// --- sessions

/** A session as stored. All but the position is replaced whole, by {@link StoreDriver.putSession}. */
export interface SessionRow {
  readonly id: string
  readonly principal: string | undefined
  readonly tokenHash: string
  readonly previousTokenHash: string | undefined
  readonly generation: number
  readonly instance: string
  /** Of the client instance: its dials are numbered. */
  readonly attempt: number
  /** Whose process has what it received and has not handled; undefined when nobody's. */
  readonly node: string | undefined
  /** Undefined while a connection is attached. */
  readonly detachedAt: number | undefined
  /** Another server that wants the session from `node`. */
  readonly wantedBy: string | undefined
  /** Whether it is being removed: nobody may attach. */
  readonly ending: boolean
  /** 1 for a new row; each `putSession` writes the next one. */
  readonly revision: number
}

export interface Tombstone {
  readonly at: number
  readonly until: number
}

export type PutOutcome =
  /** `position` is the one stored when the row was replaced. */
  | { readonly _tag: "Stored"; readonly position: string | undefined }
  | { readonly _tag: "Conflict" }

export interface PositionRequest {
  readonly session: string
  readonly generation: number
  /** Opaque. */
  readonly position: string
  /** Identity of the log it is in, and how far in that; a position behind the stored one of the same log is not stored. */
  readonly epoch: string
  readonly handled: number
  /** Whether it must be ahead of the stored one: else it is `Behind`. For handlers that commit their work with it. */
  readonly strict: boolean
}

/** `Locked` as in {@link Locked}. */
export type PositionOutcome = "Saved" | "Behind" | "Fenced" | "Missing" | "Locked"

// --- publish keys

export interface KeyTarget {
  readonly scope: string
  readonly key: string
}

export interface ClaimKeyRequest extends PublishKey {
  readonly token: string
  readonly now: number
  readonly until: number
}

export type ClaimKeyResult =
  | { readonly _tag: "Claimed" }
  | { readonly _tag: "Duplicate"; readonly receipt: Receipt }
  /** The fingerprints differ; both must be given. With the receipt if it is committed. */
  | { readonly _tag: "Mismatch"; readonly receipt: Receipt | undefined }
  | { readonly _tag: "InFlight"; readonly until: number }
  | { readonly _tag: "Full" }

export interface KeyClaim extends KeyTarget {
  readonly token: string
  readonly now: number
}

export interface StoreDriver {
  /** For errors, metrics and the circuit: "sqlite", "postgres", "redis". */
  readonly name: string
  /** The store's time now. */
  readonly clock: Result<number>
  /**
   * Which history of the store this is: another one whenever it may have lost its newest part, as at each start of its
   * process and each promotion of a replica. Of a store of many parts, those of all of them.
   */
  readonly history: Result<string>
  /** Stores that know the caller's transaction; others have none. */
  readonly transaction: {
    /**
     * Whether the calling fiber is in a transaction of this store. Then `append` (without stamp) and `savePositions`
     * are part of it.
     */
    readonly isOpen: Effect.Effect<boolean>
    /** Runs `effect` when that transaction has committed; not at all when it rolls back. */
    readonly afterCommit: (effect: Effect.Effect<void>) => Effect.Effect<void>
  } | undefined

  /** Opens, or makes, the outbox for this generation. The state has a higher generation when there is a newer owner. */
  readonly openOutbox: (request: OpenRequest) => Result<OutboxState>
  /**
   * Appends in the order given; each request has its own result, in the same order. Who is nudged: the node of each
   * outbox appended to, if it is another one than `node`.
   */
  readonly append: (
    requests: ReadonlyArray<AppendRequest>,
    stamp: Stamp | undefined,
    node: string
  ) => Result<ReadonlyArray<AppendResult>>
  readonly read: (request: ReadRequest) => Result<ReadPage | undefined>
  readonly ack: (requests: ReadonlyArray<AckRequest>) => Result<ReadonlyArray<AckOutcome>>
  readonly giveUp: (request: GiveUpRequest) => Result<Conditional>
  readonly markSent: (request: MarkSentRequest) => Result<Conditional>
  /**
   * The peer may have seen offsets up to `last`: those that the store does not have are taken, as by `known` of an
   * append. Settles the outbox, unless something was appended after `unsettledFrom` at offsets up to `last`; or if there
   * `isMoved` of it left, and nothing behind `last`. `lost` is how many were taken.
   *
   * An owner of a newer generation than the store's has opened it, and the store has lost that: `append` and `ack` are
   * refused as not settled until it has been here and opened it again. If another one has settled it meanwhile, in
   * ignorance, what was appended since counts as after `unsettledFrom`.
   */
  readonly advance: (request: AdvanceRequest) => Result<
    { readonly state: OutboxState; readonly lost: number } | undefined
  >
  /**
   * Removes the outbox with everything of it, if nothing was appended after `last`, and it still has this `revision`, so
   * that nothing was given up. Whether it is gone.
   */
  readonly removeOutbox: (session: string, last: number, revision?: number) => Result<boolean>
  readonly outboxes: (sessions: ReadonlyArray<string>) => Result<ReadonlyArray<OutboxState>>
  /** Fates that touch `first..end`, in order. */
  readonly fates: (session: string, first: number, end: number) => Result<ReadonlyArray<Fate>>
  /** Forgets at most `limit` fates noted before this, and leaves {@link sweptFate} for them; how many. */
  readonly sweepFates: (before: number, limit: number) => Result<number>
  /** Of all outboxes together. */
  readonly totals: Result<{ readonly sessions: number; readonly messages: number; readonly bytes: number }>

  readonly findSession: (id: string) => Result<SessionRow | undefined>
  /** Stores the row if the stored one has the revision before it (1: if there is none). */
  readonly putSession: (row: SessionRow) => Result<PutOutcome>
  readonly savePositions: (requests: ReadonlyArray<PositionRequest>) => Result<ReadonlyArray<PositionOutcome>>
  /**
   * Whether there was one. The tombstone, which is left in the same step, says that it is gone on purpose, until its time
   * is over or a new session of this name is stored. Old ones of others may be removed on the way.
   */
  readonly deleteSession: (id: string, tombstone?: Tombstone) => Result<boolean>
  /** Whether there is a tombstone of this session, at this time. */
  readonly wasEnded: (id: string, at: number) => Result<boolean>
  /** At most `limit` sessions whose `detachedAt` is at or before this, the oldest first. Costs what it returns. */
  readonly detachedBefore: (at: number, limit: number) => Result<ReadonlyArray<SessionRow>>
  /** At most `limit` sessions of this node. Costs what it returns. */
  readonly sessionsOf: (node: string, limit: number) => Result<ReadonlyArray<SessionRow>>
  /**
   * At most `limit` sessions of this principal that are not ending: those that are attached first, then those that were
   * detached last. Costs what it returns.
   */
  readonly sessionsOfPrincipal: (principal: string, limit: number) => Result<ReadonlyArray<SessionRow>>
  readonly countSessions: Result<{ readonly sessions: number; readonly attached: number }>

  /** This node lives. */
  readonly touchNode: (node: string, at: number) => Result<void>
  readonly nodes: Result<ReadonlyArray<{ readonly node: string; readonly seenAt: number }>>
  /** Forgets the node, its nudges, and the stamps of writers that it had (`writer` is `<node>` or `<node>/…`). */
  readonly forgetNode: (node: string) => Result<void>

  readonly claimKey: (request: ClaimKeyRequest) => Result<ClaimKeyResult>
  /** Whether the claim was still held. */
  readonly renewKey: (claim: KeyClaim & { readonly until: number }) => Result<boolean>
  readonly commitKey: (claim: KeyClaim & { readonly receipt: Receipt }) => Result<boolean>
  readonly releaseKey: (claim: KeyTarget & { readonly token: string }) => Result<void>
  readonly lookupKey: (target: KeyTarget, forgottenBefore: number) => Result<Receipt | undefined>
  /** Forgets at most `limit` keys that were committed before `forgottenBefore`, or whose claim ended before `now`. */
  readonly sweepKeys: (forgottenBefore: number, now: number, limit: number) => Result<number>
  readonly countKeys: (forgottenBefore: number, now: number) => Result<
    { readonly keys: number; readonly inFlight: number }
  >

  /** Tells a node that something about a session changed. */
  readonly nudge: (node: string, session: string) => Result<void>
  /** Takes at most `limit` nudges of this node; a session comes once. */
  readonly takeNudges: (node: string, limit: number) => Result<ReadonlyArray<string>>
  /**
   * Calls `listener` soon after there are nudges for this node; now and then in vain. Reconnects by itself, for as
   * long as the scope. It may miss some: the caller also looks at intervals.
   */
  readonly watch: (node: string, listener: () => void) => Effect.Effect<void, never, Scope.Scope>
  /** What is wrong with how the store is set up, as far as durability goes: logged as warnings at the start. */
  readonly warnings: Result<ReadonlyArray<string>>
}
