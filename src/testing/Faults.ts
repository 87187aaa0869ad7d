/**
 * Faults of the network for your own tests: named ones, at the moment you say, on any transport.
 *
 * **Details.** `Faults.layer` puts itself between a transport and its users: in memory or on real sockets, under
 * `TestClock` or not. If the transport has a client, its connections have the faults; else those of the server. Either
 * way both directions do. Other connections, of other layers, are left alone.
 *
 * **Gotchas.** A server or client that ends waits for its messages under way, by Effect's Clock. Under `TestClock`, let
 * nothing stay late or half-open at the end of a test that has sent something: `heal` first.
 *
 * **Example** (An order whose ack is lost)
 *
 * ```ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect, Layer, Schema } from "effect"
 * import { TestClock } from "effect/testing"
 * import { Contract, MemoryStore, Transport } from "resilient-websocket"
 * import { Faults } from "resilient-websocket/testing"
 *
 * const Shop = Contract.make("example/Shop", { toServer: Schema.String, toClient: Schema.String })
 *
 * const handled: Array<string> = []
 * const Server = Shop.layerServer({ onMessage: (item) => Effect.sync(() => handled.push(item)) }).pipe(
 *   Layer.provide(MemoryStore.layer())
 * )
 * const Both = Shop.layerClient({ url: "ws://test" }).pipe(
 *   Layer.provide(MemoryStore.layer()),
 *   Layer.provideMerge(Server),
 *   Layer.provideMerge(Faults.layer(Transport.layerMemory))
 * )
 *
 * it.effect("an order whose ack is lost is handled once", () =>
 *   Effect.gen(function*() {
 *     const faults = yield* Faults.Faults
 *     const shop = yield* Shop.Client
 *     yield* shop.awaitConnected()
 *     yield* faults.loseNextAck()
 *     const receipt = yield* shop.send("tea")
 *     yield* faults.awaitCounts(({ open }) => open === 0) // it is lost, and its connection cut
 *     yield* TestClock.adjust("1 minute") // the client dials again
 *     yield* receipt.handled
 *     assert.deepStrictEqual(handled, ["tea"])
 *   }).pipe(Effect.provide(Both)))
 * ```
 *
 * @since 0.1.0
 */
import { Context, type Duration, Effect, Layer } from "effect"
import { TransportClient, TransportServer } from "../Transport.ts"
import { delayMillis, type Direction } from "./delayLine.ts"
import { type Counts, type FaultyNetwork, make } from "./faultyNetwork.ts"

/**
 * A direction of a connection.
 *
 * @since 0.1.0
 * @category models
 */
export type { Direction } from "./delayLine.ts"

/**
 * What has happened so far.
 *
 * @since 0.1.0
 * @category models
 */
export type { Counts } from "./faultyNetwork.ts"

/**
 * The faults of one transport. Each effect succeeds when the fault is in force. `heal` ends those that last, and so does
 * the end of the layer.
 *
 * @since 0.1.0
 * @category services
 */
export class Faults extends Context.Service<Faults, {
  /**
   * Ends all connections at both ends, without a close frame (code 1006). What is late is lost. New ones may come at
   * once: see `refuse`.
   */
  readonly cut: Effect.Effect<void>
  /**
   * Dials fail with a `TransportError`, until `heal`. At a server, connections are terminated as they come. Connections
   * that are there stay.
   */
  readonly refuse: Effect.Effect<void>
  /**
   * All connections are half-open from now on: frames vanish, and so does word of an end. Only heartbeats and missing
   * acks tell. New connections are not hit. Default: in both directions. With `noticedBy`, both directions are lost and
   * this side alone is told that the connection is over (code 1006). `heal` ends them at both ends, as nothing can
   * bring back what has vanished.
   */
  readonly halfOpen: (options?: {
    readonly direction?: Direction | undefined
    readonly noticedBy?: "client" | "server" | undefined
  }) => Effect.Effect<void>
  /**
   * Every frame that is sent from now on is late by this much, on all connections, in order, until `heal` or another
   * `delay`. Pings are late as well; dials are not, and a side that closes hurries what it has sent. `Infinity`: nothing
   * arrives until `heal`. At most 256 KiB of a direction are under way, then its sender waits. Default: in both
   * directions.
   */
  readonly delay: (
    duration: Duration.Input,
    options?: { readonly direction?: Direction | undefined }
  ) => Effect.Effect<void>
  /**
   * The next frame that acknowledges a handled message for the first time is lost, and its connection cut: in TCP,
   * nothing vanishes alone. Default: in either direction.
   */
  readonly loseNextAck: (options?: { readonly direction?: Direction | undefined }) => Effect.Effect<void>
  /** The next frame with messages is lost in the same way. Default: in either direction. */
  readonly loseNextMessage: (options?: { readonly direction?: Direction | undefined }) => Effect.Effect<void>
  /** The server's next answer to a handshake is lost in the same way: the client does not know that it was let in. */
  readonly loseNextWelcome: Effect.Effect<void>
  /**
   * Ends all faults. What is late arrives now, half-open connections end, and what was to be lost and has not come yet
   * is not lost any more.
   */
  readonly heal: Effect.Effect<void>
  /** What has happened so far. */
  readonly counts: Effect.Effect<Counts>
  /** Waits until the counts are as wanted. Succeeds at once if they are. */
  readonly awaitCounts: (predicate: (counts: Counts) => boolean) => Effect.Effect<Counts>
}>()("resilient-websocket/testing/Faults") {}

/**
 * A transport with faults.
 *
 * **Example**
 *
 * ```ts
 * import { Transport } from "resilient-websocket"
 * import { NodeTransport } from "resilient-websocket/node"
 * import { Faults } from "resilient-websocket/testing"
 *
 * export const InMemory = Faults.layer(Transport.layerMemory)
 * export const Client = Faults.layer(NodeTransport.layerClient)
 * export const Server = Faults.layer(NodeTransport.layerServer({ port: 0 }))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <A extends TransportClient | TransportServer, E, R>(
  transport: Layer.Layer<A, E, R>
): Layer.Layer<A | Faults, E, R> =>
  Layer.flatMap(transport, (context) =>
    Layer.effectContext(Effect.gen(function*() {
      const network = yield* make
      return Context.mergeAll(context, decorated(context, network), Context.make(Faults, serviceOf(network)))
    })))

/** The transport that gets the faults; the type says nothing of it, as it takes the place of one that is there. */
const decorated = (context: Context.Context<never>, network: FaultyNetwork): Context.Context<never> => {
  const client = Context.getOption(context, TransportClient)
  if (client._tag === "Some") {
    return Context.make(TransportClient, { dial: (options) => network.dial(client.value.dial(options)) })
  }
  const server = Context.getOption(context, TransportServer)
  if (server._tag === "None") return context
  const { listen } = server.value
  return Context.make(TransportServer, {
    listen: (accept, onRefused) => listen((connection) => network.accept(connection, accept), onRefused)
  })
}

const serviceOf = (network: FaultyNetwork): Faults["Service"] => {
  /** Succeeds when those that had to be told have been. */
  const act = (change: () => void) => Effect.andThen(Effect.sync(change), network.settled)
  return {
    cut: act(() => network.cut()),
    refuse: act(() => void (network.isRefusing = true)),
    halfOpen: ({ direction, noticedBy } = {}) => act(() => network.halfOpen(direction, noticedBy)),
    delay: (duration, { direction } = {}) => act(() => network.delay(delayMillis(duration), direction)),
    loseNextAck: ({ direction } = {}) => act(() => network.losses.add("ack", direction)),
    loseNextMessage: ({ direction } = {}) => act(() => network.losses.add("message", direction)),
    loseNextWelcome: act(() => network.losses.add("welcome")),
    heal: act(() => network.heal()),
    counts: network.tally.counts,
    awaitCounts: (predicate) => network.tally.awaitCounts(predicate)
  }
}
