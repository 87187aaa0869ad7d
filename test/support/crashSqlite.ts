/** SqliteStore for a server that is killed at a step: each use of the file is one. */
import { Context, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import * as SqliteClient from "../../src/sqlite/SqliteClient.ts"
import * as SqliteStore from "../../src/sqlite/SqliteStore.ts"
import type { Steps, StoreServices } from "./crashServer.ts"
import { type Place, storeOptions } from "./crashStores.ts"

export const layerFor = (place: Place, steps: Steps): Layer.Layer<StoreServices, unknown> => {
  if (place.kind !== "sqlite") throw new Error("not a place of SQLite")
  const stepping = (client: SqliteClient.Interface): SqliteClient.Interface => ({
    ...client,
    atomically: (operation, work) =>
      steps.take(operation, (inside) =>
        client.atomically(operation, (database) => {
          const result = work(database)
          inside()
          return result
        })),
    reading: (operation, work) => steps.take(operation, () => client.reading(operation, work)),
    exclusively: (operation, work) => steps.take(operation, () => client.exclusively(operation, work))
  })
  const clients = Layer.effectContext(
    Effect.map(
      Layer.build(SqliteClient.layer({ filename: place.filename })),
      (context) =>
        Context.make(SqliteClient.SqliteClient, stepping(Context.get(context, SqliteClient.SqliteClient))).pipe(
          Context.add(SqlClient.SqlClient, Context.get(context, SqlClient.SqlClient))
        )
    )
  )
  return Layer.provideMerge(SqliteStore.layerClient(storeOptions), clients)
}
