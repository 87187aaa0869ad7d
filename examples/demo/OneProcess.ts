/** A run with one server in this process, whose sessions survive cut connections and nothing more. */
import { Context, Effect, Exit, Layer, type Scope } from "effect"
import { MemoryStore, type ResilientServer } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import { FaultProxy } from "../../src/testing/node/index.ts"
import type { Checker } from "./Checker.ts"
import * as Clients from "./Clients.ts"
import { type Line, Lines, nameOf, store, times } from "./Lines.ts"
import * as Options from "./Options.ts"
import type { Report, Run } from "./Report.ts"

type Server = ResilientServer.ResilientServer<Line, Line>

const startServer = Effect.fnUntraced(function*(checker: Checker): Effect.fn.Return<Server, unknown, Scope.Scope> {
  const layer = Lines.layerServer({
    ...times,
    authenticate: ({ token }) => Effect.succeed({ session: token ?? "nobody", principal: token ?? "nobody" }),
    onMessage: (line, { session }) => Effect.sync(() => checker.stream("toServer", session).handled(line.i, line.text))
  }).pipe(
    Layer.provide(MemoryStore.layer(store)),
    Layer.provide(NodeTransport.layerServer({ port: 0 }))
  )
  return Context.get(yield* Layer.build(layer), Lines.Server)
})

export const run = Effect.fnUntraced(function*(
  options: Options.Options,
  checker: Checker,
  report: Report
): Effect.fn.Return<Run, unknown, Scope.Scope> {
  const startedAt = performance.now()
  const goal = 2 * options.messages
  const server = yield* startServer(checker)
  const proxy = yield* FaultProxy.make({
    target: server.address,
    seed: options.seed,
    faultsPerMinute: options.cutsPerMinute
  })
  const clients = yield* Effect.forEach(
    Array.from({ length: options.clients }, (_, index) => nameOf(index)),
    (name) => Clients.startClient(name, proxy.port, ({ i, text }) => checker.stream("toClient", name).handled(i, text)),
    { concurrency: 16 }
  )
  const outcome = yield* Effect.scoped(Effect.gen(function*() {
    yield* report.live(Effect.gen(function*() {
      return {
        elapsedMillis: performance.now() - startedAt,
        goal,
        toServer: checker.progress("toServer"),
        toClient: checker.progress("toClient"),
        faults: yield* proxy.counts,
        reconnects: yield* Clients.reconnectsOf(clients)
      }
    }))
    const spread = Clients.spreadOf(options)
    const senders = Effect.forEach(clients, (client, index) => {
      const name = nameOf(index)
      const messages = Options.messagesOf(options, index)
      const toServer = checker.stream("toServer", name)
      const toClient = checker.stream("toClient", name)
      return Effect.andThen(
        client.awaitConnected(),
        Effect.all([
          Clients.sendPaced(toServer, messages, spread, Clients.oneByOne(toServer, (line) => client.send(line))),
          Clients.sendPaced(toClient, messages, spread, Clients.oneByOne(toClient, (line) => server.send(name, line)))
        ], { concurrency: 2 })
      )
    }, { concurrency: "unbounded", discard: true })
    const handled = () => checker.progress("toServer").handled + checker.progress("toClient").handled
    return yield* Effect.exit(
      Effect.all([senders, Clients.awaitHandled(handled, goal)], { concurrency: 2, discard: true })
    )
  }))
  const elapsedMillis = performance.now() - startedAt
  yield* proxy.heal
  // Clients first: what they have not been told of comes now, and would be found as a duplicate.
  yield* Effect.forEach(clients, (client) => client.shutdown, { concurrency: "unbounded", discard: true })
  yield* server.shutdown
  return {
    elapsedMillis,
    aborted: Exit.isSuccess(outcome) ? undefined : String(Exit.getCause(outcome)),
    faults: yield* proxy.counts,
    reconnects: yield* Clients.reconnectsOf(clients),
    redelivered: {
      toServer: yield* Clients.redeliveredOf(clients),
      toClient: (yield* server.stats).totals.messagesRedelivered
    },
    fleet: undefined
  }
})
