/**
 * The server of the resets, a process of its own: on an own port, on an `http.Server` that serves other things too, beside
 * another `ws` server, and on one that is full. Says its ports as JSON, ends with its input, and fails for what nobody caught.
 */
import { Context, Effect, Layer } from "effect"
import { createServer, type Server } from "node:http"
import { WebSocketServer } from "ws"
import { MemoryStore } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import { Numbers } from "./resetContract.ts"

const serving = (options: NodeTransport.ServerOptions) =>
  Layer.build(
    Numbers.layerServer({ onMessage: (number, { server, session }) => server.send(session, number) }).pipe(
      Layer.provide([MemoryStore.layer(), NodeTransport.layerServer({ port: 0, ...options })])
    )
  ).pipe(Effect.map((services) => Context.get(services, Numbers.Server).address.port))

const http = (): Server => createServer((_, response) => response.end("over HTTP"))

const beside = (): Server => {
  const server = http()
  const foreign = new WebSocketServer({ noServer: true })
  server.on("upgrade", (request, socket, head) => {
    if (request.url !== "/foreign") return
    foreign.handleUpgrade(request, socket, head, (ws) => ws.on("error", () => {}))
  })
  return server
}

await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const ports = {
    own: yield* serving({ path: "/live" }),
    shared: yield* serving({ path: "/live", server: http() }),
    beside: yield* serving({ path: "/live", server: beside(), handshakeTimeout: "1 second" }),
    full: yield* serving({ path: "/live", maxConnections: 1 })
  }
  process.stdout.write(`${JSON.stringify(ports)}\n`)
  yield* Effect.promise(() => new Promise((resolve) => process.stdin.once("end", resolve).resume()))
})))
process.exit(0)
