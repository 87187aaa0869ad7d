/** Each counter, driven by what it counts; read from `stats` and from the Prometheus route, which must agree. */
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Metric, Schedule, Schema } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { createServer } from "node:http"
import { CircuitBreaker, type Metrics, SessionRegistry, WebSocketError } from "resilient-websocket"
import { WebSocket } from "ws"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { makeStranger } from "./support/stranger.ts"

const { advanceUntil, turn, until } = H

/** Serves the metrics over HTTP; gives the text of one request. */
const scrape = Effect.gen(function*() {
  const services = yield* Layer.build(
    HttpRouter.serve(PrometheusMetrics.layerHttp(), { disableLogger: true, disableListenLog: true }).pipe(
      Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0 }))
    )
  )
  const { address } = Context.get(services, HttpServer.HttpServer)
  const port = "port" in address ? address.port : assert.fail("no port")
  return Effect.promise(() => fetch(`http://127.0.0.1:${port}/metrics`).then((response) => response.text()))
})

/** The samples of a scrape, by name and labels. */
const samples = (text: string): ReadonlyMap<string, number> =>
  new Map(
    text.split("\n").filter((line) => line !== "" && !line.startsWith("#")).map((line) => {
      const end = line.lastIndexOf(" ")
      return [line.slice(0, end), Number(line.slice(end + 1))]
    })
  )

const metricOf = (name: string): string =>
  `resilient_websocket_${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`).replace(/_total$/, "")}_total`

type Totals = Metrics.Totals
type Recorded = { readonly stats: Effect.Effect<{ readonly totals: Totals }> }

/** A handler that fails when told to. */
const handler = (text: string) => text === "fails" ? Effect.fail("told to") : Effect.void

const isolated = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => Effect.provideService(effect, Metric.MetricRegistry, new Map()))

describe("the counters", () => {
  it.effect("count what they say, each of them, and Prometheus is told the same", () =>
    isolated(Effect.gen(function*() {
      const read = yield* scrape
      const network = yield* makeNetwork
      const serverStore = yield* H.makeStore({ queue: { maxMessages: 5 } })
      const registry = Context.get(serverStore, SessionRegistry.SessionRegistry)
      const breaker = Context.get(serverStore, CircuitBreaker.CircuitBreaker)
      let registryDies = false
      let registryFails = false
      const down = new WebSocketError.SessionRegistryError({ session: "", operation: "attach", reason: "store" })
      const server = yield* H.serverOn(network.context, {
        authenticate: H.byToken,
        onMessage: handler,
        incoming: Schema.String,
        handlerRetry: Schedule.recurs(1),
        rateLimit: { framesPerSecond: 1_000, burst: "1 second" }
      }, {
        store: Context.add(serverStore, SessionRegistry.SessionRegistry, {
          ...registry,
          attach: (request) =>
            Effect.suspend(() => {
              if (!registryFails) return registry.attach(request)
              registryFails = false
              return Effect.fail(down)
            }),
          expire: Effect.suspend(() => {
            if (!registryDies) return registry.expire
            registryDies = false
            return Effect.die("once")
          })
        })
      })
      const recorders: Array<Recorded> = [server]
      const driven = new Set<string>()
      /** Does something, after which a counter must have risen by so much, and does. */
      const drives = Effect.fnUntraced(function*<A, E, R>(
        at: Recorded,
        wanted: Partial<Record<Metrics.CounterName, number>>,
        effect: Effect.Effect<A, E, R>
      ) {
        const before = (yield* at.stats).totals
        const result = yield* effect
        for (const [name, by] of Object.entries(wanted) as Array<[Metrics.CounterName, number]>) {
          yield* advanceUntil(
            `${name} rises by ${by}`,
            () => Effect.map(at.stats, ({ totals }) => totals[name] >= before[name] + by)
          )
          assert.strictEqual((yield* at.stats).totals[name] - before[name], by, name)
          driven.add(name)
        }
        return result
      })
      const send = (text: string, options?: Parameters<typeof server.send>[2]) => server.send("alice", text, options)

      const dialled = H.clientOn(network.context, {
        token: "alice",
        onMessage: handler,
        reconnect: { base: "1 hour", cap: "1 hour" } // when the test says so
      })
      const client = yield* drives(server, { connectionsTotal: 1, connectionsFresh: 1 }, dialled)
      recorders.push(client)
      yield* client.awaitConnected()
      yield* drives(server, { messagesSent: 1, messagesAcknowledged: 1 }, send("x"))
      yield* drives(server, { messagesReceived: 1, messagesHandled: 1 }, client.send("x"))
      yield* drives(server, { messagesSent: 1 }, send("x", { volatile: true }))
      yield* send("x", { id: "k" })
      yield* drives(server, { messagesDeduplicated: 1 }, send("x", { id: "k" }))
      yield* drives(server, { retriesTried: 1, retriesFailed: 1, deadLetters: 1 }, client.send("fails"))

      yield* drives(server, { breakerTransitions: 1 }, breaker.isolate(CircuitBreaker.session("alice"), "a test"))
      yield* drives(server, { messagesVolatileSkipped: 1 }, send("x", { volatile: true }))
      yield* drives(server, { messagesQueued: 1 }, send("x"))
      yield* breaker.release(CircuitBreaker.session("alice"))
      const isEmpty = until("it is empty", () => Effect.map(server.stats, ({ queue }) => queue.messages === 0))
      yield* isEmpty

      network.passes = (direction, frame) => direction === "toServer" || !frame.startsWith(`{"t":"batch"`)
      yield* send("lost on the way")
      yield* turn
      network.passes = () => true
      yield* H.unplug(network, client)
      network.dialling = "accepted"
      yield* drives(server, { messagesRedelivered: 1, connectionsResumed: 1 }, client.reconnect)
      yield* isEmpty

      yield* H.unplug(network, client)
      yield* drives(client, { connectionsFailed: 1 }, client.reconnect)
      yield* drives(client, { retriesTried: 1, connectionsFailed: 1 }, client.reconnect)
      yield* Effect.forEach(H.numbered(5), (text) => send(text, { ttl: 500 }))
      yield* drives(server, { queueOverflows: 1 }, Effect.flip(send("one too many")))
      yield* drives(server, { messagesExpired: 5, deadLetters: 5 }, Effect.void)
      network.dialling = "accepted"
      yield* drives(client, { retriesSucceeded: 1 }, client.reconnect)

      yield* drives(
        server,
        { connectionsThrottled: 1 },
        Effect.sync(() => {
          for (let n = 0; n < 1_001; n++) network.newest().inject("toServer", `{"t":"ping"}`)
        })
      )
      registryFails = true
      yield* drives(server, { internalErrors: 1 }, makeStranger(network, "protocol", "alice"))

      const tab = H.clientOn(network.context, { token: "alice" })
      const second = yield* drives(server, { connectionsReplaced: 1 }, tab)
      recorders.push(second)
      yield* second.awaitConnected()
      yield* drives(
        server,
        { protocolErrors: 1 },
        Effect.sync(() => network.newest().inject("toServer", "no frame at all"))
      )
      yield* until("it has stopped", () => Effect.map(second.state, ({ _tag }) => _tag === "Stopped"))
      yield* second.reconnect
      yield* second.awaitConnected()
      network.dialling = "refused"
      yield* drives(server, { connectionsTimedOut: 1 }, Effect.sync(() => network.newest().vanish()))
      yield* drives(server, { workerRestarts: 1 }, Effect.sync(() => void (registryDies = true)))

      const onNode = yield* H.nodeServer()
      recorders.push(onNode.server)
      const foreign = Effect.callback<void>((resume) => {
        const ws = new WebSocket(onNode.url, { origin: "https://other.example" })
        ws.once("error", () => resume(Effect.void))
      })
      yield* drives(onNode.server, { connectionsRefused: 1 }, foreign)

      const all = yield* Effect.forEach(recorders, ({ stats }) => Effect.map(stats, ({ totals }) => totals))
      // Driven in store/failover.test.ts and hooks.test.ts.
      const elsewhere = ["messagesLost", "hooksDropped"]
      const names = Object.keys(all[0] ?? {}).filter((name) => !elsewhere.includes(name))
      assert.deepStrictEqual([...driven].sort(), names.sort())
      const text = yield* read
      const found = samples(text)
      for (const name of driven as Set<Metrics.CounterName>) {
        assert.strictEqual(found.get(metricOf(name)), all.reduce((sum, totals) => sum + totals[name], 0), name)
      }
      assert.notInclude(text, "alice")
      assert.isTrue([...found.keys()].every((key) => !key.includes("{") || /\{le="[^"]*"\}$/.test(key)))
    })))
})

describe("the gauges and histograms", () => {
  it.effect("follow what is there, and the gauges sum over all servers and clients", () =>
    isolated(Effect.gen(function*() {
      const read = Effect.map(yield* scrape, samples)
      const value = (name: string) => Effect.map(read, (found) => found.get(`resilient_websocket_${name}`))
      const becomes = (name: string, wanted: number) =>
        advanceUntil(`${name} becomes ${wanted}`, () => Effect.map(value(name), (found) => found === wanted))
      const { client, network, server } = yield* H.connected({ client: { onMessage: () => Effect.sleep("50 millis") } })
      yield* becomes("connections_active", 2) // both ends of one
      yield* becomes("sessions", 1)
      const receipt = yield* server.send("alice", "x")
      yield* H.advance(60)
      yield* receipt.handled
      assert.strictEqual(yield* value("enqueue_to_handled_millis_count"), 1)
      assert.isAtLeast((yield* value("enqueue_to_handled_millis_sum")) ?? 0, 50)
      assert.strictEqual(yield* value("send_millis_count"), 1)
      const { latencies } = yield* server.stats
      assert.isAtLeast(latencies.handledMillis, 50)
      assert.isAtMost(latencies.sendMillis, latencies.handledMillis)
      yield* H.unplug(network, client)
      yield* becomes("connections_active", 0)
      yield* server.send("alice", "12345678")
      yield* becomes("queue_messages", 1)
      yield* becomes("queue_bytes", 10)
      yield* server.endSession("alice")
      yield* becomes("queue_messages", 0)
      yield* becomes("queue_bytes", 0)
      yield* becomes("sessions", 0)
      assert.strictEqual((yield* server.stats).peakQueueMessages, 1)
    })))

  it.effect("are down to zero after a shutdown", () =>
    isolated(Effect.gen(function*() {
      const read = Effect.map(yield* scrape, samples)
      const { client, network, server } = yield* H.connected()
      yield* H.unplug(network, client)
      yield* server.send("alice", "x")
      yield* H.advance(2_000)
      yield* server.shutdown
      yield* client.shutdown
      const found = yield* read
      for (const gauge of ["connections_active", "queue_messages", "queue_bytes", "sessions"]) {
        assert.strictEqual(found.get(`resilient_websocket_${gauge}`), 0, gauge)
      }
    })))
})
