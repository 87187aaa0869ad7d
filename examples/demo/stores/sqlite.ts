/** The demo on SQLite: the servers share a file. */
import { Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { SqliteClient, SqliteStore } from "../../../src/sqlite/index.ts"
import type { Place } from "../Ipc.ts"
import { Ledger } from "../Ledger.ts"
import { sharing, store } from "../Lines.ts"
import { sqlLedger } from "./sqlLedger.ts"

const table = "demo_handled"

const ledger = Effect.map(SqlClient.SqlClient, (sql) => sqlLedger(sql, table))

/** For a server. */
export const forServer = ({ location }: Place) =>
  Layer.provideMerge(Layer.effect(Ledger, ledger), SqliteStore.layer({ ...store, ...sharing, filename: location }))

/** For the demo itself, before there is any server. */
export const forDemo = ({ location }: Place) =>
  Layer.effect(
    Ledger,
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE IF NOT EXISTS ${sql(table)} (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, i INTEGER NOT NULL, text TEXT NOT NULL
      )`
      return yield* ledger
    })
  ).pipe(Layer.provide(SqliteClient.layer({ filename: location })))
