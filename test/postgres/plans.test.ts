/**
 * The statements find their rows by indexes: also when their plans were made while the tables were empty, and nobody
 * has gathered statistics since.
 */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import { describeWithPostgres, newSchema, processOn } from "../support/postgresServer.ts"

const T = 1_800_000_000_000

/** Everything that servers do often, and all sweeps; `totals` and other counts of everything do read everything. */
const everyOperation = (driver: StoreDriver, round: number) =>
  Effect.gen(function*() {
    const sessions = Array.from({ length: 20 }, (_, at) => `s${at * 7 + 1}`)
    const [session = ""] = sessions
    for (const each of sessions) yield* driver.openOutbox({ session: each, generation: 1, node: "n", newEpoch: "e" })
    const requests = sessions.map((session, at) => ({
      session,
      count: 2,
      bytes: 10,
      enqueuedAt: T,
      expiresAt: Infinity,
      body: "[]",
      maxMessages: 1e9,
      maxBytes: 1e9,
      publish: at > 3
        ? undefined
        : { scope: "s", key: `${round}/${at}`, fingerprint: undefined, forgottenBefore: 0, maxKeys: 1e9 }
    }))
    yield* driver.append(requests, { writer: "w", sequence: round }, "other")
    const [state] = yield* driver.outboxes(sessions)
    assert.isDefined(state)
    const { last = 0, revision = 0 } = state ?? {}
    yield* driver.giveUp({
      session,
      revision,
      generation: 1,
      removeGaps: [],
      addGaps: [{ first: last, end: last, reason: "expired" }],
      removeChunks: [],
      fates: [{ first: last, end: last, reason: "expired", maybeHandled: false, at: round }],
      expiresAt: undefined
    })
    yield* driver.read({ session, after: last - 2, maxChunks: 10, maxBytes: 1000 })
    yield* driver.ack(sessions.map((session) => ({ session, generation: 1, upTo: last - 1, fates: [] })))
    yield* driver.markSent({ session, generation: 1, revision: revision + 1, sent: last })
    yield* driver.advance({ session, generation: 1, last: last + 1, at: 0 })
    yield* driver.fates(session, 1, last)
    yield* driver.sweepFates(round, 10)
    yield* driver.removeOutbox(`s${500 + round}`, 1e9)
    const row = yield* driver.findSession(session)
    yield* driver.putSession({
      id: session,
      principal: undefined,
      tokenHash: "t",
      previousTokenHash: undefined,
      generation: 1,
      instance: "i",
      attempt: 1,
      node: "n",
      detachedAt: undefined,
      wantedBy: undefined,
      ending: false,
      revision: (row?.revision ?? 0) + 1
    })
    yield* driver.savePositions(
      sessions.map((session) => ({ session, generation: 1, position: "p", epoch: "e", handled: round, strict: true }))
    )
    yield* driver.deleteSession(`s${500 + round}`)
    yield* driver.detachedBefore(round, 5)
    yield* driver.sessionsOf("n", 5)
    yield* driver.sessionsOfPrincipal("p", 5)
    yield* driver.takeNudges("n", 5)
    const key = { scope: "s", key: `claimed ${round}`, token: "t", now: T }
    yield* driver.claimKey({ ...key, fingerprint: undefined, forgottenBefore: 0, maxKeys: 1e9, until: T + 1 })
    yield* driver.renewKey({ ...key, until: T + 2 })
    yield* driver.commitKey({ ...key, receipt: { messageId: "m", epoch: "e", offset: 1, atMillis: T } })
    yield* driver.releaseKey(key)
    yield* driver.lookupKey(key, 0)
    yield* driver.sweepKeys(round, round, 5)
    yield* driver.touchNode("n", round)
    yield* driver.forgetNode(`gone ${round}`)
  })

describeWithPostgres("plans of statements in PostgreSQL", { config: ["autovacuum = off"] }, (server) => {
  it.live("never read a whole table, but for the few rows that count keys", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const { driver, sql } = yield* processOn(server, { schema }, { maxConnections: 1 })
      const [version] = yield* sql`SELECT current_setting('server_version_num')::int AS n`
      // Before 15, it can't be asked for statistics that are up to date.
      if (Number(version?.n) < 150_000) return

      const rounds = (from: number) => Effect.forEach([1, 2, 3, 4, 5, 6, 7], (at) => everyOperation(driver, from + at))
      const scans = Effect.andThen(
        sql`SELECT pg_stat_force_next_flush()`,
        Effect.map(
          sql<{ relname: string; scans: number }>`
            SELECT relname, seq_scan::int AS scans FROM pg_stat_user_tables WHERE schemaname = ${schema}`,
          (rows) => new Map(rows.map(({ relname, scans }) => [relname, scans]))
        )
      )
      yield* rounds(0)
      const fill = [
        `outboxes (session, generation, epoch, revision) SELECT 's' || i, 1, 'e', 1 FROM generate_series(1, 2000) i`,
        `chunks SELECT o.id, 1000 + j, 1000 + j, 1, 1, 1, '' FROM ${schema}.outboxes o, generate_series(1, 5) j`,
        `gaps SELECT o.id, 2000, 2000, 'expired' FROM ${schema}.outboxes o`,
        `fates SELECT o.id, 2000, 2000, 'expired', false, o.id FROM ${schema}.outboxes o`,
        `sessions SELECT 's' || i, NULL, '', NULL, 1, '', 1, 'm' || i, i, NULL, false, 1
          FROM generate_series(1, 2000) i`,
        `keys SELECT 's', 'key ' || i, NULL, 't', i, CASE WHEN i % 2 = 0 THEN i END FROM generate_series(1, 2000) i`,
        `nudges SELECT 'm' || i, 's' FROM generate_series(1, 2000) i`,
        `writers SELECT 'm' || i FROM generate_series(1, 2000) i`,
        `nodes SELECT 'm' || i, 1 FROM generate_series(1, 2000) i`
      ]
      for (const rows of fill) yield* sql.unsafe(`INSERT INTO ${schema}.${rows} ON CONFLICT DO NOTHING`)

      const before = yield* scans
      yield* rounds(10)
      yield* sql.unsafe("ANALYZE")
      yield* rounds(20)
      const after = yield* scans
      const scanned = [...after].filter(([table, count]) => count > (before.get(table) ?? 0)).map(([table]) => table)
      assert.deepStrictEqual(scanned, ["key_counts"])
    }))
})
