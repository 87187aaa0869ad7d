/** The demo on PostgreSQL: everything is in a schema of the run's own, which is dropped at its end. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { PostgresStore } from "../../../src/postgres/index.ts"
import type { Place } from "../Ipc.ts"
import { Ledger } from "../Ledger.ts"
import { sharing, store } from "../Lines.ts"
import { sqlLedger } from "./sqlLedger.ts"

const tableOf = (place: Place): string => `${place.namespace}.demo_handled`

/** For a server. */
export const forServer = (place: Place) =>
  Layer.provideMerge(
    Layer.effect(Ledger, Effect.map(SqlClient.SqlClient, (sql) => sqlLedger(sql, tableOf(place)))),
    PostgresStore.layer({
      ...store,
      ...sharing,
      url: Redacted.make(place.location),
      schema: place.namespace,
      maxConnections: 10
    })
  )

/** For the demo itself, before there is any server. */
export const forDemo = (place: Place) =>
  Layer.effect(
    Ledger,
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const schema = sql(place.namespace)
      yield* Effect.acquireRelease(
        sql`CREATE SCHEMA ${schema}`,
        () => Effect.ignore(sql`DROP SCHEMA ${schema} CASCADE`)
      )
      yield* sql`CREATE TABLE ${sql(tableOf(place))} (
        seq BIGSERIAL PRIMARY KEY, session TEXT NOT NULL, i INTEGER NOT NULL, text TEXT NOT NULL
      )`
      return sqlLedger(sql, tableOf(place))
    })
  ).pipe(Layer.provide(PgClient.layer({ url: Redacted.make(place.location), maxConnections: 2 })))
