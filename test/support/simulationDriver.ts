/** A store driver that misbehaves: its calls are slow, fail before they did anything, or fail after they did it. */
import { Duration, Effect } from "effect"
import { type StoreDriver, StoreError } from "../../src/internal/store/driver.ts"
import { everyCall } from "./crashPoints.ts"
import type { Store } from "./simulationStores.ts"

const storeDown = new Error("the database is down")

type Call = Effect.Effect<unknown, StoreError>

/**
 * `watched` is told of each call that was done. What was done in an earlier `history` of the database than the present
 * one has no answer: its connections are gone.
 */
export const faultyDriver = (
  store: Store,
  driver: StoreDriver,
  watched: (operation: string, args: ReadonlyArray<unknown>, result: unknown) => void,
  /** It was done, and its caller does not learn it. */
  unanswered: (operation: string, args: ReadonlyArray<unknown>, result: unknown) => void,
  history: () => string
): StoreDriver => {
  const unreliable = (operation: string, args: ReadonlyArray<unknown>, call: Call): Call =>
    Effect.suspend(() => {
      const { after, before, slow, slowMillis } = store.faults()
      const { rng } = store
      const pause = Effect.suspend(() =>
        rng.chance(slow) ? Effect.sleep(Duration.millis(rng.int(1, slowMillis))) : Effect.void
      )
      const failing = (chance: number) =>
        Effect.suspend(() => rng.chance(chance) ? Effect.fail(new StoreError(operation, storeDown)) : Effect.void)
      return Effect.gen(function*() {
        yield* pause
        yield* failing(before)
        const result = yield* call
        const doneIn = history()
        watched(operation, args, result)
        yield* pause
        yield* Effect.tapError(
          failing(history() === doneIn ? after : 1),
          () => Effect.sync(() => unanswered(operation, args, result))
        )
        return result
      })
    })
  return everyCall(driver, unreliable)
}
