import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Crowd, type Member, type Spare } from "../../src/internal/bounds/crowd.ts"

interface Guest extends Member {
  readonly id: number
  standing: Spare
}

const newCrowd = () => new Crowd<Guest>(({ standing }) => standing)
let ids = 0
const guest = (standing: Spare): Guest => ({ id: ++ids, share: "", spare: undefined, standing })

describe("who gives way", () => {
  it.prop(
    "is somebody to spare of the largest share that has any, and never for one that would have as many",
    {
      steps: Schema.Array(Schema.Struct({
        share: Schema.Literals(["a", "b", "c", "d"]),
        deed: Schema.Literals(["add", "add", "add", "delete", "change", "changeSilently", "give"]),
        pick: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 50 })),
        standing: Schema.Literals(["first", "next", "never"])
      }))
    },
    ({ steps }) => {
      const crowd = newCrowd()
      const all: Array<Guest> = []
      for (const { deed, pick, share, standing: said } of steps) {
        const standing = said === "never" ? undefined : said
        const one = all[pick % Math.max(1, all.length)]
        if (deed === "add") {
          const next = guest(standing)
          crowd.add(next, share)
          all.push(next)
        } else if (deed === "give") {
          const sizes = new Map<string, number>()
          for (const { share } of all) sizes.set(share, (sizes.get(share) ?? 0) + 1)
          const spares = all.filter(({ spare, standing }) => spare !== undefined && standing !== undefined)
          const largest = Math.max(0, ...spares.map(({ share }) => sizes.get(share) ?? 0))
          const found = crowd.givesWay(share)
          assert.strictEqual(found !== undefined, largest >= (sizes.get(share) ?? 0) + 2)
          if (found === undefined) continue
          assert.strictEqual(sizes.get(found.share), largest)
          assert.isDefined(found.standing)
          crowd.delete(found)
          all.splice(all.indexOf(found), 1)
        } else if (one === undefined) continue
        else if (deed === "delete") {
          crowd.delete(one)
          all.splice(all.indexOf(one), 1)
        } else if (deed === "change") {
          one.standing = standing
          crowd.place(one)
        } // Who may not be sent away any more need not say so.
        else one.standing = undefined
        assert.strictEqual(crowd.size, all.length)
        assert.strictEqual(crowd.shares, new Set(all.map(({ share }) => share)).size)
      }
    }
  )

  it("is first who is first, then who is next, each the longest there", () => {
    const crowd = newCrowd()
    const guests = [guest(undefined), guest("next"), guest("first"), guest("next"), guest("first")]
    for (const one of guests) crowd.add(one, "a")
    const order: Array<number> = []
    for (let found = crowd.givesWay("b"); found !== undefined; found = crowd.givesWay("b")) {
      order.push(guests.indexOf(found))
      crowd.delete(found)
    }
    assert.deepStrictEqual(order, [2, 4, 1, 3])
    assert.strictEqual(crowd.sizeOf("a"), 1)
  })

  it("lets in every share that has less than its part of a full room", () => {
    const room = 100
    const crowd = newCrowd()
    for (let i = 0; i < room; i++) crowd.add(guest("first"), "greedy")
    for (let shares = 2; shares <= 12; shares++) {
      for (let n = 0; n < Math.floor(room / shares); n++) {
        const found = crowd.givesWay(`s${shares}`)
        if (found === undefined) return assert.fail(`share ${shares} is refused its ${n + 1}th`)
        crowd.delete(found)
        crowd.add(guest("first"), `s${shares}`)
      }
      assert.strictEqual(crowd.size, room)
    }
  })
})
