/**
 * SQLite by Node's own `node:sqlite`: an `SqlClient` on one file, which SqliteStore and your own tables share.
 *
 * **Details.** One connection, in WAL mode. Statements and transactions take turns on it. A transaction begins with
 * `BEGIN IMMEDIATE`, so it never has to give up half-way because another process wrote. While another process has the
 * file locked, the fiber waits and the event loop goes on.
 *
 * **Gotchas.** All statements run on the event loop: a query that takes a second stops the server for a second. A
 * transaction holds up everything else in the process that needs the database, so don't wait for anything slow inside.
 * The processes that share a file must be on one machine: WAL does not work over a network file system.
 *
 * @since 0.1.0
 */
import { type Config, Context, type Duration, Effect, Layer, type Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, type SqlConnection, type SqlError, Statement } from "effect/sql"
import type { DatabaseSync } from "node:sqlite"
import * as Check from "../internal/kit/options.ts"
import { makeRecorder } from "../Metrics.ts"
import { FileWatch, WalWarnings } from "./fileWatch.ts"
import { openSqlite, type SqliteConnection } from "./sqliteConnection.ts"

/**
 * Which file, and how safe it is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * Path of the database file, which is created if missing; `:memory:` for a database that lives as long as the layer.
   */
  readonly filename: string
  /**
   * When a commit counts as done. Both survive a killed process. `full` waits for the disk at each commit, and survives
   * a loss of power if the disk does. After a loss of power, `normal` may lack the newest commits, but what is there is
   * consistent. Default `normal`.
   */
  readonly synchronous?: "normal" | "full" | undefined
  /** How long to wait while another process has the file locked, before failing. Default 5 s. */
  readonly busyTimeout?: Duration.Input | undefined
}

/** How often to check the file, in ms. */
const lookMillis = 1_000

/** @internal */
export const shape: Check.Shape<Options> = {
  filename: Check.nonEmpty,
  synchronous: Check.oneOf("normal", "full"),
  busyTimeout: Check.duration
}

/**
 * Work with the statements of `node:sqlite`. It must not begin or end transactions, nor keep a reference to the
 * database.
 *
 * @since 0.1.0
 * @category models
 */
export type Work<A> = (database: DatabaseSync) => A

/** @since 0.1.0 @category services */
export interface Interface {
  readonly filename: string
  /** The same client as in the service `SqlClient`. */
  readonly sql: SqlClient.SqlClient
  /**
   * Runs synchronous work as one transaction: all of it is committed, or nothing if it throws. If the calling fiber has
   * an open transaction, the work is part of that one. What it throws becomes the `cause` of the error's reason.
   */
  readonly atomically: <A>(operation: string, work: Work<A>) => Effect.Effect<A, SqlError.SqlError>
  /** Like `atomically`, for work that only reads: it sees one state of the database, and waits for no other process. */
  readonly reading: <A>(operation: string, work: Work<A>) => Effect.Effect<A, SqlError.SqlError>
  /** Runs synchronous work outside any transaction, as a checkpoint needs. Don't call it inside one. */
  readonly exclusively: <A>(operation: string, work: Work<A>) => Effect.Effect<A, SqlError.SqlError>
  /**
   * Runs one reading statement without waiting for a turn. It may see writes that are not committed, and may never be.
   */
  readonly glance: <A>(operation: string, work: Work<A>) => Effect.Effect<A, SqlError.SqlError>
  /** Whether the calling fiber is in an open transaction of this client. */
  readonly isInTransaction: Effect.Effect<boolean>
}

/**
 * What SqliteStore needs beyond `SqlClient`: synchronous work on the same connection.
 *
 * @since 0.1.0
 * @category services
 */
export class SqliteClient extends Context.Service<SqliteClient, Interface>()(
  "resilient-websocket/sqlite/SqliteClient"
) {}

/**
 * Opens the file, and closes it with the scope.
 *
 * **Example** (A transaction over your tables)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { SqliteClient } from "resilient-websocket/sqlite"
 *
 * const program = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT NOT NULL)`
 *   yield* sql.withTransaction(sql`INSERT INTO orders ${sql.insert({ id: "17", item: "tea" })}`)
 * }).pipe(Effect.provide(SqliteClient.layer({ filename: "shop.db", synchronous: "full" })))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options
): Layer.Layer<SqliteClient | SqlClient.SqlClient, SqlError.SqlError> =>
  Layer.effectContext(Effect.map(
    make(options),
    (client) => Context.make(SqliteClient, client).pipe(Context.add(SqlClient.SqlClient, client.sql))
  )).pipe(Layer.provide(Reactivity.layer))

/**
 * `layer` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<SqliteClient | SqlClient.SqlClient, SqlError.SqlError | Config.ConfigError> =>
  Check.fromConfig(options, layer)

let clients = 0

const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<Interface, SqlError.SqlError, Scope.Scope | Reactivity.Reactivity> {
  Check.check(options, shape)
  const { filename, synchronous = "normal" } = options
  const connection = yield* openSqlite(
    { filename, synchronous },
    Check.millis("busyTimeout", options.busyTimeout, "5 seconds")
  )
  yield* watchFile(filename, connection)
  const transactionService = Context.Service<SqlClient.TransactionConnection, SqlClient.TransactionConnection.Service>(
    `resilient-websocket/sqlite/Transaction/${clients++}`
  )
  const spanAttributes = [["db.system.name", "sqlite"]] as const
  const acquirer = Effect.uninterruptibleMask((restore) => connection.lease(restore))
  const client = yield* SqlClient.make({
    acquirer,
    borrower: connection.borrow,
    transactionService,
    compiler: Statement.makeCompilerSqlite(),
    driver: "resilient-websocket-sqlite",
    spanAttributes
  })
  const run = (on: SqlConnection.Connection, statement: string) =>
    Effect.asVoid(on.executeUnprepared(statement, [], undefined))
  // When SQLite has rolled everything back there is nothing left to clean up; the outer transaction then fails too.
  const cleanUp = (on: SqlConnection.Connection, statement: string) =>
    Effect.suspend(() => connection.isOpen ? run(on, statement) : Effect.void)
  // Effect's own `withTransaction` begins where it can't be interrupted. This one begins while it acquires, so that a
  // fiber waiting for another process can be interrupted.
  const withTransaction = SqlClient.makeWithTransaction<
    SqlClient.TransactionConnection,
    SqlConnection.Connection
  >({
    transactionService,
    spanAttributes,
    acquireConnection: (restore) =>
      Effect.withFiber((fiber) => {
        const statement = fiber.getRef(SqlClient.BeginTransaction) ?? "BEGIN IMMEDIATE"
        return Effect.tap(connection.lease(restore), (leased) => connection.begin(leased, statement, restore))
      }),
    begin: () => Effect.void,
    commit: (on) => run(on, "COMMIT"),
    onCommitFailure: connection.rollBack,
    rollback: connection.rollBack,
    savepoint: (on, id) => run(on, `SAVEPOINT effect_sql_${id}`),
    rollbackSavepoint: (on, id) => cleanUp(on, `ROLLBACK TO effect_sql_${id}`),
    releaseSavepoint: (on, id) => cleanUp(on, `RELEASE effect_sql_${id}`)
  })
  const within = Effect.withFiber<SqlConnection.Connection | undefined>((fiber) =>
    Effect.succeed(Context.getOrUndefined(fiber.context, transactionService)?.[0])
  )
  return {
    filename,
    sql: Object.assign(client, { withTransaction }),
    atomically: (operation, work) => Effect.flatMap(within, (on) => connection.write(operation, work, on)),
    reading: (operation, work) => Effect.flatMap(within, (on) => connection.read(operation, work, on)),
    exclusively: (operation, work) => connection.exclusively(operation, work),
    glance: (operation, work) => connection.glance(operation, work),
    isInTransaction: Effect.map(within, (on) => connection.isLive(on))
  }
})

/** Makes everything fail while the file is not the one that was opened. Logs that, and a growing write-ahead log. */
const watchFile = Effect.fnUntraced(function*(filename: string, connection: SqliteConnection) {
  const recorder = yield* makeRecorder
  const file = new FileWatch(filename)
  const warnings = new WalWarnings()
  let fault = file.look()
  const look = Effect.suspend(() => {
    const before = fault
    fault = file.look()
    connection.fail(fault)
    const { walBytes } = file
    recorder.gauge("sqliteWalBytes", walBytes)
    if (fault !== before) {
      return fault === undefined
        ? Effect.logWarning(`the SQLite file ${filename} is back, and used again`)
        : Effect.logError(
          `${fault}: nothing is stored any more, and what was is lost with this process if it is not put back`
        )
    }
    return warnings.isNews(walBytes)
      ? Effect.logWarning(
        `the write-ahead log of ${filename} has ${Math.round(walBytes / 1024 ** 2)} MiB: somebody (a backup, an open ` +
          "shell) has been reading for long, so that it can't be taken into the file"
      )
      : Effect.void
  })
  yield* Effect.addFinalizer(() => Effect.sync(() => recorder.gauge("sqliteWalBytes", 0)))
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(lookMillis), look)))
})
