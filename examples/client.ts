/** A client that orders something every second, whether it is connected or not. Ctrl+C or SIGTERM ends it. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, Layer, Runtime, Stream } from "effect"
import { MemoryStore } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { Shop } from "./contract.ts"

const Client = Shop.layerClient({
  url: `ws://127.0.0.1:${process.env["PORT"] ?? 8080}`,
  onMessage: ({ number }) => Console.log(`confirmed ${number}`)
}).pipe(
  Layer.provide(MemoryStore.layer()),
  Layer.provide(NodeTransport.layerClient)
)

const main = Effect.gen(function*() {
  const shop = yield* Shop.Client
  yield* shop.states.pipe(
    Stream.runForEach((state) => Console.log(state._tag)),
    Effect.forkScoped
  )
  for (let number = 1;; number++) {
    const receipt = yield* shop.send({ number, item: "tea" })
    yield* Console.log(`order ${number}: ${receipt._tag}`)
    yield* Effect.sleep("1 second")
  }
}).pipe(Effect.scoped, Effect.provide(Client))

NodeRuntime.runMain(main, {
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
