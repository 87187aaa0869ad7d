/**
 * A server beside what you have: your `http.Server`, your `ws` server, your way of accepting. Every socket is handed
 * over with `register`, whether it speaks `resilient.v1` or not. `PORT` says where to listen.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, FiberSet, Layer, Runtime } from "effect"
import { createServer } from "node:http"
import { WebSocketServer } from "ws"
import { MemoryStore, Transport } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { Shop } from "./contract.ts"

const Server = Shop.layerServer({
  onMessage: ({ item, number }, { server, session }) =>
    Effect.andThen(Console.log(`order ${number}: ${item}`), server.send(session, { number }))
}).pipe(
  Layer.provide(MemoryStore.layer()),
  // It listens to nothing but what is registered.
  Layer.provide(Transport.layerMemory)
)

const Port = Layer.effectDiscard(Effect.gen(function*() {
  const server = yield* Shop.Server
  const run = yield* FiberSet.makeRuntime()
  const http = createServer((_, response) => response.end("hello over HTTP\n"))
  const webSockets = new WebSocketServer({ ...NodeTransport.webSocketServerOptions(), server: http })
  webSockets.on("connection", (ws, request) => {
    // At once, before the socket emits its first message.
    run(
      NodeTransport.fromWebSocket(ws, request).pipe(
        Effect.flatMap((connection) => server.register(connection)),
        Effect.catch((error) => Effect.sync(() => ws.close(1011, error._tag)))
      )
    )
  })
  // Only asked to close: it does when the last socket is gone, and those are closed by the server's shutdown.
  yield* Effect.addFinalizer(() => Effect.sync(() => http.close()))
  http.listen(Number(process.env["PORT"] ?? 8080), () => run(Console.log(`listening on port ${portOf(http)}`)))
}))

const portOf = (server: ReturnType<typeof createServer>): number => {
  const address = server.address()
  return typeof address === "object" && address !== null ? address.port : 0
}

NodeRuntime.runMain(Layer.launch(Port.pipe(Layer.provide(Server))), {
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
