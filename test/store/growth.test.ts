/**
 * Messages that are acknowledged or expired, and sessions that end, leave nothing behind in a file, table or keyspace.
 * `GROWTH_MESSAGES=1000000 vitest run …` tries so many of them, instead of 100,000.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, References, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import { statSync } from "node:fs"
import { join } from "node:path"
import { Deduplicator, MessageQueue, SessionRegistry } from "resilient-websocket"
import { PostgresStore } from "resilient-websocket/postgres"
import { RedisStore } from "resilient-websocket/redis"
import { SqliteStore } from "resilient-websocket/sqlite"
import type { StoreOptions } from "../../src/internal/store/layer.ts"
import { numbered, type Store } from "../support/harness.ts"
import { passTime, patient } from "../support/patience.ts"
import { describeWithDatabase, newSchema } from "../support/postgresServer.ts"
import { describeWithRedis } from "../support/redisServer.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const messages = Number(process.env["GROWTH_MESSAGES"] ?? 100_000)
const sessions = numbered(8, "session-")
const batch = 500
/** Each appends a batch to every session. */
const rounds = Math.ceil(messages / sessions.length / batch)

/** The usual one, for the usual number. */
const timeoutMillis = 600_000 * Math.max(1, messages / 100_000)

const options: StoreOptions = {
  ...patient,
  queue: { ttl: "2 seconds", maxTotalMessages: 100_000 },
  deduplicator: { window: "12 seconds" },
  registry: { retention: "10 seconds" }
}

const newMessages = (round: number): ReadonlyArray<MessageQueue.NewMessage> =>
  Array.from({ length: batch }, (_, i) => {
    const payload = JSON.stringify(`${round}/${i} ${"x".repeat(180)}`)
    return { payload, bytes: payload.length }
  })

/**
 * Half of the sessions acknowledge what they get, the others let it expire; some messages have publish keys. Returns
 * the size after each round.
 */
const passThrough = Effect.fnUntraced(function*(store: Store, size: Effect.Effect<number, unknown>) {
  const queue = Context.get(store, MessageQueue.MessageQueue)
  const registry = Context.get(store, SessionRegistry.SessionRegistry)
  const deduplicator = Context.get(store, Deduplicator.Deduplicator)
  const generations = new Map<string, number>()
  for (const session of sessions) {
    const { generation } = yield* registry.attach({
      session,
      principal: session,
      authorized: true,
      tokenHash: undefined,
      nextTokenHash: "hash",
      instance: "instance"
    })
    generations.set(session, generation)
    yield* queue.open(session, generation)
  }
  const readers = new Set(sessions.filter((_, i) => i % 2 === 0))
  const sizes: Array<number> = []
  const acked = new Map<string, number>()
  let expired = 0

  const readAndAck = Effect.fnUntraced(function*(session: string) {
    const generation = generations.get(session) ?? 0
    const limit = { maxMessages: batch + 10, maxBytes: 1_000_000 }
    const { slots } = yield* queue.read(session, generation, acked.get(session) ?? 0, limit)
    const last = slots.at(-1)
    assert.lengthOf(slots, batch + 1)
    if (last?.kind !== "message") return assert.fail("a gap")
    acked.set(session, last.offset)
    const ack = yield* queue.ack(session, generation, last.offset, [])
    assert.strictEqual(ack.released, slots.length)
  })

  for (let round = 0; round < rounds; round++) {
    yield* Effect.forEach(sessions, (session) =>
      Effect.gen(function*() {
        yield* queue.append(session, newMessages(round))
        const once = { payload: "1", bytes: 1, id: `key-${round}` }
        if (queue.appendOnce === undefined) return assert.fail("no appendOnce")
        yield* queue.appendOnce(session, once, "fingerprint")
        if (readers.has(session)) yield* readAndAck(session)
      }), { concurrency: "unbounded" })
    yield* passTime(2_000)
    for (const gone of yield* queue.expire(() => true)) expired += gone.messages.length
    yield* deduplicator.rotate
    sizes.push(yield* size)
  }
  assert.strictEqual(expired, rounds * (batch + 1) * (sessions.length - readers.size))
  assert.deepInclude(yield* queue.stats, { messages: 0, bytes: 0 })

  // Half of the sessions end by themselves, the others are ended.
  for (const session of sessions) {
    if (readers.has(session)) yield* registry.end(session)
    else yield* registry.detach(session, generations.get(session) ?? 0)
  }
  yield* passTime(45_000)
  const ended = yield* registry.expire
  assert.sameMembers([...ended], sessions)
  for (const session of ended) {
    yield* queue.remove(session)
    yield* registry.remove(session)
  }
  yield* deduplicator.rotate
  return sizes
})

/** The second half needs no more than the first did, and what is left in the end is little. */
const assertNoGrowth = (sizes: ReadonlyArray<number>, atTheEnd: number) => {
  const middle = Math.floor(sizes.length / 2)
  const first = Math.max(...sizes.slice(0, middle))
  const second = Math.max(...sizes.slice(middle))
  if (process.env["GROWTH_MESSAGES"] !== undefined) {
    console.log(`${messages} messages: at most ${first} bytes, later ${second}, in the end ${atTheEnd}`)
  }
  assert.isAtMost(second, first * 1.05 + megabyte / 4)
  assert.isBelow(atTheEnd, 3 * megabyte)
}

const test = (name: string, effect: Effect.Effect<void, unknown, Scope.Scope>) =>
  it.effect(name, () => Effect.provideService(effect, References.MinimumLogLevel, "Error"), timeoutMillis)

const megabyte = 1024 * 1024

/** How many rows the tables have that have any. */
const rowsOf = Effect.fnUntraced(function*(sql: SqlClient.SqlClient, tables: ReadonlyArray<string>) {
  const rows: Record<string, number> = {}
  for (const table of tables) {
    const [row] = yield* sql<{ n: number }>`SELECT count(*) AS n FROM ${sql(table)}`
    if (Number(row?.n) > 0) rows[table] = Number(row?.n)
  }
  return rows
})

describe("an SQLite file", () => {
  test(
    "does not grow with what has passed through it, and is small and empty when sessions have ended",
    Effect.gen(function*() {
      const filename = join(yield* temporaryDirectory, "db")
      const store = yield* Layer.build(SqliteStore.layer({ ...options, filename }))
      const size = Effect.sync(() => statSync(filename).size + statSync(`${filename}-wal`).size)
      const sizes = yield* passThrough(store, size)
      assertNoGrowth(sizes, yield* size)
      const sql = Context.get(store, SqlClient.SqlClient)
      const tables = yield* sql<{ name: string }>`SELECT name FROM sqlite_schema WHERE type = 'table'`
      const rows = yield* rowsOf(sql, tables.map(({ name }) => name))
      // Of this server, which lives: its one lane's stamp. And that the sessions were ended, for as long as that may matter.
      assert.deepStrictEqual(rows, { rws_store: 1, rws_writer: 1, rws_node: 1, rws_ended: sessions.length })
    })
  )
})

describeWithDatabase("PostgreSQL tables", (server) => {
  test(
    "do not grow with what has passed through them, and are empty when sessions have ended",
    Effect.gen(function*() {
      const { database, host, port, username } = yield* server
      const schema = newSchema()
      const store = yield* Layer.build(PostgresStore.layer({ ...options, schema, host, port, username, database }))
      const sql = Context.get(store, SqlClient.SqlClient)
      const found = yield* sql<{ name: string; options: string | null }>`
        SELECT relname AS name, reloptions::text AS options FROM pg_class
        WHERE relkind = 'r' AND relnamespace = ${schema}::regnamespace`
      // The tables ask for it early, and without pauses. It is done here so that the test need not wait for it.
      const tables = found.filter(({ name }) => name !== "migrations")
      for (const { options } of tables) {
        assert.match(options ?? "", /autovacuum_vacuum_scale_factor=0\.0[25].*autovacuum_vacuum_cost_delay=0/)
      }
      const vacuum = Effect.forEach(tables, ({ name }) => sql`VACUUM ${sql(`${schema}.${name}`)}`)
      const size = Effect.map(
        sql<{ bytes: number }>`SELECT sum(pg_total_relation_size(oid))::float8 AS bytes FROM pg_class
          WHERE relkind = 'r' AND relnamespace = ${schema}::regnamespace`,
        ([row]) => row?.bytes ?? 0
      )
      const vacuumed = Effect.andThen(vacuum, size)
      const sizes = yield* passThrough(store, vacuumed)
      assertNoGrowth(sizes, yield* vacuumed)
      const rows = yield* rowsOf(sql, tables.map(({ name }) => `${schema}.${name}`))
      // Of this server, which lives: its four lanes' stamps. And some counters, whose number is fixed.
      const left = Object.entries(rows).map(([table, count]) => `${table.slice(schema.length + 1)} ${count}`)
      const others = left.filter((table) => !table.startsWith("key_counts "))
      assert.sameMembers(others, ["writers 4", "nodes 1", `ended_sessions ${sessions.length}`])
    })
  )
})

describeWithRedis("a Redis keyspace", {}, (server) => {
  test(
    "does not grow with what has passed through it, and has nothing of sessions that have ended",
    Effect.gen(function*() {
      const { command, url } = yield* server
      const store = yield* Layer.build(RedisStore.layer({ ...options, url }))
      const size = Effect.map(command("INFO", "memory"), (info) => Number(/used_memory:(\d+)/.exec(info)?.[1]))
      const sizes = yield* passThrough(store, size)
      assertNoGrowth(sizes, yield* size)
      const keys = (yield* command("KEYS", "*")).split("\r\n").filter((line) => line.startsWith("{"))
      // Of this server, which lives: its two lanes' stamps. And what the store keeps of itself.
      const kinds = keys.map((key) => key.replace(/^\{rws:\d+\}:/, "").replace(/^([wx]):.*/, "$1"))
      const ended = sessions.map(() => "x")
      assert.sameMembers(kinds, ["w", "w", "writers", "nodes", "totals", "format", ...ended])
    })
  )
})
