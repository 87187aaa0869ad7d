import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { DeadlineHeap } from "../../src/internal/kit/deadlineHeap.ts"

const Time = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 50 }))

describe("DeadlineHeap", () => {
  it.prop(
    "gives out what is due, each once and at its newest time, however often it was put in anew",
    {
      steps: Schema.Array(
        Schema.Struct({ value: Schema.Literals(["a", "b", "c", "d"]), at: Time, pop: Schema.Boolean })
      )
    },
    ({ steps }) => {
      const wanted = new Map<string, number>()
      const heap = new DeadlineHeap<string>((value, at) => wanted.get(value) === at)
      for (const { at, pop, value } of steps) {
        if (!pop) {
          if (wanted.get(value) === at) continue
          wanted.set(value, at)
          heap.push(at, value)
          continue
        }
        const due = [...wanted].filter(([, time]) => time <= at).map(([, time]) => time)
        const found = heap.popDue(at)
        assert.strictEqual(found === undefined ? undefined : wanted.get(found), due.sort((a, b) => a - b)[0])
        if (found !== undefined) wanted.delete(found)
      }
    }
  )

  it("keeps no more outdated entries than current ones, but for a few", () => {
    const wanted = new Map<number, number>()
    const heap = new DeadlineHeap<number>((value, at) => wanted.get(value) === at)
    for (let i = 0; i < 100_000; i++) {
      const value = i % 500
      wanted.set(value, 1_000_000 - i)
      heap.push(1_000_000 - i, value)
      assert.isAtMost(heap.size, 2 * 500 + 64)
    }
    wanted.clear()
    for (let i = 0; i < 2_000; i++) {
      heap.push(i, -1)
    }
    assert.isAtMost(heap.size, 64)
  })
})
