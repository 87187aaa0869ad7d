/** The ends of stored sessions: when their retention is over, at once, and those of dead servers. */
import { Effect } from "effect"
import type { StoreError } from "./driver.ts"
import type { RegistryParts } from "./registryParts.ts"
import type { SessionRow } from "./sessions.ts"

export interface SessionEndsOptions {
  readonly retentionMillis: number
  /** How long after its last sign of life a node is remembered. */
  readonly forgetMillis: number
}

/** How many sessions one sweep takes at most. */
const sweepSize = 256
/** A server that ends a session has this long for it before another server is asked to. */
const endingMillis = 30_000
/** A hundred years. "For ever" needs a number, so that an end has a time. */
const longestMillis = 100 * 365 * 86_400_000
/** A tombstone is kept for the session's retention, within these bounds. */
const leastTombstoneMillis = 120_000
const mostTombstoneMillis = 86_400_000

export const makeSessionEnds = (parts: RegistryParts, { forgetMillis, retentionMillis }: SessionEndsOptions) => {
  const { call, count, driver, members, own, rows: { findNewest, update }, written } = parts
  const { now, steady } = members
  const kept = Math.min(retentionMillis, longestMillis)
  const tombstoneMillis = Math.min(Math.max(kept, leastTombstoneMillis), mostTombstoneMillis)
  const sweepMillis = Math.min(5_000, Math.max(100, retentionMillis / 20))
  /** Sessions being removed because their time was over: servers that once had them forget them by themselves. */
  const overdue = new Set<string>()
  let sweptAt = steady()

  const bury = (session: string): Effect.Effect<boolean, StoreError> =>
    Effect.suspend(() => {
      const until = now() + (overdue.delete(session) ? leastTombstoneMillis : tombstoneMillis)
      return call("deleteSession", driver.deleteSession(session, { at: now(), until }))
    })

  /** From here on nobody attaches to it, and its owner is fenced. It is due again if it is not removed in time. */
  const ended = (row: SessionRow): Omit<SessionRow, "revision"> => ({
    ...row,
    generation: row.ending ? row.generation : row.generation + 1,
    ending: true,
    node: undefined,
    wantedBy: undefined,
    detachedAt: now() - kept + endingMillis
  })

  /** For sessions of a dead node, retention begins when the node was last seen. */
  const sweepDead = Effect.gen(function*() {
    for (const [dead, seenAt] of yield* members.dead) {
      const rows = yield* call("sessionsOf", driver.sessionsOf(dead, sweepSize))
      yield* Effect.forEach(rows, ({ id }) =>
        Effect.flatMap(
          update(
            id,
            (row) => row.node === dead ? { ...row, node: undefined, detachedAt: row.detachedAt ?? seenAt } : undefined
          ),
          // If the node lives after all, it takes its sessions back.
          (row) => row === undefined ? Effect.void : members.nudge(dead, id)
        ), { concurrency: 16, discard: true })
      // More than fit into one sweep: the next tick goes on.
      if (rows.length === sweepSize) sweptAt = -Infinity
      // Until then the dead node's appends may still be retried, so their stamps must be kept.
      else if (seenAt < now() - forgetMillis) yield* call("forgetNode", driver.forgetNode(dead))
    }
  })

  /** Marks sessions whose time is over as ending, and returns them. */
  const expire = Effect.gen(function*(): Effect.fn.Return<ReadonlyArray<string>, StoreError> {
    if (steady() - sweptAt < sweepMillis) return []
    sweptAt = steady()
    overdue.clear() // earlier ones are removed by now, or others will do it
    written.sweep()
    yield* sweepDead
    const due = now() - kept
    const found: Array<string> = []
    const rows = yield* call("detachedBefore", driver.detachedBefore(due, sweepSize))
    // More than fit into one sweep: the next tick goes on.
    if (rows.length === sweepSize) sweptAt = -Infinity
    yield* Effect.forEach(rows, ({ id }) =>
      Effect.map(
        update(id, (row) => row.detachedAt !== undefined && row.detachedAt <= due ? ended(row) : undefined),
        (row) => {
          if (row === undefined) return
          overdue.add(id)
          found.push(id)
        }
      ), { concurrency: 16, discard: true })
    return found
  })

  return {
    expire,

    /** A session that the store has lost is ended all the same, so that nobody puts it back. */
    end: (session: string): Effect.Effect<boolean, StoreError> =>
      Effect.flatMap(
        Effect.andThen(findNewest(session), update(session, ended)),
        (row) => row === undefined ? Effect.as(bury(session), false) : Effect.succeed(true)
      ),

    expireNow: (session: string, generation: number): Effect.Effect<boolean, StoreError> =>
      Effect.map(
        update(session, (row) => row.generation === generation && !row.ending ? ended(row) : undefined),
        (row) => {
          if (row !== undefined) overdue.add(session)
          return row !== undefined
        }
      ),

    remove: (session: string): Effect.Effect<boolean, StoreError> =>
      Effect.suspend(() => {
        own.forget(session)
        written.forget(session)
        return Effect.map(bury(session), (isRemoved) => {
          if (isRemoved) count.removed()
          return isRemoved
        })
      })
  }
}
