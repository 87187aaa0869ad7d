import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Rounds } from "../../src/internal/bounds/rounds.ts"
import { command, int } from "../support/coreArbitraries.ts"

const Step = Schema.Union([
  command("add", { share: int(0, 3) }),
  command("take", { when: int(0, 9) }),
  command("delete", { at: int(0, 9) })
])

const member = (share: string, n: number) => ({ share, n })

describe("rounds", () => {
  it("serve each share in turn, and of each who came first", () => {
    const rounds = new Rounds<ReturnType<typeof member>>()
    for (let n = 0; n < 3; n++) rounds.add(member("many", n))
    const few = member("few", 0)
    rounds.add(few)
    rounds.add(few)
    const served = Array.from({ length: 5 }, () => rounds.take())
    assert.deepStrictEqual(served.map((next) => next && `${next.share} ${next.n}`), [
      "many 0",
      "few 0",
      "many 1",
      "many 2",
      undefined
    ])
  })

  it.prop(
    "keep nobody waiting longer than for one of each other share, whenever its own gets one",
    [Schema.Array(Step)],
    ([steps]) => {
      const rounds = new Rounds<ReturnType<typeof member>>()
      /** In line, in the order in which they came, with how many were served of each share since. */
      const line: Array<{ readonly who: ReturnType<typeof member>; readonly since: Map<string, number> }> = []
      steps.forEach((step, n) => {
        if (step.t === "add") {
          const who = member(String(step.share), n)
          rounds.add(who)
          line.push({ who, since: new Map() })
        } else if (step.t === "delete") {
          const [gone] = line.splice(step.at, 1)
          if (gone !== undefined) rounds.delete(gone.who)
        } else {
          const next = rounds.take()
          assert.strictEqual(next === undefined, line.length === 0)
          if (next === undefined) return
          const place = line.findIndex(({ who }) => who === next)
          // Nobody of its own share came before.
          assert.strictEqual(line.findIndex(({ who }) => who.share === next.share), place)
          line.splice(place, 1)
          for (const { since } of line) since.set(next.share, (since.get(next.share) ?? 0) + 1)
        }
        assert.strictEqual(rounds.size, line.length)
        for (const { since, who } of line) {
          for (const served of since.values()) assert.isAtMost(served, (since.get(who.share) ?? 0) + 1)
        }
      })
    }
  )
})
