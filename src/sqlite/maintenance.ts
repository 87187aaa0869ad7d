/**
 * Gives back the space of removed rows: incremental vacuum, checkpoints. Free pages leave the file, and the write-ahead
 * log is moved into it. Both go in short steps, since SQLite runs on the event loop.
 */
import { Effect } from "effect"
import type { DatabaseSync } from "node:sqlite"
import type { Interface } from "./SqliteClient.ts"

/** How many free pages stay for later use: 1 MiB, at 4 KiB each. */
const slackPages = 256

/**
 * How many pages one step gives back, in about two milliseconds; and how many steps run in a row, which makes 256 MiB.
 */
const stepPages = 256
const maxSteps = 256

/** None for a file that others made without `auto_vacuum`: it can only reuse its free pages. */
const freePages = (database: DatabaseSync): number =>
  numberOf(database, "auto_vacuum") === 0 ? 0 : numberOf(database, "freelist_count")

const numberOf = (database: DatabaseSync, pragma: string): number =>
  Number(database.prepare(`PRAGMA ${pragma}`).get()?.[pragma])

/** Tidies up. What others' use of the file prevents now is done next time. */
export const tidy = (client: Interface): Effect.Effect<void> =>
  Effect.gen(function*() {
    // Neither is possible inside a transaction, and skipping it loses nothing.
    if (yield* client.isInTransaction) return
    for (let step = 0; step < maxSteps; step++) {
      const left = yield* client.exclusively("vacuum", (database) => {
        const pages = Math.min(stepPages, freePages(database) - slackPages)
        if (pages > 0) database.exec(`PRAGMA incremental_vacuum(${pages})`)
        return pages > 0
      })
      if (!left) break
      yield* Effect.yieldNow
    }
    yield* client.exclusively("checkpoint", (database) => database.exec("PRAGMA wal_checkpoint(TRUNCATE)"))
  }).pipe(Effect.ignore({ log: "Debug" }))
