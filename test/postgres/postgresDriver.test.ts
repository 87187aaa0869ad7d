/** The driver for PostgreSQL keeps the laws of all store drivers. What only it has is in the other files here. */
import { Effect } from "effect"
import { driverLaws } from "../support/driverLaws.ts"
import { describeWithPostgres } from "../support/postgresServer.ts"
import { driverOn, newSchema } from "../support/postgresServer.ts"

describeWithPostgres("PostgreSQL", {}, (server) => {
  driverLaws(
    "postgres",
    Effect.gen(function*() {
      const options = { schema: newSchema() }
      return { driver: yield* driverOn(server, options), other: yield* driverOn(server, options) }
    })
  )
})
