/** What becomes of an SQLite database whose files are taken away while it is open, or whose log can't be taken in. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import { renameSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { SqliteClient } from "resilient-websocket/sqlite"
import { FileWatch } from "../../src/sqlite/fileWatch.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const open = Effect.gen(function*() {
  const lines: Array<string> = []
  const log = Logger.make<unknown, void>(({ message }) => void lines.push(String(message)))
  const filename = join(yield* temporaryDirectory, "store.db")
  const context = yield* Layer.build(SqliteClient.layer({ filename })).pipe(Effect.provide(Logger.layer([log])))
  const client = Context.get(context, SqliteClient.SqliteClient)
  yield* client.atomically("make", (database) => database.exec("CREATE TABLE t (a BLOB)"))
  const insert = client.atomically("insert", (database) => database.exec("INSERT INTO t VALUES (randomblob(1000000))"))
  yield* TestClock.adjust("1 second")
  return { filename, insert, lines }
})

describe("a database that is open", () => {
  it.effect.each<[string, (filename: string) => void, RegExp]>([
    ["deleted", (file) => rmSync(file), /is gone/],
    ["moved", (file) => renameSync(file, `${file}.old`), /is gone/],
    ["replaced", (file) => {
      writeFileSync(`${file}.new`, "x".repeat(8_192))
      renameSync(`${file}.new`, file)
    }, /replaced/],
    ["cut", (file) => truncateSync(file, 0), /has been cut/],
    ["without its log", (file) => rmSync(`${file}-wal`), /store\.db-wal.* is gone/],
    ["without its index", (file) => rmSync(`${file}-shm`), /store\.db-shm.* is gone/]
  ])("takes nothing any more when it was %s, and says so once", ([, harm, said]) =>
    Effect.gen(function*() {
      const { filename, insert, lines } = yield* open
      harm(filename)
      yield* TestClock.adjust("5 seconds")
      const error = yield* Effect.flip(insert)
      assert.match(String(error.reason.cause), said)
      assert.strictEqual(lines.filter((line) => said.test(line)).length, 1)
    }))

  it.effect.each<[string, (path: string) => string]>([
    ["an absolute path", (path) => `file:${path}?cache=private`],
    ["a host", (path) => `file://${path}`],
    ["escapes", (path) => `file:${path.replace("store", "%73tore")}`]
  ])("is looked after by the URI that it was opened by, too: with %s", ([, uriOf]) =>
    Effect.gen(function*() {
      const path = join(yield* temporaryDirectory, "store.db")
      const context = yield* Layer.build(SqliteClient.layer({ filename: uriOf(path) }))
      const client = Context.get(context, SqliteClient.SqliteClient)
      const make = client.atomically("make", (database) => database.exec("CREATE TABLE IF NOT EXISTS t (a)"))
      yield* make
      yield* TestClock.adjust("1 second")
      rmSync(path)
      yield* TestClock.adjust("1 second")
      assert.match(String((yield* Effect.flip(make)).reason.cause), /is gone/)
    }))

  it.effect("in memory has no file to look after, whatever it is called", () =>
    Effect.gen(function*() {
      for (const filename of [":memory:", "file::memory:", "file:/nowhere/store.db?mode=memory"]) {
        assert.isUndefined(new FileWatch(filename).look())
        const context = yield* Layer.build(SqliteClient.layer({ filename }))
        const client = Context.get(context, SqliteClient.SqliteClient)
        yield* TestClock.adjust("5 seconds")
        yield* client.atomically("make", (database) => database.exec("CREATE TABLE t (a)"))
      }
    }))

  it.effect("goes on when its file has been put back", () =>
    Effect.gen(function*() {
      const { filename, insert } = yield* open
      renameSync(filename, `${filename}.old`)
      yield* TestClock.adjust("1 second")
      yield* Effect.flip(insert)
      renameSync(`${filename}.old`, filename)
      yield* TestClock.adjust("1 second")
      yield* insert
    }))

  it.effect("tells of a log that grows because somebody reads, once each time that it has doubled", () =>
    Effect.gen(function*() {
      const { filename, insert, lines } = yield* open
      yield* insert
      const reader = new DatabaseSync(filename)
      yield* Effect.addFinalizer(() => Effect.sync(() => reader.close()))
      reader.exec("BEGIN")
      reader.prepare("SELECT count(*) FROM t").get()
      for (let i = 0; i < 80; i++) {
        yield* insert
        yield* TestClock.adjust("1 second")
      }
      assert.strictEqual(lines.filter((line) => /write-ahead log .* MiB/.test(line)).length, 1)
    }))
})
