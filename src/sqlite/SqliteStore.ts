/**
 * Everything that a server keeps, in one SQLite file: queue, deduplicator, sessions. It survives a killed process, and
 * with `synchronous: "full"` a loss of power. Several servers on one machine may share the file.
 *
 * **Details.** Commits that come together, from all sessions, are one transaction of the file. `SqlClient` comes with
 * it, so that your own tables and the store can change in one transaction.
 *
 * **Gotchas.** A file has one writer: keep your own transactions short, the server waits for them.
 *
 * @since 0.1.0
 */
import { type Config, Layer } from "effect"
import type { SqlClient, SqlError } from "effect/sql"
import * as Check from "../internal/kit/options.ts"
import { layerOf, type Services, type StoreOptions, storeShape } from "../internal/store/layer.ts"
import type { MessageQueueError } from "../WebSocketError.ts"
import * as SqliteClient from "./SqliteClient.ts"
import { type DriverOptions, makeSqliteDriver } from "./sqliteDriver.ts"

export type { Services, StoreOptions } from "../internal/store/layer.ts"

/**
 * How the store uses its file, without saying which one.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientOptions extends StoreOptions {
  /** The prefix of the store's table names. Default `rws_`. */
  readonly tablePrefix?: DriverOptions["tablePrefix"]
  /**
   * How often to look for what other processes did in the same file; less often while there are none. Default 10 ms.
   */
  readonly watchInterval?: DriverOptions["pollInterval"]
}

/**
 * Which file, and how the store uses it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends ClientOptions, SqliteClient.Options {}

/**
 * The store in a file that it opens itself. It provides `SqlClient` and `SqliteClient` for the same file too.
 *
 * **Example** (A server that survives being killed)
 *
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { Contract } from "resilient-websocket"
 * import { NodeTransport } from "resilient-websocket/node"
 * import { SqliteStore } from "resilient-websocket/sqlite"
 *
 * const Chat = Contract.make("app/Chat", { toServer: Schema.String, toClient: Schema.String })
 *
 * const Server = Chat.layerServer({ onMessage: (text) => Effect.log(text) }).pipe(
 *   Layer.provide(SqliteStore.layer({ filename: "chat.db" })),
 *   Layer.provide(NodeTransport.layerServer({ port: 8080 }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options
): Layer.Layer<
  Services | SqliteClient.SqliteClient | SqlClient.SqlClient,
  MessageQueueError | SqlError.SqlError
> =>
  Check.checkedLayer(options, { ...shape, ...SqliteClient.shape }, () =>
    Layer.provideMerge(
      layerClient(Check.pick(options, shape)),
      SqliteClient.layer(Check.pick(options, SqliteClient.shape))
    ))

const shape: Check.Shape<ClientOptions> = {
  ...storeShape,
  tablePrefix: Check.text,
  watchInterval: Check.duration
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
  Services | SqliteClient.SqliteClient | SqlClient.SqlClient,
  MessageQueueError | SqlError.SqlError | Config.ConfigError
> => Check.fromConfig(options, layer)

/**
 * The store in the file of the program's `SqliteClient`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerClient = (
  options?: ClientOptions
): Layer.Layer<Services, MessageQueueError, SqliteClient.SqliteClient> =>
  // A file has one writer: more commits at once would only wait for each other.
  Check.checkedLayer(options, shape, () =>
    layerOf(
      makeSqliteDriver({ tablePrefix: options?.tablePrefix, pollInterval: options?.watchInterval }),
      1,
      options ?? {}
    ))
