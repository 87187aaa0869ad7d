/** Work that nobody waits for, until the scope closes: its failures are logged. */
import { Cause, Effect, FiberSet, Random } from "effect"
import { jitteredMillis } from "../kit/backoff.ts"
import { inWords, type RareLog } from "../kit/rareLog.ts"

export type Background = Effect.Success<ReturnType<typeof makeBackground>>

/** Backoff after failures of the store, in ms. */
const retryBase = 500
const retryCap = 10_000

export const makeBackground = Effect.fnUntraced(function*(rare: RareLog) {
  const fork = yield* FiberSet.makeRuntime<never, void>()
  const run = (effect: Effect.Effect<unknown, unknown>): void => {
    fork(Effect.catchCause(Effect.asVoid(effect), (cause) =>
      Effect.sync(() => {
        if (!Cause.hasInterruptsOnly(cause)) rare.error("background", `background work failed: ${inWords(cause)}`)
      })))
  }
  /** Calls `retry` after a pause that grows with the number of failures in a row. */
  const later = (failures: number, retry: () => void): void =>
    run(
      Effect.flatMap(Random.next, (part) =>
        Effect.delay(Effect.sync(retry), jitteredMillis(retryBase, retryCap, failures, part)))
    )
  return { run, later }
})
