/** What servers do with outboxes and sessions after the store has lost its newest part. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { MessageQueue, SessionRegistry } from "resilient-websocket"
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

it.effect("what failed at the client in the lost part is there again before anything behind it counts as handled", () =>
  Effect.gen(function*() {
    const database = makeMemoryDatabase()
    const plain = makeMemoryDriver(database)
    // After each call: whoever looks now must not take the failure for a success.
    const checked: Array<boolean> = []
    const check = Effect.flatMap(
      Effect.all([plain.outboxes(["s"]), plain.fates("s", 1, 1)]),
      ([[state], fates]) => Effect.sync(() => void checked.push((state?.acked ?? 0) < 1 || fates.length > 0))
    )
    const driver = {
      ...plain,
      ack: (requests: Parameters<typeof plain.ack>[0]) => Effect.tap(plain.ack(requests), () => check),
      advance: (request: Parameters<typeof plain.advance>[0]) => Effect.tap(plain.advance(request), () => check)
    }
    const context = yield* Layer.build(layerOf(Effect.succeed(driver), 1, {}))
    const queue = yield* Effect.provideContext(MessageQueue.MessageQueue, context)
    yield* queue.open("s", 1)
    yield* queue.append("s", ["a", "b", "c"].map(messageOf))
    yield* queue.read("s", 1, 0, { maxMessages: 10, maxBytes: 1_000 })
    const lose = snapshotOf(database)
    yield* queue.ack("s", 1, 1, [[1, "failed"]])
    lose()
    database.history.set("now", "2")

    // An append of the owner comes first, then acks of what is behind the failure.
    const sending = yield* Effect.forkChild(
      Effect.andThen(queue.append("s", [messageOf("d")]), queue.ack("s", 1, 3, [])),
      { startImmediately: true }
    )
    yield* TestClock.adjust("1 second")
    yield* Fiber.join(sending)
    assert.deepStrictEqual(checked, checked.map(() => true))
    const [progress] = yield* queue.progress([{ session: "s", after: 0 }])
    assert.deepInclude(progress, { acked: 3 })
    assert.strictEqual((yield* plain.fates("s", 1, 1))[0]?.reason, "failed")
  }))

it.effect("a client of a session that the store has lost is told to come back until its server has put it back", () =>
  Effect.gen(function*() {
    const database = makeMemoryDatabase()
    const registryOf = Effect.map(
      Layer.build(layerOf(Effect.succeed(makeMemoryDriver(database)), 1, {})),
      (context) => Context.get(context, SessionRegistry.SessionRegistry)
    )
    const [first, second] = [yield* registryOf, yield* registryOf]
    const request = {
      session: "s",
      principal: undefined,
      authorized: false,
      tokenHash: undefined,
      nextTokenHash: "1",
      instance: "a"
    }
    const lose = snapshotOf(database)
    const { generation } = yield* first.attach(request)
    yield* first.detach("s", generation)
    yield* first.release("s", generation)
    lose()
    database.history.set("now", "2")

    // The store does not know its session: the second server would make another one for it, or the same one anew.
    const again = { ...request, tokenHash: "1", nextTokenHash: "2", attempt: 1 }
    for (const refused of [{ ...again, session: "another" }, { ...again, authorized: true }]) {
      const error = yield* Effect.flip(second.attach(refused))
      assert.strictEqual(error._tag === "HandshakeError" && error.reason, "overloaded")
    }
    // Who never had one is let in.
    assert.isFalse((yield* second.attach({ ...request, session: "new" })).known)
    yield* TestClock.adjust("1 second")
    const found = yield* second.attach(again)
    assert.isTrue(found.known)

    // One that nobody has put back is lost.
    yield* Effect.flip(second.attach({ ...again, session: "gone" }))
    yield* TestClock.adjust("10 seconds")
    assert.isFalse((yield* second.attach({ ...again, session: "gone" })).known)
  }))
