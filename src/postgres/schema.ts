/**
 * Makes and upgrades the schema: the migrations. A starting server takes an advisory lock, so that when several start
 * at once, one migrates and the others wait. A server that finds the schema up to date changes nothing, and needs no
 * right to.
 *
 * Each migration is a list of statements about tables. A released one is never edited; a new version is added. The
 * functions are made anew with each version.
 */
import { Effect } from "effect"
import { StoreError } from "../internal/store/driver.ts"
import type { Database } from "./connection.ts"
import { keyFunctions } from "./keyFunctions.ts"
import { outboxFunctions } from "./outboxFunctions.ts"
import { sessionFunctions } from "./sessionFunctions.ts"
import { endedSessions, principals, tables } from "./tables.ts"
import * as Values from "./values.ts"

const migrations: ReadonlyArray<(schema: string) => ReadonlyArray<string>> = [
  tables,
  principals,
  // The history of the store in which an outbox was settled; and, while it is not settled, the offset after which this
  // history's appends come.
  (schema) => [`ALTER TABLE ${schema}.outboxes ADD COLUMN history text, ADD COLUMN unsettled_from bigint`],
  // How far an outbox went when it was settled, and the history in which \`unsettled_from\` was noted.
  (schema) => [`ALTER TABLE ${schema}.outboxes ADD COLUMN settled_at bigint, ADD COLUMN unsettled_in text`],
  endedSessions,
  // A sweep of fates leaves a mark since this version: only functions change.
  () => [],
  // What is swept or taken is no more than was asked for since this version, likewise.
  () => []
]

const functions = (schema: string): ReadonlyArray<string> => [
  ...keyFunctions(schema),
  ...outboxFunctions(schema),
  ...sessionFunctions(schema)
]

/** Drops the functions with these names, whatever their parameters. */
const dropAll = (schema: string, statements: ReadonlyArray<string>): string => {
  const names = statements.flatMap((statement) => /^CREATE FUNCTION "\w+"\.(\w+)/.exec(statement)?.[1] ?? [])
  return `DO $body$
  DECLARE
    v_function regprocedure;
  BEGIN
    FOR v_function IN
      SELECT p.oid FROM pg_proc p
      WHERE p.pronamespace = '${schema}'::regnamespace AND p.proname IN (${names.map((name) => `'${name}'`).join(", ")})
    LOOP
      EXECUTE 'DROP FUNCTION ' || v_function;
    END LOOP;
  END $body$`
}

/** A schema's name, quoted; undefined if not allowed. Names become part of functions, so they must be plain. */
export const quoteSchema = (name: string): string | undefined =>
  /^[A-Za-z_][A-Za-z0-9_]{0,62}$/.test(name) && !/^pg_/i.test(name) ? `"${name}"` : undefined

/** Brings the schema to the newest version. */
export const migrate = Effect.fnUntraced(function*(database: Database) {
  const { schema } = database

  const run = (sql: string): Effect.Effect<void, StoreError> =>
    database.queryInside("migrate", { sql, parameters: () => [], decode: () => undefined })

  const version = (ask: Database["query"]) =>
    Effect.gen(function*() {
      // Not `to_regclass`: it may not see yet what was committed while this waited for the lock.
      const isThere = yield* ask("migrate", {
        sql: "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'migrations')",
        parameters: () => [Values.text(schema.slice(1, -1))],
        decode: (rows) => Values.toBoolean(Values.onlyRow(rows)[0])
      })
      if (!isThere) return 0
      return yield* ask("migrate", {
        sql: `SELECT coalesce(max(version), 0) FROM ${schema}.migrations`,
        parameters: () => [],
        decode: (rows) => Values.toNumber(Values.onlyRow(rows)[0])
      })
    })

  const upgrade = Effect.gen(function*() {
    yield* run(`SELECT pg_advisory_xact_lock(hashtextextended('resilient-websocket/${schema}', 0))`)
    const from = yield* version(database.queryInside)
    if (from === 0) {
      yield* run(`CREATE SCHEMA IF NOT EXISTS ${schema}`)
      yield* run(
        `CREATE TABLE ${schema}.migrations (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())`
      )
    }
    for (const [at, statements] of migrations.entries()) {
      if (at < from) continue
      for (const statement of statements(schema)) yield* run(statement)
      yield* run(`INSERT INTO ${schema}.migrations (version) VALUES (${at + 1})`)
    }
    if (from === migrations.length) return
    const made = functions(schema)
    yield* run(dropAll(schema, made))
    for (const statement of made) yield* run(statement)
  })

  const found = yield* version(database.query)
  if (found > migrations.length) {
    return yield* Effect.fail(
      new StoreError("migrate", new Error(`the schema ${schema} is of a newer version (${found}) of this library`))
    )
  }
  if (found < migrations.length) yield* database.atomically("migrate", upgrade)
})
