import { assert, describe, it } from "@effect/vitest"
import { makeTurns } from "../../src/internal/connect/turns.ts"

/** Turns of the event loop by hand. */
const made = (perTurn: number) => {
  let tasks: Array<() => void> = []
  const begun: Array<string> = []
  const inTurn = makeTurns(perTurn, (task) => void tasks.push(task))
  return {
    begun,
    come: (share: string, name: string, then?: () => void) =>
      inTurn(share, () => {
        begun.push(name)
        then?.()
      }),
    /** What begins in the next turn. */
    turn: () => {
      const due = tasks
      tasks = []
      const before = begun.length
      for (const task of due) task()
      return begun.slice(before)
    },
    isIdle: () => tasks.length === 0
  }
}

describe("turns", () => {
  it("begin so many at once, and the others a few in each turn, one of each share after the other", () => {
    const { begun, come, isIdle, turn } = made(2)
    for (let n = 0; n < 5; n++) come("many", `many ${n}`)
    assert.deepStrictEqual(begun, ["many 0", "many 1"])
    come("few", "few 0")
    assert.deepStrictEqual(turn(), ["many 2", "few 0"])
    come("few", "few 1")
    assert.deepStrictEqual(turn(), ["many 3", "few 1"])
    assert.deepStrictEqual(turn(), ["many 4"])
    assert.deepStrictEqual(turn(), [])
    assert.isTrue(isIdle())
    come("few", "few 2")
    assert.strictEqual(begun.at(-1), "few 2")
  })

  it("count who comes while another begins", () => {
    const { begun, come, turn } = made(2)
    come("a", "1", () => come("a", "2", () => come("a", "3")))
    assert.deepStrictEqual(begun, ["1", "2"])
    assert.deepStrictEqual(turn(), ["3"])
  })
})
