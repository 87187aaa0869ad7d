import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { RollingWindow } from "../../src/internal/circuits/rollingWindow.ts"

const totals = ({ calls, failures, slow }: RollingWindow) => ({ calls, failures, slow })

describe("RollingWindow", () => {
  it.prop(
    "holds exactly what a list of the calls in the last ten buckets holds",
    {
      calls: Schema.Array(
        Schema.Struct({
          idle: Schema.Literals([0, 0, 0, 7, 30, 60, 100, 350, 900, 999, 1_000, 3_000]),
          failed: Schema.Boolean,
          slow: Schema.Boolean
        })
      )
    },
    ({ calls }) => {
      let now = 12_345
      const window = new RollingWindow(1_000, 10, now)
      const log: Array<{ readonly slot: number; readonly failed: boolean; readonly slow: boolean }> = []
      for (const { failed, idle, slow } of calls) {
        now += idle
        window.record(now, { failed, slow })
        const slot = Math.floor(now / 100)
        log.push({ slot, failed, slow })
        const live = log.filter((call) => call.slot > slot - 10)
        assert.deepStrictEqual(totals(window), {
          calls: live.length,
          failures: live.filter((call) => call.failed).length,
          slow: live.filter((call) => call.slow).length
        })
      }
    },
    { arbitrary: { runs: 300, size: 60 } }
  )

  it("forgets all the buckets that a long idle time skipped", () => {
    const window = new RollingWindow(1_000, 10, 0)
    for (let now = 0; now < 1_000; now += 100) window.record(now, { failed: true, slow: false })
    window.record(1_000_000, { failed: false, slow: false })
    assert.deepStrictEqual(totals(window), { calls: 1, failures: 0, slow: 0 })
  })

  it("says when it will be empty", () => {
    const window = new RollingWindow(1_000, 10, 0)
    window.record(250, { failed: true, slow: false })
    assert.strictEqual(window.expiresAt, 1_200)
    window.record(window.expiresAt, { failed: false, slow: false })
    assert.strictEqual(window.failures, 0)
  })

  it("starts afresh when the clock goes back by more than the window", () => {
    const window = new RollingWindow(1_000, 10, 1_000_000)
    window.record(1_000_000, { failed: true, slow: true })
    window.record(5_000, { failed: false, slow: false })
    assert.deepStrictEqual(totals(window), { calls: 1, failures: 0, slow: 0 })
    assert.strictEqual(window.expiresAt, 6_000)
  })
})
