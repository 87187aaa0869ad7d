/**
 * Several servers on one store, each on a network of its own, and a client that dials one or the other: the store is the
 * one in memory, made to look like a durable one that has to be waited for and knows which server has which session.
 */
import { Context, Effect } from "effect"
import { MessageQueue, SessionRegistry, Transport } from "resilient-websocket"
import * as H from "./harness.ts"
import { makeNetwork, type Network } from "./harnessNetwork.ts"
import { Rng } from "./simulationNode.ts"
import { faultyQueue, faultyRegistry, reliable, type Store, Tenancy } from "./simulationStores.ts"

export interface Host {
  readonly network: Network
  readonly store: H.Store
}

export interface Cluster {
  readonly hosts: readonly [Host, Host]
  /** Of what the hosts share: as it is, without their wrappers. */
  readonly queue: MessageQueue.Interface
  readonly registry: SessionRegistry.Interface
  readonly tenancy: Tenancy
  /** The host that is dialled. */
  target: 0 | 1
  readonly context: Context.Context<Transport.TransportClient>
}

const durable: Store = { rng: new Rng(0), faults: () => reliable, durable: true }

/** A host of this store, perhaps with calls of its own. */
const makeHost = Effect.fnUntraced(function*(
  shared: H.Store,
  tenancy: Tenancy,
  rig: (registry: SessionRegistry.Interface) => SessionRegistry.Interface
) {
  const queue = faultyQueue(durable, Context.get(shared, MessageQueue.MessageQueue), { onAppended: () => {} })
  const registry = faultyRegistry(
    durable,
    Context.get(shared, SessionRegistry.SessionRegistry),
    { onSaved: () => {} },
    tenancy,
    queueMicrotask
  )
  const store = shared.pipe(
    Context.add(MessageQueue.MessageQueue, queue),
    Context.add(SessionRegistry.SessionRegistry, rig(registry))
  )
  return { network: yield* makeNetwork, store }
})

export const makeCluster = Effect.fnUntraced(function*(
  options: Parameters<typeof H.makeStore>[0] = {},
  rig: (registry: SessionRegistry.Interface) => SessionRegistry.Interface = (registry) => registry
) {
  const shared = yield* H.makeStore(options)
  const tenancy = new Tenancy()
  const hosts = [yield* makeHost(shared, tenancy, rig), yield* makeHost(shared, tenancy, rig)] as const
  const cluster: Cluster = {
    hosts,
    queue: Context.get(shared, MessageQueue.MessageQueue),
    registry: Context.get(shared, SessionRegistry.SessionRegistry),
    tenancy,
    target: 0,
    context: Context.make(Transport.TransportClient, {
      dial: (dial) => Context.get(hosts[cluster.target].network.context, Transport.TransportClient).dial(dial)
    })
  }
  return cluster
})

/** A server at a host of the cluster. */
export const serverAt = ({ network, store }: Host, options: H.ServerOptions = {}) =>
  H.serverOn(network.context, { authenticate: H.byToken, ...options }, { store })

/** A client that dials the cluster's target. */
export const clientOf = (cluster: Cluster, options: H.ClientOptions = {}) =>
  H.clientOn(cluster.context, { token: "alice", ...options })
