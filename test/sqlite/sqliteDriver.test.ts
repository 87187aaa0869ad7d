/** SQLite keeps the laws of store drivers, with two processes on one file, and what only it promises. */
import { Effect, Layer } from "effect"
import { join } from "node:path"
import { SqliteClient } from "resilient-websocket/sqlite"
import { makeSqliteDriver } from "../../src/sqlite/sqliteDriver.ts"
import { driverLaws } from "../support/driverLaws.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const openDriver = Effect.fnUntraced(function*(filename: string, synchronous?: "normal" | "full") {
  const context = yield* Layer.build(SqliteClient.layer({ filename, synchronous }))
  return yield* Effect.provide(makeSqliteDriver(), context)
})

driverLaws(
  "SQLite",
  Effect.gen(function*() {
    const filename = join(yield* temporaryDirectory, "test.db")
    return { driver: yield* openDriver(filename), other: yield* openDriver(filename) }
  })
)
