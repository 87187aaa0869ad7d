/** Registers the laws of stores as tests. */
import { describe, it } from "@effect/vitest"
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
