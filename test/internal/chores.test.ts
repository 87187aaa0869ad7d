/** Work at intervals: each chore by itself, however the others fare. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Latch } from "effect"
import { TestClock } from "effect/testing"
import { type Chore, doChores } from "../../src/internal/run/chores.ts"

const choreOf = (name: string, everyMillis: number, loop: Effect.Effect<unknown>): Chore => ({
  name,
  everyMillis,
  loop,
  intensity: { restarts: 2, periodMillis: 60_000 },
  onRestart: () => {},
  onGiveUp: () => Effect.void
})

/** A chore that counts how often it was begun. */
const counted = (everyMillis: number, effect: Effect.Effect<unknown> = Effect.void) => {
  const runs = { begun: 0 }
  const loop = Effect.suspend(() => {
    runs.begun++
    return effect
  })
  return { runs, chore: choreOf("counted", everyMillis, loop) }
}

const open = Latch.makeUnsafe(true)

describe("chores", () => {
  it.effect("are done at their intervals", () =>
    Effect.gen(function*() {
      const often = counted(1_000)
      const seldom = counted(2_500)
      yield* doChores([often.chore, seldom.chore], open)
      yield* TestClock.adjust(999)
      assert.deepStrictEqual([often.runs.begun, seldom.runs.begun], [0, 0])
      yield* TestClock.adjust(9_001)
      assert.deepStrictEqual([often.runs.begun, seldom.runs.begun], [10, 4])
    }))

  it.effect("don't wait for one that takes long, which does not begin twice at once", () =>
    Effect.gen(function*() {
      const done = yield* Latch.make(false)
      const slow = counted(1_000, done.await)
      const quick = counted(1_000)
      yield* doChores([slow.chore, quick.chore], open)
      yield* TestClock.adjust(5_000)
      assert.deepStrictEqual([slow.runs.begun, quick.runs.begun], [1, 5])
      yield* done.open
      yield* TestClock.adjust(5_000)
      assert.isAtLeast(slow.runs.begun, 4)
    }))

  it.effect("go on when one is given up, which is not begun again", () =>
    Effect.gen(function*() {
      const failing = counted(1_000, Effect.die("always"))
      const quick = counted(1_000)
      yield* doChores([failing.chore, quick.chore], open)
      yield* TestClock.adjust(60_000)
      assert.deepStrictEqual([failing.runs.begun, quick.runs.begun], [3, 60])
    }))

  it.effect("rest while the gate is closed, and go on when it is open", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(true)
      const { chore, runs } = counted(1_000)
      yield* doChores([chore], gate)
      yield* TestClock.adjust(2_000)
      yield* gate.close
      yield* TestClock.adjust(60_000)
      assert.strictEqual(runs.begun, 2)
      yield* gate.open
      yield* TestClock.adjust(3_000)
      assert.isAtLeast(runs.begun, 5)
    }))
})
