import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Liveness } from "../../src/core/Liveness.ts"
import { fixed, int } from "../support/coreArbitraries.ts"

const start = 1_000_000
const make = () => new Liveness({ interval: 10_000, timeout: 5_000, now: start })

/** The answers to ticks from `from` (exclusive) to `to`, every `period` ms. */
const ticks = (liveness: Liveness, from: number, to: number, period: number): ReadonlyArray<string> => {
  const answers: Array<string> = []
  for (let now = from + period; now <= to; now += period) answers.push(liveness.tick(now))
  return answers
}

describe("Liveness", () => {
  it("leaves a peer alone that was heard within the interval", () => {
    assert.deepStrictEqual(new Set(ticks(make(), start, start + 9_999, 1_000)), new Set(["alive"]))
  })

  it("probes once after an interval of silence, and gives the peer its time to answer", () => {
    const liveness = make()
    assert.strictEqual(ticks(liveness, start, start + 10_000, 1_000).at(-1), "probe")
    assert.deepStrictEqual(ticks(liveness, start + 10_000, start + 14_000, 1_000), ["alive", "alive", "alive", "alive"])
    assert.strictEqual(liveness.tick(start + 15_000), "dead")
  })

  it("takes any frame for an answer, and probes anew after the next silence", () => {
    const liveness = make()
    ticks(liveness, start, start + 14_000, 1_000)
    liveness.heard(start + 14_500)
    assert.deepStrictEqual(new Set(ticks(liveness, start + 14_000, start + 24_000, 1_000)), new Set(["alive"]))
    assert.strictEqual(liveness.tick(start + 25_000), "probe")
  })

  it("asks again instead of judging when it was itself asleep", () => {
    const liveness = make()
    assert.strictEqual(ticks(liveness, start, start + 10_000, 1_000).at(-1), "probe")
    assert.strictEqual(liveness.tick(start + 3_600_000), "probe") // frames may lie unread
    assert.strictEqual(ticks(liveness, start + 3_600_000, start + 3_604_000, 1_000).at(-1), "alive")
    assert.strictEqual(liveness.tick(start + 3_605_000), "dead")
  })

  it("takes a clock that was set back for a sign of life, not of death", () => {
    const liveness = make()
    assert.strictEqual(liveness.tick(start - 3_600_000), "alive")
  })

  // Ticks have to come at least every `timeout / 2`: a longer pause counts as sleep.
  const Timing = Schema.Struct({ interval: int(1, 100), timeout: int(2, 100), period: int(1, 50), heard: int(0, 500) })

  it.prop(
    "notices silence within interval, timeout and two ticks, and not before the timeout",
    [Timing],
    ([timing]) => {
      const { heard, interval, timeout } = timing
      const period = Math.min(timing.period, Math.floor(timeout / 2))
      const liveness = new Liveness({ interval, timeout, now: 0 })
      let probedAt: number | undefined
      for (let now = period; now <= heard + interval + timeout + 2 * period; now += period) {
        if (now <= heard) liveness.heard(now)
        const answer = liveness.tick(now)
        if (answer === "probe") probedAt = now
        if (answer !== "dead") continue
        assert.isAtLeast(now - (probedAt ?? now), timeout)
        return
      }
      assert.fail("silence was not noticed")
    },
    fixed(500)
  )

  it.prop("never calls a peer dead that answers each probe in time", [
    Timing,
    Schema.Array(Schema.Struct({ pause: int(1, 400), delay: int(0, 98) }))
  ], ([{ interval, timeout }, steps]) => {
    const liveness = new Liveness({ interval, timeout, now: 0 })
    let now = 0
    let answerAt = Infinity
    for (const { delay, pause } of steps) {
      now += pause
      const answer = liveness.tick(now)
      assert.notStrictEqual(answer, "dead")
      if (answer === "probe") answerAt = now + Math.min(delay, Math.floor(timeout / 2) - 1)
      // The answer is read before the next tick, or after ticks that still wait for it.
      if (answerAt <= now + pause) {
        liveness.heard(answerAt)
        answerAt = Infinity
      }
    }
  }, fixed(500))
})
