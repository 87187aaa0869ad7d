/**
 * Everything that a server or client keeps, in this process's memory: queue, deduplicator, sessions, circuits.
 *
 * It survives cut connections, not the process. Each call makes a store of its own; give one server or several clients
 * one store, as you like: their outboxes don't mix.
 *
 * @since 0.1.0
 */
import { Duration, Layer, Option } from "effect"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Deduplicator from "./Deduplicator.ts"
import * as MessageQueue from "./MessageQueue.ts"
import * as SessionRegistry from "./SessionRegistry.ts"

/** @since 0.1.0 @category models */
export interface Options {
  /** Bounds, TTL and overflow policy of the outboxes. */
  readonly queue?: MessageQueue.Options | undefined
  /** Window and bounds of the publish keys. */
  readonly deduplicator?: Deduplicator.Options | undefined
  /** Retention and number of sessions; a client has no use for it. */
  readonly registry?: SessionRegistry.Options | undefined
  /** When circuits open, and for how long. */
  readonly breaker?: CircuitBreaker.Options | undefined
}

/**
 * The memory layers of all services that server and client need beside a transport. Without a deduplication window
 * given, it is 15 minutes, or TTL plus session retention if that is longer; a shorter one fails with a `ConfigError`.
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
    Deduplicator.layerMemory(deduplicatorOptions(options ?? {})),
    SessionRegistry.layerMemory(options?.registry),
    CircuitBreaker.layer(options?.breaker)
  )

/** A publish key must outlive every retry of its message, so that its window follows the times given for the others. */
const deduplicatorOptions = ({ deduplicator, queue, registry }: Options): Deduplicator.Options => {
  const ttl = millis(queue?.ttl, defaultTtl)
  const retention = millis(registry?.retention, defaultRetention)
  // What may be retried for ever can't be remembered for ever: then the window is the user's choice.
  if (!Number.isFinite(ttl + retention)) return deduplicator ?? {}
  const retryHorizon = deduplicator?.retryHorizon ?? ttl + retention
  const window = deduplicator?.window ?? Math.max(defaultWindow, ttl + retention)
  return { ...deduplicator, window, retryHorizon }
}

const defaultTtl = 5 * 60_000
const defaultRetention = 10 * 60_000
const defaultWindow = 15 * 60_000

const millis = (input: Duration.Input | undefined, fallback: number): number =>
  Option.getOrElse(Option.map(Duration.fromInput(input ?? fallback), Duration.toMillis), () => Number.NaN)
