import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { isPacked, makeUnpacking, pack } from "../../src/internal/handle/packing.ts"
import { memoryOf } from "../../src/internal/kit/weight.ts"
import type { Delivery } from "../../src/internal/session/incoming.ts"

const delivery = (value: unknown): Extract<Delivery, { kind: "loose" }> => ({
  kind: "loose",
  value,
  volatile: false,
  trace: undefined,
  from: undefined,
  weight: 0
})

/** A megabyte, more or less, of 50 kB of text. */
const bulky = (): Array<unknown> => Array.from({ length: 16_000 }, () => ({}))

describe("packing", () => {
  it.effect("keeps what is large in memory and small as text, and nothing else", () =>
    Effect.sync(() => {
      for (const value of ["x".repeat(1_000_000), [1, 2, 3], null, { a: "b".repeat(1_000_000) }]) {
        const plain = delivery(value)
        assert.isAtLeast(pack(plain), memoryOf(value))
        assert.isFalse(isPacked(plain))
        assert.strictEqual(plain.value, value)
      }
      const large = delivery(bulky())
      assert.isBelow(pack(large), 100_000)
      assert.isTrue(isPacked(large))
    }))

  it.effect("unpacks so much at once, the others in line, and forgets who waits no more", () =>
    Effect.gen(function*() {
      const size = memoryOf(bulky())
      const { done, unpack } = makeUnpacking(2.5 * size)
      const all = Array.from({ length: 6 }, () => delivery(bulky()))
      for (const each of all) pack(each)
      const fibers = yield* Effect.forEach(all, (each) => Effect.forkChild(unpack(each), { startImmediately: true }))
      const open = () => all.map((each) => !isPacked(each))
      assert.deepStrictEqual(open(), [true, true, false, false, false, false])
      yield* Fiber.interrupt(fibers[2] ?? assert.fail())
      const [first = assert.fail(), second = assert.fail()] = all
      done(first)
      done(first)
      assert.deepStrictEqual(open(), [true, true, false, true, false, false])
      assert.deepStrictEqual(all[3]?.value, bulky())
      done(second)
      for (const each of all) done(each)
      assert.deepStrictEqual(open(), [true, true, false, true, true, true])
    }))

  it.effect("unpacks one that is larger than all, alone", () =>
    Effect.gen(function*() {
      const { unpack } = makeUnpacking(10)
      const one = delivery(bulky())
      pack(one)
      yield* unpack(one)
      assert.isFalse(isPacked(one))
    }))
})
