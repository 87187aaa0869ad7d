/** Registers the laws of stores as tests. */
import { describe, it } from "@effect/vitest"
import { TestClock } from "effect/testing"
import { StoreLaws } from "resilient-websocket/testing"

/** Under the `TestClock`; a store with a clock of its own brings its `passTime`, and gets `it.live`. */
export const storeLaws = <E>(
  name: string,
  layer: StoreLaws.Subject<E, never>["layer"],
  passTime?: StoreLaws.Subject<E, never>["passTime"]
): void => {
  const test = passTime === undefined ? it.effect : it.live
  describe(`${name} keeps the laws of stores`, () => {
    for (const law of StoreLaws.all) {
      test(law.name, () => StoreLaws.check(law, { layer, passTime: passTime ?? TestClock.adjust }))
    }
  })
}
