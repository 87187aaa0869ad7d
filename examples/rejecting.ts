/**
 * A server that knows its customers, rejects orders that it can never fill, and tries again what may get better. `PORT`
 * says where it listens; Ctrl+C or SIGTERM ends it.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Data, Effect, Layer, Redacted, Runtime, Schedule } from "effect"
import { MemoryStore, WebSocketError } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { Shop } from "./contract.ts"

class StockBusy extends Data.TaggedError("StockBusy")<{ readonly item: string }> {}

const customers = new Map([["ann's token", { name: "ann", limit: 100 }]])
const stock = new Map([["tea", 1_000], ["cake", 2]])

const take = Effect.fnUntraced(function*(item: string) {
  if (Math.random() < 0.1) return yield* new StockBusy({ item })
  const left = stock.get(item) ?? 0
  // The customer gets the order back as a dead letter that says so; it is not tried again.
  if (left === 0) return yield* new WebSocketError.MessageRejected({ detail: `no ${item} is left` })
  stock.set(item, left - 1)
})

const Server = Shop.layerServer({
  authenticate: ({ token }) => {
    const customer = token && customers.get(Redacted.value(token))
    return customer === undefined
      ? new WebSocketError.HandshakeError({ reason: "unauthorized", detail: "who?", retryable: false })
      : Effect.succeed({ principal: customer.name, data: customer })
  },
  onMessage: ({ item, number }, { data, principal, server, session }) =>
    Effect.gen(function*() {
      if (data === undefined || number > data.limit) {
        return yield* new WebSocketError.MessageRejected({ detail: `more than ${data?.limit ?? 0} orders` })
      }
      yield* take(item)
      yield* Console.log(`order ${number} of ${principal}: ${item}`)
      yield* server.send(session, { number })
    }),
  // Anything else is given up at once.
  handlerRetry: ($) => $(Schedule.spaced("100 millis")).pipe(Schedule.while(({ input }) => input._tag === "StockBusy"))
}).pipe(
  Layer.provide(MemoryStore.layer()),
  Layer.provide(NodeTransport.layerServer({ port: Number(process.env["PORT"] ?? 8080) }))
)

const Listening = Layer.effectDiscard(
  Effect.flatMap(Shop.Server, (server) => Console.log(`listening on port ${server.address.port}`))
)

NodeRuntime.runMain(Layer.launch(Listening.pipe(Layer.provide(Server))), {
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
