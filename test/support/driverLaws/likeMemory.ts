/**
 * One property: whatever is asked of a driver, in whatever order, comes to the same as in memory. Commands take what
 * they need (revisions, gaps, chunks) from the driver itself, as the store's logic does, so one history fits both.
 *
 * Left out is what driver.ts leaves open: which of many are taken under a small limit, and what holds in the very
 * millisecond in which a lease ends or a key is forgotten. Every step takes 37 ms, which none of the times here is a
 * multiple of.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import type { StoreDriver } from "../../../src/internal/store/driver.ts"
import type { AppendRequest, Fate, Gap, ReadPage } from "../../../src/internal/store/outboxes.ts"
import { command, fixed, int } from "../coreArbitraries.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../memoryDriver.ts"
import {
  type MakePair,
  message,
  NODE,
  numbers,
  OTHER,
  type Pair,
  position,
  publishKey,
  receipt,
  row,
  T,
  unrevised
} from "./kit.ts"

const SESSIONS = ["a", "b", "c"] as const
const KEYS = ["k", "l", "m"] as const
const NODES = [NODE, OTHER] as const

const session = Schema.Literals(SESSIONS)
const node = Schema.Literals(NODES)
const key = Schema.Literals(KEYS)
const token = Schema.Literals(["mine", "theirs"])
const fingerprint = Schema.Literals(["", "x", "y"])
const generation = int(1, 3)
/** How many generations behind the stored one a caller is: mostly none. */
const behind = Schema.Literals([0, 0, 0, 0, 1])

const Append = Schema.Struct({
  session,
  count: int(1, 3),
  bytes: int(1, 30),
  ttl: Schema.Literals([100, 1_000, "never"]),
  bound: Schema.Literals(["none", "messages", "bytes"]),
  key: Schema.Literals(["", ...KEYS]),
  fingerprint
})

const Commands = [
  command("open", { session, generation, node }),
  command("append", { items: Schema.Array(Append), node, stamp: Schema.Literals(["none", "next", "again"]) }),
  command("read", { session, after: int(0, 12), maxChunks: int(1, 4) }),
  command("ack", {
    items: Schema.Array(Schema.Struct({ session, behind, more: int(-1, 4), fails: Schema.Boolean }))
  }),
  command("giveUp", {
    session,
    behind: Schema.Literals([0, 0, 0, 1, "nobody"]),
    from: int(0, 4),
    more: int(0, 4),
    meanwhile: Schema.Literals(["nothing", "nothing", "ack", "append", "mark"]),
    by: int(1, 4)
  }),
  command("markSent", { session, behind, sent: int(0, 12) }),
  command("advance", { session, behind, by: int(1, 3) }),
  command("remove", { session, last: int(0, 20) }),
  command("sweepFates", {}),
  command("put", {
    session,
    generation,
    node: Schema.Literals(["", ...NODES]),
    detached: Schema.Boolean,
    stale: Schema.Boolean
  }),
  command("positions", {
    items: Schema.Array(Schema.Struct({
      session,
      generation,
      handled: int(0, 5),
      epoch: Schema.Literals(["one", "two"]),
      strict: Schema.Boolean
    }))
  }),
  command("delete", { session }),
  command("claim", { session, key, token, fingerprint }),
  command("renew", { session, key, token }),
  command("commit", { session, key, token }),
  command("release", { session, key, token }),
  command("sweepKeys", {}),
  command("nudge", { session, node }),
  command("takeNudges", { node }),
  command("forgetNode", { node })
] as const

/** Outboxes and sessions that are there count more than those that are not, so they begin with some. */
const Command = Schema.Union([
  ...Commands,
  Commands[0],
  Commands[1],
  Commands[1],
  Commands[3],
  Commands[4],
  Commands[9]
])
type Command = typeof Command.Type

/** What a history remembers for the commands to come; the same for both drivers. */
interface Step {
  readonly now: number
  readonly batch: { readonly requests: ReadonlyArray<AppendRequest>; readonly sequence: number } | undefined
}

const requestsOf = (items: ReadonlyArray<typeof Append.Type>, now: number): ReadonlyArray<AppendRequest> =>
  items.map(({ bound, bytes, count, fingerprint, key, session, ttl }, i) =>
    message(session, {
      count: key === "" ? count : 1,
      bytes,
      enqueuedAt: now,
      expiresAt: ttl === "never" ? Infinity : now + ttl,
      body: `[${now - T}, ${i}]`,
      ...(bound === "messages" ? { maxMessages: 6 } : bound === "bytes" ? { maxBytes: 80 } : {}),
      publish: key === "" ? undefined : publishKey(session, key, {
        fingerprint: fingerprint === "" ? undefined : fingerprint,
        forgottenBefore: now - 200
      })
    })
  )

const seenPage = (page: ReadPage | undefined) => page === undefined ? page : { ...page, state: unrevised(page.state) }

/** Reads all there is of an outbox. */
const look = (driver: StoreDriver, session: string) =>
  driver.read({ session, after: 0, maxChunks: 1_000, maxBytes: 1_000_000 })

const within = (offset: number) => ({ end, first }: Gap) => first <= offset && offset <= end

/** Gives up a range, as of a page that was read before whatever happens `meanwhile`. */
const giveUp = Effect.fnUntraced(
  function*(driver: StoreDriver, step: Step, options: Extract<Command, { t: "giveUp" }>) {
    const { by, from, meanwhile, more, session } = options
    const page = yield* look(driver, session)
    const caller = options.behind === "nobody" ? undefined : (page?.state.generation ?? 1) - options.behind
    const asked = { session, generation: caller }
    if (page === undefined) {
      const nothing = { removeGaps: [], addGaps: [], removeChunks: [], fates: [], expiresAt: undefined }
      return yield* driver.giveUp({ ...asked, revision: 1, ...nothing })
    }
    const { state } = page
    const first = state.acked + 1 + from
    const end = Math.min(first + more, state.last)
    if (first > end) return "nothing to give up"

    // Fates are of what is given up now, so of each offset once.
    const fresh = numbers(first, end).filter((offset) => !page.gaps.some(within(offset)))
    const fates = fresh.map((offset): Fate => (
      { first: offset, end: offset, reason: "expired", maybeHandled: offset % 2 === 0, at: step.now }
    ))
    const covered = page.gaps.filter((gap) => gap.first <= end && gap.end >= first)
    const added: Gap = {
      first: Math.min(first, ...covered.map((gap) => gap.first)),
      end: Math.max(end, ...covered.map((gap) => gap.end)),
      reason: "overflow"
    }
    const gaps = [...page.gaps.filter((gap) => !covered.includes(gap)), added]
    const isDone = (offset: number) => offset <= state.acked || gaps.some(within(offset))
    const removed = page.chunks.filter((chunk) => numbers(chunk.first, chunk.last).every(isDone))
    const kept = page.chunks.filter((chunk) => !removed.includes(chunk))

    const { generation, revision } = state
    if (meanwhile === "ack") yield* driver.ack([{ session, generation, upTo: state.acked + by, fates: [] }])
    if (meanwhile === "append") {
      yield* driver.append([message(session, { count: by, enqueuedAt: step.now })], undefined, NODE)
    }
    if (meanwhile === "mark") yield* driver.markSent({ session, generation, revision, sent: by })
    const outcome = yield* driver.giveUp({
      ...asked,
      revision,
      removeGaps: covered.map((gap) => gap.first),
      addGaps: [added],
      removeChunks: removed.map(({ last }) => last),
      fates,
      expiresAt: meanwhile === "append" ? undefined : Math.min(Infinity, ...kept.map(({ expiresAt }) => expiresAt))
    })
    return outcome._tag
  }
)

/** Does a command, and says what came of it, without what is the driver's own. */
const run = Effect.fnUntraced(function*(driver: StoreDriver, step: Step, command: Command) {
  const { now } = step
  switch (command.t) {
    case "open": {
      const { generation, node, session } = command
      return unrevised(yield* driver.openOutbox({ session, generation, node, newEpoch: `${session} at ${now}` }))
    }
    case "append": {
      if (command.stamp === "none") return yield* driver.append(requestsOf(command.items, now), undefined, command.node)
      const { requests = [], sequence = 0 } = step.batch ?? {}
      return yield* driver.append(requests, { writer: `${NODE}/w`, sequence }, command.node)
    }
    case "read":
      return seenPage(
        yield* driver.read({
          session: command.session,
          after: command.after,
          maxChunks: command.maxChunks,
          maxBytes: 1_000_000
        })
      )
    case "ack": {
      const pages = new Map(
        yield* Effect.forEach(
          SESSIONS,
          (session) => Effect.map(look(driver, session), (page) => [session, page] as const)
        )
      )
      const failed = new Set<string>()
      return yield* driver.ack(command.items.map(({ behind, fails, more, session }) => {
        const page = pages.get(session)
        const generation = (page?.state.generation ?? 1) - behind
        const upTo = (page?.state.acked ?? 0) + more
        const isThere = page !== undefined && more > 0 && upTo <= page.state.last
        const isNew = fails && isThere && !page.gaps.some(within(upTo)) && !failed.has(`${session} ${upTo}`)
        if (isNew) failed.add(`${session} ${upTo}`)
        const fate = { first: upTo, end: upTo, reason: "failed", maybeHandled: true, at: now } as const
        return { session, generation, upTo, fates: isNew ? [fate] : [] }
      }))
    }
    case "giveUp":
      return yield* giveUp(driver, step, command)
    case "markSent": {
      const { behind, sent, session } = command
      const state = (yield* look(driver, session))?.state
      const [generation, revision] = [(state?.generation ?? 1) - behind, state?.revision ?? 1]
      return (yield* driver.markSent({ session, generation, revision, sent }))._tag
    }
    case "advance": {
      const { behind, by, session } = command
      const before = (yield* look(driver, session))?.state
      const [generation, last] = [(before?.generation ?? 1) - behind, (before?.last ?? 0) + by]
      const done = yield* driver.advance({ session, generation, last, at: now })
      return done === undefined ? done : { lost: done.lost, state: unrevised(done.state) }
    }
    case "remove":
      return yield* driver.removeOutbox(command.session, command.last)
    case "sweepFates":
      return yield* driver.sweepFates(now - 150, 1_000)
    case "put": {
      const { detached, generation, node, session, stale } = command
      const stored = yield* driver.findSession(session)
      return yield* driver.putSession(row(session, {
        generation,
        node: node === "" ? undefined : node,
        detachedAt: detached ? now : undefined,
        ending: stale,
        revision: (stored?.revision ?? 0) + (stale ? 0 : 1)
      }))
    }
    case "positions":
      return yield* driver.savePositions(
        command.items.map(({ session, ...fields }, i) =>
          position(session, fields.handled, { ...fields, position: `${now} ${i}` })
        )
      )
    case "delete":
      return yield* driver.deleteSession(command.session, { at: now, until: now + 1e9 })
    case "sweepKeys":
      // How many it forgets is the driver's own: it may forget some earlier, by the way.
      return void (yield* driver.sweepKeys(now - 200, now, 1_000))
    case "nudge":
      return yield* driver.nudge(command.node, command.session)
    case "takeNudges":
      return (yield* driver.takeNudges(command.node, 1_000)).toSorted()
    case "forgetNode":
      return yield* driver.forgetNode(command.node)
    default:
      return yield* runKey(driver, now, command)
  }
})

type KeyCommand = Extract<Command, { t: "claim" | "renew" | "commit" | "release" }>

const runKey = Effect.fnUntraced(function*(driver: StoreDriver, now: number, command: KeyCommand) {
  const { key, session, t, token } = command
  const claim = { scope: session, key, token, now }
  switch (t) {
    case "claim": {
      const fingerprint = command.fingerprint === "" ? undefined : command.fingerprint
      const bounds = publishKey(session, key, { fingerprint, forgottenBefore: now - 200 })
      return yield* driver.claimKey({ ...bounds, ...claim, until: now + 100 })
    }
    case "renew":
      return yield* driver.renewKey({ ...claim, until: now + 120 })
    case "commit":
      return yield* driver.commitKey({ ...claim, receipt: receipt(key, { atMillis: now }) })
    case "release":
      return yield* driver.releaseKey(claim)
  }
})

/** Everything that can be seen of a database. */
const everything = Effect.fnUntraced(function*(driver: StoreDriver, now: number) {
  const outboxes = yield* Effect.forEach(
    SESSIONS,
    Effect.fnUntraced(function*(session) {
      const keys = yield* Effect.forEach(KEYS, (key) => driver.lookupKey({ scope: session, key }, now - 200))
      return { page: seenPage(yield* look(driver, session)), fates: yield* driver.fates(session, 0, 1_000), keys }
    })
  )
  const byId = (a: { readonly id: string }, b: { readonly id: string }) => a.id < b.id ? -1 : 1
  return {
    outboxes,
    totals: yield* driver.totals,
    sessions: yield* Effect.forEach(SESSIONS, driver.findSession),
    ended: yield* Effect.forEach(SESSIONS, (session) => driver.wasEnded(session, now)),
    counts: yield* driver.countSessions,
    detached: yield* driver.detachedBefore(now, 10),
    owned: yield* Effect.forEach(
      NODES,
      (node) => Effect.map(driver.sessionsOf(node, 10), (rows) => rows.toSorted(byId))
    ),
    keys: yield* driver.countKeys(now - 200, now),
    nudges: yield* Effect.forEach(NODES, (node) => Effect.map(driver.takeNudges(node, 10), (all) => all.toSorted()))
  }
})

const compare = Effect.fnUntraced(function*(pair: Pair, commands: ReadonlyArray<Command>) {
  const memory = makeMemoryDriver(makeMemoryDatabase())
  const item = { count: 3, bytes: 30, ttl: 1_000, bound: "none", key: "", fingerprint: "" } as const
  const begin: ReadonlyArray<Command> = SESSIONS.slice(0, 2).flatMap((session) => [
    { t: "open", session, generation: 1, node: NODE },
    { t: "append", items: [{ session, ...item }, { session, ...item, count: 2 }], node: NODE, stamp: "none" },
    { t: "put", session, generation: 1, node: NODE, detached: false, stale: false }
  ])
  let step: Step = { now: T, batch: undefined }
  let done = 0
  for (const command of [...begin, ...commands]) {
    const now = step.now + 37
    step = { ...step, now }
    if (command.t === "append" && command.stamp === "next") {
      const sequence = (step.batch?.sequence ?? 0) + 1
      step = { now, batch: { requests: requestsOf(command.items, now), sequence } }
    }
    const expected = yield* run(memory, step, command)
    const actual = yield* run(done % 2 === 0 ? pair.driver : pair.other, step, command)
    assert.deepStrictEqual(actual, expected, `command ${done++}, ${JSON.stringify(command)}`)
  }
  assert.deepStrictEqual(yield* everything(pair.other, step.now), yield* everything(memory, step.now), "in the end")
})

/** Registers the property. Each run has a database of its own. */
export const likeMemory = (make: MakePair, runs: number): void => {
  it.live.prop(
    "come to the same as in memory",
    { commands: Schema.Array(Command) },
    ({ commands }) => Effect.scoped(Effect.flatMap(make, (pair) => compare(pair, commands))),
    fixed(runs)
  )
}
