/** Registers the laws of stores as tests. */
import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { StoreLaws } from "resilient-websocket/testing"

/** All under the `TestClock`, in a `describe` of their own. */
export const storeLaws = <E>(
  name: string,
  layer: StoreLaws.Subject<E, never>["layer"],
  passTime: StoreLaws.Subject<E, never>["passTime"] = TestClock.adjust
): void => {
  describe(`${name} keeps the laws of stores`, () => {
    for (const law of StoreLaws.all) it.effect(law.name, () => StoreLaws.check(law, { layer, passTime }))
  })
}

/** Far below what a call of a database may take. */
const stepMillis = 250

/**
 * Passes time for a store that asks a real server, which the `TestClock` knows nothing of: in small steps, with time for
 * an answer between them. In one go, all calls under way would have taken too long.
 */
export const passTimeBeside = <E>(roundTrip: Effect.Effect<unknown, E>) =>
  Effect.fnUntraced(function*(millis: number) {
    for (let left = millis; left > 0; left -= stepMillis) {
      yield* TestClock.adjust(Math.min(left, stepMillis))
      yield* Effect.orDie(roundTrip)
      yield* Effect.orDie(roundTrip)
    }
  })
