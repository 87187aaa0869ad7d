/** What a sender gets from a full outbox, by policy: in messages and bytes, of a session and of all together. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scheduler } from "effect"
import type { Message, MessageQueue } from "resilient-websocket"
import * as H from "./support/harness.ts"

const { connected, turn, unplug, until } = H

/** Ten bytes each as JSON. */
const text = (n: number): string => String(n).padStart(8, "0")

type Bound = "messages" | "bytes" | "totalMessages" | "totalBytes"

const boundOf: Record<Bound, MessageQueue.Options> = {
  messages: { maxMessages: 4 },
  bytes: { maxBytes: 40 },
  totalMessages: { maxTotalMessages: 4 },
  totalBytes: { maxTotalBytes: 4 * (160 + 10) }
}
const bounds = Object.keys(boundOf) as Array<Bound>

/** A server whose session `alice` is away, and whose queue holds four messages. */
const away = Effect.fnUntraced(function*(options: MessageQueue.Options) {
  const world = yield* connected({ serverStore: { queue: { ttl: Infinity, ...options } } })
  yield* unplug(world.network, world.client)
  yield* until("the server noticed", () => Effect.map(world.server.stats, ({ connections }) => connections === 0))
  const send = (n: number) => world.server.send("alice", text(n))
  const comeBack = Effect.gen(function*() {
    world.network.dialling = "accepted"
    yield* world.client.reconnect
    yield* world.client.awaitConnected()
  })
  return { ...world, send, comeBack }
})

const tagOf = (receipt: Message.Receipt) => "reason" in receipt ? `${receipt._tag} ${receipt.reason}` : receipt._tag

/** A sender under way, and what became of it so far. */
const start = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkChild(effect, { startImmediately: true })

describe("a bound on the bytes of all", () => {
  it.effect("is one on their memory: 160 bytes beside each payload, which a single letter beyond Latin-1 makes twice as long", () =>
    Effect.gen(function*() {
      const { server } = yield* away({ maxTotalBytes: 48_000 })
      const long = "x".repeat(9_000)
      yield* server.send("alice", `${long}→`)
      const second = yield* server.send("alice", `${long}→`)
      assert.strictEqual(tagOf(second), "Queued disconnected")
      assert.deepInclude(yield* Effect.flip(server.send("alice", long)), { limit: "shareBytes", size: 36_332 })
      const { queue } = yield* server.stats
      assert.deepInclude(queue, { messages: 2, bytes: 2 * 9_005 })
      yield* server.send("alice", "short")
    }))
})

for (const bound of bounds) {
  describe(`a queue full by ${bound}`, () => {
    it.effect("refuses under `reject`, with what the bound is, and takes more when there is room", () =>
      Effect.gen(function*() {
        const { atClient, comeBack, send, server } = yield* away({ ...boundOf[bound] })
        for (let n = 1; n <= 4; n++) assert.strictEqual(tagOf(yield* send(n)), "Queued disconnected")
        const [most = assert.fail()] = Object.values(boundOf[bound])
        assert.deepInclude(yield* Effect.flip(send(5)), {
          _tag: "resilient-websocket/QueueOverflowError",
          session: "alice",
          limit: bound,
          bound: most,
          size: most
        })
        yield* comeBack
        yield* until("there is room", () => Effect.map(server.stats, ({ queue }) => queue.messages === 0))
        yield* (yield* send(6)).handled
        assert.deepStrictEqual(atClient, [1, 2, 3, 4, 6].map(text))
        const { queue, totals } = yield* server.stats
        assert.deepInclude(queue, { messages: 0, bytes: 0, appended: 5, acknowledged: 5, overflows: 1 })
        assert.strictEqual(totals.queueOverflows, 1)
      }))

    it.effect("drops the oldest under `dropOldest`: a dead letter here, a gap in its place there", () =>
      Effect.gen(function*() {
        const { atClient, comeBack, send, server } = yield* away({ ...boundOf[bound], overflow: "dropOldest" })
        const letters = yield* H.collect(server.deadLetters)
        const receipts = yield* Effect.forEach([1, 2, 3, 4, 5, 6], send)
        assert.isTrue(receipts.every((receipt) => receipt._tag === "Queued"))
        yield* until("two are dead", () => letters.length === 2)
        assert.deepStrictEqual(letters.map(({ message, reason }) => [message, reason]), [
          [text(1), "overflow"],
          [text(2), "overflow"]
        ])
        yield* comeBack
        for (const [index, { handled }] of receipts.entries()) {
          const exit = yield* Effect.exit(handled)
          assert.strictEqual(Exit.isSuccess(exit), index >= 2)
        }
        assert.deepStrictEqual(atClient, [3, 4, 5, 6].map(text))
      }))

    it.effect("drops the new one under `dropNewest`", () =>
      Effect.gen(function*() {
        const { atClient, comeBack, send, server } = yield* away({ ...boundOf[bound], overflow: "dropNewest" })
        const receipts = yield* Effect.forEach([1, 2, 3, 4, 5, 6], send)
        assert.deepStrictEqual(receipts.map(tagOf).slice(3), [
          "Queued disconnected",
          "Skipped overflow",
          "Skipped overflow"
        ])
        yield* comeBack
        for (const { handled } of receipts.slice(0, 4)) yield* handled
        assert.deepStrictEqual(atClient, [1, 2, 3, 4].map(text))
        assert.strictEqual((yield* server.stats).totals.queueOverflows, 2)
      }))

    it.effect("lets senders wait under `suspend`, first come first served", () =>
      Effect.gen(function*() {
        const { atClient, comeBack, send, server } = yield* away({ ...boundOf[bound], overflow: "suspend" })
        yield* Effect.forEach([1, 2, 3, 4], send)
        const senders = yield* Effect.forEach([5, 6, 7, 8, 9, 10, 11, 12], (n) => start(send(n)))
        yield* turn
        assert.isTrue(senders.every((sender) => sender.pollUnsafe() === undefined))
        assert.strictEqual((yield* server.stats).queue.suspended, 8)
        yield* comeBack
        for (const sender of senders) yield* (yield* Fiber.join(sender)).handled
        assert.deepStrictEqual(atClient, Array.from({ length: 12 }, (_, index) => text(index + 1)))
        assert.deepInclude((yield* server.stats).queue, { suspended: 0, messages: 0, bytes: 0 })
      }))
  })
}

describe("a message larger than the bound", () => {
  for (const overflow of ["reject", "dropOldest", "dropNewest", "suspend"] as const) {
    it.effect(`is refused under ${overflow}, and drops nothing`, () =>
      Effect.gen(function*() {
        const { send, server } = yield* away({ maxBytes: 40, overflow })
        yield* send(1)
        const error = yield* Effect.flip(server.send("alice", "x".repeat(50)))
        assert.deepInclude(error, { _tag: "resilient-websocket/QueueOverflowError", limit: "bytes", bound: 40 })
        assert.strictEqual((yield* server.stats).queue.messages, 1)
      }))
  }
})

describe("a sender that waits for room", () => {
  const full = Effect.gen(function*() {
    const world = yield* away({ maxMessages: 4, overflow: "suspend" })
    yield* Effect.forEach([1, 2, 3, 4], world.send)
    return world
  })

  it.effect("can be interrupted, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const { atClient, comeBack, send, server } = yield* full
      const first = yield* start(send(5))
      const second = yield* start(send(6))
      yield* Fiber.interrupt(first)
      assert.deepInclude((yield* server.stats).queue, { suspended: 1, messages: 4 })
      yield* comeBack
      yield* (yield* Fiber.join(second)).handled
      assert.deepStrictEqual(atClient, [1, 2, 3, 4, 6].map(text))
    }))

  it.effect("that was interrupted does not hold up others, though somebody waits elsewhere", () =>
    Effect.gen(function*() {
      const { comeBack, network, send, server } = yield* full
      yield* Fiber.interrupt(yield* start(send(5)))
      yield* comeBack
      yield* until("alice has room", () => Effect.map(server.stats, ({ queue }) => queue.messages === 0))
      const bob = yield* H.clientOn(network.context, { token: "bob", onMessage: () => Effect.never })
      yield* bob.awaitConnected()
      yield* Effect.forEach([1, 2, 3, 4], (n) => server.send("bob", text(n)))
      yield* start(server.send("bob", text(5)))
      const sender = yield* start(send(6))
      yield* until("alice's message is taken, as her queue is empty", () => sender.pollUnsafe() !== undefined)
      yield* (yield* Fiber.join(sender)).handled
    }))

  it.effect("is told when its session ends, and is not counted as sent", () =>
    Effect.gen(function*() {
      const { send, server } = yield* full
      const letters = yield* H.collect(server.deadLetters)
      const sender = yield* start(Effect.flip(send(5)))
      yield* server.endSession("alice")
      yield* until("it was told", () => sender.pollUnsafe() !== undefined)
      assert.include(
        ["resilient-websocket/SessionNotFoundError", "resilient-websocket/MessageQueueError"],
        (yield* Fiber.join(sender))._tag
      )
      yield* until("the others are dead", () => letters.length === 4)
      assert.deepInclude((yield* server.stats).queue, { suspended: 0, messages: 0, bytes: 0, appended: 4 })
    }))

  it.effect("is told when the server shuts down", () =>
    Effect.gen(function*() {
      const { send, server } = yield* full
      const sender = yield* start(Effect.flip(send(5)))
      const report = yield* server.shutdown
      yield* until("it was told", () => sender.pollUnsafe() !== undefined)
      assert.deepInclude(report, { pending: 4, flushed: 0, dropped: 4 })
    }))

  it.effect("gives up after the suspend timeout, and its place goes to the next", () =>
    Effect.gen(function*() {
      const { atClient, comeBack, send, server } = yield* away({
        maxMessages: 1,
        overflow: "suspend",
        suspendTimeout: "5 seconds"
      })
      yield* send(1)
      const first = yield* start(Effect.flip(send(2)))
      yield* H.advance(3_000)
      const second = yield* start(send(3))
      yield* H.advance(2_000)
      assert.deepInclude(yield* Fiber.join(first), {
        _tag: "resilient-websocket/QueueOverflowError",
        limit: "messages",
        bound: 1
      })
      assert.strictEqual((yield* server.stats).queue.suspended, 1)
      yield* comeBack
      yield* (yield* Fiber.join(second)).handled
      assert.deepStrictEqual(atClient, [1, 3].map(text))
    }))

  it.effect("for all sessions together gets it when another session frees it", () =>
    Effect.gen(function*() {
      const { network, send, server } = yield* away({ maxTotalMessages: 4, overflow: "suspend" })
      const bob = yield* H.clientOn(network.context, { token: "bob", onMessage: () => Effect.never })
      network.dialling = "accepted"
      yield* bob.reconnect
      yield* bob.awaitConnected()
      yield* Effect.forEach([1, 2, 3, 4], (n) => server.send("bob", text(n)))
      const sender = yield* start(send(1))
      yield* turn
      assert.isUndefined(sender.pollUnsafe())
      yield* server.endSession("bob")
      yield* until("it is in", () => sender.pollUnsafe() !== undefined)
      assert.strictEqual((yield* Fiber.join(sender))._tag, "Queued")
    }))

  it.effect("under a publish key keeps the key for as long as it waits", () =>
    Effect.gen(function*() {
      const { atClient, comeBack, server } = yield* full
      const send = server.send("alice", "once", { id: "once" })
      const sender = yield* start(send)
      yield* H.advance(40_000, 5_000) // longer than the deduplicator's lease
      const again = yield* start(Effect.exit(send))
      yield* turn
      yield* comeBack
      yield* (yield* Fiber.join(sender)).handled
      yield* Fiber.join(again)
      yield* (yield* server.send("alice", "last")).handled
      assert.deepStrictEqual(atClient.slice(4), ["once", "last"])
    }))

  // Any operation may be the one before which a fiber yields, also the one between seeing that the queue is full and
  // waiting for room: what comes meanwhile must not be waited for.
  for (const ops of [3, 4, 5, 6, 7, 8, 9, 10]) {
    it.effect(`never waits for what has come already, when its fiber yields every ${ops} operations`, () =>
      Effect.gen(function*() {
        const { atClient, server } = yield* connected({
          serverStore: { queue: { maxMessages: 2, overflow: "suspend" } }
        })
        const texts = H.numbered(300)
        const all = Effect.gen(function*() {
          for (const [index, text] of texts.entries()) {
            const { handled } = yield* server.send("alice", text)
            if (index % 3 === 2) yield* handled
          }
        })
        yield* Effect.provideService(all, Scheduler.MaxOpsBeforeYield, ops)
        yield* until("all are handled", () => atClient.length === 300)
        assert.deepStrictEqual(atClient, texts)
      }))
  }
})
