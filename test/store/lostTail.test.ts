/** What servers do with outboxes and sessions after the store has lost its newest part. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { MessageQueue, SessionRegistry } from "resilient-websocket"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import { layerOf } from "../../src/internal/store/layer.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"
import { snapshotOf, transactional } from "../support/memoryTransactions.ts"

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
      assert.strictEqual(error._tag === "resilient-websocket/HandshakeError" && error.reason, "overloaded")
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

const limit = { maxMessages: 100, maxBytes: 10_000 }

/** What a server appends that can't ask the owner of "s". */
const foreign = {
  session: "s",
  count: 1,
  bytes: 5,
  enqueuedAt: 0,
  expiresAt: Infinity,
  body: `{"l":[5]}\n"new"`,
  publish: undefined,
  unsettled: "allow",
  maxMessages: 100,
  maxBytes: 1_000
} as const

const serverOf = (driver: StoreDriver) =>
  Effect.map(
    Layer.build(layerOf(Effect.succeed(driver), 1, {})),
    (context) => Context.get(context, MessageQueue.MessageQueue)
  )

/** What the peer of "s" is given behind what it has. */
const given = (queue: MessageQueue.Interface, generation: number, after: number) =>
  Effect.map(
    queue.read("s", generation, after, limit),
    ({ slots }) =>
      slots.map((slot) => slot.kind === "message" ? `${slot.offset} ${slot.payload}` : `gap ${slot.offset}-${slot.end}`)
  )

const pass = (millis: number) => Effect.repeat(TestClock.adjust("50 millis"), { times: Math.ceil(millis / 50) - 1 })

/** A database that begins another history, or goes back to where it was. */
const makeWorld = () => {
  const database = makeMemoryDatabase()
  let histories = 1
  return {
    database,
    driver: makeMemoryDriver(database),
    restart: () => void database.history.set("now", `${++histories}`),
    snapshot: () => {
      const lose = snapshotOf(database)
      return () => {
        lose()
        database.history.set("now", `${++histories}`)
      }
    }
  }
}

describe("a message that others appended before an outbox was settled", () => {
  it.effect("stays where it is when the peer has nothing there, whoever finds it", () =>
    Effect.gen(function*() {
      const { driver, restart } = makeWorld()
      const queue = yield* serverOf(driver)
      yield* driver.openOutbox({ session: "s", generation: 1, node: "dead", newEpoch: "e" })
      yield* driver.append([{ ...foreign, unsettled: "refuse" }], undefined, "dead")
      yield* driver.ack([{ session: "s", generation: 1, upTo: 1, fates: [] }])
      restart()
      yield* driver.append([foreign], undefined, "other")
      assert.isTrue((yield* queue.open("s", 2)).isUncertain)
      yield* queue.recover("s", 2, 1)
      assert.deepStrictEqual(yield* given(queue, 2, 1), [`2 "new"`])
      restart()
      yield* driver.append([foreign], undefined, "other")
      yield* pass(2_000)
      assert.deepStrictEqual(yield* given(queue, 2, 2), [`3 "new"`])
      assert.deepStrictEqual(yield* driver.fates("s", 1, 10), [])
    }))

  it.effect("and delivered at its place is not moved after a second loss, of that it was settled", () =>
    Effect.gen(function*() {
      const { driver, restart, snapshot } = makeWorld()
      const queue = yield* serverOf(driver)
      yield* queue.open("s", 1)
      yield* queue.append("s", [messageOf("a")])
      restart()
      yield* driver.append([foreign], undefined, "other")
      const lose = snapshot()
      yield* pass(2_000)
      assert.deepStrictEqual(yield* given(queue, 1, 0), [`1 "a"`, `2 "new"`])
      lose()
      yield* pass(2_000)
      assert.deepStrictEqual(yield* given(queue, 1, 2), [])
    }))

  it.effect("keeps the fate of the move, also when fates of before are put back, and again", () =>
    Effect.gen(function*() {
      const { driver, snapshot } = makeWorld()
      const queue = yield* serverOf(driver)
      yield* queue.open("s", 1)
      yield* queue.append("s", [messageOf("a")])
      const lose = snapshot()
      yield* queue.append("s", [messageOf("lost")])
      yield* given(queue, 1, 0)
      yield* queue.ack("s", 1, 2, [[2, "failed"]])
      lose()
      for (let i = 0; i < 3; i++) yield* driver.append([foreign], undefined, "other") // at 2, 3 and 4
      yield* Effect.all([queue.recover("s", 1, 2), queue.recover("s", 1, 2)], { concurrency: 2 })
      yield* queue.recover("s", 1, 2)
      const fates = yield* driver.fates("s", 1, 10)
      assert.deepStrictEqual(fates.map(({ end, first, reason }) => [first, end, reason]), [[2, 4, "fresh"]])
      assert.deepStrictEqual(yield* given(queue, 1, 4), [`5 "new"`, `6 "new"`, `7 "new"`])
    }))
})

describe("fates of what was lost", () => {
  it.effect("are not replaced by shorter ones of before at the next start", () =>
    Effect.gen(function*() {
      const { driver, restart, snapshot } = makeWorld()
      const queue = yield* serverOf(driver)
      const other = yield* serverOf(driver)
      yield* queue.open("s", 1)
      yield* queue.append("s", [messageOf("a")])
      const lose = snapshot()
      yield* other.append("s", ["x", "y", "z"].map(messageOf)) // at 2, 3 and 4
      yield* given(queue, 1, 0)
      yield* queue.ack("s", 1, 2, [[2, "failed"]])
      lose()
      yield* pass(3_000)
      restart()
      yield* pass(3_000)
      yield* queue.append("s", [messageOf("b")])
      yield* queue.ack("s", 1, 5, [])
      const [progress] = yield* other.progress([{ session: "s", after: 1 }])
      // Nobody was done with 3 and 4.
      for (const offset of [3, 4]) {
        assert.isTrue(progress?.dead.some(({ end, first }) => first <= offset && offset <= end), `${offset}`)
      }
    }))
})

describe("an outbox that was made in the lost part", () => {
  it.effect("is what it was for its server, whether a client or a read comes first", () =>
    Effect.gen(function*() {
      for (const overflow of ["reject", "dropOldest"] as const) {
        const { driver, snapshot } = makeWorld()
        const layer = layerOf(Effect.succeed(driver), 1, { queue: { overflow } })
        const queue = Context.get(yield* Layer.build(Layer.fresh(layer)), MessageQueue.MessageQueue)
        const lose = snapshot()
        yield* queue.open("s", 1)
        yield* queue.append("s", ["a", "b"].map(messageOf))
        if (overflow === "reject") yield* given(queue, 1, 0)
        lose()
        const first = yield* Effect.forkChild(
          overflow === "reject" ? queue.open("s", 2) : Effect.exit(given(queue, 1, 0)),
          { startImmediately: true }
        )
        yield* pass(3_000)
        yield* Fiber.join(first)
        const generation = overflow === "reject" ? 2 : 1
        if (overflow === "reject") yield* queue.recover("s", 2, 0)
        assert.deepStrictEqual(yield* given(queue, generation, 0), [`1 "a"`, `2 "b"`], overflow)
      }
    }))

  it.effect("is not settled before its owner has said how far it goes, however slow it is", () =>
    Effect.gen(function*() {
      const { driver, snapshot } = makeWorld()
      const two = yield* serverOf(driver)
      const one = yield* serverOf({
        ...driver,
        openOutbox: (request) => Effect.tap(driver.openOutbox(request), () => Effect.sleep("20 millis"))
      })
      const lose = snapshot()
      const opening = yield* Effect.forkChild(one.open("s", 1), { startImmediately: true })
      yield* pass(100)
      yield* Fiber.join(opening)
      yield* one.append("s", ["a", "b", "c"].map(messageOf))
      yield* given(one, 1, 0)
      lose()
      const sending = yield* Effect.forkChild(two.append("s", [messageOf("d")]), { startImmediately: true })
      yield* pass(3_000)
      assert.strictEqual((yield* Fiber.join(sending)).first, 4)
      assert.deepStrictEqual(yield* given(one, 1, 3), [`4 "d"`])
    }))

  it.effect("is put back also when it is missed before anybody has looked which history it is", () =>
    Effect.gen(function*() {
      const { driver, snapshot } = makeWorld()
      const queue = yield* serverOf(driver)
      yield* TestClock.adjust("4500 millis")
      const lose = snapshot()
      yield* queue.open("s", 1)
      yield* queue.append("s", [messageOf("a")])
      const moved: Array<string> = []
      yield* queue.onMoved((session) => void moved.push(session))
      yield* TestClock.adjust("490 millis")
      lose()
      yield* pass(3_000)
      assert.deepStrictEqual(moved, [])
      assert.deepInclude((yield* driver.outboxes(["s"]))[0], { settled: true, last: 1 })
    }))
})

describe("a send in a transaction, which can't wait until the outbox is settled,", () => {
  const worldWithTransactions = Effect.gen(function*() {
    const world = makeWorld()
    const { driver, withTransaction } = transactional(world.database, makeMemoryDriver(world.database), [])
    return { ...world, withTransaction, queue: yield* serverOf(driver) }
  })

  it.effect("fails where its server's opening was lost, and is stored when it is tried again", () =>
    Effect.gen(function*() {
      const { driver, queue, snapshot, withTransaction } = yield* worldWithTransactions
      const before = yield* serverOf(driver)
      yield* before.open("s", 1)
      const lose = snapshot()
      yield* queue.open("s", 2)
      lose()
      const send = withTransaction(queue.append("s", [messageOf("a")]))
      const failed = yield* Effect.exit(send)
      assert.isTrue(Exit.isFailure(failed))
      assert.include(JSON.stringify(failed), "resilient-websocket/MessageQueueError")
      yield* pass(3_000)
      assert.strictEqual((yield* send).first, 1)
      assert.deepStrictEqual(yield* given(queue, 2, 0), [`1 "a"`])
    }))

  it.effect("is never stored twice, also by a server whose peer could not handle something once", () =>
    Effect.gen(function*() {
      const { queue, restart, withTransaction } = yield* worldWithTransactions
      yield* queue.open("s", 1)
      yield* queue.append("s", [messageOf("a")])
      yield* given(queue, 1, 0)
      yield* queue.ack("s", 1, 1, [[1, "failed"]])
      restart()
      const send = withTransaction(queue.append("s", [messageOf("b")]))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(send)))
      yield* pass(3_000)
      yield* send
      assert.deepStrictEqual(yield* given(queue, 1, 1), [`2 "b"`])
      yield* pass(3_000)
      assert.deepStrictEqual(yield* given(queue, 1, 2), [])
    }))
})

it.effect("a look that is overtaken by this server's own newer opening takes nothing away from it", () =>
  Effect.gen(function*() {
    const database = makeMemoryDatabase()
    const plain = makeMemoryDriver(database)
    let before: Effect.Effect<unknown, unknown> = Effect.void
    const driver: StoreDriver = {
      ...plain,
      advance: (request) =>
        Effect.suspend(() => {
          const first = before
          before = Effect.void
          return Effect.andThen(Effect.ignore(first), plain.advance(request))
        })
    }
    const context = yield* Layer.build(layerOf(Effect.succeed(driver), 1, {}))
    const queue = yield* Effect.provideContext(MessageQueue.MessageQueue, context)
    const moved: Array<readonly [string, number]> = []
    yield* queue.onMoved((session, generation) => void moved.push([session, generation]))
    yield* queue.open("s", 1)
    const lose = snapshotOf(database)
    yield* queue.append("s", [messageOf("lost")])
    yield* queue.read("s", 1, 0, { maxMessages: 10, maxBytes: 1_000 })
    lose()
    let isOpen = false
    before = Effect.tap(queue.open("s", 2), () => Effect.sync(() => (isOpen = true)))
    database.history.set("now", "2")

    yield* TestClock.adjust("10 seconds")
    assert.isTrue(isOpen)
    // Nobody has a newer one than this server.
    assert.isTrue(moved.every(([, generation]) => generation <= 2))
    yield* queue.recover("s", 2, 1)
    yield* queue.append("s", [messageOf("new")])
    yield* TestClock.adjust("2 minutes") // whoever has moved is forgotten by then
    const { slots } = yield* queue.read("s", 2, 1, { maxMessages: 10, maxBytes: 1_000 })
    assert.deepStrictEqual(slots.map((slot) => slot.kind === "message" && slot.payload), [`"new"`])
  }))
