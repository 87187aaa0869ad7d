/** The driver: `StoreDriver` on PostgreSQL 13 or newer, through a `PgClient` that the application may share. */
import type { PgClient } from "@effect/sql-pg"
import { Duration, Effect, Option } from "effect"
import { longestTimer } from "../internal/kit/options.ts"
import { type StoreDriver, StoreError } from "../internal/store/driver.ts"
import { type Database, makeDatabase } from "./connection.ts"
import { makeKeys } from "./keys.ts"
import { makeNudges } from "./nudges.ts"
import { makeOutboxes } from "./outboxes.ts"
import { migrate, quoteSchema } from "./schema.ts"
import { makeSessions } from "./sessions.ts"
import * as Values from "./values.ts"

export interface PostgresDriverOptions {
  /** The schema with all tables and functions, created if missing. Default `resilient_websocket`. */
  readonly schema?: string | undefined
  /**
   * How long an operation may take before it fails, including the wait for a connection and for locks. Default 10
   * seconds.
   */
  readonly timeout?: Duration.Input | undefined
}

const dangers: Readonly<Record<string, string>> = {
  fsync: "fsync is off: a crash of the machine can destroy the whole database",
  full_page_writes: "full_page_writes is off: a crash of the machine can destroy the whole database",
  synchronous_commit: "synchronous_commit is off: a crash of the server loses the newest messages and acknowledgements"
}

/** Makes the driver, and its schema if needed. */
export const makePostgresDriver = Effect.fnUntraced(function*(
  options: PostgresDriverOptions = {}
): Effect.fn.Return<StoreDriver, StoreError, PgClient.PgClient> {
  const schema = quoteSchema(options.schema ?? "resilient_websocket")
  if (schema === undefined) {
    return yield* Effect.fail(new StoreError("schema", new Error("a schema's name has letters, digits and _ only")))
  }
  const timeout = Duration.fromInput(options.timeout ?? "10 seconds")
  if (Option.isNone(timeout) || !(Duration.toMillis(timeout.value) >= 1)) {
    return yield* Effect.fail(new StoreError("timeout", new Error("a timeout is 1 ms or more")))
  }
  const database = yield* makeDatabase(schema, Math.min(Duration.toMillis(timeout.value), longestTimer))
  yield* migrate(database)

  return {
    name: "postgres",
    clock: database.query("clock", {
      sql: "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::float8",
      parameters: () => [],
      decode: (rows) => Values.toNumber(Values.onlyRow(rows)[0])
    }),
    history: database.query("history", {
      sql: `SELECT ${schema}.history()`,
      parameters: () => [],
      decode: (rows) => Values.toText(Values.onlyRow(rows)[0])
    }),
    transaction: { isOpen: database.isInTransaction, afterCommit: database.afterCommit },
    ...makeOutboxes(database),
    ...makeSessions(database),
    ...makeKeys(database),
    ...makeNudges(database),
    warnings: warnings(database)
  }
})

const warnings = (database: Database): StoreDriver["warnings"] =>
  database.query("warnings", {
    sql: "SELECT name FROM pg_settings WHERE name = ANY($1) AND setting = 'off' ORDER BY name",
    parameters: () => [Values.texts(Object.keys(dangers))],
    decode: (rows) => rows.map(([name]) => dangers[Values.toText(name)] ?? Values.toText(name))
  })
