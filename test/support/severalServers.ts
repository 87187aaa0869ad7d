/** Two servers, `a` and `b`, each on a network of its own, on one store that both take for durable and have to wait for. */
import { Context, Effect } from "effect"
import { CircuitBreaker, MessageQueue, SessionRegistry, Transport } from "resilient-websocket"
import type { MemoryStore } from "resilient-websocket"
import * as H from "./harness.ts"
import { makeNetwork } from "./harnessNetwork.ts"

/** A queue in memory as it would be in a database: no operation is done there and then. */
const asDurable = (
  queue: MessageQueue.Interface,
  rig: (queue: MessageQueue.Interface) => Partial<MessageQueue.Interface> = () => ({})
): MessageQueue.Interface => {
  const plain: MessageQueue.Interface = {
    ...queue,
    durable: true,
    append: (...args) => queue.append(...args),
    read: (...args) => queue.read(...args),
    ack: (...args) => queue.ack(...args)
  }
  return { ...plain, ...rig(plain) }
}

export const durableStore = Effect.fnUntraced(function*(
  options?: MemoryStore.Options,
  rig?: (queue: MessageQueue.Interface) => Partial<MessageQueue.Interface>
) {
  const store = yield* H.makeStore(options)
  const registry = Context.get(store, SessionRegistry.SessionRegistry)
  return store.pipe(
    Context.add(MessageQueue.MessageQueue, asDurable(Context.get(store, MessageQueue.MessageQueue), rig)),
    Context.add(SessionRegistry.SessionRegistry, { ...registry, durable: true })
  )
})

export interface SeveralOptions {
  readonly store?: MemoryStore.Options
  readonly rig?: (queue: MessageQueue.Interface) => Partial<MessageQueue.Interface>
  /** What is different about the registry of server `a`. */
  readonly rigRegistry?: (registry: SessionRegistry.Interface) => Partial<SessionRegistry.Interface>
  readonly server?: H.ServerOptions
  readonly client?: H.ClientOptions
}

/** The servers, and a client of session `alice` that is connected to `a`. */
export const severalServers = Effect.fnUntraced(function*(options: SeveralOptions = {}) {
  const store = yield* durableStore(options.store, options.rig)
  const shared = Context.get(store, SessionRegistry.SessionRegistry)
  const serverOf = Effect.fnUntraced(function*(registry: SessionRegistry.Interface = shared) {
    const network = yield* makeNetwork
    // Circuits are each server's own.
    const own = Context.get(yield* H.makeStore(), CircuitBreaker.CircuitBreaker)
    const server = yield* H.serverOn(network.context, { authenticate: H.byToken, ...options.server }, {
      store: store.pipe(
        Context.add(CircuitBreaker.CircuitBreaker, own),
        Context.add(SessionRegistry.SessionRegistry, registry)
      )
    })
    return { network, server }
  })
  const a = yield* serverOf({ ...shared, ...options.rigRegistry?.(shared) })
  const b = yield* serverOf()
  let at = a
  const received: Array<string> = []
  const client = yield* H.clientOn(
    Context.make(Transport.TransportClient, {
      dial: (dialOptions) =>
        Effect.suspend(() => Context.get(at.network.context, Transport.TransportClient).dial(dialOptions))
    }),
    { token: "alice", onMessage: (text) => Effect.sync(() => received.push(text)), ...options.client }
  )
  yield* client.awaitConnected()
  const isConnected = () => Effect.map(client.state, ({ _tag }) => _tag === "Connected")
  return {
    a: a.server,
    b: b.server,
    client,
    received,
    store,
    queue: Context.get(store, MessageQueue.MessageQueue),
    registry: Context.get(store, SessionRegistry.SessionRegistry),
    networkA: a.network,
    /** Takes the client off the network. */
    unplug: Effect.suspend(() => H.unplug(at.network, client)),
    /** Lets the client dial `b` from now on; `a` is not told that its connection is gone. */
    moveToB: Effect.gen(function*() {
      a.network.newest().vanish("toServer")
      at = b
      a.network.dialling = "accepted"
      yield* H.advanceUntil("it is at b", () => Effect.map(b.server.stats, ({ connections }) => connections === 1))
      yield* H.advanceUntil("it is connected", isConnected)
    }),
    backToA: Effect.gen(function*() {
      a.network.dialling = "accepted"
      b.network.newest().cut()
      at = a
      yield* H.turn
      yield* H.advanceUntil("it is back", isConnected)
    })
  }
})
