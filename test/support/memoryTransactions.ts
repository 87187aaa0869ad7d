/**
 * Transactions over a memory database, as SQLite has them: one at a time, everything else waits, and a process that
 * dies in one has done nothing.
 */
import { Context, Effect, Exit, Semaphore } from "effect"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import { everyCall } from "./crashPoints.ts"
import type { MemoryDatabase } from "./memoryDriver.ts"

interface Transaction {
  readonly callbacks: Array<Effect.Effect<void>>
}

const Current = Context.Reference<Transaction | undefined>("test/memoryTransactions", { defaultValue: () => undefined })

export interface Transactional {
  readonly driver: StoreDriver
  readonly withTransaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** The process died. */
  readonly rollBack: () => void
}

/** `rows` are a table of the program's own in the same database. */
export const transactional = (database: MemoryDatabase, driver: StoreDriver, rows: Array<unknown>): Transactional => {
  const turn = Semaphore.makeUnsafe(1)
  let undo: (() => void) | undefined

  const rollBack = (): void => {
    undo?.()
    undo = undefined
  }

  const begin = (): void => {
    const restore = snapshotOf(database)
    const length = rows.length
    undo = () => {
      restore()
      rows.length = length
    }
  }

  return {
    driver: {
      ...everyCall(
        driver,
        (_operation, _args, call) =>
          Effect.flatMap(Current, (current) => current === undefined ? turn.withPermit(call) : call)
      ),
      transaction: {
        isOpen: Effect.map(Current, (current) => current !== undefined),
        afterCommit: (effect) =>
          Effect.flatMap(
            Current,
            (current) => current === undefined ? effect : Effect.sync(() => void current.callbacks.push(effect))
          )
      }
    },
    withTransaction: (effect) =>
      Effect.suspend(() => {
        const current: Transaction = { callbacks: [] }
        const work = Effect.suspend(() => {
          begin()
          return Effect.provideService(effect, Current, current)
        })
        const done = Effect.onExit(work, (exit) =>
          Effect.sync(() => {
            if (Exit.isSuccess(exit)) undo = undefined
            else rollBack()
          }))
        return Effect.tap(turn.withPermit(done), () =>
          Effect.forEach(current.callbacks, (callback) => callback, { discard: true }))
      }),
    rollBack
  }
}

/** How to make a database again what it is now. */
export const snapshotOf = (database: MemoryDatabase): () => void => {
  const restores = Object.values(database).map((kept) => snapshot(kept))
  return () => restores.forEach((restore) => restore())
}

/** How to make it again what it is now. */
const snapshot = (kept: MemoryDatabase[keyof MemoryDatabase]): () => void => {
  if (kept instanceof Set) return () => {}
  const map: Map<string, unknown> = kept as Map<string, unknown> // what it holds is put back as it was
  // Outboxes change in place, by new values of their members; sets of nudges do too.
  const copy = (value: unknown): unknown =>
    value instanceof Set ? new Set(value) : value instanceof Object ? { ...value } : value
  const entries = [...map].map(([key, value]) => [key, copy(value)] as const)
  return () => {
    map.clear()
    for (const [key, value] of entries) map.set(key, value)
  }
}
