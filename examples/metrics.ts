/** The server's metrics for Prometheus, on a port of their own: `METRICS_PORT`, by default 9090. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, Layer, Runtime } from "effect"
import { HttpRouter } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { createServer } from "node:http"
import { MemoryStore } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { Shop } from "./contract.ts"

const Server = Shop.layerServer({
  onMessage: ({ number }, { server, session }) => server.send(session, { number })
}).pipe(
  Layer.provide(MemoryStore.layer()),
  Layer.provide(NodeTransport.layerServer({ port: Number(process.env["PORT"] ?? 8080) }))
)

// GET /metrics
const Metrics = HttpRouter.serve(PrometheusMetrics.layerHttp()).pipe(
  Layer.provide(NodeHttpServer.layer(createServer, { port: Number(process.env["METRICS_PORT"] ?? 9090) }))
)

const Listening = Layer.effectDiscard(
  Effect.flatMap(Shop.Server, (server) => Console.log(`listening on port ${server.address.port}`))
)

NodeRuntime.runMain(Layer.launch(Layer.mergeAll(Listening.pipe(Layer.provide(Server)), Metrics)), {
  teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
})
