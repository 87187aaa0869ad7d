import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Deque } from "../../src/core/Deque.ts"
import { command, fixed, int } from "../support/coreArbitraries.ts"

const Command = Schema.Union([
  command("pushBack", { count: int(1, 100) }),
  command("pushFront", { count: int(1, 100) }),
  command("popFront", { count: int(1, 120) }),
  command("popBack", { count: int(1, 120) }),
  command("clear", { when: int(0, 9) })
])

const contents = <A>(deque: Deque<A>): Array<A> => {
  const all: Array<A> = []
  deque.forEach((value) => all.push(value))
  return all
}

const filled = (count: number): Deque<number> => {
  const deque = new Deque<number>()
  for (let i = 0; i < count; i++) deque.pushBack(i)
  return deque
}

describe("Deque", () => {
  it.prop("behaves as an array does, whatever is done to it", [Schema.Array(Command)], ([commands]) => {
    const deque = new Deque<number>()
    const model: Array<number> = []
    let next = 0
    for (const command of commands) {
      if (command.t === "clear") {
        if (command.when > 0) continue // rarely, or the deque never grows
        deque.clear()
        model.length = 0
      } else {
        for (let i = 0; i < command.count; i++) {
          if (command.t === "pushBack") {
            deque.pushBack(next)
            model.push(next++)
          } else if (command.t === "pushFront") {
            deque.pushFront(next)
            model.unshift(next++)
          } else if (command.t === "popFront") assert.strictEqual(deque.popFront(), model.shift())
          else assert.strictEqual(deque.popBack(), model.pop())
        }
      }
      assert.strictEqual(deque.size, model.length)
      assert.strictEqual(deque.front(), model[0])
      assert.strictEqual(deque.back(), model[model.length - 1])
      assert.deepStrictEqual(contents(deque), model)
      assert.deepStrictEqual(model.map((_, i) => deque.at(i)), model)
    }
  }, fixed(200))

  it("has nothing outside its bounds", () => {
    const deque = filled(3)
    assert.deepStrictEqual([deque.at(-1), deque.at(3), deque.at(100)], [undefined, undefined, undefined])
  })

  it("has nothing to give when empty, and takes values again afterwards", () => {
    const deque = new Deque<number>()
    assert.deepStrictEqual([deque.popFront(), deque.popBack(), deque.front(), deque.back()], Array(4).fill(undefined))
    deque.pushFront(1)
    assert.deepStrictEqual(contents(deque), [1])
  })

  it("keeps its order when it wraps around the end of its ring", () => {
    const deque = filled(4)
    for (let i = 4; i < 50; i++) {
      assert.strictEqual(deque.popFront(), i - 4)
      deque.pushBack(i)
    }
    assert.deepStrictEqual(contents(deque), [46, 47, 48, 49])
  })

  it("gives back the memory of a burst", () => {
    const deque = filled(100_000)
    while (deque.size > 1) deque.popFront()
    const slots: unknown = Reflect.get(deque, "slots")
    assert.isTrue(Array.isArray(slots) && slots.length <= 64)
    assert.deepStrictEqual(contents(deque), [99_999])
  })

  it("does not hold on to what it gave away", () => {
    const deque = filled(4)
    deque.popFront()
    deque.popBack()
    assert.deepStrictEqual(Reflect.get(deque, "slots"), [undefined, 1, 2, undefined])
  })
})
