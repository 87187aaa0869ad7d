/** Databases take real time, of which a test's clock knows nothing: how to move that clock under a store on a real one. */
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import type { StoreOptions } from "../../src/internal/store/layer.ts"

/** However far the test's clock is moved meanwhile, no answer is late. */
export const patient: StoreOptions = { callTimeout: "1 day", appendTimeout: "1 day" }

const realMillis = (millis: number) =>
  Effect.promise(() => new Promise<void>((resolve) => void setTimeout(resolve, millis)))

/** Moves the test's clock in steps, and lets the database answer in between. */
export const passTime = (millis: number): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let passed = 0; passed < millis; passed += 1_000) {
      yield* TestClock.adjust(Math.min(1_000, millis - passed))
      yield* realMillis(2)
    }
  })
