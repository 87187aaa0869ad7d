/**
 * Everything that servers keep, in PostgreSQL: queue, deduplicator, sessions. Any number of servers share it. A session
 * resumes on whichever its client reaches, even if its last server was killed or that machine is gone.
 *
 * **Details.** Commits that come together, from all sessions, are one statement. `PgClient` and `SqlClient` come with
 * it, so that your own tables and the store can change in one transaction.
 *
 * **Gotchas.** A transaction that sends to a session locks that session's outbox until it ends. LISTEN needs a
 * connection of its own: through PgBouncer in transaction mode, news from other servers comes by polling.
 *
 * @since 0.1.0
 */
import { PgClient } from "@effect/sql-pg"
import { type Config, Layer } from "effect"
import type { SqlClient, SqlError } from "effect/sql"
import * as Check from "../internal/kit/options.ts"
import { layerOf, type Services, type StoreOptions, storeShape } from "../internal/store/layer.ts"
import type { MessageQueueError } from "../WebSocketError.ts"
import { makePostgresDriver, type PostgresDriverOptions } from "./postgresDriver.ts"

export type { Services, StoreOptions } from "../internal/store/layer.ts"

/**
 * How the store uses its database, without saying which one.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientOptions extends StoreOptions {
  /** The schema with the store's tables and functions, created if missing. Default `resilient_websocket`. */
  readonly schema?: PostgresDriverOptions["schema"]
}

/**
 * Which database, and how the store uses it: the options of `PgClient` (`url`, or `host`, `database`, `username`, …,
 * `maxConnections`), and the store's own.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends ClientOptions, PgClient.PgPoolConfig {}

/** How many commits are under way at once: while one waits for the disk, the next are on their way. */
const lanes = 4

/**
 * The store in a database that it connects to itself. It provides that database's `PgClient` and `SqlClient` too.
 *
 * **Example**
 *
 * ```ts
 * import { Redacted } from "effect"
 * import { PostgresStore } from "resilient-websocket/postgres"
 *
 * const Store = PostgresStore.layer({ url: Redacted.make("postgres://app:secret@db.internal/app"), maxConnections: 10 })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options
): Layer.Layer<
  Services | PgClient.PgClient | SqlClient.SqlClient,
  MessageQueueError | SqlError.SqlError
> =>
  Check.checkedLayer(
    options,
    { ...shape, ...poolShape },
    () => Layer.provideMerge(layerClient(Check.pick(options, shape)), PgClient.layer(Check.pick(options, poolShape)))
  )

const shape: Check.Shape<ClientOptions> = { ...storeShape, schema: Check.nonEmpty }

/** `PgClient` checks their values. */
const poolShape: Check.Shape<PgClient.PgPoolConfig> = {
  url: Check.given,
  host: Check.given,
  port: Check.given,
  path: Check.given,
  ssl: Check.given,
  database: Check.given,
  username: Check.given,
  password: Check.given,
  connectTimeout: Check.duration,
  keepAlive: Check.given,
  stream: Check.given,
  applicationName: Check.given,
  startupParameters: Check.given,
  startupOptions: Check.given,
  spanAttributes: Check.given,
  transformResultNames: Check.given,
  transformQueryNames: Check.given,
  transformJson: Check.given,
  types: Check.given,
  multiplex: Check.given,
  multiplexConcurrency: Check.given,
  prepare: Check.given,
  preparedStatementCacheSize: Check.given,
  maxMessageSize: Check.given,
  idleTimeout: Check.duration,
  maxConnections: Check.whole(),
  minConnections: Check.whole(0),
  connectionTTL: Check.duration
}

/**
 * `layer` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<
  Services | PgClient.PgClient | SqlClient.SqlClient,
  MessageQueueError | SqlError.SqlError | Config.ConfigError
> => Check.fromConfig(options, layer)

/**
 * The store in the database of the program's `PgClient`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerClient = (
  options?: ClientOptions
): Layer.Layer<Services, MessageQueueError, PgClient.PgClient> =>
  Check.checkedLayer(options, shape, () =>
    layerOf(
      makePostgresDriver({ schema: options?.schema, timeout: options?.callTimeout ?? "5 seconds" }),
      lanes,
      options ?? {}
    ))
