/** What the laws of store drivers share: two drivers on a fresh database, and requests with defaults. */
import { assert, it } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import type { Receipt } from "../../../src/Deduplicator.ts"
import { type StoreDriver, StoreError } from "../../../src/internal/store/driver.ts"
import type {
  AppendRequest,
  AppendResult,
  Fate,
  Gap,
  GiveUpRequest,
  OutboxState,
  ReadPage
} from "../../../src/internal/store/outboxes.ts"
import type { PublishKey } from "../../../src/internal/store/publishKeys.ts"
import type { PositionRequest, SessionRow } from "../../../src/internal/store/sessions.ts"

/** Two processes on one database. */
export interface Pair {
  readonly driver: StoreDriver
  readonly other: StoreDriver
  /** Makes the store believe that an outbox is of an older history than its present one. None where there is but one. */
  readonly forget?: (session: string) => Effect.Effect<void, unknown>
}

/** Makes both, on a database that is empty and nobody else's. */
export type MakePair = Effect.Effect<Pair, unknown, Scope.Scope>

/** Registers a law as a test. */
export type Law = (title: string, body: (pair: Pair) => Effect.Effect<void, unknown, Scope.Scope>) => void

/** Not under the `TestClock`: what real drivers wait for takes real time. */
export const lawOf = (make: MakePair): Law => (title, body) => it.live(title, () => Effect.flatMap(make, body))

/** A time, beyond 2^32 as all are. */
export const T = 1_800_000_000_000

/** The node that `driver` is, and the one that `other` is. */
export const NODE = "node-a"
export const OTHER = "node-b"

export const open = (driver: StoreDriver, session: string, generation = 1, node = NODE) =>
  driver.openOutbox({ session, generation, node, newEpoch: `epoch of ${session}` })

export const message = (session: string, fields: Partial<AppendRequest> = {}): AppendRequest => ({
  session,
  count: 1,
  bytes: 10,
  enqueuedAt: T,
  expiresAt: Infinity,
  body: `["to ${session}"]`,
  maxMessages: 1_000_000,
  maxBytes: 1_000_000_000,
  publish: undefined,
  // Some of these databases are started anew meanwhile, and nobody here is an owner.
  unsettled: "allow",
  ...fields
})

export const publishKey = (scope: string, key: string, fields: Partial<PublishKey> = {}): PublishKey => ({
  scope,
  key,
  fingerprint: undefined,
  forgottenBefore: 0,
  maxKeys: 1_000,
  ...fields
})

/** One append without a stamp. */
export const append = (driver: StoreDriver, session: string, fields: Partial<AppendRequest> = {}) =>
  Effect.map(driver.append([message(session, fields)], undefined, NODE), only)

/** Appends one after the other, a chunk each. */
export const appendEach = (driver: StoreDriver, session: string, counts: ReadonlyArray<number>) =>
  driver.append(
    counts.map((count) => message(session, { count, bytes: 10 * count, body: `[${count}]` })),
    undefined,
    NODE
  )

export const ack = (
  driver: StoreDriver,
  session: string,
  upTo: number,
  fields: { readonly generation?: number; readonly fates?: ReadonlyArray<Fate> } = {}
) => Effect.map(driver.ack([{ session, generation: 1, upTo, fates: [], ...fields }]), only)

export const readAll = (driver: StoreDriver, session: string, after = 0) =>
  Effect.map(driver.read({ session, after, maxChunks: 10_000, maxBytes: 100_000_000 }), defined)

export const stateOf = (driver: StoreDriver, session: string): Effect.Effect<OutboxState, StoreError> =>
  Effect.map(driver.outboxes([session]), only)

export const gap = (first: number, end: number, reason: Gap["reason"] = "expired"): Gap => ({ first, end, reason })

export const fate = (first: number, end: number, fields: Partial<Fate> = {}): Fate => ({
  first,
  end,
  reason: "failed",
  maybeHandled: false,
  at: T,
  ...fields
})

/** Gives up what is said, as somebody who has read `state`. */
export const giveUp = (driver: StoreDriver, state: OutboxState, fields: Partial<GiveUpRequest>) =>
  driver.giveUp({
    session: state.session,
    revision: state.revision,
    generation: state.generation,
    removeGaps: [],
    addGaps: [],
    removeChunks: [],
    fates: [],
    expiresAt: undefined,
    ...fields
  })

export const row = (id: string, fields: Partial<SessionRow> = {}): SessionRow => ({
  id,
  principal: undefined,
  tokenHash: "hash",
  previousTokenHash: undefined,
  generation: 1,
  instance: "instance",
  attempt: 1,
  node: NODE,
  detachedAt: undefined,
  wantedBy: undefined,
  ending: false,
  revision: 1,
  ...fields
})

export const position = (session: string, handled: number, fields: Partial<PositionRequest> = {}): PositionRequest => ({
  session,
  generation: 1,
  position: `at ${handled}`,
  epoch: "log",
  handled,
  strict: false,
  ...fields
})

export const receipt = (key: string, fields: Partial<Receipt> = {}): Receipt => ({
  messageId: key,
  epoch: "epoch",
  offset: 7,
  atMillis: T,
  ...fields
})

/** The only element. */
export const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (items.length !== 1 || item === undefined) throw new Error(`expected one, got ${items.length}`)
  return item
}

export const defined = <A>(value: A | undefined): A => {
  if (value === undefined) throw new Error("expected something, got undefined")
  return value
}

/** What a test says of all states, whose revisions are the driver's own. */
export const unrevised = (state: OutboxState): Omit<OutboxState, "revision" | "settled" | "unsettledFrom"> => {
  const { revision: _, settled, unsettledFrom, ...rest } = state
  assert.deepStrictEqual([settled, unsettledFrom], [true, undefined])
  return rest
}

/** Offsets where appends began; undefined for those that did not append. */
export const firsts = (results: ReadonlyArray<AppendResult>) =>
  results.map((result) => result._tag === "Appended" ? result.first : undefined)

export const tags = (results: ReadonlyArray<{ readonly _tag: string }>) => results.map(({ _tag }) => _tag)

/** `first-last` of what is in a page. */
export const chunkRanges = (page: ReadPage) => page.chunks.map(({ first, last }) => `${first}-${last}`)

export const numbers = (from: number, to: number): ReadonlyArray<number> =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i)

/** Expects that it fails with a `StoreError`. */
export const failsAsStore = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.flip(effect), (error) => assert.instanceOf(error, StoreError))

/** Texts that are easily taken apart, folded together or misread. */
export const TEXTS: ReadonlyArray<string> = [
  "plain",
  "PLAIN",
  "plain ",
  "",
  " ",
  `'single' "double" \`back\``,
  "back\\slash \\n \\u0000 \\\\",
  "line\nfeed\r\ntab\t\u0001\u001f\u007f",
  "percent % under _ star * question ? [a-c]",
  "a:b",
  "a/b",
  "{tag} }{ {}",
  "$1 :name @p ? ; -- /* */",
  "NULL",
  "null",
  "0",
  "00",
  "1e3",
  "é",
  "e\u0301",
  "日本語",
  "👩‍👩‍👧‍👦 🇪🇺",
  "\u2028\u2029\ufeff\uffff",
  "x".repeat(500)
]
