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
import { checkedLayer } from "./internal/kit/options.ts"
import * as Shapes from "./internal/kit/shapes.ts"
import { deduplicatorOptions } from "./internal/kit/windows.ts"
import * as MessageQueue from "./MessageQueue.ts"
import * as SessionRegistry from "./SessionRegistry.ts"

/** @since 0.1.0 @category models */
export interface Options {
  /** Bounds, TTL and overflow policy of the outboxes. */
  readonly queue?: MessageQueue.Options | undefined
  /** Window and bounds of the publish keys. */
  readonly deduplicator?: Deduplicator.Options | undefined
  /** Retention and number of sessions; clients don't use it. */
  readonly registry?: SessionRegistry.Options | undefined
  /** When circuits open, and for how long. */
  readonly breaker?: CircuitBreaker.Options | undefined
}

/**
 * The memory layers of all services that server and client need beside a transport. The deduplication window is by
 * default 15 minutes, or TTL plus session retention if that is longer; a shorter one is a defect.
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
  checkedLayer(options, Shapes.memoryStore, () =>
    Layer.mergeAll(
      MessageQueue.layerMemory(options?.queue),
      Deduplicator.layerMemory(deduplicatorOptions(options ?? {})),
      SessionRegistry.layerMemory(options?.registry),
      CircuitBreaker.layer(options?.breaker)
    ))
