/** The store that an option names, as layers. A database's module is loaded when it is used, as its package may be missing. */
import { Layer, Redacted } from "effect"
import type * as CircuitBreaker from "../CircuitBreaker.ts"
import type { Deduplicator } from "../Deduplicator.ts"
import * as MemoryStore from "../MemoryStore.ts"
import type { MessageQueue } from "../MessageQueue.ts"
import type { SessionRegistry } from "../SessionRegistry.ts"
import { ConfigError } from "./errors.ts"
import type { Duration } from "./models.ts"
import type { BreakerOptions, QueueOptions, Store } from "./options.ts"

export type Services = MessageQueue | Deduplicator | SessionRegistry | CircuitBreaker.CircuitBreaker

/** The options of the services, as every store takes them. */
export const serviceOptions = (
  options: QueueOptions & {
    readonly breaker?: BreakerOptions | undefined
    readonly maxSessions?: number | undefined
    readonly messageIdTtl?: Duration | undefined
    readonly retention?: Duration | undefined
  }
): MemoryStore.Options => {
  const { breaker, maxBytes, maxMessages, maxSessions, maxTotalBytes, maxTotalMessages, messageIdTtl } = options
  const { overflow, retention, suspendTimeout, ttl } = options
  return {
    queue: { maxBytes, maxMessages, maxTotalBytes, maxTotalMessages, overflow, suspendTimeout, ttl },
    deduplicator: messageIdTtl === undefined ? {} : { window: messageIdTtl },
    registry: { maxSessions, retention },
    breaker: { session: breaker }
  }
}

export const storeOf = async (
  store: Store | undefined,
  options: MemoryStore.Options
): Promise<Layer.Layer<Services, unknown>> => {
  switch (store?.type) {
    case undefined:
    case "memory":
      return MemoryStore.layer(options)
    case "sqlite": {
      const { SqliteStore } = await import("../sqlite/index.ts")
      const { filename, synchronous, tablePrefix } = store
      return SqliteStore.layer({ ...options, filename, synchronous, tablePrefix })
    }
    case "postgres": {
      const { PostgresStore } = await load("postgres", "@effect/sql-pg", () => import("../postgres/index.ts"))
      const { maxConnections, schema, url } = store
      return PostgresStore.layer({ ...options, url: Redacted.make(url), maxConnections, schema })
    }
    case "redis": {
      const { RedisStore } = await load("redis", "redis", () => import("../redis/index.ts"))
      const { prefix, url } = store
      return RedisStore.layer({ ...options, url, prefix })
    }
    default:
      throw new ConfigError(`option store.type must be memory, sqlite, postgres or redis, got ${JSON.stringify(store)}`)
  }
}

const load = async <A>(type: string, packageName: string, module: () => Promise<A>): Promise<A> => {
  try {
    return await module()
  } catch (cause) {
    throw new ConfigError(`a store of type ${type} needs the package ${packageName}: ${String(cause)}`, { cause })
  }
}
