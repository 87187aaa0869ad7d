/**
 * The driver: `StoreDriver` on SQLite, with one synchronous transaction for each operation. The statements are
 * prepared, and an operation takes no turn of the event loop while it holds the file. If the calling fiber has an open
 * transaction, the operation is part of that one. Servers on the same machine may share the file.
 */
import { Clock, type Duration, Effect, type Scope } from "effect"
import type { DatabaseSync } from "node:sqlite"
import * as Check from "../internal/kit/options.ts"
import { type StoreDriver, StoreError } from "../internal/store/driver.ts"
import type { AppendRequest, Stamp } from "../internal/store/outboxes.ts"
import { Keys } from "./keys.ts"
import { tidy } from "./maintenance.ts"
import { Nodes } from "./nodes.ts"
import { Outboxes } from "./outboxes.ts"
import { preparing } from "./queries.ts"
import { migrate, namesOf } from "./schema.ts"
import { Sessions } from "./sessions.ts"
import { SqliteClient } from "./SqliteClient.ts"
import { Totals } from "./totals.ts"

/**
 * Options of the store's tables, not of the file.
 *
 * @since 0.1.0
 * @category models
 */
export interface DriverOptions {
  /** The prefix of the store's table names. Default `rws_`. */
  readonly tablePrefix?: string | undefined
  /**
   * How often to look for what other processes did in the same file; less often while there are none. Default 10 ms.
   */
  readonly pollInterval?: Duration.Input | undefined
}

const shape: Check.Shape<DriverOptions> = { tablePrefix: Check.text, pollInterval: Check.duration }

/**
 * How often, in ms, a server that is alone with the file looks for news; and after how many rounds it checks whether it
 * still is alone.
 */
const aloneMillis = 250
const roundsAlone = 8

/** Makes the tables if needed, and the driver on them. */
export const makeSqliteDriver = Effect.fnUntraced(function*(
  options: DriverOptions = {}
): Effect.fn.Return<StoreDriver, StoreError, SqliteClient> {
  Check.check(options, shape)
  const { tablePrefix = "rws_" } = options
  const pollMillis = Check.millis("pollInterval", options.pollInterval, 10)
  const client = yield* SqliteClient
  const failed = (operation: string) => (cause: unknown) => new StoreError(operation, cause)

  yield* Effect.mapError(client.atomically("migrate", (database) => migrate(database, tablePrefix)), failed("open"))
  const { keys, nodes, outboxes, sessions, totals } = yield* Effect.mapError(
    client.exclusively("prepare", (database) => statements(database, tablePrefix)),
    failed("open")
  )

  const write = <A>(operation: string, work: () => A): Effect.Effect<A, StoreError> =>
    Effect.mapError(
      client.atomically(operation, () => {
        try {
          const result = work()
          totals.flush()
          return result
        } finally {
          // Drops what failed work has gathered, as it was rolled back.
          totals.forget()
        }
      }),
      failed(operation)
    )
  const read = <A>(operation: string, work: () => A): Effect.Effect<A, StoreError> =>
    Effect.mapError(client.reading(operation, work), failed(operation))

  /** A sweep that removes less than its limit is the last of its round: time to tidy up. */
  const sweep = (operation: string, limit: number, work: () => number) =>
    Effect.tap(write(operation, work), (swept) => swept < limit ? tidy(client) : Effect.void)

  return {
    name: "sqlite",
    clock: Clock.currentTimeMillis,
    history: Effect.succeed("file"),
    transaction: {
      isOpen: client.isInTransaction,
      afterCommit: (effect) =>
        Effect.flatMap(client.isInTransaction, (isOpen) => isOpen ? client.sql.afterCommit(effect) : effect)
    },

    openOutbox: (request) => write("openOutbox", () => outboxes.open(request)),
    append: (requests, stamp, node) => write("append", () => appendOnce(outboxes, nodes, requests, stamp, node)),
    read: (request) => read("read", () => outboxes.read(request)),
    ack: (requests) => write("ack", () => requests.map((request) => outboxes.ack(request))),
    giveUp: (request) => write("giveUp", () => outboxes.giveUp(request)),
    markSent: (request) => write("markSent", () => outboxes.markSent(request)),
    advance: (request) => write("advance", () => outboxes.advance(request)),
    removeOutbox: (session, last, revision) => write("removeOutbox", () => outboxes.remove(session, last, revision)),
    outboxes: (wanted) =>
      read("outboxes", () =>
        wanted.flatMap((session) => {
          const state = outboxes.find(session)
          return state === undefined ? [] : [state]
        })),
    fates: (session, first, end) => read("fates", () => outboxes.fates(session, first, end)),
    sweepFates: (before, limit) => sweep("sweepFates", limit, () => outboxes.sweepFates(before, limit)),
    totals: read("totals", () => {
      const { bytes, messages, outboxes } = totals.sums
      return { sessions: outboxes, messages, bytes }
    }),

    findSession: (id) => read("findSession", () => sessions.find(id)),
    putSession: (row) => write("putSession", () => sessions.put(row)),
    savePositions: (requests) =>
      write("savePositions", () => requests.map((request) => sessions.savePosition(request))),
    deleteSession: (id, tombstone) => write("deleteSession", () => sessions.delete(id, tombstone)),
    wasEnded: (id, at) => read("wasEnded", () => sessions.wasEnded(id, at)),
    detachedBefore: (at, limit) => read("detachedBefore", () => sessions.detachedBefore(at, limit)),
    sessionsOfPrincipal: (principal, limit) =>
      read("sessionsOfPrincipal", () => sessions.ofPrincipal(principal, limit)),
    sessionsOf: (node, limit) => read("sessionsOf", () => sessions.of(node, limit)),
    countSessions: read("countSessions", () => sessions.count()),

    touchNode: (node, at) => write("touchNode", () => nodes.touch(node, at)),
    nodes: read("nodes", () => nodes.all()),
    forgetNode: (node) => write("forgetNode", () => nodes.forget(node)),

    claimKey: (request) => write("claimKey", () => keys.claim(request)),
    renewKey: (claim) => write("renewKey", () => keys.renew(claim)),
    commitKey: (claim) => write("commitKey", () => keys.commit(claim)),
    releaseKey: (claim) => write("releaseKey", () => keys.release(claim)),
    lookupKey: (target, forgottenBefore) => read("lookupKey", () => keys.lookup(target, forgottenBefore)),
    sweepKeys: (forgottenBefore, now, limit) =>
      sweep("sweepKeys", limit, () => keys.sweep(forgottenBefore, now, limit)),
    countKeys: (forgottenBefore, now) => read("countKeys", () => keys.count(forgottenBefore, now)),

    nudge: (node, session) => write("nudge", () => nodes.nudge(node, session)),
    takeNudges: (node, limit) => write("takeNudges", () => nodes.takeNudges(node, limit)),
    watch: (node, listener) => watch(client, nodes, pollMillis, node, listener),
    warnings: Effect.mapError(client.exclusively("look at the settings", warningsOf), failed("warnings"))
  } satisfies StoreDriver
})

/** All prepared statements, by subject. */
const statements = (database: DatabaseSync, tablePrefix: string) => {
  const prepare = preparing(database)
  const names = namesOf(tablePrefix)
  const totals = new Totals(prepare, names)
  const keys = new Keys(prepare, names, totals)
  const nodes = new Nodes(prepare, names)
  return {
    totals,
    keys,
    nodes,
    outboxes: new Outboxes(prepare, names, { keys, nodes, totals }),
    sessions: new Sessions(prepare, names)
  }
}

/** A batch that is repeated does nothing, and has the same results. */
const appendOnce = (
  outboxes: Outboxes,
  nodes: Nodes,
  requests: ReadonlyArray<AppendRequest>,
  stamp: Stamp | undefined,
  node: string
) => {
  const before = stamp && nodes.doneBefore(stamp)
  if (before !== undefined) return before
  const results = requests.map((request) => outboxes.append(request, node))
  if (stamp !== undefined) nodes.noteDone(stamp, results)
  return results
}

const watch = (
  client: SqliteClient["Service"],
  nodes: Nodes,
  pollMillis: number,
  node: string,
  listener: () => void
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.suspend(() => {
    let rounds = 0
    let isAlone = false
    const look = client.glance("watch", () => {
      if (rounds++ % roundsAlone === 0) isAlone = nodes.isOnly(node)
      return nodes.hasNudges(node)
    })
    const tell = Effect.map(look, (isNudged) => {
      if (isNudged) listener()
    })
    // A file that can't be read now is read again in the next round.
    const round = Effect.suspend(() =>
      Effect.andThen(Effect.sleep(isAlone ? Math.max(pollMillis, aloneMillis) : pollMillis), Effect.ignore(tell))
    )
    return Effect.asVoid(Effect.forkScoped(Effect.forever(round), { startImmediately: true }))
  })

const warningsOf = (database: DatabaseSync): ReadonlyArray<string> => {
  const mode = String(database.prepare("PRAGMA journal_mode").get()?.["journal_mode"])
  if (mode === "wal") return []
  return [
    mode === "memory"
      ? "the SQLite database is in memory: nothing outlives the process"
      : `the SQLite file is in journal mode ${mode}, since WAL can't be had where it is: slower, and readers wait`
  ]
}
