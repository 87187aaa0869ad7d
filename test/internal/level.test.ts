import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { sharesOver } from "../../src/internal/level.ts"
import { int } from "../support/coreArbitraries.ts"

describe("shares over the level", () => {
  it.prop(
    "are the largest; with them at it the others fit, and with one more below it they would not",
    [Schema.Array(int(1, 1_000)), int(0, 5_000)],
    ([sizes, room]) => {
      const held = new Map(sizes.map((size, n) => [String(n), size]))
      const over = sharesOver(held, room)
      const total = sizes.reduce((sum, size) => sum + size, 0)
      assert.strictEqual(over.size > 0, total > room)
      if (over.size === 0) return
      const isOver = (n: number) => over.has(String(n))
      const below = sizes.filter((_, n) => !isOver(n))
      const level = (room - below.reduce((sum, size) => sum + size, 0)) / over.size
      for (const size of below) assert.isAtMost(size, level)
      for (const size of sizes.filter((_, n) => isOver(n))) assert.isAbove(size, level)
    }
  )
})
