import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { existsSync, mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { SqliteClient } from "resilient-websocket/sqlite"
import * as H from "../support/harness.ts"
import { temporaryDirectory } from "../support/temporary.ts"

/** A client on a file, and the file's name. */
const open = Effect.fnUntraced(function*(options?: Partial<SqliteClient.Options>) {
  const filename = options?.filename ?? join(yield* temporaryDirectory, "test.db")
  const context = yield* Layer.build(SqliteClient.layer({ ...options, filename }))
  const [client, sql] = yield* Effect.provide(
    Effect.all([SqliteClient.SqliteClient, SqlClient.SqlClient]),
    context
  )
  return { client, sql, filename }
})

const withTable = Effect.fnUntraced(function*(options?: Partial<SqliteClient.Options>) {
  const opened = yield* open(options)
  yield* opened.sql`CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b TEXT, c TEXT UNIQUE) STRICT`
  const all = Effect.map(
    opened.sql<{ readonly a: number }>`SELECT a FROM t ORDER BY a`,
    (rows) => rows.map(({ a }) => a)
  )
  return { ...opened, all }
})

/** Synchronous work: several rows, one after the other. */
const insert = (client: SqliteClient.Interface, ...values: ReadonlyArray<number>) =>
  client.atomically("insert", (database) => {
    const statement = database.prepare("INSERT INTO t (a) VALUES (?)")
    for (const value of values) statement.run(value)
  })

/** Another process, as far as SQLite can tell: a connection of its own. */
const otherProcess = (filename: string) =>
  Effect.acquireRelease(
    Effect.sync(() => new DatabaseSync(filename)),
    (database) => Effect.sync(() => database.close())
  )

describe("SqliteClient", () => {
  it.effect("runs statements of Effect's SqlClient", () =>
    Effect.gen(function*() {
      const { sql } = yield* withTable()
      yield* sql`INSERT INTO t ${sql.insert([{ a: 1, b: "x" }, { a: 2, b: "it's" }])}`
      assert.deepStrictEqual(yield* sql`SELECT a, b FROM t ORDER BY a`.values, [[1, "x"], [2, "it's"]])
      assert.strictEqual((yield* sql`SELECT * FROM t WHERE b = ${null}`).length, 0)
      const rows = yield* sql<{ readonly flag: number }>`SELECT ${true} AS flag`
      assert.strictEqual(rows[0]?.flag, 1)
      const big = yield* Effect.provideService(
        sql<{ readonly n: bigint }>`SELECT 9223372036854775807 AS n`,
        SqlClient.SafeIntegers,
        true
      )
      assert.strictEqual(big[0]?.n, 9223372036854775807n)
    }))

  it.effect("streams rows, and frees the connection when the stream is left early", () =>
    Effect.gen(function*() {
      const { sql } = yield* withTable()
      const thousand = sql<{ readonly n: number }>`
        WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000) SELECT n FROM c`
      const all = yield* Stream.runCollect(thousand.stream)
      assert.strictEqual(all.length, 1000)
      assert.strictEqual(all[999]?.n, 1000)
      const two = yield* Stream.runCollect(Stream.take(thousand.stream, 2))
      assert.deepStrictEqual(two.map(({ n }) => n), [1, 2])
      yield* sql`INSERT INTO t (a) VALUES (1)`
      const failed = yield* Effect.flip(Stream.runCollect(sql`SELECT * FROM nowhere`.stream))
      assert.include(failed.message, "no such table")
    }))

  it.effect("keeps only so many prepared statements", () =>
    Effect.gen(function*() {
      const { sql } = yield* withTable()
      for (let round = 0; round < 2; round++) {
        for (let i = 0; i < 600; i++) yield* sql.unsafe(`SELECT ${i}`)
      }
    }))

  it.effect("commits a transaction that succeeds and rolls back one that fails, dies or is interrupted", () =>
    Effect.gen(function*() {
      const { all, sql } = yield* withTable()
      yield* sql.withTransaction(sql`INSERT INTO t (a) VALUES (1)`)
      yield* sql.withTransaction(Effect.andThen(sql`INSERT INTO t (a) VALUES (2)`, Effect.fail("no"))).pipe(
        Effect.exit
      )
      yield* sql.withTransaction(Effect.andThen(sql`INSERT INTO t (a) VALUES (3)`, Effect.die("no"))).pipe(Effect.exit)
      const inserted = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(sql.withTransaction(
        sql`INSERT INTO t (a) VALUES (4)`.pipe(
          Effect.andThen(Deferred.succeed(inserted, void 0)),
          Effect.andThen(Effect.never)
        )
      ))
      yield* Deferred.await(inserted)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* all, [1])
    }))

  it.effect("rolls back a nested transaction to its savepoint", () =>
    Effect.gen(function*() {
      const { all, sql } = yield* withTable()
      yield* sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO t (a) VALUES (1)`
        yield* Effect.exit(sql.withTransaction(Effect.andThen(sql`INSERT INTO t (a) VALUES (2)`, Effect.fail("no"))))
        yield* sql.withTransaction(sql`INSERT INTO t (a) VALUES (3)`)
      }))
      assert.deepStrictEqual(yield* all, [1, 3])
    }))

  it.effect("runs afterCommit once the commit is visible, and not after a rollback", () =>
    Effect.gen(function*() {
      const { all, sql } = yield* withTable()
      const seen: Array<ReadonlyArray<number>> = []
      const look = Effect.orDie(Effect.map(all, (rows) => void seen.push(rows)))
      yield* sql.withTransaction(Effect.andThen(sql`INSERT INTO t (a) VALUES (1)`, sql.afterCommit(look)))
      yield* Effect.exit(sql.withTransaction(Effect.andThen(sql.afterCommit(look), Effect.fail("no"))))
      assert.deepStrictEqual(seen, [[1]])
    }))

  it.effect("gives a transaction the connection alone", () =>
    Effect.gen(function*() {
      const { all, client, sql } = yield* withTable()
      const go = yield* Deferred.make<void>()
      const begun = yield* Deferred.make<void>()
      const transaction = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO t (a) VALUES (1)`
        yield* Deferred.succeed(begun, void 0)
        yield* Deferred.await(go)
        return yield* Effect.fail("no")
      })))
      yield* Deferred.await(begun)
      const reader = yield* Effect.forkChild(all, { startImmediately: true })
      const writer = yield* Effect.forkChild(insert(client, 2), {
        startImmediately: true
      })
      yield* Deferred.succeed(go, void 0)
      yield* Effect.exit(Fiber.join(transaction))
      assert.deepStrictEqual(yield* Fiber.join(reader), [])
      yield* Fiber.join(writer)
      assert.deepStrictEqual(yield* all, [2])
    }))

  it.effect("does synchronous work as one transaction, or as part of the fiber's own", () =>
    Effect.gen(function*() {
      const { all, client, sql } = yield* withTable()
      const two = (a: number) => insert(client, a, a + 1)
      yield* two(1)
      const clash = yield* Effect.flip(two(0))
      assert.strictEqual(clash.reason._tag, "ConstraintError")
      assert.deepStrictEqual(yield* all, [1, 2])
      assert.isFalse(yield* client.isInTransaction)

      yield* Effect.exit(sql.withTransaction(Effect.gen(function*() {
        assert.isTrue(yield* client.isInTransaction)
        yield* two(5)
        return yield* Effect.fail("no")
      })))
      assert.deepStrictEqual(yield* all, [1, 2])

      yield* sql.withTransaction(Effect.gen(function*() {
        yield* two(5)
        yield* Effect.flip(two(6))
        yield* two(7)
      }))
      assert.deepStrictEqual(yield* all, [1, 2, 5, 6, 7, 8])
    }))

  it.effect("does not take a fiber that outlives its transaction for being inside", () =>
    Effect.gen(function*() {
      const { all, client, sql } = yield* withTable()
      const over = yield* Deferred.make<void>()
      const fiber = yield* sql.withTransaction(Effect.forkDetach(Effect.gen(function*() {
        yield* Deferred.await(over)
        assert.isFalse(yield* client.isInTransaction)
        yield* insert(client, 1)
        const late = yield* Effect.flip(sql`INSERT INTO t (a) VALUES (2)`)
        assert.include(late.message, "has ended")
      })))
      yield* Deferred.succeed(over, void 0)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* all, [1])
    }))
})

describe("SqliteClient beside other processes", () => {
  it.effect("waits for a lock without stopping the event loop, and goes on when it is free", () =>
    Effect.gen(function*() {
      const { all, client, filename, sql } = yield* withTable()
      const other = yield* otherProcess(filename)
      other.exec("BEGIN IMMEDIATE; INSERT INTO t (a) VALUES (1)")
      const writers = yield* Effect.forEach([
        insert(client, 2),
        sql`INSERT INTO t (a) VALUES (3)`,
        sql.withTransaction(sql`INSERT INTO t (a) VALUES (4)`)
      ], (write) => Effect.forkChild(Effect.asVoid(write), { startImmediately: true }))
      yield* TestClock.adjust(500)
      for (const writer of writers) assert.isUndefined(writer.pollUnsafe())
      other.exec("COMMIT")
      // Each waits its turn, and then for its next look at the lock.
      yield* TestClock.adjust(500)
      yield* Effect.forEach(writers, (writer) => Fiber.join(writer))
      assert.deepStrictEqual(yield* all, [1, 2, 3, 4])
    }))

  it.effect("fails with a typed error when the lock is held for longer than the busy timeout", () =>
    Effect.gen(function*() {
      const { all, filename, sql } = yield* withTable({ busyTimeout: "1 second" })
      const other = yield* otherProcess(filename)
      other.exec("BEGIN IMMEDIATE")
      const writer = yield* Effect.forkChild(Effect.flip(sql`INSERT INTO t (a) VALUES (3)`), { startImmediately: true })
      yield* TestClock.adjust(900)
      assert.isUndefined(writer.pollUnsafe())
      yield* TestClock.adjust(200)
      const error = yield* Fiber.join(writer)
      assert.strictEqual(error.reason._tag, "LockTimeoutError")
      assert.isTrue(error.isRetryable)
      other.exec("ROLLBACK")
      yield* sql`INSERT INTO t (a) VALUES (4)`
      assert.deepStrictEqual(yield* all, [4])
    }))

  it.effect("can be interrupted while it waits to begin a transaction", () =>
    Effect.gen(function*() {
      const { all, filename, sql } = yield* withTable()
      const other = yield* otherProcess(filename)
      other.exec("BEGIN IMMEDIATE")
      const waiting = yield* Effect.forkChild(sql.withTransaction(sql`INSERT INTO t (a) VALUES (1)`), {
        startImmediately: true
      })
      yield* TestClock.adjust(50)
      yield* Fiber.interrupt(waiting)
      other.exec("COMMIT")
      yield* sql.withTransaction(sql`INSERT INTO t (a) VALUES (2)`)
      assert.deepStrictEqual(yield* all, [2])
    }))

  it.effect("does not retry a transaction whose snapshot is too old to write", () =>
    Effect.gen(function*() {
      const { filename, sql } = yield* withTable()
      const other = yield* otherProcess(filename)
      const stale = sql.withTransaction(Effect.gen(function*() {
        yield* sql`SELECT * FROM t`
        other.exec("INSERT INTO t (a) VALUES (1)")
        yield* sql`INSERT INTO t (a) VALUES (2)`
      })).pipe(Effect.provideService(SqlClient.BeginTransaction, "BEGIN"))
      const error = yield* Effect.flip(stale)
      assert.strictEqual(error.reason._tag, "LockTimeoutError")
    }))

  it.effect("lets nobody write between what a transaction reads and writes", () =>
    Effect.gen(function*() {
      const { client, filename, sql } = yield* withTable()
      const other = yield* otherProcess(filename)
      const tryToWrite = () => assert.throws(() => other.exec("INSERT INTO t (a) VALUES (1)"), /locked/)
      yield* client.atomically("look", tryToWrite)
      yield* sql.withTransaction(Effect.sync(tryToWrite))
    }))

  it.effect("shows one state of the database to work that reads, while others write", () =>
    Effect.gen(function*() {
      const { all, client, filename } = yield* withTable()
      const other = yield* otherProcess(filename)
      const counts = yield* client.reading("look", (database) => {
        const count = () => database.prepare("SELECT count(*) AS n FROM t").get()?.["n"]
        const before = count()
        other.exec("INSERT INTO t (a) VALUES (1)")
        return [before, count()]
      })
      assert.deepStrictEqual(counts, [0, 0])
      assert.deepStrictEqual(yield* all, [1])
    }))

  it.effect("sees what others wrote", () =>
    Effect.gen(function*() {
      const { all, filename, sql } = yield* withTable()
      const second = yield* withTable({ filename })
      yield* sql`INSERT INTO t (a) VALUES (1)`
      assert.deepStrictEqual(yield* second.all, [1])
      yield* second.sql`INSERT INTO t (a) VALUES (2)`
      assert.deepStrictEqual(yield* all, [1, 2])
    }))
})

describe("SqliteClient's failures", () => {
  const failsToOpen = (filename: string) => Effect.flip(Effect.scoped(open({ filename })))

  it.effect("say why a file can't be opened", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const missing = yield* failsToOpen(join(directory, "nowhere", "test.db"))
      assert.include(missing.message, "unable to open database file")
      const folder = join(directory, "folder.db")
      mkdirSync(folder)
      assert.include((yield* failsToOpen(folder)).message, "unable to open database file")
      const corrupt = join(directory, "corrupt.db")
      writeFileSync(corrupt, "this is a text, and much longer than the header of a database. ".repeat(100))
      const error = yield* failsToOpen(corrupt)
      assert.strictEqual(error._tag, "SqlError")
      assert.include(error.message, "file is not a database")
    }))

  it.effect("are defects when the options are wrong", () =>
    Effect.gen(function*() {
      assert.include((yield* H.mistake(Effect.scoped(open({ busyTimeout: 0 })))).message, "busyTimeout")
    }))

  it.effect("are typed when the file is read only", () =>
    Effect.gen(function*() {
      const { sql } = yield* withTable()
      yield* sql`PRAGMA query_only = ON`
      const error = yield* Effect.flip(sql.withTransaction(sql`INSERT INTO t (a) VALUES (1)`))
      assert.include(error.message, "readonly")
    }))

  it.effect("are typed for constraints and mistakes in SQL", () =>
    Effect.gen(function*() {
      const { sql } = yield* withTable()
      yield* sql`INSERT INTO t (a, c) VALUES (1, 'x')`
      const unique = yield* Effect.flip(sql`INSERT INTO t (c) VALUES ('x')`)
      assert.strictEqual(unique.reason._tag, "UniqueViolation")
      const type = yield* Effect.flip(sql`INSERT INTO t (b) VALUES (${new Uint8Array([1])})`)
      assert.strictEqual(type.reason._tag, "ConstraintError")
      assert.include((yield* Effect.flip(sql`SELEC 1`)).message, "syntax error")
      assert.include((yield* Effect.flip(sql`SELECT ${{ no: "object" }}`)).message, "can't store")
    }))

  it.effect("on a full disk roll everything back, and commit nothing that follows in the transaction", () =>
    Effect.gen(function*() {
      const { all, client, sql } = yield* withTable()
      yield* sql`INSERT INTO t (a) VALUES (1)`
      const [pages] = yield* sql<{ readonly page_count: number }>`PRAGMA page_count`
      yield* sql.unsafe(`PRAGMA max_page_count = ${(pages?.page_count ?? 0) + 20}`)
      const huge = sql`INSERT INTO t (b) VALUES (${"x".repeat(400_000)})`
      const full = yield* Effect.flip(huge)
      assert.include(full.message, "full")
      const work = yield* Effect.flip(
        client.atomically(
          "insert",
          (database) => database.prepare("INSERT INTO t (b) VALUES (?)").run("x".repeat(400_000))
        )
      )
      assert.include(work.message, "full")

      // Whether SQLite ended the transaction or only the statement, it is all or nothing.
      const exit = yield* Effect.exit(sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO t (a) VALUES (2)`
        yield* Effect.flip(huge)
        yield* sql`INSERT INTO t (a) VALUES (3)`
      })))
      assert.deepStrictEqual(yield* all, Exit.isSuccess(exit) ? [1, 2, 3] : [1])
      yield* sql`DELETE FROM t`
      assert.deepStrictEqual(yield* all, [])
    }))

  it.effect("of a transaction that SQLite ended by itself are told, and the connection goes on", () =>
    Effect.gen(function*() {
      const { all, client, sql } = yield* withTable()
      // The one way to have SQLite end a transaction at will.
      yield* sql`CREATE TRIGGER ends BEFORE INSERT ON t WHEN new.a = 13 BEGIN SELECT RAISE(ROLLBACK, 'ended'); END`
      const lost = yield* Effect.flip(sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO t (a) VALUES (1)`
        yield* Effect.exit(sql.withTransaction(sql`INSERT INTO t (a) VALUES (13)`))
        const work = yield* Effect.orDie(Effect.flip(insert(client, 2)))
        assert.include(work.message, "rolled back")
        const late = yield* Effect.orDie(Effect.flip(sql`INSERT INTO t (a) VALUES (3)`))
        assert.include(late.message, "rolled back")
      })))
      assert.include(lost.message, "rolled back")
      yield* sql`INSERT INTO t (a) VALUES (4)`
      assert.deepStrictEqual(yield* all, [4])
    }))

  it.effect("after the scope closed are typed, and the file is whole", () =>
    Effect.gen(function*() {
      const filename = join(yield* temporaryDirectory, "test.db")
      const { client, sql } = yield* Effect.scoped(Effect.tap(
        withTable({ filename }),
        ({ sql }) => sql`INSERT INTO t (a) VALUES (1)`
      ))
      assert.isFalse(existsSync(`${filename}-wal`))
      assert.include((yield* Effect.flip(sql`SELECT 1`)).message, "not open")
      assert.include((yield* Effect.flip(client.atomically("look", () => 1))).message, "not open")
      const again = yield* withTable({ filename })
      assert.deepStrictEqual(yield* again.all, [1])
    }))
})
