/**
 * A child process of test/memory.test.ts: a server with one client that stops reading, offered a million messages of
 * 1 kB. Prints its port, waits for the client, and prints what became of the messages and how far memory grew.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Context, Effect, Fiber, Layer, References, Schema, Stream } from "effect"
import { HttpRouter } from "effect/http"
import { createServer } from "node:http"
import { Contract, MemoryStore, type MessageQueue, Transport } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"

const policy = process.argv[2] as MessageQueue.OverflowPolicy // the test passes one
const messages = Number(process.argv[3])
/** On a port of its own, or on a route of an HTTP server. */
const isRouted = process.argv[4] === "router"
const Feed = Contract.make("test/Feed", { toServer: Schema.String, toClient: Schema.String })
const text = "x".repeat(1_000)

const program = Effect.gen(function*() {
  const sessions = Feed.layerServer({ authenticate: () => Effect.succeed({ session: "slow" }) }).pipe(
    Layer.provide(MemoryStore.layer({ queue: { overflow: policy } }))
  )
  const layer = isRouted
    ? HttpRouter.serve(Layer.provide(sessions, Transport.layerServerHttpRouter({ path: "/" })), {
      disableListenLog: true
    }).pipe(Layer.provide(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" })))
    : Layer.provide(sessions, NodeTransport.layerServer({ port: 0 }))
  const server = Context.get(yield* Layer.build(layer), Feed.Server)
  const connected = yield* Effect.forkChild(
    Stream.runHead(Stream.filter(server.connections, (event) => event._tag === "Connected")),
    { startImmediately: true }
  )
  console.log(JSON.stringify({ port: server.address.port }))
  yield* Fiber.join(connected)

  const outcomes: Record<string, number> = {}
  const count = (name: string) => {
    outcomes[name] = (outcomes[name] ?? 0) + 1
  }
  globalThis.gc?.()
  const heapBefore = process.memoryUsage().heapUsed
  const before = process.memoryUsage().rss
  let peak = before
  const offer = Effect.gen(function*() {
    for (let i = 0; i < messages; i++) {
      yield* server.send("slow", text).pipe(
        Effect.match({ onSuccess: (receipt) => count(receipt._tag), onFailure: (error) => count(error._tag) })
      )
      if (i % 1_000 !== 0) continue
      peak = Math.max(peak, process.memoryUsage().rss)
      yield* Effect.yieldNow
    }
  })
  // A suspended sender never gets through: that is its policy.
  yield* Effect.timeoutOption(offer, policy === "suspend" ? "2 seconds" : "100 seconds")
  const { queue, totals } = yield* server.stats
  globalThis.gc?.()
  console.log(JSON.stringify({
    outcomes,
    retainedMiB: (process.memoryUsage().heapUsed - heapBefore) / 2 ** 20,
    grownMiB: (peak - before) / 2 ** 20,
    queued: queue.messages,
    suspended: queue.suspended,
    deadLetters: totals.deadLetters
  }))
})

// Standard output is for the results.
await Effect.runPromise(Effect.provideService(Effect.scoped(program), References.MinimumLogLevel, "Fatal"))
process.exit(0)
