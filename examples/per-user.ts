/**
 * A gateway: one process with a client for each of its users, made when it is first needed and closed when it was idle
 * for a while. An order that it has accepted is delivered, whether the shop is there or not:
 *
 * ```sh
 * curl -X POST "http://127.0.0.1:8081/orders?user=ann&number=1&item=tea"
 * ```
 *
 * `PORT` is the shop's, `HTTP_PORT` its own. Ctrl+C or SIGTERM ends it.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Context, Effect, Layer, RcMap, Redacted, Runtime, Schema } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"
import { MemoryStore } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { Shop } from "./contract.ts"

class Customers extends Context.Service<Customers>()("example/Customers", {
  make: RcMap.make({
    lookup: (user: string) =>
      Shop.makeClient({
        url: `ws://127.0.0.1:${process.env["PORT"] ?? 8080}`,
        token: Redacted.make(`${user}'s token`),
        onMessage: ({ number }) => Console.log(`confirmed ${number} for ${user}`)
      }),
    // Its scope closes then, which flushes what is queued.
    idleTimeToLive: "5 minutes"
  })
}) {
  // All clients have one store: their outboxes don't mix.
  static readonly layer = Layer.effect(this, this.make).pipe(
    Layer.provide([MemoryStore.layer(), NodeTransport.layerClient])
  )
}

const Order = Schema.Struct({ user: Schema.NonEmptyString, number: Schema.FiniteFromString, item: Schema.String })

const Orders = HttpRouter.add(
  "POST",
  "/orders",
  Effect.gen(function*() {
    const { item, number, user } = yield* HttpServerRequest.schemaSearchParams(Order)
    const customers = yield* Customers
    const shop = yield* RcMap.get(customers, user)
    const receipt = yield* shop.send({ number, item })
    return HttpServerResponse.text(`${receipt._tag}\n`, { status: 202 })
  }).pipe(
    Effect.scoped,
    Effect.catchTag("SchemaError", () => Effect.succeed(HttpServerResponse.empty({ status: 400 }))),
    Effect.catch((error) => Effect.succeed(HttpServerResponse.text(`${error.message}\n`, { status: 503 })))
  )
)

const Gateway = HttpRouter.serve(Orders, { disableLogger: true }).pipe(
  Layer.provide(Customers.layer),
  Layer.provide(NodeHttpServer.layer(createServer, {
    port: Number(process.env["HTTP_PORT"] ?? 8081),
    host: "127.0.0.1"
  }))
)

NodeRuntime.runMain(Layer.launch(Gateway), {
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
