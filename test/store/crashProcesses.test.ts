/**
 * Real servers on real databases, each killed by SIGKILL at another step, with a real client: the next process goes on
 * with what is stored, and every effect of a handler that commits its message itself is there exactly once.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { makeProcesses, type Processes, realExchange, type RealOutcome } from "../support/crashProcesses.ts"
import type { Phase, Point } from "../support/crashServer.ts"
import type { Place } from "../support/crashStores.ts"
import { everything } from "../support/everything.ts"
import { connectTo, describeWithDatabase } from "../support/postgresServer.ts"
import { temporaryDirectory } from "../support/temporary.ts"

/** A step and at which moments of it a process is killed. What only reads changes nothing: there is one moment. */
type Step = readonly [phase: Phase, name: string, nth: number, ...moments: ReadonlyArray<Point["when"]>]

const steps: ReadonlyArray<Step> = [
  ["exchange", "migrate", 1, "inside", "after"],
  ["exchange", "prepare", 1, "after"],
  ["exchange", "look at the settings", 1, "after"],
  ["exchange", "touchNode", 1, "inside", "after"],
  ["exchange", "totals", 1, "after"],
  ["exchange", "findSession", 1, "after"],
  ["exchange", "countSessions", 1, "after"],
  ["exchange", "putSession", 1, "inside", "after"],
  ["exchange", "openOutbox", 1, "inside", "after"],
  ["exchange", "savePositions", 1, "inside", "after"],
  ["exchange", "the handler's transaction", 1, "before", "inside", "after"],
  ["exchange", "the handler's write", 1, "before", "after"],
  ["exchange", "savePositions", 2, "before", "after"],
  ["exchange", "append", 1, "before", "after"],
  ["exchange", "the news of the commit", 1, "before", "after"],
  // Of the message whose handler fails.
  ["exchange", "the handler's write", 3, "before", "after"],
  ["exchange", "the handler's write", 4, "before", "after"],
  ["exchange", "the handler's transaction", 5, "inside", "after"],
  ["exchange", "ack", 1, "inside", "after"],
  ["reconnect", "findSession", 1, "after"],
  ["reconnect", "putSession", 1, "inside", "after"],
  ["reconnect", "putSession", 2, "inside", "after"],
  ["reconnect", "outboxes", 1, "after"],
  ["reconnect", "openOutbox", 1, "inside", "after"],
  ["reconnect", "append", 1, "inside", "after"],
  ["reconnect", "the handler's transaction", 1, "inside", "after"],
  ["reconnect", "ack", 1, "inside", "after"],
  ["end", "findSession", 1, "after"],
  ["end", "putSession", 1, "inside", "after"],
  ["end", "read", 1, "after"],
  ["end", "removeOutbox", 1, "inside", "after"],
  ["end", "deleteSession", 1, "inside", "after"],
  ["stop", "touchNode", 1, "inside", "after"]
]

/** Each kind of step once. Of PostgreSQL, whose driver is what is stepped through, that is all. */
const sample: ReadonlyArray<Step> = [
  ["exchange", "touchNode", 1, "before", "after"],
  ["exchange", "putSession", 1, "before", "after"],
  ["exchange", "openOutbox", 1, "before", "after"],
  ["exchange", "savePositions", 1, "before", "after"],
  ["exchange", "the handler's transaction", 1, "inside", "after"],
  ["exchange", "the handler's write", 1, "before", "after"],
  ["exchange", "savePositions", 2, "before", "after"],
  ["exchange", "append", 1, "before", "after"],
  ["exchange", "the news of the commit", 1, "before", "after"],
  ["exchange", "ack", 1, "before", "after"],
  ["reconnect", "append", 1, "before", "after"],
  ["end", "removeOutbox", 1, "before", "after"],
  ["end", "deleteSession", 1, "before", "after"]
]

/** What a server does once in a while, whenever it is time for it. */
const nowAndThen = ["takeNudges", "nodes"]

const effects = ["a1", "a2", "a4", "a5"]

const check = (what: string, { received, receipts }: RealOutcome, rows: ReadonlyArray<string>): void => {
  assert.deepStrictEqual(rows, effects, `${what}: the table of effects`)
  assert.deepStrictEqual(
    received.filter((text) => text !== "b1"),
    effects.map((text) => `re: ${text}`),
    `${what}: the answers`
  )
  assert.strictEqual(received.filter((text) => text === "b1").length, 1, `${what}: the message under a key`)
  assert.deepStrictEqual(
    receipts,
    { a1: "handled", a2: "handled", poison: "failed", a4: "handled", a5: "handled" },
    `${what}: the receipts`
  )
}

/** A place with an empty table of effects, and what is in it later. */
interface Stage {
  readonly place: Place
  readonly rows: Effect.Effect<ReadonlyArray<string>, unknown>
}

/** `stageOf` makes the nth one. */
const crashTests = (
  chosen: ReadonlyArray<Step>,
  stageOf: (n: number, directory: string) => Effect.Effect<Stage, unknown, Scope.Scope>
) => {
  const scope = Scope.makeUnsafe()
  let prepared: { readonly directory: string; readonly processes: Processes } | undefined
  let runs = 0

  const prepare = Effect.gen(function*() {
    const directory = yield* temporaryDirectory
    prepared = { directory, processes: yield* makeProcesses }
  })
  beforeAll(() => Effect.runPromise(Scope.provide(prepare, scope)))
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const run = Effect.fnUntraced(function*(point: Point | undefined) {
    if (prepared === undefined) return yield* Effect.die("not prepared")
    const { place, rows } = yield* stageOf(++runs, prepared.directory)
    const outcome = yield* realExchange(prepared.processes, place, point)
    const what = point?.when ?? "never"
    check(what, outcome, yield* rows)
    assert.strictEqual(outcome.kills, point === undefined ? 0 : 1, `${what}: kills`)
    return outcome
  })

  for (const [phase, name, nth, ...moments] of chosen) {
    it.live(`at ${name} (${nth}, ${phase}) has every effect once`, () =>
      Effect.forEach(moments, (when) => run({ phase, name, nth, when }), { concurrency: 2 }))
  }

  return run
}

describe("SQLite: a server that is killed", () => {
  const run = crashTests(everything ? steps : sample, (n, directory) =>
    Effect.gen(function*() {
      const filename = join(directory, `${n}.db`)
      const file = yield* Effect.acquireRelease(
        Effect.sync(() => new DatabaseSync(filename)),
        (opened) => Effect.sync(() => opened.close())
      )
      file.exec("PRAGMA journal_mode = wal; CREATE TABLE effects (text TEXT NOT NULL)")
      const rows = Effect.sync(() =>
        file.prepare("SELECT text FROM effects ORDER BY rowid").all().map(({ text }) => String(text))
      )
      return { place: { kind: "sqlite", filename, table: "effects" }, rows }
    }))

  it.live("has no step that is not among these", () =>
    Effect.gen(function*() {
      const { steps: taken } = yield* run(undefined)
      const known = new Set([...nowAndThen, ...steps.map(([, name]) => name)])
      const names = new Set(taken.map((step) => step.replace(/^.*: /, "")))
      assert.deepStrictEqual([...names].filter((name) => !known.has(name)), [])
    }))
})

describeWithDatabase("PostgreSQL: a server that is killed", (server) => {
  crashTests(sample, (n) =>
    Effect.gen(function*() {
      const { database, host, port, username } = yield* server
      const sql = yield* connectTo(yield* server, { maxConnections: 1 })
      const table = `effects_${n}`
      yield* sql`CREATE TABLE ${sql(table)} (seq BIGSERIAL, text TEXT NOT NULL)`
      const rows = Effect.map(
        sql<{ readonly text: string }>`SELECT text FROM ${sql(table)} ORDER BY seq`,
        (found) => found.map(({ text }) => text)
      )
      return { place: { kind: "postgres", host, port, username, database, schema: `crash_${n}`, table }, rows }
    }))
})
