/**
 * Where the library's server keeps what it has: in memory, or in one of its stores, each started afresh. Loaded when
 * asked for: a process has what it uses.
 */
import { Effect, Layer, Redacted } from "effect"
import { statSync } from "node:fs"
import { join } from "node:path"
import {
  type CircuitBreaker,
  type Deduplicator,
  MemoryStore,
  type MessageQueue,
  type SessionRegistry
} from "../../src/index.ts"
import { temporaryFolder } from "../harness/programs.ts"
import { startPostgres } from "../services/postgres.ts"
import { startRedis } from "../services/redis.ts"

type Services =
  | MessageQueue.MessageQueue
  | Deduplicator.Deduplicator
  | SessionRegistry.SessionRegistry
  | CircuitBreaker.CircuitBreaker

export interface StoreOptions {
  readonly queue: MessageQueue.Options
  readonly registry: SessionRegistry.Options
}

export interface OpenStore {
  readonly layer: Layer.Layer<Services, unknown>
  /** What it takes outside of the process: of its files, or of the memory of its server. */
  readonly bytes: () => Promise<number>
  /** Where commits wait for the disk: lets them not, while much is put in that is not measured. */
  readonly relax?: ((isRelaxed: boolean) => Promise<void>) | undefined
}

export type Store = (options: StoreOptions) => Promise<OpenStore>

export const memory: Store = async (options) => ({ layer: MemoryStore.layer(options), bytes: async () => 0 })

const sqliteWith = (synchronous: "normal" | "full"): Store => async (options) => {
  const { SqliteStore } = await import("../../src/sqlite/index.ts")
  const filename = join(await temporaryFolder(), "store.db")
  // Of its log only what the last checkpoint left in it counts: the file keeps its size.
  const bytes = async () => statSync(filename).size
  return { layer: SqliteStore.layer({ ...options, filename, synchronous }), bytes }
}

export const sqlite = sqliteWith("normal")
export const sqliteFull = sqliteWith("full")

export const postgres: Store = async (options) => {
  const [{ PostgresStore }, { PgClient }] = await Promise.all([
    import("../../src/postgres/index.ts"),
    import("@effect/sql-pg")
  ])
  const url = Redacted.make(await startPostgres())
  const ask = (query: string) =>
    Effect.runPromise(
      Effect.provide(
        Effect.flatMap(PgClient.PgClient, (sql) => sql.unsafe<{ readonly answer: string }>(query)),
        PgClient.layer({ url })
      )
    )
  const size = async () => {
    const [row] = await ask("SELECT pg_database_size(current_database()) AS answer")
    return Number(row?.answer)
  }
  const atStart = await size()
  return {
    layer: PostgresStore.layer({ ...options, url }),
    bytes: async () => await size() - atStart,
    relax: async (isRelaxed) => {
      await ask(`ALTER SYSTEM SET synchronous_commit = ${isRelaxed ? "off" : "on"}`)
      await ask("SELECT pg_reload_conf() AS answer")
    }
  }
}

const redisWith = (appendfsync: "always" | "everysec"): Store => async (options) => {
  const { RedisStore } = await import("../../src/redis/index.ts")
  const { url, usedBytes } = await startRedis(appendfsync)
  return { layer: RedisStore.layer({ ...options, url }), bytes: usedBytes }
}

export const redis = redisWith("everysec")
export const redisAlways = redisWith("always")
