/** Makes the layer of the store that an option names; loads its module only then, as its package may be missing. */
import { type Layer, Redacted } from "effect"
import type * as CircuitBreaker from "../CircuitBreaker.ts"
import type { Deduplicator } from "../Deduplicator.ts"
import * as MemoryStore from "../MemoryStore.ts"
import type { MessageQueue } from "../MessageQueue.ts"
import type * as Postgres from "../postgres/index.ts"
import type * as Redis from "../redis/index.ts"
import type { SessionRegistry } from "../SessionRegistry.ts"
import { ConfigError } from "./errors.ts"
import type { Store } from "./managerOptions.ts"
import type { Duration } from "./models.ts"
import type { BreakerOptions, QueueOptions } from "./options.ts"

export type Services = MessageQueue | Deduplicator | SessionRegistry | CircuitBreaker.CircuitBreaker

/** Matches this file's URL where it is installed, but not in a bundle. */
const installed = /^file:.*\/promise\/stores\.([jt]s)$/

/** The options of the services, in the form that every store takes. */
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
      const { from, maxConnections, schema, url } = store
      const { layer } = from ?? (await load<typeof Postgres>("postgres", "@effect/sql-pg")).PostgresStore
      return (layer as typeof Postgres.PostgresStore.layer)({
        ...options,
        url: Redacted.make(url),
        maxConnections,
        schema
      })
    }
    case "redis": {
      const { from, prefix, url } = store
      const { layer } = from ?? (await load<typeof Redis>("redis", "redis")).RedisStore
      return (layer as typeof Redis.RedisStore.layer)({ ...options, url, prefix })
    }
    default:
      throw new ConfigError(`option store.type must be memory, sqlite, postgres or redis, got ${JSON.stringify(store)}`)
  }
}

/**
 * Loads the module of a store whose package may be missing. Hidden from bundlers, which would otherwise want the
 * package even for a program that does not use it. A bundled program that uses the store passes its module as `from`.
 */
const load = async <A>(type: "postgres" | "redis", packageName: string): Promise<A> => {
  const [, extension] = installed.exec(String(import.meta.url)) ?? []
  if (extension === undefined) {
    const name = type === "redis" ? "RedisStore" : "PostgresStore"
    throw new ConfigError(
      `in a bundle, a store of type ${type} needs \`from: ${name}\`, with ${name} imported from "resilient-websocket/${type}"`
    )
  }
  const url = new URL(["..", type, `index.${extension}`].join("/"), import.meta.url)
  try {
    return await import(/* webpackIgnore: true */ /* @vite-ignore */ url.href)
  } catch (cause) {
    throw new ConfigError(`a store of type ${type} needs the package ${packageName}: ${String(cause)}`, { cause })
  }
}
