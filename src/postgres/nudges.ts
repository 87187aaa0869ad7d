/** How servers tell each other what they did: rows to look at, and notifications that there are some. */
import { Deferred, Effect, Random } from "effect"
import { createHash } from "node:crypto"
import type { StoreDriver } from "../internal/store/driver.ts"
import { after, type Database } from "./connection.ts"
import * as Values from "./values.ts"

type Nudges = Pick<StoreDriver, "nudge" | "takeNudges" | "watch">

/**
 * Pauses in ms, the first and the longest: before reconnecting, and before looking for nudges that could not be taken.
 */
const reconnecting = { first: 100, most: 5_000 }
const leftBehind = { first: 20, most: 1_000 }

/** The channel that a node listens to; the same as `channel_of` in the database. */
const channelOf = (schema: string, node: string): string =>
  `rws_${createHash("sha256").update(`${schema}/${node}`).digest("hex").slice(0, 40)}`

export const makeNudges = (database: Database): Nudges => {
  const { schema } = database
  const watchers = new Set<Watcher>()

  return {
    nudge: (node, session) =>
      database.query("nudge", {
        sql: `SELECT ${schema}.add_nudges(${Values.places(2)})`,
        parameters: () => [Values.texts([node]), Values.texts([session])],
        decode: () => undefined
      }),

    takeNudges: (node, limit) =>
      database.query("takeNudges", {
        sql: `SELECT taken, more FROM ${schema}.take_nudges(${Values.places(2)})`,
        parameters: () => [Values.text(node), Values.number(limit)],
        decode: (rows) => {
          const [taken, more] = Values.onlyRow(rows)
          const sessions = Values.toArray(taken).map(Values.toText)
          const isLocked = Values.toBoolean(more) && sessions.length < limit
          for (const watcher of watchers) if (watcher.node === node) watcher.tookAll(!isLocked)
          return sessions
        }
      }),

    watch: Effect.fnUntraced(function*(node, listener) {
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          const watcher = new Watcher(node, listener)
          watchers.add(watcher)
          return watcher
        }),
        (watcher) =>
          Effect.sync(() => {
            watchers.delete(watcher)
            watcher.tookAll(true)
          })
      )
      const tried = Deferred.makeUnsafe<void>()
      let pause = reconnecting.first
      const begun = Effect.suspend(() => {
        pause = reconnecting.first
        return Deferred.succeed(tried, undefined)
      })
      const listening = Effect.catch(
        database.listen(channelOf(schema, node), listener, begun),
        (error) =>
          Effect.gen(function*() {
            if (pause === reconnecting.first) {
              const reason = error.cause instanceof Error ? error.cause.message : String(error.cause)
              yield* Effect.logWarning(`PostgreSQL sends no notifications, until it can be reached again: ${reason}`)
            }
            yield* Deferred.succeed(tried, undefined)
            yield* after(pause * (0.5 + (yield* Random.next) / 2))
            pause = Math.min(2 * pause, reconnecting.most)
          })
      )
      yield* Effect.forkScoped(Effect.forever(listening))
      // From here on nothing is missed, if the server can be reached at all.
      yield* Deferred.await(tried)
    })
  }
}

/**
 * Nudges that an open transaction adds again can't be taken before it ends. Its end notifies nobody, since the rows
 * existed before, so this looks again after a while.
 */
class Watcher {
  readonly node: string
  private readonly listener: () => void
  private timer: NodeJS.Timeout | undefined
  private pause = leftBehind.first

  constructor(node: string, listener: () => void) {
    this.node = node
    this.listener = listener
  }

  tookAll(all: boolean): void {
    if (all) {
      clearTimeout(this.timer)
      this.timer = undefined
      this.pause = leftBehind.first
    } else if (this.timer === undefined) {
      this.timer = setTimeout(() => {
        this.timer = undefined
        this.listener()
      }, this.pause)
      this.pause = Math.min(2 * this.pause, leftBehind.most)
    }
  }
}
