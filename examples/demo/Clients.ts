/** The client side of a run, which is the same whatever the servers are: clients, senders, waiting for the end. */
import { Context, Effect, Layer, Redacted, type Scope } from "effect"
import { MemoryStore, type ResilientClient } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import type { StreamCheck } from "./Checker.ts"
import { type Line, Lines, reconnect, store, times } from "./Lines.ts"

export type Client = ResilientClient.ResilientClient<Line, Line>

/** A run without any progress for this long is given up. */
const patienceMillis = 60_000
/** Messages are spread over the time that so many faults, or so many kills, take; over `maxSpreadMillis` at most. */
const wantedFaults = 60
const wantedKills = 15
const maxSpreadMillis = 20_000
/** Senders write this often. */
const paceMillis = 50

/** A client that hands its messages to `handle`, for as long as the scope. */
export const startClient = Effect.fnUntraced(function*(
  name: string,
  port: number,
  handle: (line: Line) => void
): Effect.fn.Return<Client, unknown, Scope.Scope> {
  const layer = Lines.layerClient({
    ...times,
    reconnect,
    dialTimeout: "2 seconds",
    url: `ws://127.0.0.1:${port}`,
    token: Redacted.make(name),
    onMessage: (line) => Effect.sync(() => handle(line))
  }).pipe(
    Layer.provide(MemoryStore.layer(store)),
    Layer.provide(NodeTransport.layerClient)
  )
  return Context.get(yield* Layer.build(layer), Lines.Client)
})

/** Over how many ms messages are spread, so that enough happens meanwhile. */
export const spreadOf = (rates: { readonly cutsPerMinute: number; readonly killsPerMinute: number }): number => {
  const timeFor = (wanted: number, perMinute: number) => perMinute === 0 ? 0 : (wanted / perMinute) * 60_000
  const wantedMillis = Math.max(timeFor(wantedFaults, rates.cutsPerMinute), timeFor(wantedKills, rates.killsPerMinute))
  return Math.min(maxSpreadMillis, wantedMillis)
}

/**
 * Sends a stream's messages, spread evenly over `spreadMillis`. `send` is given the number of the next one and how
 * many are due, and says how many of them were accepted.
 */
export const sendPaced = Effect.fnUntraced(function*<E>(
  stream: StreamCheck,
  messages: number,
  spreadMillis: number,
  send: (next: number, due: number) => Effect.Effect<number, E>
) {
  const startedAt = performance.now()
  let next = 0
  while (next < messages) {
    const elapsed = performance.now() - startedAt
    const due = spreadMillis === 0 ? messages : Math.min(messages, Math.ceil((elapsed / spreadMillis) * messages))
    while (next < due) {
      const accepted = yield* send(next, due - next)
      stream.sent(accepted)
      next += accepted
    }
    if (next < messages) yield* Effect.sleep(paceMillis)
  }
})

/** `send` of {@link sendPaced} for whoever takes a line at a time. */
export const oneByOne =
  <E>(stream: StreamCheck, send: (line: Line) => Effect.Effect<unknown, E>) =>
  (next: number): Effect.Effect<number, E> => Effect.as(send({ i: next, text: stream.text(next) }), 1)

export const reconnectsOf = (clients: ReadonlyArray<Client>): Effect.Effect<number> =>
  Effect.map(
    Effect.forEach(clients, (client) => client.stats),
    (all) =>
      all.reduce((sum, { totals }) => sum + Math.max(0, totals.connectionsResumed + totals.connectionsFresh - 1), 0)
  )

/** Messages that clients put on the wire again after a reconnect. */
export const redeliveredOf = (clients: ReadonlyArray<Client>): Effect.Effect<number> =>
  Effect.map(
    Effect.forEach(clients, (client) => client.stats),
    (all) => all.reduce((sum, { totals }) => sum + totals.messagesRedelivered, 0)
  )

/** Waits until all is handled. Fails with a sentence when nothing moves any more. */
export const awaitHandled = Effect.fnUntraced(function*(handled: () => number, goal: number) {
  let seen = -1
  let movedAt = performance.now()
  while (true) {
    const now = handled()
    if (now >= goal) return
    if (now !== seen) {
      seen = now
      movedAt = performance.now()
    }
    if (performance.now() - movedAt > patienceMillis) {
      return yield* Effect.fail(`nothing was handled for ${patienceMillis / 1000} s`)
    }
    yield* Effect.sleep(20)
  }
})
