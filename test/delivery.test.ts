/** What becomes of a message between `send` and the handler on the other side, when the network is well. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Latch, Option, Schedule, Schema, Stream, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { CircuitBreaker, type Message, WebSocketError } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"

const { advanceUntil, connected, turn, unplug, until } = H

const reasonOf = (receipt: Message.Receipt) => "reason" in receipt ? `${receipt._tag} ${receipt.reason}` : receipt._tag

const deadReason = (receipt: Message.Receipt) =>
  Effect.match(receipt.handled, { onFailure: ({ reason }) => reason, onSuccess: () => "handled" })

describe("delivery", () => {
  it.effect("brings every message to the other side's handler once and in order, both ways", () =>
    Effect.gen(function*() {
      const { atClient, atServer, client, server } = yield* connected()
      const receipts = yield* Effect.forEach(
        H.numbered(500),
        (text) => Effect.all([client.send(text), server.send("alice", text)])
      )
      for (const [up, down] of receipts) {
        yield* up.handled
        yield* down.handled
      }
      assert.deepStrictEqual(atServer, H.numbered(500))
      assert.deepStrictEqual(atClient, H.numbered(500))
      assert.strictEqual((yield* server.stats).queue.messages, 0)
    }))

  it.effect("says a message is handled when the handler has succeeded, not before", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(false)
      const { client } = yield* connected({ server: { onMessage: () => gate.await } })
      const receipt = yield* client.send("slow")
      assert.strictEqual(receipt._tag, "Sent")
      const handled = yield* Effect.forkChild(receipt.handled, { startImmediately: true })
      yield* until("the message is at the handler", () =>
        Effect.map(client.locate(receipt.messageId), (state) => state === "sent"))
      yield* turn
      assert.isUndefined(handled.pollUnsafe())
      yield* gate.open
      yield* Fiber.join(handled)
      assert.strictEqual(yield* client.locate(receipt.messageId), "handled")
    }))

  it.effect("keeps the order when quick and slow handlers mix", () =>
    Effect.gen(function*() {
      const handled: Array<string> = []
      const { client } = yield* connected({
        server: {
          onMessage: (text) =>
            Number(text.slice(1)) % 3 === 0
              ? Effect.andThen(Effect.sleep("20 millis"), Effect.sync(() => handled.push(text)))
              : Effect.sync(() => handled.push(text))
        }
      })
      yield* Effect.forEach(H.numbered(60), (text) => client.send(text))
      yield* advanceUntil("all are handled", () => handled.length === 60)
      assert.deepStrictEqual(handled, H.numbered(60))
    }))

  it.effect("carries the trace of the sender to the handler", () =>
    Effect.gen(function*() {
      const seen = yield* Deferred.make<Option.Option<Tracer.AnySpan>>()
      const { client } = yield* connected({
        server: {
          onMessage: () =>
            Effect.flatMap(Effect.serviceOption(Tracer.ParentSpan), (span) => Deferred.succeed(seen, span))
        }
      })
      const sent = yield* Effect.withSpan(
        Effect.andThen(client.send("traced"), Effect.currentSpan),
        "sender"
      )
      const span = Option.getOrThrow(yield* Deferred.await(seen))
      assert.strictEqual(span.traceId, sent.traceId)
      assert.notStrictEqual(span.spanId, sent.spanId)
    }))
})

describe("receipts", () => {
  it.effect("tell why a message waits", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(false)
      const { breaker, client, network, server } = yield* connected({
        server: { window: { messages: 4, bytes: 1_000_000 }, onMessage: () => gate.await }
      })
      yield* breaker.isolate(CircuitBreaker.session("alice"), "a test")
      assert.strictEqual(reasonOf(yield* server.send("alice", "1")), "Queued circuitOpen")
      yield* breaker.release(CircuitBreaker.session("alice"))

      yield* Effect.forEach(H.numbered(5), (text) => client.send(text))
      yield* turn
      assert.strictEqual(reasonOf(yield* client.send("6")), "Queued window")
      yield* gate.open

      network.stuckBytes = 300 * 1024
      yield* server.send("alice", "2")
      yield* turn
      assert.strictEqual(reasonOf(yield* server.send("alice", "3")), "Queued backlog")
      network.stuckBytes = 0

      yield* unplug(network, client)
      assert.strictEqual(reasonOf(yield* client.send("7")), "Queued disconnected")
      assert.strictEqual(reasonOf(yield* server.send("alice", "4")), "Queued disconnected")
    }))

  it.effect("tell why a volatile message was skipped", () =>
    Effect.gen(function*() {
      const { atClient, breaker, client, network, server } = yield* connected()
      const send = (text: string) => server.send("alice", text, { volatile: true })
      yield* breaker.isolate(CircuitBreaker.session("alice"), "a test")
      assert.strictEqual(reasonOf(yield* send("1")), "Skipped circuitOpen")
      yield* breaker.release(CircuitBreaker.session("alice"))
      network.stuckBytes = 300 * 1024
      assert.strictEqual(reasonOf(yield* send("2")), "Skipped backpressure")
      network.stuckBytes = 0
      yield* unplug(network, client)
      const skipped = yield* send("3")
      assert.strictEqual(reasonOf(skipped), "Skipped disconnected")
      assert.strictEqual(yield* deadReason(skipped), "skipped")
      assert.deepStrictEqual(atClient, [])
      assert.strictEqual((yield* server.stats).totals.messagesVolatileSkipped, 3)
    }))

  it.effect("of a volatile message that goes out say that nobody will know", () =>
    Effect.gen(function*() {
      const seen: Array<Message.Incoming<string>> = []
      const { server } = yield* connected({
        client: { onMessage: (_, { incoming }) => Effect.sync(() => seen.push(incoming)) }
      })
      const receipt = yield* server.send("alice", "typing", { volatile: true })
      assert.strictEqual(receipt._tag, "Sent")
      assert.strictEqual(yield* deadReason(receipt), "volatile")
      yield* until("it arrives", () => seen.length === 1)
      assert.deepStrictEqual(seen, [{
        message: "typing",
        session: "alice",
        messageId: undefined,
        volatile: true,
        trace: undefined
      }])
    }))

  it.effect("of a message that a full queue drops say so", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected({
        serverStore: { queue: { maxMessages: 1, overflow: "dropNewest" } }
      })
      yield* unplug(network, client)
      yield* server.send("alice", "1")
      const receipt = yield* server.send("alice", "2", { id: "two" })
      assert.strictEqual(reasonOf(receipt), "Skipped overflow")
      assert.strictEqual(yield* deadReason(receipt), "skipped")
    }))

  it.effect("name the message as its handler sees it, by the publisher's id or by epoch and offset", () =>
    Effect.gen(function*() {
      const seen: Array<string | undefined> = []
      const { client } = yield* connected({
        server: { onMessage: (_, { incoming }) => Effect.sync(() => seen.push(incoming.messageId)) }
      })
      const own = yield* client.send("a", { id: "order-1" })
      const given = yield* client.send("b")
      yield* given.handled
      assert.strictEqual(own.messageId, "order-1")
      assert.deepStrictEqual(seen, ["order-1", given.messageId])
    }))
})

describe("publish keys", () => {
  it.effect("keep a volatile message from going out twice, and are free again when it did not go out", () =>
    Effect.gen(function*() {
      const { atClient, client, network, server } = yield* connected()
      const send = (text: string) => server.send("alice", text, { volatile: true, id: "key" })
      const first = yield* send("a")
      assert.deepInclude(first, { _tag: "Sent", messageId: "key" })
      const second = yield* send("a")
      assert.deepInclude(second, { _tag: "Duplicate", messageId: "key" })
      assert.strictEqual(yield* deadReason(second), "volatile")
      assert.strictEqual(yield* H.tagOf(send("b")), "resilient-websocket/DeduplicationError")
      yield* (yield* server.send("alice", "after")).handled
      assert.deepStrictEqual(atClient, ["a", "after"])
      yield* unplug(network, client)
      const skips = [1, 2].map(() => server.send("alice", "c", { volatile: true, id: "other" }))
      for (const skip of skips) assert.strictEqual(reasonOf(yield* skip), "Skipped disconnected")
    }))

  it.effect("answer a repeated send with the first receipt, and send once", () =>
    Effect.gen(function*() {
      const { atServer, client } = yield* connected()
      const first = yield* client.send("buy", { id: "order-1" })
      yield* TestClock.adjust("1 second")
      const second = yield* client.send("buy", { id: "order-1" })
      assert.strictEqual(second._tag, "Duplicate")
      assert.strictEqual(second.messageId, first.messageId)
      assert.strictEqual(second._tag === "Duplicate" && second.firstAtMillis, 0)
      yield* second.handled
      yield* (yield* client.send("after")).handled
      assert.deepStrictEqual(atServer, ["buy", "after"])
    }))

  it.effect("may be made of the content", () =>
    Effect.gen(function*() {
      const { atServer, client } = yield* connected()
      const tags: Array<string> = []
      for (const text of ["a", "b", "a"]) tags.push((yield* client.send(text, { deduplicate: "content" }))._tag)
      yield* (yield* client.send("a")).handled
      assert.deepStrictEqual(tags, ["Sent", "Sent", "Duplicate"])
      assert.deepStrictEqual(atServer, ["a", "b", "a"])
    }))

  it.effect("are refused with other content, and while a send with the key is under way", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected({
        clientStore: { queue: { maxMessages: 1, overflow: "suspend" } }
      })
      yield* (yield* client.send("a", { id: "k" })).handled
      assert.strictEqual(
        (yield* Effect.flip(client.send("b", { id: "k" })))._tag,
        "resilient-websocket/DeduplicationError"
      )
      yield* unplug(network, client)
      yield* client.send("fills the queue")
      const waiting = yield* Effect.forkChild(client.send("c", { id: "c" }), { startImmediately: true })
      const error = yield* Effect.flip(client.send("c", { id: "c" }))
      assert.deepInclude(error, {
        _tag: "resilient-websocket/DeduplicationError",
        reason: "inFlight",
        retryAfterMillis: 30_000
      })
      // A send that came to nothing leaves its key free.
      yield* Fiber.interrupt(waiting)
      const again = yield* Effect.forkChild(client.send("c", { id: "c" }), { startImmediately: true })
      yield* turn
      assert.isUndefined(again.pollUnsafe())
    }))
})

describe("time to live", () => {
  it.effect("ends for messages that could not be sent: dead letters here, gaps in their place there", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const { client, network, server } = yield* connected({
        serverStore: { queue: { ttl: "2 minutes" } },
        client: {
          onMessage: (text) => Effect.sync(() => seen.push(text)),
          onGap: ({ count, reason }) => Effect.sync(() => seen.push(`${count} ${reason}`))
        }
      })
      const letters = yield* H.collect(server.deadLetters)
      yield* unplug(network, client)
      const send = (text: string, ttl?: number) => server.send("alice", text, { ttl })
      const receipts = [
        yield* send("lasts", Infinity),
        yield* send("short", 1_000),
        yield* send("short too", 1_000),
        yield* send("lasts 3 minutes", 180_000),
        yield* send("default")
      ]
      yield* H.advance(125_000, 5_000)
      network.dialling = "accepted"
      yield* client.reconnect // by itself it might take a minute more
      yield* server.send("alice", "last")
      yield* advanceUntil("the last is handled", () => seen.includes("last"))
      assert.deepStrictEqual(seen, ["lasts", "2 expired", "lasts 3 minutes", "1 expired", "last"])
      assert.deepStrictEqual(yield* Effect.forEach(receipts, deadReason), [
        "handled",
        "expired",
        "expired",
        "handled",
        "expired"
      ])
      yield* until("three are dead", () => letters.length === 3)
      assert.deepStrictEqual(letters.map(({ maybeHandled, message }) => [message, maybeHandled]), [
        ["short", false],
        ["short too", false],
        ["default", false]
      ])
      assert.strictEqual((yield* server.stats).totals.messagesExpired, 3)
    }))

  it.effect("of zero is over at once, and leaves a gap", () =>
    Effect.gen(function*() {
      const { atServer, client } = yield* connected()
      const receipt = yield* client.send("late", { ttl: 0 })
      yield* (yield* client.send("next")).handled
      assert.strictEqual(yield* deadReason(receipt), "expired")
      assert.deepStrictEqual(atServer, ["next"])
    }))
})

describe("the stream of messages", () => {
  const streaming = connected({ server: { onMessage: undefined } })

  it.effect("acknowledges a message when the next one is asked for", () =>
    Effect.gen(function*() {
      const { client, server } = yield* streaming
      const gate = yield* Latch.make(false)
      const seen: Array<string> = []
      yield* Effect.forkScoped(Stream.runForEach(server.messages, ({ message }) =>
        Effect.andThen(
          Effect.sync(() => seen.push(message)),
          gate.await
        )))
      const first = yield* client.send("1")
      yield* client.send("2")
      const handled = yield* Effect.forkChild(first.handled, { startImmediately: true })
      yield* until("the first is there", () => seen.length === 1)
      yield* turn
      assert.isUndefined(handled.pollUnsafe())
      yield* gate.open
      yield* Fiber.join(handled)
      assert.deepStrictEqual(seen, ["1", "2"])
    }))

  it.effect("leaves the message of a consumer that fails to the next consumer", () =>
    Effect.gen(function*() {
      const { client, server } = yield* streaming
      const receipts = yield* Effect.forEach(H.numbered(4), (text) => client.send(text))
      const seen: Array<string> = []
      const failing = Stream.runForEach(server.messages, ({ message }) =>
        Effect.suspend(() => {
          seen.push(message)
          return message === "m2" ? Effect.fail({ _tag: "Broken" } as const) : Effect.void
        }))
      assert.strictEqual(yield* H.tagOf(failing), "Broken")
      const rest = yield* server.messages.pipe(Stream.take(3), Stream.runCollect)
      assert.deepStrictEqual(seen, ["m1", "m2"])
      assert.deepStrictEqual(rest.map(({ message }) => message), ["m2", "m3", "m4"])
      for (const { handled } of receipts) yield* handled
    }))
})

describe("a handler that fails", () => {
  it.effect("is tried again on the schedule, and holds back what comes after", () =>
    Effect.gen(function*() {
      const attempts: Array<string> = []
      let left = 2
      const { client, server } = yield* connected({
        server: {
          handlerRetry: Schedule.upTo(Schedule.spaced("1 second"), { times: 4 }),
          onMessage: (text) =>
            Effect.suspend(() => {
              attempts.push(text)
              return text === "m1" && left-- > 0 ? Effect.fail("not yet") : Effect.void
            })
        }
      })
      const receipts = yield* Effect.forEach(H.numbered(2), (text) => client.send(text))
      assert.isAtLeast(yield* advanceUntil("both are handled", () => attempts.length === 4), 2_000)
      for (const { handled } of receipts) yield* handled
      assert.deepStrictEqual(attempts, ["m1", "m1", "m1", "m2"])
      assert.deepInclude((yield* server.stats).totals, { retriesTried: 2, retriesSucceeded: 1, retriesFailed: 0 })
    }))

  it.effect("makes a dead letter on both sides: after five attempts by default, and at once for a defect", () =>
    Effect.gen(function*() {
      let attempts = 0
      const { client, server } = yield* connected({
        server: {
          onMessage: (text) => {
            attempts++
            if (text === "throws") throw new Error("thrown")
            return text === "dies" ? Effect.die("died") : text === "fails" ? Effect.fail("failed") : Effect.void
          }
        }
      })
      const here = yield* H.collect(client.deadLetters)
      const there = yield* H.collect(server.deadLetters)
      const receipts = yield* Effect.forEach(["fails", "dies", "throws", "works"], (text) => client.send(text))
      yield* advanceUntil("the last is handled", () => attempts === 8)
      assert.deepStrictEqual(yield* Effect.forEach(receipts, deadReason), ["failed", "failed", "failed", "handled"])
      yield* until("both sides have them", () => here.length === 3 && there.length === 3)
      assert.deepStrictEqual(here.map(({ direction, message }) => [direction, message]), [
        ["out", "fails"],
        ["out", "dies"],
        ["out", "throws"]
      ])
      assert.deepStrictEqual(there.map(({ direction, reason }) => `${direction} ${reason}`), [
        "in failed",
        "in failed",
        "in failed"
      ])
      assert.strictEqual(there[0]?.cause, "failed")
      assert.deepInclude((yield* server.stats).totals, { retriesTried: 4, retriesFailed: 3, deadLetters: 3 })
    }))

  it.effect("rejects a message for good, and tells its sender why", () =>
    Effect.gen(function*() {
      const words = `sold out: "tea" \u0000 ${"é".repeat(300)}`
      let attempts = 0
      const { client, server } = yield* connected({
        server: {
          onMessage: (detail) =>
            Effect.suspend(() => {
              attempts++
              return new WebSocketError.MessageRejected({ detail })
            })
        }
      })
      const here = yield* H.collect(client.deadLetters)
      const there = yield* H.collect(server.deadLetters)
      const error = yield* Effect.flip((yield* client.send(words)).handled)
      const arrived = `sold out: "tea" \ufffd ${"é".repeat(246)}`
      assert.deepInclude(error, { reason: "rejected", detail: arrived, maybeHandled: false })
      assert.include(error.message, "(rejected: sold out")
      assert.strictEqual(attempts, 1)
      yield* until("both sides have it", () => here.length === 1 && there.length === 1)
      assert.deepInclude(here[0], { direction: "out", reason: "rejected", detail: arrived })
      assert.deepInclude(there[0], { direction: "in", reason: "rejected", detail: arrived })
      assert.instanceOf(there[0]?.cause, WebSocketError.MessageRejected)
      assert.deepInclude((yield* server.stats).totals, { retriesTried: 0, retriesFailed: 0, deadLetters: 1 })
    }))

  it.effect("tells of many rejections in several acks, each as long as it may be", () =>
    Effect.gen(function*() {
      const detail = "\u0001".repeat(512)
      const { client } = yield* connected({
        server: { onMessage: () => new WebSocketError.MessageRejected({ detail }) }
      })
      const receipts = yield* client.sendAll(H.numbered(100))
      const errors = yield* Effect.forEach(receipts, ({ handled }) => Effect.flip(handled))
      assert.isTrue(errors.every((error) => error.reason === "rejected" && error.detail === detail))
    }))

  it.effect("is not asked for what it can't decode", () =>
    Effect.gen(function*() {
      const { atServer, client, server } = yield* connected({ server: { incoming: Schema.Literals(["yes", "no"]) } })
      const there = yield* H.collect(server.deadLetters)
      const wrong = yield* client.send("perhaps")
      yield* (yield* client.send("yes")).handled
      assert.strictEqual(yield* deadReason(wrong), "undecodable")
      assert.deepStrictEqual(atServer, ["yes"])
      yield* until("there is a dead letter", () => there.length > 0)
      assert.deepInclude(there[0], { reason: "undecodable", message: undefined, payload: "perhaps" })
    }))
})

describe("a server that is paused", () => {
  it.effect("writes what it can at once, and leaves the rest until it is resumed", () =>
    Effect.gen(function*() {
      const { atClient, breaker, server } = yield* connected()
      yield* server.pause
      for (const text of ["1", "2", "3"]) yield* server.send("alice", text)
      yield* until("they are handled", () => atClient.length === 3)
      yield* breaker.isolate(CircuitBreaker.session("alice"), "a test")
      yield* server.send("alice", "4", { ttl: "10 seconds" })
      yield* breaker.release(CircuitBreaker.session("alice"))
      yield* H.advance(600_000, 10_000)
      assert.strictEqual(yield* server.locate("alice", (yield* server.send("alice", "5")).messageId), "sent")
      yield* server.resume
      yield* advanceUntil("all is handled", () => atClient.includes("5"))
      assert.strictEqual((yield* server.stats).totals.messagesExpired, 1)
    }))
})

describe("dead letters", () => {
  it.effect("are all given to onDeadLetter, however many there are at once", () =>
    Effect.gen(function*() {
      const letters: Array<string | undefined> = []
      const { client, network, server } = yield* connected({
        serverStore: { queue: { maxMessages: 3_000 } },
        server: { onDeadLetter: (letter) => Effect.sync(() => void letters.push(letter.message)) }
      })
      yield* unplug(network, client)
      const sent = H.numbered(3_000)
      yield* server.sendAll("alice", sent)
      yield* server.shutdown
      assert.deepStrictEqual(letters, sent)
    }))
})

describe("locate", () => {
  it.effect("follows a message from waiting over sent to handled, and says unknown of a dead one", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const gate = yield* Latch.make(false)
      const client = yield* H.clientOn(network.context, { token: "alice" })
      const receipt = yield* client.send("where", { id: "w" })
      const dead = yield* client.send("dead", { ttl: 0 })
      assert.strictEqual(yield* client.locate("w"), "waiting")
      yield* H.serverOn(network.context, { authenticate: H.byToken, onMessage: () => gate.await })
      yield* advanceUntil("it is sent", () => Effect.map(client.locate("w"), (state) => state === "sent"))
      yield* gate.open
      yield* receipt.handled
      assert.strictEqual(yield* client.locate("w"), "handled")
      assert.strictEqual(yield* client.locate(receipt.messageId), "handled")
      assert.strictEqual(yield* client.locate(dead.messageId), "unknown")
      assert.strictEqual(yield* client.locate("never sent"), "unknown")
    }))
})
