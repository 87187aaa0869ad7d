/** What becomes of a server's messages when its SQLite file is locked by others, full, read only or damaged. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Option, References, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { CircuitBreaker, Deduplicator, MessageQueue, SessionRegistry } from "resilient-websocket"
import { SqliteStore } from "resilient-websocket/sqlite"
import { until } from "../support/harness.ts"
import { assertOfTheStore, startTraffic } from "../support/storeTraffic.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const newFile = Effect.map(temporaryDirectory, (directory) => join(directory, "db"))

/** Locks that are waited for shortly, and circuits that come back soon. */
const openStore = (filename: string, options: Partial<SqliteStore.Options> = {}) =>
  Layer.build(SqliteStore.layer({
    filename,
    busyTimeout: "100 millis",
    appendTimeout: "200 seconds",
    breaker: { endpoint: { openBase: "50 millis", openCap: "200 millis" } },
    ...options
  }))

type Store = Effect.Success<ReturnType<typeof openStore>>

const untilCircuit = (store: Store, tag: CircuitBreaker.State["_tag"]) => {
  const circuit = Context.get(store, CircuitBreaker.CircuitBreaker).state(CircuitBreaker.endpoint("store:sqlite"))
  return until(`the circuit is ${tag}`, () => Effect.map(circuit, ({ _tag }) => _tag === tag))
}

/** A process that has locked the file, until `unlock`. */
const lockElsewhere = (filename: string) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () => {
        const script = `
          const { DatabaseSync } = require("node:sqlite")
          const database = new DatabaseSync(process.argv[1], { timeout: 0 })
          // SQLite itself would look less and less often, and never find the file free of a server that writes on.
          for (let isLocked = false; !isLocked;) {
            try {
              database.exec("BEGIN IMMEDIATE")
              isLocked = true
            } catch (error) {
              if (!error.message.includes("locked")) throw error
            }
          }
          process.stdout.write("locked")
          process.stdin.once("data", () => process.exit())
        `
        const child = spawn(process.execPath, ["-e", script, filename], { stdio: ["pipe", "pipe", "ignore"] })
        await once(child.stdout, "data")
        return child
      }),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    ),
    (child) => ({
      unlock: Effect.promise(async () => {
        child.stdin.end("now")
        await once(child, "close")
      })
    })
  )

/** Without logs: that the file can't be written is what these tests are about. */
const test = (name: string, effect: Effect.Effect<void, unknown, Scope.Scope>) =>
  it.live(name, () => Effect.provideService(effect, References.MinimumLogLevel, "None"))

describe("a server whose SQLite file fails", () => {
  test(
    "is told so at once when there is no file to be had at the start",
    Effect.gen(function*() {
      const garbage = yield* newFile
      writeFileSync(garbage, "this is no database, and was never one".repeat(1_000))
      const cut = yield* newFile
      yield* Effect.scoped(openStore(cut))
      truncateSync(cut, 10_000)
      const nowhere = join(yield* newFile, "nowhere", "db")
      for (const filename of [garbage, cut, nowhere]) {
        const error = yield* Effect.flip(openStore(filename))
        assert.propertyVal(error, "_tag", "SqlError")
      }
    })
  )

  test(
    "waits while another process has the file locked, and loses and repeats nothing",
    Effect.gen(function*() {
      const filename = yield* newFile
      const store = yield* openStore(filename)
      const traffic = yield* startTraffic(store)
      for (let lock = 0; lock < 2; lock++) {
        yield* traffic.more(5)
        const { unlock } = yield* lockElsewhere(filename)
        yield* untilCircuit(store, "Open")
        yield* unlock
        yield* untilCircuit(store, "Closed")
      }
      yield* traffic.more(5)
      yield* traffic.end
      assert.deepStrictEqual(traffic.failures, [])
    })
  )

  test(
    "fails sends that can't wait for the lock, in time and with a typed error, and goes on when it is free",
    Effect.gen(function*() {
      const filename = yield* newFile
      const store = yield* openStore(filename, { appendTimeout: "300 millis" })
      const traffic = yield* startTraffic(store)
      yield* traffic.more(5)
      const { unlock } = yield* lockElsewhere(filename)
      yield* until("sends fail", () => traffic.failures.length >= 10)
      yield* unlock
      yield* traffic.more(5)
      yield* traffic.end
      assertOfTheStore(traffic.failures)
    })
  )

  test(
    "refuses what is no text for SQLite, and holds up nobody else with it",
    Effect.gen(function*() {
      const store = yield* openStore(yield* newFile)
      const queue = Context.get(store, MessageQueue.MessageQueue)
      const { appendOnce } = queue
      if (appendOnce === undefined) return assert.fail("no appendOnce")
      yield* Effect.forEach(["a", "b"], (session) => queue.open(session, 1))
      const half = { payload: "1", bytes: 1, id: "half a pair: \ud800" }
      const [refused, appended] = yield* Effect.all([
        Effect.exit(appendOnce("a", half, "fingerprint")),
        queue.append("b", [{ payload: "2", bytes: 1 }])
      ], { concurrency: "unbounded" })
      assert.strictEqual(appended.first, 1)
      const error = Option.getOrThrow(Exit.findErrorOption(refused))
      assert.deepInclude(error, { _tag: "resilient-websocket/MessageQueueError", reason: "store" })
      const registry = Context.get(store, SessionRegistry.SessionRegistry)
      const deduplicator = Context.get(store, Deduplicator.Deduplicator)
      for (let i = 0; i < 10; i++) {
        yield* Effect.flip(queue.open("\udfff", 1))
        yield* Effect.flip(registry.find("\udfff"))
        yield* Effect.flip(deduplicator.claim({ scope: "a", key: "\u0000" }))
      }
      yield* untilCircuit(store, "Closed")
    })
  )

  const whileSql = (statement: (sql: SqlClient.SqlClient) => Effect.Effect<void, unknown>, after: string) =>
    Effect.gen(function*() {
      const store = yield* openStore(yield* newFile, { appendTimeout: "300 millis" })
      const sql = Context.get(store, SqlClient.SqlClient)
      const traffic = yield* startTraffic(store)
      yield* traffic.more(5)
      yield* statement(sql)
      yield* until("sends fail", () => traffic.failures.length >= 10)
      yield* sql.unsafe(after)
      yield* traffic.more(5)
      yield* traffic.end
      assertOfTheStore(traffic.failures)
    })

  test(
    "fails sends with a typed error when the disk is full, and goes on when there is room",
    whileSql(
      Effect.fnUntraced(function*(sql) {
        // No new page from here on.
        yield* sql`PRAGMA max_page_count = 1`
      }),
      "PRAGMA max_page_count = 1000000"
    )
  )

  test(
    "fails sends with a typed error when the file can only be read, and goes on when it can be written",
    whileSql((sql) => Effect.asVoid(sql`PRAGMA query_only = ON`), "PRAGMA query_only = OFF")
  )
})
