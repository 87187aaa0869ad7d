/** How the schema is made, by how many servers at once, and who may. */
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { makePostgresDriver } from "../../src/postgres/postgresDriver.ts"
import { connectTo, describeWithDatabase, driverOn, newSchema, processOn } from "../support/postgresServer.ts"

const request = { session: "s", generation: 1, node: "n", newEpoch: "e" }

describeWithDatabase("the schema in PostgreSQL", (server) => {
  it.live("is made once by servers that start at once", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const drivers = yield* Effect.all(
        Array.from({ length: 4 }, () => driverOn(server, { schema })),
        { concurrency: "unbounded" }
      )
      for (const driver of drivers) assert.strictEqual((yield* driver.openOutbox(request)).epoch, "e")
      const sql = yield* connectTo(yield* server)
      const versions = yield* sql`SELECT version FROM ${sql(schema)}.migrations`
      assert.deepStrictEqual(versions, [
        { version: 1 },
        { version: 2 },
        { version: 3 },
        { version: 4 },
        { version: 5 },
        { version: 6 },
        { version: 7 }
      ])
    }))

  it.live("is resilient_websocket, or another one, with what is its own", () =>
    Effect.gen(function*() {
      const usual = yield* driverOn(server, {})
      const another = yield* driverOn(server, { schema: "Another_One" })
      yield* usual.openOutbox(request)
      assert.strictEqual((yield* usual.outboxes(["s"])).length, 1)
      assert.deepStrictEqual(yield* another.outboxes(["s"]), [])
      const sql = yield* connectTo(yield* server)
      const schemas = yield* sql`
        SELECT nspname FROM pg_namespace WHERE nspname IN ('resilient_websocket', 'Another_One') ORDER BY nspname`
      assert.deepStrictEqual(schemas, [{ nspname: "Another_One" }, { nspname: "resilient_websocket" }])
    }))

  it.live("refuses a name that would have to be escaped", () =>
    Effect.gen(function*() {
      for (const schema of ["", "a\"b", "a b", "1a", "a$body$", "pg_mine", "x".repeat(64)]) {
        const error = yield* Effect.flip(driverOn(server, { schema }))
        assert.propertyVal(error, "_tag", "StoreError")
        assert.propertyVal(error, "operation", "schema")
      }
    }))

  it.live("a timeout that is none is an error; one that never ends is as long as can be", () =>
    Effect.gen(function*() {
      for (const timeout of [0, -1, Number.NaN]) {
        assert.propertyVal(yield* Effect.flip(driverOn(server, { timeout })), "operation", "timeout")
      }
      const driver = yield* driverOn(server, { timeout: Infinity })
      assert.isAbove(yield* driver.clock, 1_700_000_000_000)
    }))

  it.live("is used by a role that may not make one, once it is there", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const { sql } = yield* processOn(server, { schema })
      yield* sql`CREATE ROLE modest LOGIN`
      yield* sql`GRANT USAGE ON SCHEMA ${sql(schema)} TO modest`
      yield* sql.unsafe(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ${schema} TO modest`)
      const modest = yield* connectTo(yield* server, { username: "modest" })
      const driver = yield* Effect.provideService(makePostgresDriver({ schema }), PgClient.PgClient, modest)
      assert.strictEqual((yield* driver.openOutbox(request)).epoch, "e")
      assert.deepStrictEqual(yield* driver.takeNudges("n", 10), [])

      const elsewhere = Effect.provideService(makePostgresDriver({ schema: newSchema() }), PgClient.PgClient, modest)
      assert.strictEqual((yield* Effect.flip(elsewhere))._tag, "StoreError")
    }))

  it.live("of a newer version is left alone", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const { sql } = yield* processOn(server, { schema })
      yield* sql`INSERT INTO ${sql(schema)}.migrations (version) VALUES (1000)`
      const error = yield* Effect.flip(driverOn(server, { schema }))
      assert.include(String(error.cause), "newer version")
    }))

  it.live("half made is not there: what failed is made at the next try", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const sql = yield* connectTo(yield* server)
      yield* sql`CREATE SCHEMA ${sql(schema)}`
      yield* sql`CREATE TABLE ${sql(schema)}.nudges (mine integer)`
      assert.strictEqual((yield* Effect.flip(driverOn(server, { schema })))._tag, "StoreError")
      yield* sql`DROP TABLE ${sql(schema)}.nudges`
      const driver = yield* driverOn(server, { schema })
      assert.strictEqual((yield* driver.openOutbox(request)).epoch, "e")
    }))

  it.live("warns of what would lose messages", () =>
    Effect.gen(function*() {
      const careless = yield* driverOn(server, {}, { startupParameters: { synchronous_commit: "off" } })
      const warnings = yield* careless.warnings
      assert.deepStrictEqual(warnings.map((warning) => warning.slice(0, warning.indexOf(" "))), [
        "fsync",
        "synchronous_commit"
      ])
    }))
})
