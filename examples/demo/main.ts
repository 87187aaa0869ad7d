/**
 * `npm start`: a server and its clients talk through a network that breaks all the time, and an independent checker
 * says whether every message was handled exactly once and in order. Nothing is mocked: real sockets, real faults.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Context, Effect, Exit, Layer, Logger, References, Schema, type Scope } from "effect"
import { Command } from "effect/cli"
import { Contract, MemoryStore, type ResilientClient, type ResilientServer } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import * as Checker from "./Checker.ts"
import * as FaultProxy from "./FaultProxy.ts"
import * as Input from "./Input.ts"
import * as Options from "./Options.ts"
import * as Report from "./Report.ts"

const Line = Schema.Struct({ i: Schema.Int, text: Schema.String })
type Line = typeof Line.Type

const Lines = Contract.make("resilient-websocket/demo/Lines", { toServer: Line, toClient: Line })

type Server = ResilientServer.ResilientServer<Line, Line>
type Client = ResilientClient.ResilientClient<Line, Line>

/** Impatient, so that half-open connections are noticed within a short run. The defaults are ten times slower. */
const times = {
  heartbeat: "1 second",
  heartbeatTimeout: "800 millis",
  ackTimeout: "3 seconds",
  handshakeTimeout: "2 seconds"
} as const
const reconnect = { base: "50 millis", cap: "1 second" } as const
const store = {
  queue: { overflow: "suspend" },
  breaker: { endpoint: { openBase: "100 millis", openCap: "1 second" } }
} as const

/** A run without any progress for this long is given up. */
const patienceMillis = 60_000
/** Messages are spread over the time that this many faults take, but over 20 s at most. */
const wantedFaults = 60
const maxSpreadMillis = 20_000
/** Senders write this often. */
const paceMillis = 50

const nameOf = (client: number): string => `client-${client + 1}`

const startServer = Effect.fnUntraced(
  function*(checker: Checker.Checker): Effect.fn.Return<Server, unknown, Scope.Scope> {
    const layer = Lines.layerServer({
      ...times,
      authenticate: ({ token }) => Effect.succeed({ session: token ?? "nobody", principal: token ?? "nobody" }),
      onMessage: (line, { session }) =>
        Effect.sync(() => checker.stream("toServer", session).handled(line.i, line.text))
    }).pipe(
      Layer.provide(MemoryStore.layer(store)),
      Layer.provide(NodeTransport.layerServer({ port: 0 }))
    )
    return Context.get(yield* Layer.build(layer), Lines.Server)
  }
)

const startClient = Effect.fnUntraced(function*(
  name: string,
  port: number,
  checker: Checker.Checker
): Effect.fn.Return<Client, unknown, Scope.Scope> {
  const layer = Lines.layerClient({
    ...times,
    reconnect,
    dialTimeout: "2 seconds",
    url: `ws://127.0.0.1:${port}`,
    token: name,
    onMessage: (line) => Effect.sync(() => checker.stream("toClient", name).handled(line.i, line.text))
  }).pipe(
    Layer.provide(MemoryStore.layer(store)),
    Layer.provide(NodeTransport.layerClient)
  )
  return Context.get(yield* Layer.build(layer), Lines.Client)
})

/** Sends a stream's messages, spread evenly over `spreadMillis`. */
const sendAll = Effect.fnUntraced(function*<E>(
  stream: Checker.StreamCheck,
  messages: number,
  spreadMillis: number,
  send: (line: Line) => Effect.Effect<unknown, E>
) {
  const startedAt = performance.now()
  let next = 0
  while (next < messages) {
    const elapsed = performance.now() - startedAt
    const due = spreadMillis === 0 ? messages : Math.min(messages, Math.ceil((elapsed / spreadMillis) * messages))
    for (; next < due; next++) {
      yield* send({ i: next, text: stream.text(next) })
      stream.sent()
    }
    if (next < messages) yield* Effect.sleep(paceMillis)
  }
})

const reconnectsOf = (clients: ReadonlyArray<Client>) =>
  Effect.map(
    Effect.forEach(clients, (client) => client.stats),
    (all) =>
      all.reduce((sum, { totals }) => sum + Math.max(0, totals.connectionsResumed + totals.connectionsFresh - 1), 0)
  )

/** Waits until all is handled. Fails with a sentence when nothing moves any more. */
const awaitHandled = Effect.fnUntraced(function*(checker: Checker.Checker, goal: number) {
  let seen = -1
  let movedAt = performance.now()
  while (true) {
    const handled = checker.progress("toServer").handled + checker.progress("toClient").handled
    if (handled >= goal) return
    if (handled !== seen) {
      seen = handled
      movedAt = performance.now()
    }
    if (performance.now() - movedAt > patienceMillis) {
      return yield* Effect.fail(`nothing was handled for ${patienceMillis / 1000} s`)
    }
    yield* Effect.sleep(20)
  }
})

const run = Effect.fnUntraced(function*(options: Options.Options, report: Report.Report) {
  const input = yield* Input.load({ file: options.file })
  const checker = Checker.make({ lines: input.lines })
  yield* report.note(
    `${options.messages} lines each way, ${options.clients} clients, seed ${options.seed}, from ${input.source}`
  )
  const startedAt = performance.now()
  const goal = 2 * options.messages

  const finished = yield* Effect.scoped(Effect.gen(function*() {
    const server = yield* startServer(checker)
    const proxy = yield* FaultProxy.make({
      target: server.address,
      seed: options.seed,
      faultsPerMinute: options.cutsPerMinute
    })
    const clients = yield* Effect.forEach(
      Array.from({ length: options.clients }, (_, index) => nameOf(index)),
      (name) => startClient(name, proxy.port, checker),
      { concurrency: 16 }
    )
    yield* report.live(Effect.gen(function*() {
      return {
        elapsedMillis: performance.now() - startedAt,
        goal,
        toServer: checker.progress("toServer"),
        toClient: checker.progress("toClient"),
        faults: yield* proxy.counts,
        reconnects: yield* reconnectsOf(clients)
      }
    }))

    const spread = options.cutsPerMinute === 0
      ? 0
      : Math.min(maxSpreadMillis, (wantedFaults / options.cutsPerMinute) * 60_000)
    const senders = Effect.forEach(clients, (client, index) => {
      const name = nameOf(index)
      const messages = Options.messagesOf(options, index)
      return Effect.andThen(
        client.awaitConnected(),
        Effect.all([
          sendAll(checker.stream("toServer", name), messages, spread, (line) => client.send(line)),
          sendAll(checker.stream("toClient", name), messages, spread, (line) => server.send(name, line))
        ], { concurrency: 2 })
      )
    }, { concurrency: "unbounded", discard: true })
    const outcome = yield* Effect.exit(
      Effect.all([senders, awaitHandled(checker, goal)], { concurrency: 2, discard: true })
    )
    yield* proxy.stop
    // Clients first: what they have not been told of comes now, and would be found as a duplicate.
    yield* Effect.forEach(clients, (client) => client.shutdown, { concurrency: "unbounded", discard: true })
    yield* server.shutdown
    return {
      aborted: Exit.isSuccess(outcome) ? undefined : String(Exit.getCause(outcome)),
      faults: yield* proxy.counts,
      reconnects: yield* reconnectsOf(clients),
      redelivered: {
        toServer: (yield* Effect.forEach(clients, (client) => client.stats)).reduce(
          (sum, { totals }) => sum + totals.messagesRedelivered,
          0
        ),
        toClient: (yield* server.stats).totals.messagesRedelivered
      }
    }
  }))

  const summary: Report.Summary = {
    seed: options.seed,
    clients: options.clients,
    source: input.source,
    elapsedMillis: performance.now() - startedAt,
    verdict: checker.verdict(),
    ...finished
  }
  yield* report.finish(summary)
  if (!Report.isSuccess(summary)) process.exitCode = 1
})

const demo = Options.command((options) => {
  const report = Report.make({ json: options.json })
  return run(options, report).pipe(
    // The faults are the point: what the library logs about them would only hide the result.
    Effect.provideService(References.MinimumLogLevel, "Error"),
    Effect.catch((error) =>
      Effect.sync(() => {
        console.error(error instanceof Error ? error.message : String(error))
        process.exitCode = 1
      })
    )
  )
})

demo.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.provide(Layer.mergeAll(NodeServices.layer, Logger.layer([Logger.withConsoleError(Logger.formatLogFmt)]))),
  NodeRuntime.runMain
)
