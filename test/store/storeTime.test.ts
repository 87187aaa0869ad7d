/** The time of a store, and what makes those who share it agree. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Schema, Scope } from "effect"
import { MessageQueue } from "../../src/index.ts"
import { layerOf } from "../../src/internal/store/layer.ts"
import { StoreTime } from "../../src/internal/store/storeTime.ts"
import * as H from "../support/harness.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"
import { day, hour } from "../support/wall.ts"

const watchMillis = 2_500

describe("StoreTime", () => {
  it("begins with the store's clock, and goes on by itself", () => {
    let steady = 7
    const time = new StoreTime(() => steady, 1_000_000, new Map(), watchMillis)
    assert.strictEqual(time.now(), 1_000_000)
    steady += 500
    assert.strictEqual(time.now(), 1_000_500)
  })

  it("is never behind what others have stamped, at the start and later", () => {
    const time = new StoreTime(() => 0, 10 * hour, new Map([["a", 11 * hour]]), watchMillis)
    assert.strictEqual(time.now(), 11 * hour)
    time.look(new Map([["a", 11 * hour + 500]]))
    assert.strictEqual(time.now(), 11 * hour, "what an answer takes is no difference")
    time.look(new Map([["a", 12 * hour]]))
    assert.strictEqual(time.now(), 12 * hour)
  })

  it("stays with those who live when the store's clock is far ahead of them", () => {
    let steady = 0
    const time = new StoreTime(() => steady, day, new Map([["a", 5_000], ["b", 1_000]]), watchMillis)
    steady = 1_000
    time.look(new Map([["a", 6_000], ["b", 1_000]]))
    steady = 3 * watchMillis
    time.look(new Map([["a", 12_000], ["b", 1_000]]))
    assert.isBelow(time.now(), 20_000)
  })

  it("follows the store's clock when nobody has shown himself for long enough", () => {
    let steady = 0
    const stamps = new Map([["a", 5_000]])
    const time = new StoreTime(() => steady, day, stamps, watchMillis)
    steady = watchMillis - 1
    time.look(stamps)
    assert.isBelow(time.now(), 20_000)
    steady = watchMillis
    time.look(stamps)
    assert.strictEqual(time.now(), day + watchMillis)
  })

  const Step = Schema.Struct({
    node: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 })),
    passed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5_000 })),
    setBy: Schema.Literals([0, 0, 0, -hour, day, 300]),
    restarts: Schema.Boolean
  })

  it.prop(
    "never goes back, and is the same within a second for all who look, whatever is set",
    { steps: Schema.Array(Step) },
    ({ steps }) => {
      let steady = 0
      let clock = 1_700_000_000_000
      const stamps = new Map<string, number>()
      const begin = (name: string) =>
        new StoreTime(() => steady, clock, new Map([...stamps].filter(([other]) => other !== name)), watchMillis)
      const times = ["a", "b", "c"].map((name) => {
        const time = begin(name)
        stamps.set(name, time.now())
        return { name, time, at: time.now() }
      })
      for (const { node, passed, restarts, setBy } of steps) {
        steady += passed
        clock += passed + setBy
        const own = times[node] ?? assert.fail("no such node")
        if (restarts) own.time = begin(own.name)
        for (const each of times) {
          each.time.look(new Map([...stamps].filter(([other]) => other !== each.name)))
          if (!(restarts && each === own)) assert.isAtLeast(each.time.now(), each.at)
          each.at = each.time.now()
          stamps.set(each.name, each.at)
        }
        for (const { name, time } of times) {
          time.look(new Map([...stamps].filter(([other]) => other !== name)))
          stamps.set(name, time.now())
        }
        const all = times.map(({ time }) => time.now())
        assert.isAtMost(Math.max(...all) - Math.min(...all), 1_000 * 3)
      }
    }
  )
})

describe("servers on a store whose clock is set", () => {
  it.effect("keep what others stored for as long as they said", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      let ahead = 0
      const driver = makeMemoryDriver(database)
      const clock = Effect.map(driver.clock, (millis) => millis + ahead)
      const start = Effect.gen(function*() {
        const scope = yield* Scope.make()
        const layer = layerOf(Effect.succeed({ ...driver, clock }), 2, { queue: { ttl: "30 minutes" } })
        const context = yield* Scope.provide(Layer.build(Layer.fresh(layer)), scope)
        return { scope, queue: yield* Effect.provide(MessageQueue.MessageQueue, context) }
      })
      const first = yield* start
      yield* first.queue.open("s", 1)
      yield* first.queue.append("s", [{
        payload: "1",
        bytes: 1,
        id: undefined,
        trace: undefined,
        ttlMillis: undefined
      }])
      for (const byMillis of [day, -hour, 2 * day]) {
        ahead += byMillis
        const second = yield* start
        yield* H.advance(20_000, 500)
        yield* second.queue.open("s", 2)
        const { expired, slots } = yield* second.queue.read("s", 2, 0, { maxMessages: 10, maxBytes: 1_000 })
        assert.deepStrictEqual([expired.length, slots.length], [0, 1], `set by ${byMillis} ms`)
        yield* Scope.close(second.scope, Exit.void)
      }
      yield* Scope.close(first.scope, Exit.void)
    }))
})
