/** The store in PostgreSQL for a server that is killed at a step: each call of the driver is one. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer } from "effect"
import { layerOf } from "../../src/internal/store/layer.ts"
import { makePostgresDriver } from "../../src/postgres/postgresDriver.ts"
import { everyCall } from "./crashPoints.ts"
import type { Steps, StoreServices } from "./crashServer.ts"
import { type Place, storeOptions } from "./crashStores.ts"

export const layerFor = (place: Place, steps: Steps): Layer.Layer<StoreServices, unknown> => {
  if (place.kind !== "postgres") throw new Error("not a place of PostgreSQL")
  const { database, host, port, schema, username } = place
  const driver = Effect.map(
    makePostgresDriver({ schema }),
    (made) => everyCall(made, (operation, _args, call) => steps.take(operation, () => call))
  )
  return Layer.provideMerge(
    layerOf(driver, 4, storeOptions),
    PgClient.layer({ host, port, username, database, maxConnections: 3 })
  )
}
