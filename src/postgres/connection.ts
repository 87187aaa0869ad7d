/**
 * How the driver speaks with PostgreSQL: deadlines, transactions, notifications. The only file that knows Effect's SQL
 * client. Statements run outside any transaction of the calling fiber unless told otherwise. Each has a deadline, and
 * everything that goes wrong becomes a `StoreError`.
 */
import { PgClient, PgConnection } from "@effect/sql-pg"
import { Context, Effect, Fiber, Queue, Scope } from "effect"
import type { SqlError } from "effect/sql"
import { StoreError } from "../internal/store/driver.ts"
import type { Row } from "./values.ts"

/** A statement to run. It fails if making its parameters or reading its answer throws. */
export interface Statement<A> {
  readonly sql: string
  readonly parameters: () => ReadonlyArray<unknown>
  readonly decode: (rows: ReadonlyArray<Row>) => A
}

export interface Database {
  /** The quoted name of the schema. */
  readonly schema: string
  /** Runs a statement outside any transaction of the caller, within the deadline. */
  readonly query: <A>(operation: string, statement: Statement<A>) => Effect.Effect<A, StoreError>
  /** Runs a statement in the caller's transaction. */
  readonly queryInside: <A>(operation: string, statement: Statement<A>) => Effect.Effect<A, StoreError>
  /** Like `query`, for one of several statements that share a deadline. */
  readonly queryWithin: <A>(operation: string, statement: Statement<A>) => Effect.Effect<A, StoreError>
  /** Fails and interrupts `effect` if it takes longer than an operation may; the error says that `what` happened. */
  readonly deadline: <A>(
    operation: string,
    effect: Effect.Effect<A, StoreError>,
    what?: () => string
  ) => Effect.Effect<A, StoreError>
  /** Runs statements one after another in a transaction of their own. */
  readonly atomically: <A>(operation: string, effect: Effect.Effect<A, StoreError>) => Effect.Effect<A, StoreError>
  readonly isInTransaction: Effect.Effect<boolean>
  readonly afterCommit: (effect: Effect.Effect<void>) => Effect.Effect<void>
  /**
   * Listens on a channel with a connection of its own. Once it listens it runs `begun` and calls `listener`, which it
   * also calls after notifications. Fails if the connection fails or does not answer in time.
   */
  readonly listen: (
    channel: string,
    listener: () => void,
    begun: Effect.Effect<void>
  ) => Effect.Effect<never, StoreError>
}

/** Whether it failed for want of a lock in time. */
export const isLocked = (error: StoreError): boolean => {
  const cause = error.cause
  return isSqlError(cause) && cause.reason._tag === "LockTimeoutError"
}

const isSqlError = (cause: unknown): cause is SqlError.SqlError =>
  typeof cause === "object" && cause !== null && "_tag" in cause && cause._tag === "SqlError"

/** Sleeps in real time, whatever clock the program runs by: the database knows no other. */
export const after = (millis: number): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

/** Makes the database's interface from the context's `PgClient`. Each operation may take `timeoutMillis`. */
export const makeDatabase = (
  schema: string,
  timeoutMillis: number
): Effect.Effect<Database, never, PgClient.PgClient> =>
  Effect.map(PgClient.PgClient, (sql): Database => {
    const { transactionService } = sql

    const isInTransaction = Effect.withFiber<boolean>((fiber) =>
      Effect.succeed(Context.getOrUndefined(fiber.context, transactionService) !== undefined)
    )

    const outside = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.flatMap(isInTransaction, (isInside) =>
        isInside ? Effect.updateContext(effect, Context.omit(transactionService)) : effect)

    const queryInside = <A>(operation: string, statement: Statement<A>): Effect.Effect<A, StoreError> =>
      Effect.suspend(() =>
        Effect.map(sql.unsafe(statement.sql, statement.parameters()).values, statement.decode)
      ).pipe(
        Effect.catch((error) => Effect.fail(new StoreError(operation, error))),
        Effect.catchDefect((cause) => Effect.fail(new StoreError(operation, cause)))
      )

    const deadline = <A>(
      operation: string,
      effect: Effect.Effect<A, StoreError>,
      what = () => "PostgreSQL did not answer"
    ) =>
      withDeadline(
        effect,
        timeoutMillis,
        () => new StoreError(operation, new Error(`${what()} in ${timeoutMillis} ms`))
      )

    const queryWithin = <A>(operation: string, statement: Statement<A>) => outside(queryInside(operation, statement))

    return {
      schema,
      query: (operation, statement) => deadline(operation, queryWithin(operation, statement)),
      queryInside: (operation, statement) => deadline(operation, queryInside(operation, statement)),
      queryWithin,
      deadline,
      atomically: (operation, effect) =>
        outside(
          Effect.catchTag(sql.withTransaction(effect), "SqlError", (error) =>
            Effect.fail(new StoreError(operation, error)))
        ),
      isInTransaction,
      afterCommit: sql.afterCommit,
      listen: (channel, listener, begun) =>
        listenOn(sql.config, channel, listener, begun, timeoutMillis)
    }
  })

/**
 * Fails at once when `effect` takes too long: interrupting it may take longer still, if the server is silently gone.
 */
const withDeadline = <A, E, E2>(
  effect: Effect.Effect<A, E>,
  millis: number,
  tooLate: () => E2
): Effect.Effect<A, E | E2> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      Effect.forkDetach(Effect.interruptible(effect)),
      (fiber) =>
        restore(Effect.callback<A, E | E2>((resume) => {
          const timer = setTimeout(() => {
            resume(Effect.fail(tooLate()))
            fiber.interruptUnsafe()
          }, millis)
          fiber.addObserver((exit) => {
            clearTimeout(timer)
            resume(exit)
          })
          return Effect.suspend(() => {
            clearTimeout(timer)
            return Fiber.interrupt(fiber)
          })
        }))
    )
  )

/** Listens with a connection outside the pool. Does not wait for it to close: it may no longer answer. */
const listenOn = (
  config: PgConnection.Config,
  channel: string,
  listener: () => void,
  begun: Effect.Effect<void>,
  timeoutMillis: number
): Effect.Effect<never, StoreError> => {
  const inTime = <A, E>(effect: Effect.Effect<A, E>) =>
    withDeadline(effect, timeoutMillis, () => new StoreError("watch", new Error(`no answer in ${timeoutMillis} ms`)))

  const listenIn = Effect.fnUntraced(function*(scope: Scope.Scope) {
    const connection = yield* inTime(
      Scope.provide(Effect.flatMap(PgConnection.make(config), ({ pin }) => pin), scope)
    )
    const notifications = yield* inTime(Scope.provide(connection.listen(channel), scope))
    yield* begun
    listener()
    // Sent when nothing came for as long as an operation may take.
    const ping = inTime(connection.query("SELECT 1"))
    while (true) {
      const isQuiet = yield* Effect.raceFirst(
        Effect.as(Queue.takeAll(notifications), false),
        Effect.as(after(timeoutMillis), true)
      )
      if (isQuiet) yield* ping
      else listener()
    }
  })
  return Effect.acquireUseRelease(
    Scope.make(),
    listenIn,
    (scope, exit) => Effect.forkDetach(Scope.close(scope, exit))
  ).pipe(Effect.catchTag("SqlError", (error) => Effect.fail(new StoreError("watch", error))))
}
