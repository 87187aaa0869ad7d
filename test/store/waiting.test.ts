/** Senders that a store makes wait, for room or for its commit: their order, their company, and whom they hold up. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { MessageQueue } from "resilient-websocket"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import { layerOf, type StoreOptions } from "../../src/internal/store/layer.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"

const number = (n: number) => ({ payload: JSON.stringify(n), bytes: 1 })
const all = { maxMessages: 1_000, maxBytes: 1_000_000 }

/** A queue whose driver answers at once, and the sizes of its commits. */
const open = Effect.fnUntraced(function*(
  options: StoreOptions,
  faults: (driver: StoreDriver) => Partial<StoreDriver> = () => ({})
) {
  const driver = makeMemoryDriver(makeMemoryDatabase())
  const commits: Array<number> = []
  const counting: StoreDriver = {
    ...driver,
    append: (requests, stamp, node) => {
      commits.push(requests.reduce((sum, { count }) => sum + count, 0))
      return driver.append(requests, stamp, node)
    }
  }
  const context = yield* Layer.build(layerOf(Effect.succeed({ ...counting, ...faults(counting) }), 1, options))
  const queue = Context.get(context, MessageQueue.MessageQueue)
  yield* queue.open("s", 1)
  return { queue, commits }
})

const numbersOf = (result: MessageQueue.ReadResult) =>
  result.slots.map((slot) => slot.kind === "message" ? Number(slot.payload) : Number.NaN)

/** So many fibers send one after the other what comes next, and begin in its order. */
const sendAtOnce = (queue: MessageQueue.Interface, count: number, fibers: number) => {
  let n = 0
  const sender: Effect.Effect<void, unknown> = Effect.suspend(() =>
    n < count ? Effect.flatMap(queue.append("s", [number(n++)]), () => sender) : Effect.void
  )
  return Effect.forkChild(Effect.all(Array.from({ length: fibers }, () => sender), { concurrency: "unbounded" }))
}

const turns = Effect.repeat(Effect.yieldNow, { times: 50 })

describe("senders to a full outbox", () => {
  it.effect("keep the order in which they began, when some are on their way to the store and room is made", () =>
    Effect.gen(function*() {
      const { queue } = yield* open({ queue: { maxMessages: 10, overflow: "suspend" } })
      const count = 300
      const sending = yield* sendAtOnce(queue, count, 7)
      const read: Array<number> = []
      for (let after = 0; after < count;) {
        yield* Effect.yieldNow
        const numbers = numbersOf(yield* queue.read("s", 1, after, { ...all, maxMessages: 3 }))
        read.push(...numbers)
        after += numbers.length
        if (numbers.length > 0) yield* queue.ack("s", 1, after, [])
      }
      assert.deepStrictEqual(read, Array.from({ length: count }, (_, n) => n))
      yield* Fiber.join(sending)
    }))

  it.effect("are committed together, as many as have room", () =>
    Effect.gen(function*() {
      const { commits, queue } = yield* open({ queue: { maxMessages: 10, overflow: "suspend" } })
      yield* Effect.forEach(Array.from({ length: 10 }, (_, n) => n), (n) => queue.append("s", [number(n)]))
      const sending = yield* sendAtOnce(queue, 8, 8)
      yield* turns
      assert.strictEqual((yield* queue.stats).suspended, 8)
      commits.length = 0
      yield* queue.ack("s", 1, 6, [])
      yield* turns
      assert.deepStrictEqual(commits, [6])
      assert.strictEqual((yield* queue.stats).suspended, 2)
      yield* queue.ack("s", 1, 10, [])
      yield* Fiber.join(sending)
      assert.deepStrictEqual(commits, [6, 2])
    }))

  it.effect("are let in when another server has made room of which this one is not told", () =>
    Effect.gen(function*() {
      const { queue } = yield* open({ queue: { maxMessages: 10, overflow: "suspend" } }, (driver) => {
        let refusals = 3
        return {
          append: (requests, stamp, node) =>
            refusals-- > 0
              ? Effect.succeed(requests.map(() => ({ _tag: "Full", limit: "messages", messages: 10, bytes: 10 })))
              : driver.append(requests, stamp, node)
        }
      })
      const sending = yield* sendAtOnce(queue, 5, 5)
      yield* turns
      assert.strictEqual((yield* queue.stats).suspended, 5)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(sending)
      assert.deepStrictEqual(numbersOf(yield* queue.read("s", 1, 0, all)), [0, 1, 2, 3, 4])
    }))
})

describe("a store that answers at once", () => {
  it.live("leaves others their turn, also when its senders send again at once", () =>
    Effect.gen(function*() {
      const { queue } = yield* open({ queue: { maxMessages: 1_000_000, overflow: "suspend" } })
      let isOver = false
      const sender: Effect.Effect<void, unknown> = Effect.suspend(() =>
        isOver ? Effect.void : Effect.flatMap(queue.append("s", [number(1)]), () => sender)
      )
      const sending = yield* Effect.forkChild(sender)
      yield* Effect.callback<void>((resume) => {
        const timer = setImmediate(() => setImmediate(() => resume(Effect.void)))
        return Effect.sync(() => clearImmediate(timer))
      })
      isOver = true
      yield* Fiber.join(sending)
    }))
})

describe("a sender whose commit does not come", () => {
  it.effect("waits as long as it is told, each from when it began, and holds up nobody after it", () =>
    Effect.gen(function*() {
      let isStuck = true
      const { queue } = yield* open({ appendTimeout: "10 seconds", callTimeout: "1 hour" }, (driver) => ({
        append: (requests, stamp, node) => isStuck ? Effect.never : driver.append(requests, stamp, node)
      }))
      const first = yield* Effect.forkChild(Effect.exit(queue.append("s", [number(1)])))
      yield* TestClock.adjust("6 seconds")
      const second = yield* Effect.forkChild(Effect.exit(queue.append("s", [number(2)])))
      yield* TestClock.adjust("4 seconds")
      yield* turns
      assert.isTrue(Exit.isFailure(yield* Fiber.join(first)))
      assert.isUndefined(second.pollUnsafe())
      yield* TestClock.adjust("6 seconds")
      assert.isTrue(Exit.isFailure(yield* Fiber.join(second)))
      isStuck = false
    }))
})
