/** The ledger as a table, beside the tables of the store. */
import { Effect, Schema } from "effect"
import type { SqlClient } from "effect/sql"
import type { Ledger } from "../Ledger.ts"

const pageSize = 10_000

const Count = Schema.Array(Schema.Struct({ n: Schema.NumberFromString }))
const Rows = Schema.Array(
  Schema.Struct({ at: Schema.NumberFromString, session: Schema.String, i: Schema.Int, text: Schema.String })
)
const readCount = Schema.decodeUnknownEffect(Count)
const readRows = Schema.decodeUnknownEffect(Rows)

/** `table` is made already; its key `seq` counts up. Numbers are read as text: what a driver makes of them differs. */
export const sqlLedger = (sql: SqlClient.SqlClient, table: string): Ledger["Service"] => {
  const name = sql(table)
  return {
    write: (entry, _messageId, commit) =>
      Effect.as(
        sql.withTransaction(Effect.andThen(sql`INSERT INTO ${name} ${sql.insert({ ...entry })}`, commit)),
        true
      ),
    size: sql`SELECT CAST(count(*) AS TEXT) AS n FROM ${name}`.pipe(
      Effect.flatMap(readCount),
      Effect.map(([row]) => row?.n ?? 0)
    ),
    read: Effect.fnUntraced(function*(use) {
      let after = 0
      while (true) {
        const page = yield* Effect.flatMap(
          sql`SELECT CAST(seq AS TEXT) AS at, session, i, text FROM ${name}
            WHERE seq > ${after} ORDER BY seq LIMIT ${pageSize}`,
          readRows
        )
        for (const row of page) {
          use(row)
          after = row.at
        }
        if (page.length < pageSize) return
      }
    })
  }
}
