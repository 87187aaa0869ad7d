import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { levelOf } from "../../src/internal/handle/level.ts"
import { int } from "../support/coreArbitraries.ts"

describe("the level of a room", () => {
  it.prop(
    "is such that with those over it at it all fit, and no more would",
    [Schema.Array(int(1, 1_000)), int(0, 5_000)],
    ([held, room]) => {
      const level = levelOf(held, room)
      const total = held.reduce((sum, one) => sum + one, 0)
      assert.strictEqual(level === Infinity, total <= room)
      if (level === Infinity) return
      assert.isTrue(held.some((one) => one > level))
      assert.closeTo(held.reduce((sum, one) => sum + Math.min(one, level), 0), room, 1e-6)
    }
  )
})
