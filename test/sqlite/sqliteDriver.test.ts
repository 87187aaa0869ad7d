/** SQLite keeps the laws of store drivers, with two processes on one file, and what only it promises. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { statSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { SqliteClient } from "resilient-websocket/sqlite"
import { type StoreDriver, StoreError } from "../../src/internal/store/driver.ts"
import type { AppendRequest } from "../../src/internal/store/outboxes.ts"
import { type DriverOptions, makeSqliteDriver } from "../../src/sqlite/sqliteDriver.ts"
import { driverLaws } from "../support/driverLaws.ts"
import { programPath } from "../support/sharedByRun.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const temporaryFile = Effect.map(temporaryDirectory, (path) => join(path, "test.db"))

/** A process's driver and client on the file. */
const openDriver = Effect.fnUntraced(function*(filename: string, options?: DriverOptions) {
  const context = yield* Layer.build(SqliteClient.layer({ filename, busyTimeout: "20 seconds" }))
  return yield* Effect.provide(
    Effect.all({
      driver: makeSqliteDriver(options),
      client: SqliteClient.SqliteClient,
      sql: SqlClient.SqlClient
    }),
    context
  )
})

driverLaws(
  "SQLite",
  Effect.gen(function*() {
    const filename = yield* temporaryFile
    const { driver } = yield* openDriver(filename)
    const { driver: other } = yield* openDriver(filename)
    return { driver, other }
  })
)

const message = (session: string, fields: Partial<AppendRequest> = {}): AppendRequest => ({
  session,
  count: 1,
  bytes: 10,
  enqueuedAt: 1_800_000_000_000,
  expiresAt: Infinity,
  body: "[1]",
  maxMessages: Infinity,
  maxBytes: Infinity,
  publish: undefined,
  ...fields
})

const openOutbox = (driver: StoreDriver, session: string, node = "a") =>
  driver.openOutbox({ session, generation: 1, node, newEpoch: `epoch of ${session}` })

const lastOf = (driver: StoreDriver, session: string) =>
  Effect.map(driver.outboxes([session]), ([state]) => state?.last)

describe("SQLite driver in a transaction of its user", () => {
  it.effect("commits what is appended with the user's own writes, and loses it with them", () =>
    Effect.gen(function*() {
      const { driver, sql } = yield* openDriver(yield* temporaryFile)
      yield* sql`CREATE TABLE orders (id INTEGER)`
      yield* openOutbox(driver, "s", "b")
      const { transaction } = driver
      assert(transaction !== undefined)
      const told: Array<string> = []
      const order = (id: number) =>
        Effect.gen(function*() {
          assert.isTrue(yield* transaction.isOpen)
          yield* sql`INSERT INTO orders VALUES (${id})`
          const [result] = yield* driver.append([message("s")], undefined, "a")
          assert.deepStrictEqual(result, { _tag: "Appended", epoch: "epoch of s", first: 1 })
          assert.strictEqual(yield* lastOf(driver, "s"), 1)
          yield* transaction.afterCommit(Effect.sync(() => void told.push(`order ${id}`)))
        })

      yield* Effect.exit(sql.withTransaction(Effect.andThen(order(1), Effect.fail("no"))))
      assert.strictEqual(yield* lastOf(driver, "s"), 0)
      assert.deepStrictEqual(yield* driver.totals, { sessions: 1, messages: 0, bytes: 0 })
      assert.deepStrictEqual(yield* driver.takeNudges("b", 10), [])

      yield* sql.withTransaction(order(2))
      assert.isFalse(yield* transaction.isOpen)
      assert.strictEqual(yield* lastOf(driver, "s"), 1)
      assert.deepStrictEqual(yield* driver.totals, { sessions: 1, messages: 1, bytes: 10 })
      assert.deepStrictEqual(yield* driver.takeNudges("b", 10), ["s"])
      assert.deepStrictEqual(told, ["order 2"])
      assert.deepStrictEqual(yield* sql`SELECT id FROM orders`.values, [[2]])
    }))

  it.effect("saves positions with what a handler writes", () =>
    Effect.gen(function*() {
      const { driver, sql } = yield* openDriver(yield* temporaryFile)
      yield* driver.putSession({
        id: "s",
        principal: undefined,
        tokenHash: "hash",
        previousTokenHash: undefined,
        generation: 1,
        instance: "i",
        attempt: 1,
        node: "a",
        detachedAt: undefined,
        wantedBy: undefined,
        ending: false,
        revision: 1
      })
      const save = driver.savePositions([
        { session: "s", generation: 1, position: "p", epoch: "e", handled: 7, strict: true }
      ])
      yield* Effect.exit(sql.withTransaction(Effect.andThen(save, Effect.fail("no"))))
      assert.deepStrictEqual(yield* sql.withTransaction(save), ["Saved"])
      assert.deepStrictEqual(yield* save, ["Behind"])
    }))

  it.effect("keeps what was written before an operation that failed", () =>
    Effect.gen(function*() {
      const { driver, sql } = yield* openDriver(yield* temporaryFile)
      yield* openOutbox(driver, "s")
      yield* sql.withTransaction(Effect.gen(function*() {
        yield* driver.append([message("s")], undefined, "a")
        const error = yield* Effect.flip(driver.append([message("s"), message("\ud800")], undefined, "a"))
        assert.instanceOf(error, StoreError)
        yield* driver.append([message("s")], undefined, "a")
      }))
      assert.deepStrictEqual(yield* driver.totals, { sessions: 1, messages: 2, bytes: 20 })
      assert.strictEqual(yield* lastOf(driver, "s"), 2)
    }))
})

describe("SQLite driver", () => {
  it.effect("refuses texts that UTF-8 can't say, since they would become others", () =>
    Effect.gen(function*() {
      const { driver } = yield* openDriver(yield* temporaryFile)
      yield* openOutbox(driver, "\ufffd")
      const error = yield* Effect.flip(driver.read({ session: "\ud800", after: 0, maxChunks: 1, maxBytes: 1 }))
      assert.instanceOf(error, StoreError)
      assert.include(String(error.cause), "lone surrogate")
    }))

  it.effect("keeps stores with different table prefixes apart", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const { driver } = yield* openDriver(filename)
      const { driver: other } = yield* openDriver(filename, { tablePrefix: "it's \"other\" " })
      yield* openOutbox(driver, "s")
      assert.strictEqual((yield* other.totals).sessions, 0)
      yield* openOutbox(other, "t")
      assert.strictEqual((yield* driver.totals).sessions, 1)
    }))

  it.effect("does not touch tables that a newer release has made", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.scoped(Effect.flatMap(openDriver(filename), ({ sql }) => sql`UPDATE rws_store SET version = 99`))
      const error = yield* Effect.flip(openDriver(filename))
      assert.instanceOf(error, StoreError)
      assert.include(String(error.cause), "version 99")
    }))

  it.effect("fails with a StoreError on a full disk, with nothing half done, and goes on when there is room", () =>
    Effect.gen(function*() {
      const { driver, sql } = yield* openDriver(yield* temporaryFile)
      for (const session of ["s", "t"]) yield* openOutbox(driver, session)
      const [pages] = yield* sql<{ readonly page_count: number }>`PRAGMA page_count`
      yield* sql.unsafe(`PRAGMA max_page_count = ${(pages?.page_count ?? 0) + 20}`)
      const stamp = { writer: "a", sequence: 1 }
      const batch = [message("s"), message("t", { body: "x".repeat(400_000) })]
      const error = yield* Effect.flip(driver.append(batch, stamp, "a"))
      assert.instanceOf(error, StoreError)
      assert.include(String(error.cause), "full")
      assert.deepStrictEqual(yield* driver.totals, { sessions: 2, messages: 0, bytes: 0 })
      yield* sql`PRAGMA max_page_count = 100000`
      const results = yield* driver.append(batch, stamp, "a")
      assert.deepStrictEqual(results.map(({ _tag }) => _tag), ["Appended", "Appended"])
    }))

  it.effect("says when nothing would outlive the process", () =>
    Effect.gen(function*() {
      const { driver } = yield* openDriver(yield* temporaryFile)
      assert.deepStrictEqual(yield* driver.warnings, [])
      const { driver: inMemory } = yield* openDriver(":memory:")
      assert.include((yield* inMemory.warnings)[0], "in memory")
    }))

  it.live("watches for nudges by other processes, and by other servers in its own", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const { driver } = yield* openDriver(filename)
      const { driver: other } = yield* openDriver(filename)
      for (const from of [other, driver]) {
        const told = yield* Deferred.make<void>()
        yield* Effect.scoped(Effect.gen(function*() {
          yield* driver.watch("a", () => Deferred.doneUnsafe(told, Exit.void))
          yield* openOutbox(from, "s", "a")
          yield* from.append([message("s")], undefined, "b")
          yield* Deferred.await(told)
        }))
        assert.deepStrictEqual(yield* driver.takeNudges("a", 10), ["s"])
      }
    }))

  it.live("opens an empty file from several processes at once", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const opened = yield* Effect.all(Array.from({ length: 5 }, () => openDriver(filename)), {
        concurrency: "unbounded"
      })
      assert.strictEqual(opened.length, 5)
    }))
})

describe("SQLite file", () => {
  it.effect("does not grow with messages, keys and fates that are gone", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const { driver } = yield* openDriver(filename)
      const sessions = Array.from({ length: 100 }, (_, index) => `session-${index}`)
      for (const session of sessions) yield* openOutbox(driver, session)
      const rounds = 100
      for (let round = 0; round < rounds; round++) {
        yield* driver.append(
          sessions.map((session) => message(session, { count: 20, bytes: 4000, body: "x".repeat(4000) })),
          { writer: "a", sequence: round },
          "b"
        )
      }
      assert.deepStrictEqual(yield* driver.totals, { sessions: 100, messages: 200_000, bytes: 40_000_000 })
      assert.isAbove(sizeOf(filename), 30_000_000)

      const [removed, acked] = [sessions.slice(0, 50), sessions.slice(50)]
      for (const session of removed) assert.isTrue(yield* driver.removeOutbox(session, 20 * rounds))
      const fate = { first: 1, end: 2, reason: "failed", maybeHandled: true, at: 1 } as const
      for (let upTo = 2; upTo <= 20 * rounds; upTo += 666) {
        yield* driver.ack(
          acked.map((session) => ({ session, generation: 1, upTo, fates: [{ ...fate, first: upTo, end: upTo }] }))
        )
      }
      yield* driver.append(
        acked.flatMap((session) =>
          Array.from({ length: 40 }, (_, index) =>
            message(session, {
              publish: {
                scope: session,
                key: `key-${index}`,
                fingerprint: undefined,
                forgottenBefore: 0,
                maxKeys: Infinity
              }
            }))
        ),
        undefined,
        "a"
      )
      yield* driver.ack(acked.map((session) => ({ session, generation: 1, upTo: 20 * rounds + 40, fates: [] })))
      assert.deepStrictEqual(yield* driver.totals, { sessions: 50, messages: 0, bytes: 0 })

      assert.strictEqual(yield* driver.sweepFates(2, 1000), 200)
      assert.strictEqual(yield* driver.sweepKeys(Infinity, Infinity, 3000), 2000)
      assert.isBelow(sizeOf(filename), 2_000_000)
    }))

  it.live("of a killed process has every acknowledged batch, and none in part", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      // Two at once, so that each waits for the other's locks.
      const acknowledged = yield* Effect.all([appendUntilKilled(filename, "a"), appendUntilKilled(filename, "b")], {
        concurrency: "unbounded"
      })
      const { driver, sql } = yield* openDriver(filename)
      assert.deepStrictEqual(yield* sql`PRAGMA integrity_check`.values, [["ok"]])
      const sessions = Array.from({ length: 50 }, (_, index) => `session-${index}`)
      const [first, ...others] = yield* driver.outboxes(sessions)
      assert.strictEqual(others.length, 49)
      assert(first !== undefined)
      // A batch may have been done that there was no time to say so for, by each.
      const said = acknowledged[0] + acknowledged[1]
      assert.isAtLeast(first.last, said)
      assert.isAtMost(first.last, said + 2)
      for (const { last } of others) assert.strictEqual(last, first.last)
      const page = yield* driver.read({ session: "session-7", after: 0, maxChunks: Infinity, maxBytes: Infinity })
      assert.deepStrictEqual(
        page?.chunks.map((chunk) => chunk.first),
        Array.from({ length: first.last }, (_, i) => i + 1)
      )
      assert.deepStrictEqual(yield* driver.totals, {
        sessions: 50,
        messages: 50 * first.last,
        bytes: 50_000 * first.last
      })
    }))

  it.live("can be read while another process writes, which only writers wait for", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const context = yield* Layer.build(SqliteClient.layer({ filename, busyTimeout: 1 }))
      const driver = yield* Effect.provide(makeSqliteDriver(), context)
      const other = new DatabaseSync(filename)
      yield* Effect.addFinalizer(() => Effect.sync(() => other.close()))
      other.exec("BEGIN IMMEDIATE")
      assert.strictEqual((yield* driver.totals).sessions, 0)
      const error = yield* Effect.flip(openOutbox(driver, "s"))
      assert.instanceOf(error, StoreError)
      assert.include(String(error.cause), "locked")
      other.exec("ROLLBACK")
      yield* openOutbox(driver, "s")
    }))
})

/** With its write-ahead log, in bytes. */
const sizeOf = (filename: string): number => statSync(filename).size + statSync(`${filename}-wal`).size

/** Runs a process that appends, kills it after some batches, and says how many it had acknowledged. */
const appendUntilKilled = (filename: string, node: string): Effect.Effect<number> =>
  Effect.flatMap(Effect.promise(() => programPath("sqliteAppender")), (program) =>
    Effect.callback<number>((resume) => {
      const child = spawn(process.execPath, [program, filename, node], { stdio: ["ignore", "pipe", "inherit"] })
      let lines = 0
      child.stdout.setEncoding("utf8")
      child.stdout.on("data", (text: string) => {
        lines += text.split("\n").length - 1
        if (lines >= 25) child.kill("SIGKILL")
      })
      child.on("close", () => resume(Effect.succeed(lines)))
      return Effect.sync(() => void child.kill("SIGKILL"))
    }))
