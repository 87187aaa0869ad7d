/**
 * An order service that may be killed at any moment. An order, the stock it takes, the message that confirms it and the
 * record that the customer's message was handled are one transaction: all of it is there, or nothing.
 *
 * `examples/client.ts` is a customer. And an order can be placed for one, whose session the server prints:
 *
 * ```sh
 * curl -X POST "http://127.0.0.1:8081/orders?customer=$SESSION&number=1000&item=cake"
 * ```
 *
 * There are two cakes. `PORT`, `HTTP_PORT` and `DB` (the file, by default orders.db) come from the environment.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Data, Effect, Layer, Runtime, Schema } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { SqlClient } from "effect/sql"
import { createServer } from "node:http"
import { NodeTransport } from "../src/node/index.ts"
import { SqliteStore } from "../src/sqlite/index.ts"
import { Shop } from "./contract.ts"

const Order = Schema.Struct({ customer: Schema.String, number: Schema.FiniteFromString, item: Schema.String })

class SoldOut extends Data.TaggedError("SoldOut")<{ readonly item: string }> {}

/** Writes an order and sends its confirmation, as part of the caller's transaction. */
const place = Effect.fn("place")(function*(
  { customer, item, number }: typeof Order.Type,
  confirm: Effect.Success<typeof Shop.Server>["send"]
) {
  const sql = yield* SqlClient.SqlClient
  yield* sql`INSERT INTO orders ${sql.insert({ customer, number, item })}`
  yield* confirm(customer, { number })
  const taken = yield* sql`UPDATE stock SET amount = amount - 1 WHERE item = ${item} AND amount > 0 RETURNING item`
  // The confirmation is not sent then: it goes back with the transaction.
  if (taken.length === 0) return yield* new SoldOut({ item })
})

const Tables = Layer.effectDiscard(Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE IF NOT EXISTS orders (customer TEXT, number INTEGER, item TEXT, UNIQUE (customer, number))`
  yield* sql`CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, amount INTEGER)`
  yield* sql`INSERT OR IGNORE INTO stock VALUES ('tea', 1000000), ('cake', 2)`
}))

const Server = Shop.layerServer({
  // If the item is sold out the handler fails, and the customer gets the order back as a dead letter.
  onMessage: ({ item, number }, { commit, server, session }) =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql.withTransaction(Effect.andThen(place({ customer: session, item, number }, server.send), commit))
      yield* Console.log(`order ${number}: ${item} for ${session}`)
    })
}).pipe(
  Layer.provide(Tables),
  Layer.provide(NodeTransport.layerServer({ port: Number(process.env["PORT"] ?? 8080) }))
)

// An order that is placed twice, because the answer to the first was lost, is refused by the table.
const Counter = HttpRouter.serve(
  HttpRouter.add(
    "POST",
    "/orders",
    Effect.gen(function*() {
      const server = yield* Shop.Server
      const sql = yield* SqlClient.SqlClient
      yield* sql.withTransaction(place(yield* HttpServerRequest.schemaSearchParams(Order), server.send))
      return HttpServerResponse.text("placed\n", { status: 201 })
    }).pipe(
      Effect.catch((error) => Effect.succeed(HttpServerResponse.text(`${error._tag}\n`, { status: 409 })))
    )
  ),
  { disableLogger: true, disableListenLog: true }
).pipe(
  Layer.provide(NodeHttpServer.layer(createServer, { port: Number(process.env["HTTP_PORT"] ?? 8081) }))
)

const Listening = Layer.effectDiscard(
  Effect.flatMap(Shop.Server, (server) => Console.log(`listening on port ${server.address.port}`))
)

const Main = Layer.merge(Counter, Listening).pipe(
  Layer.provide(Server),
  Layer.provide(SqliteStore.layer({ filename: process.env["DB"] ?? "orders.db" }))
)

NodeRuntime.runMain(Layer.launch(Main), {
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
