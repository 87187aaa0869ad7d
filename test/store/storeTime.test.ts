/** The time of a store, and what makes those who share it agree. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { MessageQueue } from "../../src/index.ts"
import { StoreError } from "../../src/internal/store/driver.ts"
import { layerOf } from "../../src/internal/store/layer.ts"
import { decodeStamp, encodeStamp, type Stamp, StoreTime } from "../../src/internal/store/storeTime.ts"
import * as H from "../support/harness.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"
import { day, hour } from "../support/wall.ts"

const timeoutMillis = 5_000

const seen = (at: number): Stamp => ({ at, hasLeft: false })
const left = (at: number): Stamp => ({ at, hasLeft: true })

describe("StoreTime", () => {
  it("begins with the store's clock, and goes on by itself", () => {
    let steady = 7
    const time = new StoreTime(() => steady, 1_000_000, new Map(), timeoutMillis)
    assert.strictEqual(time.now(), 1_000_000)
    steady += 500
    assert.strictEqual(time.now(), 1_000_500)
  })

  it("is never behind what others have stamped, at the start and later", () => {
    const time = new StoreTime(() => 0, 10 * hour, new Map([["a", seen(11 * hour)]]), timeoutMillis)
    assert.strictEqual(time.now(), 11 * hour)
    time.look(new Map([["a", seen(11 * hour + 500)]]))
    assert.strictEqual(time.now(), 11 * hour, "what an answer takes is no difference")
    time.look(new Map([["a", seen(12 * hour)], ["b", left(13 * hour)]]))
    assert.strictEqual(time.now(), 13 * hour)
  })

  for (const leap of [timeoutMillis + 1, 300_000, day]) {
    it(`stays with those who live when the store's clock is ${leap} ms ahead of them, however late they show it`, () => {
      let steady = 0
      const stamps = new Map([["a", seen(hour)], ["b", seen(hour - 60_000)], ["c", left(hour - 30_000)]])
      const time = new StoreTime(() => steady, hour + leap, stamps, timeoutMillis)
      assert.strictEqual(time.now(), hour)
      steady = timeoutMillis + 500
      time.look(stamps)
      steady = timeoutMillis + 900
      time.look(new Map([...stamps, ["a", seen(hour + steady)]]))
      steady = 3 * timeoutMillis
      time.look(new Map([...stamps, ["a", seen(hour + steady)]]))
      assert.strictEqual(time.now(), hour + steady)
    })
  }

  it("follows the store's clock when nobody has shown himself for long enough", () => {
    let steady = 0
    const stamps = new Map([["a", seen(hour)]])
    const time = new StoreTime(() => steady, day, stamps, timeoutMillis)
    steady = 1.2 * timeoutMillis - 1
    time.look(stamps)
    assert.isBelow(time.now(), 2 * hour)
    steady = 1.2 * timeoutMillis
    time.look(stamps)
    assert.strictEqual(time.now(), day + steady)
  })

  it("follows it at once where all have left", () => {
    const time = new StoreTime(() => 0, day, new Map([["a", left(hour)], ["b", left(2 * hour)]]), timeoutMillis)
    assert.strictEqual(time.now(), day)
  })

  it("is in no doubt where somebody has left just now, whoever was killed before", () => {
    const stamps = new Map([["a", seen(day - 30_000)], ["b", left(day - 500)]])
    assert.isFalse(new StoreTime(() => 0, day, stamps, timeoutMillis).isInDoubt)
    assert.isTrue(new StoreTime(() => 0, day, new Map([["a", seen(day - 30_000)]]), timeoutMillis).isInDoubt)
  })

  it("keeps stamps as numbers that say which is the last", () => {
    for (const stamp of [seen(0), left(0), seen(5), left(5)]) {
      assert.deepStrictEqual(decodeStamp(encodeStamp(stamp)), stamp)
    }
  })

  const Step = Schema.Struct({
    node: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 })),
    passed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000 })),
    setBy: Schema.Literals([0, 0, 0, -hour, day, 300, 20_000, 590_000]),
    does: Schema.Literals(["nothing", "nothing", "restarts", "ends and starts"])
  })

  it.prop(
    "of those who live never goes back or forward by itself, whatever is set, and is the same for all",
    { steps: Schema.Array(Step) },
    ({ steps }) => {
      let steady = 0
      let clock = 1_700_000_000_000
      const stamps = new Map<string, Stamp>()
      const othersOf = (name: string) => new Map([...stamps].filter(([other]) => other !== name))
      const begin = (name: string) => new StoreTime(() => steady, clock, othersOf(name), timeoutMillis)
      const nodes = ["a", "b", "c"].map((name) => ({ name, time: begin(name) }))
      for (const { name, time } of nodes) stamps.set(name, seen(time.now()))
      const began = nodes[0]?.time.now() ?? 0
      for (const { does, node, passed, setBy } of steps) {
        steady += passed
        clock += passed + setBy
        const own = nodes[node] ?? assert.fail("no such node")
        if (does === "ends and starts") stamps.set(own.name, left(own.time.now()))
        // A process that comes after another on the same machine is a node of its own: its predecessor's stamp stays.
        if (does !== "nothing") own.time = begin("")
        for (const { name, time } of nodes) {
          time.look(othersOf(name))
          stamps.set(name, seen(time.now()))
          assert.isAtMost(Math.abs(time.now() - began - steady), 3_000)
        }
      }
    }
  )
})

const message = (payload: string) => ({
  payload,
  bytes: payload.length,
  id: undefined,
  trace: undefined,
  ttlMillis: undefined
})

/** A database whose clock can be set, and servers on it, each of which can be killed. */
const makeWorld = () => {
  const world = { ahead: 0, failing: 0 }
  const driver = makeMemoryDriver(makeMemoryDatabase())
  const clock = Effect.map(driver.clock, (millis) => millis + world.ahead)
  const start = Effect.gen(function*() {
    const scope = yield* Scope.make()
    let isKilled = false
    let isStill = false
    const touchNode: typeof driver.touchNode = (...args) => {
      if (isStill) return Effect.fail(new StoreError("touchNode", new Error("it stands still")))
      return isKilled ? Effect.void : driver.touchNode(...args)
    }
    const nodes = Effect.suspend(() =>
      world.failing-- > 0 ? Effect.fail(new StoreError("nodes", new Error("it is shaky"))) : driver.nodes
    )
    const own = { ...driver, clock, touchNode, nodes }
    const layer = layerOf(Effect.succeed(own), 2, { queue: { ttl: "30 minutes" } })
    const building = yield* Effect.forkChild(
      Scope.provide(Layer.build(Layer.fresh(layer)), scope),
      { startImmediately: true }
    )
    yield* H.advanceUntil("it has started", () => building.pollUnsafe() !== undefined)
    const queue = yield* Effect.provide(MessageQueue.MessageQueue, yield* Fiber.join(building))
    return {
      queue,
      standStill: (still: boolean) => (isStill = still),
      end: Scope.close(scope, Exit.void),
      kill: Effect.suspend(() => {
        isKilled = true
        return Scope.close(scope, Exit.void)
      })
    }
  })
  return { world, start }
}

const read = (queue: MessageQueue.Interface, generation: number) =>
  Effect.gen(function*() {
    yield* queue.open("s", generation)
    const { expired, slots } = yield* queue.read("s", generation, 0, { maxMessages: 10, maxBytes: 1_000 })
    return {
      expired: expired.map(({ payload }) => payload),
      left: slots.flatMap((slot) => slot.kind === "message" ? [slot.payload] : [])
    }
  })

describe("servers on a store whose clock is set", () => {
  it.effect("keep what others stored for as long as they said", () =>
    Effect.gen(function*() {
      const { start, world } = makeWorld()
      const first = yield* start
      yield* first.queue.open("s", 1)
      yield* first.queue.append("s", [message("1")])
      for (const byMillis of [day, -hour, 300_000, 2 * day]) {
        world.ahead += byMillis
        const second = yield* start
        yield* H.advance(20_000, 500)
        assert.deepStrictEqual(yield* read(second.queue, 2), { expired: [], left: ["1"] }, `set by ${byMillis} ms`)
        yield* second.end
      }
      yield* first.end
    }))
})

describe("a server that stood still, while another one started and took all for dead", () => {
  it.effect("goes on by the time of that one", () =>
    Effect.gen(function*() {
      const { start, world } = makeWorld()
      const first = yield* start
      yield* first.queue.open("s", 1)
      first.standStill(true)
      world.ahead += day
      yield* H.advance(6_000, 500)
      const second = yield* start
      first.standStill(false)
      yield* H.advance(2_000, 500)
      yield* first.queue.append("s", [message("new")])
      yield* H.advance(2_000, 500)
      assert.deepStrictEqual(yield* read(second.queue, 2), { expired: [], left: ["new"] })
      yield* first.end
      yield* second.end
    }))
})

describe("a server that starts when all have been dead for longer than messages live", () => {
  it.effect("gives up what they had, and nothing that it is given itself", () =>
    Effect.gen(function*() {
      const { start, world } = makeWorld()
      const first = yield* start
      yield* first.queue.open("s", 1)
      yield* first.queue.append("s", [message("old")])
      yield* first.kill
      world.ahead += day
      const starting = yield* Effect.forkChild(start, { startImmediately: true })
      // While it watches for others the store fails now and then.
      yield* H.advance(1_500, 500)
      world.failing = 2
      const second = yield* Fiber.join(starting)
      yield* second.queue.open("s", 2)
      yield* second.queue.append("s", [message("new")])
      yield* H.advance(20_000, 500)
      assert.deepStrictEqual(yield* read(second.queue, 3), { expired: ["old"], left: ["new"] })
      yield* second.end
    }))
})
