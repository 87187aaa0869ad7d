/**
 * The one connection to an SQLite file, and who has it. Statements, transactions and the store's synchronous work take
 * turns on it. It waits for other processes' locks without stopping the event loop.
 */
import { Cause, Effect, Random, type Scope, Semaphore, Stream } from "effect"
import { SqlClient, type SqlConnection, SqlError } from "effect/sql"
import type { DatabaseSync, StatementSync } from "node:sqlite"
import { jitteredMillis } from "../internal/kit/backoff.ts"
import { type FileSettings, isLocked, open, resultCode, StatementCache, toBindable } from "./sqliteFile.ts"

type Connection = SqlConnection.Connection
type Work<A> = (database: DatabaseSync) => A
type Result<A> = Effect.Effect<A, SqlError.SqlError>
type Sleeping = (sleep: Effect.Effect<void>) => Effect.Effect<void>

/**
 * Pauses between tries at a locked file, in ms. They are short, as a try costs microseconds and others hold the lock
 * for milliseconds: after a long sleep, a process that never pauses would already have locked it again.
 */
const pauseBase = 1
const pauseCap = 5

/** How many rows a stream takes from the database at once. */
const streamChunk = 128

/**
 * What was thrown, as Effect's `SqlError`: `node:sqlite` puts SQLite's result code under another name than Effect
 * expects.
 */
const toSqlError = (operation: string, cause: unknown): SqlError.SqlError => {
  const code = resultCode(cause)
  const detail = cause instanceof Error ? cause.message : String(cause)
  const message = `SQLite failed to ${operation}: ${detail}`
  const classified = code === undefined || !(cause instanceof Error) ? cause : Object.assign(cause, { errno: code })
  return new SqlError.SqlError({ reason: SqlError.classifySqliteError(classified, { message, operation }) })
}

/**
 * A transaction's hold of the connection. SQLite itself ends a transaction after some errors, such as a full disk. The
 * hold is then `lost`, and later statements in it must not be committed on their own. After its end it is `over`.
 * Fibers forked inside that live on still have it in their context, and must be stopped.
 */
interface Lease {
  inTransaction: boolean
  lost: boolean
  over: boolean
}

export class SqliteConnection {
  private readonly database: DatabaseSync
  private readonly busyTimeoutMillis: number
  private readonly semaphore = Semaphore.makeUnsafe(1)
  private readonly cache: StatementCache
  private readonly leases = new WeakMap<Connection, Lease>()
  /** For statements outside transactions. */
  private readonly plain: Connection
  /** Why nothing can be stored in the file any more; undefined while it can. */
  private fault: string | undefined

  constructor(database: DatabaseSync, busyTimeoutMillis: number) {
    this.database = database
    this.busyTimeoutMillis = busyTimeoutMillis
    this.cache = new StatementCache(database)
    this.plain = this.connect(undefined)
  }

  /** From now on everything but the end of a transaction fails with `fault`; undefined ends that. */
  fail(fault: string | undefined): void {
    this.fault = fault
  }

  /** Lends the connection for statements that are a transaction each. */
  readonly borrow: SqlConnection.Borrower = (use) =>
    this.semaphore.withPermit(Effect.flatMap(this.rollBack(), () => use(this.plain)))

  /** Lends the connection until the scope closes, and then rolls back what is still open. */
  lease(restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>) {
    const lease: Lease = { inTransaction: false, lost: false, over: false }
    const leave = Effect.suspend(() => {
      lease.over = true
      return Effect.ignore(this.rollBack(), { log: "Warn" })
    })
    return restore(this.semaphore.takeScoped(1)).pipe(
      Effect.andThen(Effect.addFinalizer(() => leave)),
      Effect.andThen(this.rollBack()),
      Effect.map(() => {
        const connection = this.connect(lease)
        this.leases.set(connection, lease)
        return connection
      })
    )
  }

  /**
   * Begins the transaction of a lease. Only its sleeps are interruptible, so that a begun transaction is never
   * forgotten.
   */
  begin(connection: Connection, statement: string, restore: Sleeping): Result<void> {
    const lease = this.leases.get(connection)
    const work = () => this.beginNow(statement)
    return this.patiently("begin", lease === undefined ? work : () => this.watched(lease, work), restore)
  }

  /** Whether a transaction is open; SQLite ends some by itself. */
  get isOpen(): boolean {
    return this.database.isTransaction
  }

  /**
   * Rolls back what is open; SQLite may have done so already. Also runs before each new use: a transaction is open then
   * only if its rollback failed, and must not mix with what comes.
   */
  readonly rollBack = (): Result<void> =>
    retryWhileLocked("roll back", () => this.rollback(), this.busyTimeoutMillis, (sleep) => sleep)

  /** Writes in one step; with a connection `within`, as part of the transaction that it was leased for. */
  write<A>(operation: string, work: Work<A>, within: Connection | undefined): Result<A> {
    const lease = this.liveLease(within)
    return lease === undefined
      ? this.alone(operation, () => this.inTransaction("BEGIN IMMEDIATE", work))
      : this.patiently(operation, () => this.watched(lease, () => this.inSavepoint(work)))
  }

  /** Like `write`, but never waits for a writer elsewhere: WAL mode lets it read the last committed state. */
  read<A>(operation: string, work: Work<A>, within: Connection | undefined): Result<A> {
    const lease = this.liveLease(within)
    return lease === undefined
      ? this.alone(operation, () => this.inTransaction("BEGIN", work))
      : this.patiently(operation, () => this.watched(lease, () => work(this.database)))
  }

  exclusively<A>(operation: string, work: Work<A>): Result<A> {
    return this.alone(operation, () => {
      this.rollback()
      return work(this.database)
    })
  }

  glance<A>(operation: string, work: Work<A>): Result<A> {
    return this.patiently(operation, () => work(this.database))
  }

  /** Whether the transaction that this connection was leased for is still open. */
  isLive(connection: Connection | undefined): boolean {
    return this.liveLease(connection) !== undefined
  }

  private liveLease(connection: Connection | undefined): Lease | undefined {
    const lease = connection && this.leases.get(connection)
    return lease === undefined || lease.over ? undefined : lease
  }

  private alone<A>(operation: string, work: () => A): Result<A> {
    return this.semaphore.withPermit(this.patiently(operation, work))
  }

  private inTransaction<A>(begin: string, work: Work<A>): A {
    this.beginNow(begin)
    try {
      const result = work(this.database)
      this.database.exec("COMMIT")
      return result
    } catch (cause) {
      try {
        this.rollback()
      } catch {
        // The first failure says more, and the next use rolls back before anything else.
      }
      throw cause
    }
  }

  private inSavepoint<A>(work: Work<A>): A {
    this.database.exec("SAVEPOINT resilient_websocket")
    try {
      const result = work(this.database)
      this.database.exec("RELEASE resilient_websocket")
      return result
    } catch (cause) {
      if (this.database.isTransaction) {
        this.database.exec("ROLLBACK TO resilient_websocket; RELEASE resilient_websocket")
      }
      throw cause
    }
  }

  private beginNow(statement: string) {
    this.rollback()
    this.database.exec(statement)
  }

  private rollback() {
    if (this.database.isTransaction) this.database.exec("ROLLBACK")
  }

  /** Does part of a lease's work, and checks what became of the transaction. */
  private watched<A>(lease: Lease, work: () => A): A {
    if (lease.over) throw new Error("the transaction of this fiber has ended already")
    if (lease.lost) throw new Error("the transaction was rolled back by SQLite, after an error")
    try {
      return work()
    } catch (cause) {
      lease.lost = lease.inTransaction && !this.database.isTransaction
      throw cause
    } finally {
      lease.inTransaction = this.database.isTransaction
    }
  }

  /** Does the work, and repeats it while the file is locked. `sleeping` sleeps in between. */
  private patiently<A>(operation: string, work: () => A, sleeping: Sleeping = (sleep) => sleep): Result<A> {
    return retryWhileLocked(operation, this.onSoundFile(work), this.busyTimeoutMillis, sleeping)
  }

  /** Whatever SQLite writes to a file that is gone is lost. */
  private onSoundFile<A>(work: () => A): () => A {
    return () => {
      if (this.fault !== undefined) throw new Error(this.fault)
      return work()
    }
  }

  private connect(lease: Lease | undefined): Connection {
    const cached = (sql: string) => this.cache.get(sql)
    const fresh = (sql: string) => this.database.prepare(sql)
    const watched = <A>(work: () => A): A => lease === undefined ? work() : this.watched(lease, work)

    const query = (
      prepare: (sql: string) => StatementSync,
      as: "objects" | "arrays",
      sql: string,
      params: ReadonlyArray<unknown>
    ) =>
      Effect.withFiber<ReadonlyArray<Row>, SqlError.SqlError>((fiber) => {
        const bigints = fiber.getRef(SqlClient.SafeIntegers)
        return this.patiently("execute", () =>
          watched(() => {
            const statement = prepare(sql)
            statement.setReturnArrays(as === "arrays")
            statement.setReadBigInts(bigints)
            return statement.all(...params.map(toBindable))
          }))
      })

    const objects = (prepare: (sql: string) => StatementSync): Connection["execute"] => (sql, params, transform) => {
      const rows = query(prepare, "objects", sql, params)
      return transform === undefined ? rows : Effect.map(rows, transform)
    }
    const arrays = (prepare: (sql: string) => StatementSync): Connection["executeValues"] => (sql, params) =>
      Effect.map(query(prepare, "arrays", sql, params), (rows) => rows.map((row) => Object.values(row)))

    return {
      execute: objects(cached),
      executeUnprepared: objects(fresh),
      executeRaw: (sql, params) =>
        this.patiently("execute", () =>
          watched(() => {
            const statement = cached(sql)
            const values = params.map(toBindable)
            statement.setReturnArrays(false)
            statement.setReadBigInts(false)
            return statement.columns().length > 0 ? statement.all(...values) : statement.run(...values)
          })),
      executeValues: arrays(cached),
      executeValuesUnprepared: arrays(fresh),
      executeStream: (sql, params, transform) =>
        Stream.unwrap(Effect.map(
          Effect.acquireRelease(
            this.patiently("stream", () => watched(() => fresh(sql).iterate(...params.map(toBindable)))),
            (iterator) => Effect.sync(() => iterator.return?.())
          ),
          (iterator) => {
            const next = this.patiently("stream", () =>
              watched(() => {
                const rows: Array<Row> = []
                while (rows.length < streamChunk) {
                  const { done, value } = iterator.next()
                  if (done === true) break
                  rows.push(value)
                }
                return transform === undefined ? rows : transform(rows)
              }))
            return Stream.fromPull(Effect.succeed(Effect.flatMap(next, ([first, ...rest]) =>
              first === undefined ? Cause.done() : Effect.succeed([first, ...rest] as const))))
          }
        ))
    }
  }
}

type Row = Record<string, unknown>

/** Opens the file; the scope closes it. */
export const openSqlite = (
  options: FileSettings,
  busyTimeoutMillis: number
): Effect.Effect<SqliteConnection, SqlError.SqlError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.map(
      Effect.acquireRelease(
        retryWhileLocked("open", () => open(options), busyTimeoutMillis, restore),
        (database) => Effect.ignore(Effect.try(() => database.close()), { log: "Warn" })
      ),
      (database) => new SqliteConnection(database, busyTimeoutMillis)
    )
  )

const retryWhileLocked = <A>(
  operation: string,
  work: () => A,
  timeoutMillis: number,
  sleeping: Sleeping
): Result<A> => {
  const attempt = (failures: number, waited: number): Result<A> =>
    Effect.suspend(() => {
      try {
        return Effect.succeed(work())
      } catch (cause) {
        if (!isLocked(cause) || waited >= timeoutMillis) return Effect.fail(toSqlError(operation, cause))
        return Effect.flatMap(Random.next, (part) => {
          // At least 1 ms, so that bad luck can't make it spin.
          const pause = 1 + jitteredMillis(pauseBase, pauseCap, failures + 1, part)
          return Effect.andThen(sleeping(Effect.sleep(pause)), attempt(failures + 1, waited + pause))
        })
      }
    })
  return attempt(0, 0)
}
