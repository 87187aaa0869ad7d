/** A server that confirms orders, one message each way. `PORT` says where it listens; Ctrl+C or SIGTERM ends it. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, Layer, Runtime } from "effect"
import { MemoryStore } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { Shop } from "./contract.ts"

const Server = Shop.layerServer({
  // The order is acknowledged when this succeeds. Until then the client keeps it.
  onMessage: ({ item, number }, { server, session }) =>
    Effect.gen(function*() {
      yield* Console.log(`order ${number}: ${item}`)
      yield* server.send(session, { number })
    })
}).pipe(
  Layer.provide(MemoryStore.layer()),
  Layer.provide(NodeTransport.layerServer({ port: Number(process.env["PORT"] ?? 8080) }))
)

const Listening = Layer.effectDiscard(
  Effect.flatMap(Shop.Server, (server) => Console.log(`listening on port ${server.address.port}`))
)

NodeRuntime.runMain(Layer.launch(Listening.pipe(Layer.provide(Server))), {
  // A signal is how a server ends: not 130, the code of an interrupt, but 0.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
