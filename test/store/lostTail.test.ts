/** What a server does with an outbox to which others appended after the store had lost its newest part. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { MessageQueue } from "resilient-websocket"
import { layerOf } from "../../src/internal/store/layer.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"
import { snapshotOf } from "../support/memoryTransactions.ts"

const messageOf = (text: string) => ({
  payload: `"${text}"`,
  bytes: text.length + 2,
  id: undefined,
  trace: undefined,
  ttlMillis: undefined
})

it.effect("messages at positions that the peer knows are moved behind them, once, however many notice", () =>
  Effect.gen(function*() {
    const database = makeMemoryDatabase()
    const driver = makeMemoryDriver(database)
    const context = yield* Layer.build(layerOf(Effect.succeed(driver), 1, {}))
    const queue = yield* Effect.provideContext(MessageQueue.MessageQueue, context)
    yield* queue.open("s", 1)
    yield* queue.append("s", [messageOf("a"), messageOf("b")])
    const lose = snapshotOf(database)
    yield* queue.append("s", [messageOf("lost 1"), messageOf("lost 2")])
    const limit = { maxMessages: 10, maxBytes: 1_000 }
    yield* queue.read("s", 1, 0, limit) // the peer gets all four
    lose()
    database.history.set("now", "2")

    // A server that could not ask the owner.
    const body = `{"l":[5]}\n"new"`
    const request = { session: "s", count: 1, bytes: 5, enqueuedAt: 0, expiresAt: Infinity, body, publish: undefined }
    const bounds = { maxMessages: 100, maxBytes: 1_000 }
    const [refused] = yield* driver.append([{ ...request, ...bounds }], undefined, "other")
    assert.strictEqual(refused?._tag, "Unsettled")
    const [allowed] = yield* driver.append([{ ...request, ...bounds, unsettled: "allow" }], undefined, "other")
    assert.strictEqual(allowed?._tag === "Appended" && allowed.first, 3)

    yield* Effect.all(
      [queue.recover("s", 1, 4), queue.recover("s", 1, 4), queue.ack("s", 1, 4, []), queue.recover("s", 1, 4)],
      { concurrency: "unbounded" }
    )
    const { slots } = yield* queue.read("s", 1, 4, limit)
    assert.deepStrictEqual(slots.map((slot) => slot.kind === "message" && `${slot.offset} ${slot.payload}`), [
      `5 "new"`
    ])
    // Nobody is told that what was at its first position was handled.
    const [progress] = yield* queue.progress([{ session: "s", after: 0 }])
    assert.isTrue(progress?.dead.some(({ first, reason }) => first === 3 && reason === "fresh"))
    assert.strictEqual((yield* queue.stats).lost, 1)
  }))
