/**
 * One port for everything: an `HttpApi`, a page, metrics for Prometheus and sessions, with one shutdown. `PORT` says where
 * it listens; Ctrl+C or SIGTERM drains the sessions, then closes the port.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, Layer, Runtime, Schema } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { PrometheusMetrics } from "effect/observability"
import { createServer } from "node:http"
import { MemoryStore, Transport } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { Shop } from "./contract.ts"

// Sessions: ws://localhost:8080/live
const Sessions = Shop.layerServer({
  onMessage: ({ item, number }, { server, session }) =>
    Effect.andThen(Console.log(`order ${number}: ${item}`), server.send(session, { number }))
}).pipe(Layer.provide([MemoryStore.layer(), Transport.layerServerHttpRouter({ path: "/live" })]))

// GET /sessions: how many there are.
const Api = HttpApi.make("example/Api").add(
  HttpApiGroup.make("sessions").add(HttpApiEndpoint.get("count", "/sessions", { success: Schema.Int }))
)
const ApiHandlers = HttpApiBuilder.group(
  Api,
  "sessions",
  Effect.fnUntraced(function*(handlers) {
    const server = yield* Shop.Server
    return handlers.handle("count", () => Effect.map(server.stats, ({ sessions }) => sessions))
  })
)

// GET /: a page; `HttpStaticServer` serves a folder.
const Page = HttpRouter.add("GET", "/", HttpServerResponse.html("<h1>The shop is open</h1>\n"))

const Routes = Layer.mergeAll(
  HttpApiBuilder.layer(Api).pipe(Layer.provide(ApiHandlers)),
  Page,
  PrometheusMetrics.layerHttp() // GET /metrics
).pipe(Layer.provideMerge(Sessions))

const Main = HttpRouter.serve(Routes, { disableLogger: true }).pipe(
  Layer.provide(NodeHttpServer.layer(createServer, {
    port: Number(process.env["PORT"] ?? 8080),
    host: "127.0.0.1",
    // The rules of the library's own port: no larger frames than a payload may need, our subprotocol, no compression.
    websocket: NodeTransport.webSocketServerOptions()
  }))
)

const Listening = Layer.effectDiscard(
  Effect.flatMap(Shop.Server, (server) => Console.log(`listening on port ${server.address.port}`))
)

NodeRuntime.runMain(Layer.launch(Listening.pipe(Layer.provide(Main))), {
  // A signal is how a server ends: not 130, the code of an interrupt, but 0.
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
