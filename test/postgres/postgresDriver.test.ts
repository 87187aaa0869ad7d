/** The driver for PostgreSQL keeps the laws of all store drivers. What only it has is in the other files here. */
import { afterAll } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { driverLaws } from "../support/driverLaws.ts"
import { describeWithDatabase, emptySchema, newSchema, processOn } from "../support/postgresServer.ts"

describeWithDatabase("PostgreSQL", (server) => {
  const scope = Scope.makeUnsafe()
  const schema = newSchema()
  const processes = Effect.runSync(Effect.cached(Scope.provide(
    Effect.all([processOn(server, { schema }), processOn(server, { schema })]),
    scope
  )))
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  driverLaws(
    "postgres",
    Effect.gen(function*() {
      const [one, other] = yield* processes
      yield* emptySchema(one.sql, schema)
      const forget = (session: string) =>
        Effect.asVoid(one.sql.unsafe(`UPDATE ${schema}.outboxes SET history = '-' WHERE session = $1`, [session]))
      return { driver: one.driver, other: other.driver, forget }
    }),
    { histories: true }
  )
})
