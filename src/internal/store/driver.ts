/**
 * What a database must do to hold outboxes, sessions and publish keys: the interface of drivers, and its rules. Few
 * operations, each atomic by itself, each for many sessions at once where many come together. Everything else (bounds
 * policies, expiry, caches, group commit, retries, circuit) is the same for all stores and stands beside this file,
 * once. What is asked and answered is in `outboxes.ts`,
 * `sessions.ts` and `publishKeys.ts`.
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
import type { Receipt } from "../../Deduplicator.ts"
import type {
  AckOutcome,
  AckRequest,
  AdvanceRequest,
  AppendRequest,
  AppendResult,
  Conditional,
  Fate,
  GiveUpRequest,
  MarkSentRequest,
  OpenRequest,
  OutboxState,
  ReadPage,
  ReadRequest,
  Stamp
} from "./outboxes.ts"
import type { ClaimKeyRequest, ClaimKeyResult, KeyClaim, KeyTarget } from "./publishKeys.ts"
import type { PositionOutcome, PositionRequest, PutOutcome, SessionRow, Tombstone } from "./sessions.ts"

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
