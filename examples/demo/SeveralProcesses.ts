/**
 * A run with servers in processes of their own, which share a durable store and are killed: each connection goes to any
 * of them, each message to a client is sent through any of them.
 */
import { Context, Effect, Exit, Layer, Random, type Scope } from "effect"
import { FaultProxy } from "../../src/testing/node/index.ts"
import type { Checker } from "./Checker.ts"
import * as Clients from "./Clients.ts"
import * as Fleet from "./Fleet.ts"
import type { DurableKind, Place } from "./Ipc.ts"
import { Ledger } from "./Ledger.ts"
import { nameOf } from "./Lines.ts"
import * as Options from "./Options.ts"
import type { Report, Run } from "./Report.ts"
import * as Stores from "./stores.ts"
import * as StoreServer from "./StoreServer.ts"

/** Lines that a server is asked to send at once. The next ones follow when it has answered. */
const maxBatch = 128
/**
 * How far a sender may be ahead of what its client has handled: less than the outbox holds, so that none of the sends
 * of a batch is ever held up while later ones find room.
 */
const maxAhead = 768
/** How long a sender waits before it asks again for what was not accepted, or until its client has handled more. */
const pauseMillis = 20
/** How often the ledger's size is looked at, at most. */
const lookMillis = 200

export const run = Effect.fnUntraced(function*(
  options: Options.Options & { readonly store: DurableKind },
  checker: Checker,
  report: Report
): Effect.fn.Return<Run, unknown, Scope.Scope> {
  const place = yield* findPlace(options, report)
  const ledger = Context.get(yield* Layer.build(Stores.forDemo(place)), Ledger)
  const fleet = yield* Fleet.make({ ...options, place, cache: yield* StoreServer.temporaryDirectory })
  const startedAt = performance.now()
  const goal = 2 * options.messages
  const proxy = yield* FaultProxy.make({
    target: fleet.pick,
    seed: options.seed,
    faultsPerMinute: options.cutsPerMinute
  })

  const names = Array.from({ length: options.clients }, (_, index) => nameOf(index))
  const handledBy = new Map(names.map((name) => [name, 0]))
  const clients = yield* Effect.forEach(
    names,
    (name) =>
      Clients.startClient(name, proxy.port, ({ i, text }) => {
        checker.stream("toClient", name).handled(i, text)
        handledBy.set(name, (handledBy.get(name) ?? 0) + 1)
      }),
    { concurrency: 16 }
  )

  /** Sends a client's next lines through some server, each under its number as its key, so that it is there once. */
  const sendThroughFleet = (name: string) => (next: number, due: number): Effect.Effect<number> =>
    Effect.suspend(() => {
      const stream = checker.stream("toClient", name)
      const room = maxAhead - (next - (handledBy.get(name) ?? 0))
      const texts = Array.from({ length: Math.min(due, room, maxBatch) }, (_, k) => stream.text(next + k))
      if (texts.length === 0) return Effect.as(Effect.sleep(pauseMillis), 0)
      return Effect.flatMap(
        fleet.send({ session: name, first: next, texts }),
        ({ accepted }) =>
          accepted < texts.length ? Effect.as(Effect.sleep(pauseMillis), accepted) : Effect.succeed(accepted)
      )
    })

  let written = 0
  const watchLedger = Effect.gen(function*() {
    while (true) {
      const startedAt = performance.now()
      written = yield* ledger.size
      // A ledger that is slow to count is counted less often.
      yield* Effect.sleep(Math.max(lookMillis, 10 * (performance.now() - startedAt)))
    }
  })

  const outcome = yield* Effect.scoped(Effect.gen(function*() {
    yield* report.live(Effect.gen(function*() {
      return {
        elapsedMillis: performance.now() - startedAt,
        goal,
        toServer: { ...checker.progress("toServer"), handled: written },
        toClient: checker.progress("toClient"),
        faults: yield* proxy.counts,
        reconnects: yield* Clients.reconnectsOf(clients),
        fleet: fleet.counts()
      }
    }))
    const spread = Clients.spreadOf(options)
    const senders = Effect.forEach(clients, (client, index) => {
      const name = nameOf(index)
      const messages = Options.messagesOf(options, index)
      const toServer = checker.stream("toServer", name)
      return Effect.andThen(
        client.awaitConnected(),
        Effect.all([
          Clients.sendPaced(toServer, messages, spread, Clients.oneByOne(toServer, (line) => client.send(line))),
          Clients.sendPaced(checker.stream("toClient", name), messages, spread, sendThroughFleet(name))
        ], { concurrency: 2 })
      )
    }, { concurrency: "unbounded", discard: true })
    const handled = () => written + checker.progress("toClient").handled
    return yield* Effect.all([senders, Clients.awaitHandled(handled, goal)], { concurrency: 2, discard: true }).pipe(
      Effect.raceFirst(watchLedger),
      Effect.raceFirst(fleet.awaitFailure),
      Effect.exit
    )
  }))
  const elapsedMillis = performance.now() - startedAt

  yield* fleet.stopKilling
  yield* proxy.heal
  // Clients first: what they have not been told of comes now, and would be found as a duplicate.
  yield* Effect.forEach(clients, (client) => client.shutdown, { concurrency: "unbounded", discard: true })
  yield* fleet.stop
  yield* ledger.read(({ i, session, text }) => checker.stream("toServer", session).handled(i, text))
  const { redelivered, ...counts } = fleet.counts()
  return {
    elapsedMillis,
    aborted: Exit.isSuccess(outcome) ? undefined : String(Exit.getCause(outcome)),
    faults: yield* proxy.counts,
    reconnects: yield* Clients.reconnectsOf(clients),
    redelivered: { toServer: yield* Clients.redeliveredOf(clients), toClient: redelivered },
    fleet: { store: options.store, servers: options.servers, ...counts }
  }
})

/** The store that was named, or one of the demo's own. */
const findPlace = Effect.fnUntraced(function*(
  { store, storeUrl }: Options.Options & { readonly store: DurableKind },
  report: Report
): Effect.fn.Return<Place, string, Scope.Scope> {
  const namespace = `rws_demo_${(yield* Random.nextIntBetween(0, 2 ** 32)).toString(36)}`
  if (storeUrl !== undefined) return { kind: store, location: storeUrl, namespace }
  const { location, name } = yield* StoreServer.start(store)
  yield* report.note(`the store is ${name}`)
  return { kind: store, location, namespace }
})
