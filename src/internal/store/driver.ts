/**
 * What a database must do to hold outboxes, sessions and publish keys: the interface of drivers, and its rules. The
 * operations are few and each is atomic; where many requests come together, one call takes many sessions. Everything
 * else (bounds policies, expiry, caches, group commit, retries, circuit) is the same for all stores and is written
 * once, beside this file. Requests and answers are in `outboxes.ts`, `sessions.ts` and `publishKeys.ts`.
 *
 * Rules that hold for every operation:
 *
 * - It is all or nothing, and durable (at the store's stated setting) before it succeeds.
 * - It may be repeated after a failure whose outcome is unknown. Only `append` is not idempotent by nature, and carries
 *   a stamp for that.
 * - It fails only with {@link StoreError}, and never throws. What is missing, stale or full is a result.
 * - Times are in ms since the epoch and come from the caller; `Infinity` must survive as "never".
 * - Texts (sessions, keys, nodes, bodies) are any strings without U+0000; bodies reach 2 MiB.
 * - Numbers are safe integers of up to 53 bits, or `Infinity` where said.
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

/** The store failed: it can't be reached, it refused, or it answered nonsense. What it did is unknown. */
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
   * Which history of the store this is. It changes whenever the store may have lost its newest part, as at each start
   * of its process and each promotion of a replica. A store of many parts joins the histories of all parts.
   */
  readonly history: Result<string>
  /** For stores that know the caller's transaction; undefined in others. */
  readonly transaction: {
    /**
     * Whether the calling fiber is in a transaction of this store. Then `append` (without stamp) and `savePositions`
     * are part of it.
     */
    readonly isOpen: Effect.Effect<boolean>
    /** Runs `effect` when that transaction has committed; not at all when it rolls back. */
    readonly afterCommit: (effect: Effect.Effect<void>) => Effect.Effect<void>
  } | undefined

  /**
   * Opens the outbox for this generation, making it if needed. If there is a newer owner, the state has its generation.
   */
  readonly openOutbox: (request: OpenRequest) => Result<OutboxState>
  /**
   * Appends in the order given, with one result for each request, in that order. Nudges the node of each outbox
   * appended to, unless that is `node`.
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
   * The peer may have seen offsets up to `last`: those that the store lacks are taken, as by `known` of an append.
   * Settles the outbox, unless something was appended after `unsettledFrom` at offsets up to `last`. `isMoved` says
   * that it was moved away from there: then the outbox is settled unless something is behind `last`. `lost` is how many
   * were taken.
   *
   * If the caller's generation is newer than the store's, the store has lost that this owner opened the outbox:
   * `append` and `ack` are then refused as not settled until the owner comes and opens it again. If another owner, not
   * knowing of it, settles the outbox meanwhile, what was appended since counts as after `unsettledFrom`.
   */
  readonly advance: (request: AdvanceRequest) => Result<
    { readonly state: OutboxState; readonly lost: number } | undefined
  >
  /**
   * Removes the outbox with everything in it, if nothing was appended after `last` and it still has this `revision`, so
   * that nothing was given up. Gives whether it is gone.
   */
  readonly removeOutbox: (session: string, last: number, revision?: number) => Result<boolean>
  readonly outboxes: (sessions: ReadonlyArray<string>) => Result<ReadonlyArray<OutboxState>>
  /** Fates that touch `first..end`, in order. */
  readonly fates: (session: string, first: number, end: number) => Result<ReadonlyArray<Fate>>
  /** Forgets at most `limit` fates noted before this time and leaves {@link sweptFate} for them; gives how many. */
  readonly sweepFates: (before: number, limit: number) => Result<number>
  /** Of all outboxes together. */
  readonly totals: Result<{ readonly sessions: number; readonly messages: number; readonly bytes: number }>

  readonly findSession: (id: string) => Result<SessionRow | undefined>
  /** Stores the row if the stored one has the revision before it (1: if there is none). */
  readonly putSession: (row: SessionRow) => Result<PutOutcome>
  readonly savePositions: (requests: ReadonlyArray<PositionRequest>) => Result<ReadonlyArray<PositionOutcome>>
  /**
   * Gives whether there was a session. In the same step a tombstone is left. It says that the session is gone on
   * purpose, until its time is over or a new session of this name is stored. Old tombstones of others may be removed on
   * the way.
   */
  readonly deleteSession: (id: string, tombstone?: Tombstone) => Result<boolean>
  /** Whether there is a tombstone of this session at this time. */
  readonly wasEnded: (id: string, at: number) => Result<boolean>
  /** At most `limit` sessions whose `detachedAt` is at or before this, the oldest first. Costs what it returns. */
  readonly detachedBefore: (at: number, limit: number) => Result<ReadonlyArray<SessionRow>>
  /** At most `limit` sessions of this node. Costs what it returns. */
  readonly sessionsOf: (node: string, limit: number) => Result<ReadonlyArray<SessionRow>>
  /**
   * At most `limit` sessions of this principal that are not ending: the attached first, then the last detached. Costs
   * what it returns.
   */
  readonly sessionsOfPrincipal: (principal: string, limit: number) => Result<ReadonlyArray<SessionRow>>
  readonly countSessions: Result<{ readonly sessions: number; readonly attached: number }>

  /** Says that this node lives. */
  readonly touchNode: (node: string, at: number) => Result<void>
  readonly nodes: Result<ReadonlyArray<{ readonly node: string; readonly seenAt: number }>>
  /** Forgets the node, its nudges, and the stamps of its writers (`writer` is `<node>` or `<node>/…`). */
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
  /** Takes at most `limit` nudges of this node; each session comes once. */
  readonly takeNudges: (node: string, limit: number) => Result<ReadonlyArray<string>>
  /**
   * Calls `listener` soon after there are nudges for this node, and now and then in vain. Reconnects by itself, as long
   * as the scope is open. It may miss some: the caller also looks at intervals.
   */
  readonly watch: (node: string, listener: () => void) => Effect.Effect<void, never, Scope.Scope>
  /** What is wrong with the store's setup, as far as durability goes: logged as warnings at the start. */
  readonly warnings: Result<ReadonlyArray<string>>
}
