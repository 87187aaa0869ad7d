/**
 * Everything that a server or client keeps, in this process's memory: queue, deduplicator, sessions, circuits.
 *
 * It survives cut connections, not the process. Each call makes a store of its own; give one server or several clients
 * one store, as you like: their outboxes don't mix.
 *
 * @since 0.1.0
 */
import { Layer } from "effect"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Deduplicator from "./Deduplicator.ts"
import * as MessageQueue from "./MessageQueue.ts"
import * as SessionRegistry from "./SessionRegistry.ts"

/** @since 0.1.0 @category models */
export interface Options {
  readonly queue?: MessageQueue.Options | undefined
  readonly deduplicator?: Deduplicator.Options | undefined
  readonly registry?: SessionRegistry.Options | undefined
  readonly breaker?: CircuitBreaker.Options | undefined
}

/**
 * The memory layers of all services that server and client need beside a transport.
 *
 * **Example**
 *
 * ```ts
 * import { MemoryStore } from "resilient-websocket"
 *
 * const Store = MemoryStore.layer({ queue: { maxMessages: 10_000, ttl: "1 hour" } })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options?: Options) =>
  Layer.mergeAll(
    MessageQueue.layerMemory(options?.queue),
    Deduplicator.layerMemory(options?.deduplicator),
    SessionRegistry.layerMemory(options?.registry),
    CircuitBreaker.layer(options?.breaker)
  )
