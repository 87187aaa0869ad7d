/** The stores that the demo can run on, each loaded only when it is the one: a server must start quickly. */
import { Effect, Layer } from "effect"
import type { CircuitBreaker, Deduplicator, MessageQueue, SessionRegistry } from "../../src/index.ts"
import type { DurableKind, Place } from "./Ipc.ts"
import type { Ledger } from "./Ledger.ts"

export type Services =
  | Ledger
  | MessageQueue.MessageQueue
  | Deduplicator.Deduplicator
  | CircuitBreaker.CircuitBreaker
  | SessionRegistry.SessionRegistry

interface Store {
  readonly forServer: (place: Place) => Layer.Layer<Services, unknown>
  readonly forDemo: (place: Place) => Layer.Layer<Ledger, unknown>
}

const importStore = (kind: DurableKind): Promise<Store> => {
  switch (kind) {
    case "sqlite":
      return import("./stores/sqlite.ts")
    case "postgres":
      return import("./stores/postgres.ts")
    case "redis":
      return import("./stores/redis.ts")
  }
}

/** Loads the code of a store. */
export const load = (kind: DurableKind): Effect.Effect<Store> => Effect.promise(() => importStore(kind))

/** What a server needs. */
export const forServer = (place: Place): Layer.Layer<Services, unknown> =>
  Layer.unwrap(Effect.map(load(place.kind), (store) => store.forServer(place)))

/** The ledger, made anew, for the process that starts the servers and reads what they did. */
export const forDemo = (place: Place): Layer.Layer<Ledger, unknown> =>
  Layer.unwrap(Effect.map(load(place.kind), (store) => store.forDemo(place)))
