/**
 * A child process of test/attack.test.ts and bench/attack.ts: a server with the default options, whose handler takes its
 * time for whoever is not honest. Prints its port, and its figures whenever it is given a line.
 */
import { Context, Effect, Layer, Redacted, References, Schema } from "effect"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { createInterface } from "node:readline"
import { Contract, MemoryStore } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"

const slowMillis = Number(process.argv[2] ?? 2_000)

/** What honest clients say comes back; a `poison` breaks the handler. */
export const Anything = Contract.make("test/Anything", { toServer: Schema.Unknown, toClient: Schema.Unknown })

const isPoison = (message: unknown): boolean =>
  typeof message === "object" && message !== null && Object.hasOwn(message, "poison")

const program = Effect.gen(function*() {
  const layer = Anything.layerServer({
    authenticate: ({ token }) => {
      const name = token === undefined ? "" : Redacted.value(token)
      return Effect.succeed(name.startsWith("honest") ? { session: name, principal: name } : {})
    },
    onMessage: (message, { server, session }) =>
      session.startsWith("honest")
        ? server.send(session, message)
        : Effect.andThen(
          isPoison(message) ? Effect.die(new Error("poison")) : Effect.sleep(slowMillis),
          server.send(session, "x".repeat(10_000))
        )
  }).pipe(Layer.provide(MemoryStore.layer()), Layer.provide(NodeTransport.layerServer({ port: 0, path: "/ws" })))
  const server = Context.get(yield* Layer.build(layer), Anything.Server)
  console.log(JSON.stringify({ port: server.address.port }))
  // How long the event loop has been busy with one round of it, at most.
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const lines = createInterface({ input: process.stdin })
  yield* Effect.promise(async () => {
    for await (const _ of lines) {
      const { connections, sessions, totals } = await Effect.runPromise(server.stats)
      const { heapUsed, rss } = process.memoryUsage()
      console.log(JSON.stringify({
        connections,
        sessions,
        heapMiB: heapUsed / 2 ** 20,
        rssMiB: rss / 2 ** 20,
        loopMillis: delay.max / 1e6,
        totals
      }))
      delay.reset()
    }
  })
})

if (import.meta.main) {
  await Effect.runPromise(Effect.provideService(Effect.scoped(program), References.MinimumLogLevel, "Fatal"))
  process.exit(0)
}
