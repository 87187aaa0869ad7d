/**
 * A process that appends batch after batch to an SQLite file, a message to each of fifty sessions at a time, and writes
 * a line for each batch that was acknowledged. It ends by being killed.
 */
import { Effect } from "effect"
import { writeSync } from "node:fs"
import * as SqliteClient from "../../src/sqlite/SqliteClient.ts"
import { makeSqliteDriver } from "../../src/sqlite/sqliteDriver.ts"

const [filename = "", node = ""] = process.argv.slice(2)
const sessions = Array.from({ length: 50 }, (_, index) => `session-${index}`)

const program = Effect.gen(function*() {
  const driver = yield* makeSqliteDriver()
  for (const session of sessions) {
    yield* driver.openOutbox({ session, generation: 1, node: "other", newEpoch: `epoch of ${session}` })
  }
  for (let sequence = 1;; sequence++) {
    const batch = sessions.map((session) => ({
      session,
      count: 1,
      bytes: 1000,
      enqueuedAt: Date.now(),
      expiresAt: Infinity,
      body: "x".repeat(1000),
      maxMessages: Infinity,
      maxBytes: Infinity,
      publish: undefined
    }))
    yield* driver.append(batch, { writer: `${node}/1`, sequence }, node)
    writeSync(1, `${sequence}\n`)
    // Lets others have the file, as a server would whose messages come now and then.
    yield* Effect.sleep(1)
  }
})

const layer = SqliteClient.layer({ filename })
Effect.runFork(Effect.provide(program, layer))
