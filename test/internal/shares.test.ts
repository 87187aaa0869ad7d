import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { type ShareOrName, Shares } from "../../src/internal/bounds/shares.ts"
import { addressShare, checkedShareOf, defaultShareOf } from "../../src/internal/connect/newcomer.ts"

const newcomer = { url: "/", headers: {}, principal: undefined, remoteAddress: undefined }

describe("a share", () => {
  it("is the principal's, or the address's where nobody knows who it is", () => {
    assert.strictEqual(defaultShareOf({ ...newcomer, principal: "ann", remoteAddress: "10.0.0.1" }), "principal ann")
    assert.strictEqual(defaultShareOf({ ...newcomer, remoteAddress: "10.0.0.1" }), "address 10.0.0.1")
    assert.isUndefined(defaultShareOf(newcomer))
  })

  it("is one for all addresses of a host, and another for each host", () => {
    const same = [
      ["10.1.2.3", "::ffff:10.1.2.3", "::FFFF:10.1.2.3"],
      ["2001:db8:0:1::1", "2001:db8:0:1:ffff::", "2001:0db8:0000:0001:1:2:3:4", "2001:DB8::1:9:9:9:9"],
      ["::1", "::2", "0:0:0:0:5::"],
      ["fe80::1%eth0", "fe80::2%eth0", "fe80::"],
      ["2001:db8:0:2::1", "2001:db8:0:2::2"],
      ["memory"]
    ]
    const shares = same.map((addresses) => new Set(addresses.map(addressShare)))
    for (const share of shares) assert.strictEqual(share.size, 1)
    assert.strictEqual(new Set(shares.flatMap((share) => [...share])).size, same.length)
  })

  it("is the default where the user's function throws, or says no name", () => {
    const wrong: ReadonlyArray<unknown> = [undefined, null, 7, {}]
    for (const value of wrong) {
      const shareOf = checkedShareOf(() => value as string)
      assert.strictEqual(shareOf({ ...newcomer, principal: "ann" }), "principal ann")
    }
    const throws = checkedShareOf(() => {
      throw new Error("no")
    })
    assert.strictEqual(throws({ ...newcomer, principal: "ann" }), "principal ann")
    assert.strictEqual(checkedShareOf(({ url }) => url)(newcomer), "/")
  })
})

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

/** Outboxes that append and acknowledge, each message of 10 bytes; of a name's first letter is its share. */
class World {
  readonly shares: Shares
  readonly held = new Map<string, { share: ShareOrName; messages: number }>()
  readonly max: number
  total = 0

  constructor(max: number) {
    this.max = max
    this.shares = new Shares({ maxTotalMessages: max, maxTotalBytes: max * 10 })
  }

  of(name: string) {
    let own = this.held.get(name)
    if (own === undefined) {
      own = { share: name.slice(0, 1), messages: 0 }
      this.held.set(name, own)
    }
    return own
  }

  append(name: string, count: number): boolean {
    const { messages, share } = this.of(name)
    if (this.total + count > this.max) return false
    const isOver = (count: number) =>
      this.shares.over(share, messages, messages * 10, this.total, this.total * 10, count, count * 10) !== undefined
    // The room is what fits.
    const own = { messages, bytes: messages * 10 }
    const room = this.shares.room(share, own, { messages: this.total, bytes: this.total * 10 })
    const most = Math.min(room.messages, Math.floor(room.bytes / 10))
    assert.isTrue(most <= 0 || !isOver(most))
    assert.isTrue(isOver(most + 1) || this.total + most + 1 > this.max)
    if (isOver(count)) return false
    this.add(name, count)
    return true
  }

  add(name: string, count: number): void {
    const own = this.of(name)
    own.messages += count
    this.total += count
    own.share = this.shares.add(own.share, count, count * 10)
  }

  fill(name: string): void {
    for (let count = this.max; count > 0; count = count >> 1) while (this.append(name, count));
  }

  get holding(): number {
    return [...this.held.values()].filter(({ messages }) => messages > 0).length
  }
}

describe("the parts of shares", () => {
  it.prop(
    "leave enough that one who has little is never refused, whatever the others did before, within the bound",
    {
      max: between(1_000, 100_000),
      steps: Schema.Array(Schema.Struct({
        name: Schema.Literals(["a", "b", "c", "d", "e", "f"]),
        deed: Schema.Literals(["fill", "fill", "some", "drain", "leave"]),
        part: Schema.Number.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
      }))
    },
    ({ max, steps }) => {
      const world = new World(max)
      for (const { deed, name, part } of steps) {
        const { messages } = world.of(name)
        if (deed === "fill") world.fill(name)
        else if (deed === "some") world.append(name, Math.ceil((part * max) / 10))
        else if (deed === "drain") world.add(name, -Math.floor(messages * part))
        else {
          world.add(name, -messages)
          world.shares.leave(world.of(name).share, 0, 0)
          world.held.delete(name)
        }
        assert.isAtMost(world.total, max)
        const n = world.holding
        const left = (2 * Math.floor(max / 8)) / (n + 1) - n
        assert.isAtLeast(max - world.total, left)
        // A newcomer, and whoever has little.
        const sure = (share: number) => Math.floor(((2 * Math.floor(max / 8)) / (share + 1) - share) / (share + 1))
        for (const [other, own] of [...world.held, ["newcomer", { messages: 0 }] as const]) {
          const count = sure(own.messages > 0 ? n : n + 1) - own.messages
          if (count <= 0) continue
          assert.isTrue(world.append(other, count), `${other} is refused ${count} of ${max}`)
          world.add(other, -count)
        }
      }
    }
  )

  it.prop(
    "leave enough for an outbox that has little, whatever the others of its share took before",
    {
      max: between(1_000, 100_000),
      steps: Schema.Array(Schema.Struct({
        name: Schema.Literals(["a1", "a2", "a3", "a4", "a5", "a6"]),
        deed: Schema.Literals(["fill", "fill", "some", "drain"]),
        part: Schema.Number.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
      }))
    },
    ({ max, steps }) => {
      const world = new World(max)
      const eighth = Math.floor(max / 8)
      // One that is alone in its share may take all of it.
      world.append("a1", 1)
      world.append("a2", 1)
      for (const { deed, name, part } of steps) {
        const { messages } = world.of(name)
        if (deed === "fill") world.fill(name)
        else if (deed === "some") world.append(name, Math.ceil((part * max) / 10))
        else world.add(name, -Math.floor(messages * part))
        const m = world.held.size
        const free = max - eighth - world.total
        assert.isAtLeast(free, (2 * eighth) / (m + 1) - m)
        for (const [other, own] of [...world.held, ["a7", { messages: 0 }] as const]) {
          const n = world.held.has(other) ? m : m + 1
          const count = Math.floor(((2 * eighth) / (n + 1) - n) / (n + 1)) - own.messages
          if (count <= 0) continue
          assert.isTrue(world.append(other, count), `${other} is refused ${count} of ${max}`)
          world.add(other, -count)
          if (own.messages === 0 && other === "a7") {
            world.shares.leave(world.of(other).share, 0, 0)
            world.held.delete(other)
          }
        }
      }
    }
  )

  it("leave the newest outbox of a share as much as if it had been there before", () => {
    const world = new World(8_000)
    for (const name of ["a1", "a2"]) world.append(name, 1)
    for (const name of ["a1", "a2", "a3", "a4"]) world.fill(name)
    // Up to 6,000 nobody is asked. Of the 1,000 before the reserve: a third, of what is left a quarter, a fifth.
    assert.deepStrictEqual([...world.held.values()].map(({ messages }) => messages), [5_999, 333, 167, 100])
  })

  it("are nobody's but the bound's while there is one share, save for the last eighth", () => {
    const world = new World(8_000)
    world.fill("a")
    assert.strictEqual(world.total, 7_000)
    world.fill("b")
    assert.strictEqual(world.total, 7_333)
  })

  it("are none for what has no share, and for bounds that are too small to be divided", () => {
    const shares = new Shares({ maxTotalMessages: 7, maxTotalBytes: 8_000 })
    assert.isUndefined(shares.over(undefined, 0, 0, 1e9, 1e9, 1, 1))
    assert.isUndefined(shares.over("a", 0, 0, 6, 7_000, 1, 1_000))
    assert.strictEqual(shares.add("a", 0, 0), "a")
    assert.strictEqual(shares.size, 0)
    const share = shares.add("a", 1, 1_000)
    assert.strictEqual(shares.size, 1)
    assert.strictEqual(shares.add(share, -1, -1_000), share)
    shares.leave(share, 0, 0)
    assert.strictEqual(shares.size, 0)
  })

  it("are of bytes as of messages, and the error says which, what may be had and what is", () => {
    const shares = new Shares({ maxTotalMessages: 1_000, maxTotalBytes: 80_000 })
    const share = shares.add("a", 10, 70_000)
    assert.deepStrictEqual(shares.over(share, 10, 70_000, 10, 70_000, 1, 100), {
      limit: "shareBytes",
      bound: 40_000,
      size: 70_000
    })
    shares.add(share, 890, -70_000)
    // Another outbox of the share that has nothing yet is told the same.
    assert.deepStrictEqual(shares.over("a", 0, 0, 900, 0, 1, 1), { limit: "shareMessages", bound: 500, size: 900 })
    assert.deepStrictEqual(shares.over(share, 900, 0, 900, 0, 1, 1), { limit: "shareMessages", bound: 500, size: 900 })
  })

  it("follow an outbox that becomes another share's", () => {
    const shares = new Shares({ maxTotalMessages: 1_000, maxTotalBytes: 80_000 })
    const first = shares.add("a", 100, 1_000)
    const next = shares.move(first, "b", 100, 1_000)
    assert.deepInclude(next, { name: "b", outboxes: 1, messages: 100, bytes: 1_000 })
    assert.strictEqual(shares.move(next, "b", 100, 1_000), next)
    assert.strictEqual(shares.size, 1)
    assert.isUndefined(shares.move(next, undefined, 100, 1_000))
    assert.strictEqual(shares.size, 0)
  })
})
