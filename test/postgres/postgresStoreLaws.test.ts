/** The store in PostgreSQL keeps the laws of all stores. */
import { afterAll } from "@effect/vitest"
import { Effect, Exit, Layer, Scope } from "effect"
import { PostgresStore } from "resilient-websocket/postgres"
import { connectTo, describeWithPostgres, emptySchema, newSchema } from "../support/postgresServer.ts"
import { passTimeBeside, storeLaws } from "../support/storeLaws.ts"

describeWithPostgres("PostgreSQL", {}, (server) => {
  const scope = Scope.makeUnsafe()
  const schema = newSchema()
  const beside = Effect.runSync(
    Effect.cached(Scope.provide(Effect.flatMap(server, (postgres) => connectTo(postgres)), scope))
  )
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  storeLaws(
    "PostgresStore",
    (options) =>
      Layer.unwrap(Effect.gen(function*() {
        const { database, host, port, username } = yield* server
        yield* emptySchema(yield* beside, schema)
        return PostgresStore.layer({ ...options, database, host, port, username, schema })
      })),
    passTimeBeside(Effect.flatMap(beside, (sql) => sql`SELECT 1`))
  )
})
