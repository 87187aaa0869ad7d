/**
 * Gives the space of removed rows back: incremental vacuum, checkpoints. Free pages leave the file, and the write-ahead
 * log goes into it. Both in short steps, since SQLite works on the event loop.
 */
import { Effect } from "effect"
import type { DatabaseSync } from "node:sqlite"
import type { Interface } from "./SqliteClient.ts"

/** Free pages that may stay for later use: 1 MiB, at 4 KiB each. */
const slackPages = 256

/** Pages that one step gives back, in about two milliseconds; and steps in a row, which makes 256 MiB. */
const stepPages = 256
const maxSteps = 256

/** A file that others made without `auto_vacuum` only reuses its free pages; then there is nothing to do. */
const freePages = (database: DatabaseSync): number =>
  numberOf(database, "auto_vacuum") === 0 ? 0 : numberOf(database, "freelist_count")

const numberOf = (database: DatabaseSync, pragma: string): number =>
  Number(database.prepare(`PRAGMA ${pragma}`).get()?.[pragma])

/** What can't be done now because others use the file is done next time. */
export const tidy = (client: Interface): Effect.Effect<void> =>
  Effect.gen(function*() {
    // Neither is possible inside of a transaction, and skipping it loses nothing.
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
