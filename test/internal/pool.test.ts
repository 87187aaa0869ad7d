/** Background effects: so many at once, the others in line. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Latch } from "effect"
import { makePool } from "../../src/internal/deliver/pool.ts"
import { turn } from "../support/harness.ts"

describe("pool", () => {
  it.effect("run so many at once, and the others when one has ended", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(2)
      const open = yield* Latch.make(false)
      const begun: Array<number> = []
      const ended: Array<number> = []
      for (let i = 1; i <= 5; i++) {
        pool.run(Effect.andThen(Effect.sync(() => begun.push(i)), open.await), () => void ended.push(i))
      }
      assert.deepStrictEqual([begun, ended], [[1, 2], []])
      assert.isTrue(pool.isBusy())
      yield* open.open
      yield* turn
      assert.deepStrictEqual([begun, ended.length], [[1, 2, 3, 4, 5], 5])
      assert.isFalse(pool.isBusy())
    }))

  it.effect("run a long line of what ends at once without a deep stack", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(1)
      const open = yield* Latch.make(false)
      let ended = 0
      pool.run(open.await, () => {})
      for (let i = 0; i < 100_000; i++) pool.run(Effect.void, () => void ended++)
      assert.strictEqual(ended, 0)
      yield* open.open
      yield* turn
      assert.strictEqual(ended, 100_000)
    }))

  it.effect("tell how each ended, also of a defect", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(1)
      const exits: Array<Exit.Exit<void>> = []
      pool.run(Effect.die("a defect"), (exit) => void exits.push(exit))
      pool.run(Effect.void, (exit) => void exits.push(exit))
      assert.deepStrictEqual(exits, [Exit.die("a defect"), Exit.void])
    }))
})
