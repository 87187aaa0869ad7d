/** Several servers on one store: sends, receipts and ends of sessions that another server has, or none right now. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Latch, Schedule } from "effect"
import { TestClock } from "effect/testing"
import { WebSocketError } from "resilient-websocket"
import { sweptFate } from "../src/internal/store/outboxes.ts"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { durableStore, severalServers } from "./support/severalServers.ts"

const { advance, advanceUntil, numbered, tagOf, turn, until } = H

/** What a receipt comes to, in the background. */
const outcomeOf = (handled: Effect.Effect<void, WebSocketError.DeadLetterError>) =>
  Effect.map(
    Effect.forkChild(
      Effect.match(handled, {
        onFailure: ({ maybeHandled, reason }) => ({ reason, maybeHandled }),
        onSuccess: () => "handled" as const
      }),
      { startImmediately: true }
    ),
    (fiber) => ({
      isOver: () => fiber.pollUnsafe() !== undefined,
      value: Fiber.join(fiber),
      stop: Fiber.interrupt(fiber)
    })
  )

describe("a session at another server", () => {
  it.effect("is sent to, in order with what its own server sends, and receipts tell when it is handled", () =>
    Effect.gen(function*() {
      const { a, b, received } = yield* severalServers()
      const first = yield* b.send("alice", "from b")
      assert.deepInclude(first, { _tag: "Queued", reason: "elsewhere", session: "alice" })
      yield* a.send("alice", "from a")
      const batch = yield* b.sendAll("alice", ["one", "two"])
      const outcomes = yield* Effect.forEach([first, ...batch], ({ handled }) => outcomeOf(handled))
      yield* advanceUntil("all are told", () => outcomes.every(({ isOver }) => isOver()), { atMost: 1_000 })
      for (const { value } of outcomes) assert.strictEqual(yield* value, "handled")
      assert.deepStrictEqual(received, ["from b", "from a", "one", "two"])
    }))

  it.effect("is broadcast to by name; one that nobody knows is reported", () =>
    Effect.gen(function*() {
      const { b, received } = yield* severalServers()
      const result = yield* b.broadcast("all", { sessions: ["alice", "nobody"] })
      assert.deepInclude(result, { accepted: 1, skipped: 0 })
      assert.strictEqual(result.failures.length, 1)
      assert.deepInclude(result.failures[0]?.error, {
        _tag: "resilient-websocket/SessionNotFoundError",
        session: "nobody"
      })
      yield* until("it came", () => received.length === 1)
      assert.deepInclude(yield* b.broadcast("to nobody here"), { accepted: 0 })
    }))

  it.effect("that no server knows is not found", () =>
    Effect.gen(function*() {
      const { b } = yield* severalServers()
      assert.strictEqual(yield* tagOf(b.send("nobody", "hi")), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual(
        yield* tagOf(b.send("nobody", "hi", { id: "once" })),
        "resilient-websocket/SessionNotFoundError"
      )
      assert.strictEqual(yield* tagOf(b.sendAll("nobody", ["hi"])), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual(yield* tagOf(b.sessionStats("nobody")), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual(yield* tagOf(b.locate("nobody", "id")), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual(yield* tagOf(b.endSession("nobody")), "resilient-websocket/SessionNotFoundError")
    }))

  it.effect("gets no volatile messages", () =>
    Effect.gen(function*() {
      const { b } = yield* severalServers()
      const receipt = yield* b.send("alice", "now or never", { volatile: true })
      assert.deepInclude(receipt, { _tag: "Skipped", reason: "disconnected" })
    }))

  it.effect("takes one message under one id, whoever sends it", () =>
    Effect.gen(function*() {
      const { a, b, received } = yield* severalServers()
      yield* b.send("alice", "order", { id: "17" })
      const again = yield* b.send("alice", "order", { id: "17" })
      const third = yield* a.send("alice", "order", { id: "17" })
      assert.deepStrictEqual([again._tag, third._tag], ["Duplicate", "Duplicate"])
      for (const { handled } of [again, third]) {
        const outcome = yield* outcomeOf(handled)
        yield* advanceUntil("it is told", outcome.isOver)
        assert.strictEqual(yield* outcome.value, "handled")
      }
      assert.deepStrictEqual(received, ["order"])
    }))

  it.effect("can be looked at", () =>
    Effect.gen(function*() {
      const { b, client, unplug } = yield* severalServers()
      const receipt = yield* b.send("alice", "first")
      yield* advanceUntil("it is handled", () =>
        Effect.map(b.locate("alice", receipt.messageId), (state) => state === "handled"))
      yield* unplug
      const second = yield* b.send("alice", "second")
      assert.strictEqual(yield* b.locate("alice", second.messageId), "waiting")
      assert.strictEqual(yield* b.locate("alice", "never sent"), "unknown")
      assert.deepInclude(yield* b.sessionStats("alice"), {
        session: "alice",
        principal: "alice",
        connected: false,
        queuedMessages: 1,
        generation: 1
      })
      assert.strictEqual((yield* client.state)._tag, "Disconnected")
    }))

  it.effect("can be ended: its server closes the connection, what waits becomes dead letters", () =>
    Effect.gen(function*() {
      const { a, b, client, registry } = yield* severalServers({ client: { onMessage: () => Effect.never } })
      const letters = yield* H.collect(b.deadLetters)
      const atA = yield* outcomeOf((yield* a.send("alice", "one")).handled)
      const atB = yield* outcomeOf((yield* b.send("alice", "two")).handled)
      yield* turn
      yield* b.endSession("alice")
      yield* advanceUntil("the client was told", () => Effect.map(client.state, ({ _tag }) => _tag === "Stopped"))
      assert.deepInclude(yield* client.state, {
        _tag: "Stopped",
        error: new WebSocketError.SessionNotFoundError({ session: "alice" })
      })
      yield* advanceUntil("both are told", () => atA.isOver() && atB.isOver())
      assert.deepStrictEqual(yield* atA.value, { reason: "sessionEnded", maybeHandled: true })
      assert.deepStrictEqual(yield* atB.value, { reason: "sessionEnded", maybeHandled: true })
      assert.deepStrictEqual(letters.map(({ message, reason }) => [message, reason]), [
        ["one", "sessionEnded"],
        ["two", "sessionEnded"]
      ])
      assert.isUndefined(yield* registry.find("alice"))
      assert.strictEqual(yield* tagOf(a.send("alice", "too late")), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual((yield* a.stats).connections, 0)
    }))

  it.effect("is not found by a server whose store is its own memory", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context)
      assert.strictEqual(yield* tagOf(server.send("alice", "hi")), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual(yield* tagOf(server.endSession("alice")), "resilient-websocket/SessionNotFoundError")
    }))
})

describe("a session that moves to another server", () => {
  it.effect("is let go of by the first, and what was sent there is handled and told", () =>
    Effect.gen(function*() {
      const { a, b, moveToB, received, unplug } = yield* severalServers()
      yield* unplug
      const waiting = yield* a.send("alice", "waits at a")
      assert.deepInclude(waiting, { _tag: "Queued", reason: "disconnected" })
      const outcome = yield* outcomeOf(waiting.handled)
      yield* moveToB
      yield* advanceUntil("it is told", outcome.isOver)
      assert.strictEqual(yield* outcome.value, "handled")
      // Nobody awaited this one before it moved.
      assert.deepStrictEqual(received, ["waits at a"])
      assert.deepInclude(yield* a.send("alice", "from a"), { _tag: "Queued", reason: "elsewhere" })
      assert.deepInclude(yield* b.send("alice", "from b"), { _tag: "Sent" })
      yield* until("both came", () => received.length === 3)
      assert.deepInclude(yield* a.sessionStats("alice"), { connected: false, generation: 2 })
    }))

  it.effect("loses a half-open connection to the first at once", () =>
    Effect.gen(function*() {
      const { a, moveToB, networkA } = yield* severalServers()
      const events = yield* H.collect(a.connections)
      // The client gives up its connection, and the first server does not hear of it.
      networkA.newest().vanish("toServer")
      networkA.newest().vanish("toClient")
      const before = (yield* a.stats).connections
      yield* moveToB
      yield* until("it has let go", () => Effect.map(a.stats, ({ connections }) => connections === 0))
      assert.strictEqual(before, 1)
      assert.strictEqual(events.filter(({ _tag }) => _tag === "Disconnected").length, 1)
    }))

  it.effect("is told of what failed or expired there, also when nobody had asked before", () =>
    Effect.gen(function*() {
      const { a, moveToB, unplug } = yield* severalServers({
        client: {
          handlerRetry: Schedule.recurs(0),
          onMessage: (text) => text === "bad" ? Effect.fail("bad") : Effect.void
        }
      })
      yield* unplug
      const [short, bad, good] = yield* Effect.all([
        a.send("alice", "short", { ttl: "1 milli" }),
        a.send("alice", "bad"),
        a.send("alice", "good")
      ])
      yield* TestClock.adjust(10)
      yield* moveToB
      yield* advance(1_000)
      const outcomes = yield* Effect.forEach([short, bad, good], ({ handled }) => outcomeOf(handled))
      yield* advanceUntil("all are told", () => outcomes.every(({ isOver }) => isOver()))
      assert.deepStrictEqual(yield* Effect.all(outcomes.map(({ value }) => value)), [
        { reason: "expired", maybeHandled: false },
        { reason: "failed", maybeHandled: false },
        "handled"
      ])
    }))

  it.effect("is let go of by the first although the news of it is lost, once somebody awaits a receipt", () =>
    Effect.gen(function*() {
      const { a, moveToB, received, unplug } = yield* severalServers({ rig: () => ({ onMoved: () => Effect.void }) })
      yield* unplug
      const { handled } = yield* a.send("alice", "kept")
      const told = yield* Effect.forkChild(handled)
      yield* moveToB
      yield* advanceUntil("it is told", () => told.pollUnsafe() !== undefined)
      yield* Fiber.join(told)
      assert.deepStrictEqual(received, ["kept"])
    }))

  it.effect("and comes back finds its receipts", () =>
    Effect.gen(function*() {
      const { a, b, backToA, moveToB, received, unplug } = yield* severalServers()
      yield* unplug
      const outcome = yield* outcomeOf((yield* a.send("alice", "one")).handled)
      yield* moveToB
      yield* b.send("alice", "two")
      yield* until("both came", () => received.length === 2)
      yield* backToA
      const third = yield* a.send("alice", "three")
      assert.strictEqual(third._tag, "Sent")
      yield* third.handled
      yield* advanceUntil("the first is told", outcome.isOver)
      assert.strictEqual(yield* outcome.value, "handled")
      assert.deepStrictEqual(received, ["one", "two", "three"])
    }))
})

describe("receipts from elsewhere", () => {
  it.effect("cost the store nothing while nobody waits", () =>
    Effect.gen(function*() {
      let asked = 0
      const { b, unplug } = yield* severalServers({
        rig: ({ progress }) => ({
          progress: (requests) => {
            asked++
            return progress(requests)
          }
        })
      })
      yield* unplug
      const receipt = yield* b.send("alice", "waits")
      yield* advance(10_000)
      assert.strictEqual(asked, 0)
      const outcome = yield* outcomeOf(receipt.handled)
      yield* advance(20_000)
      // At 100 ms, then at intervals that double up to 2 s.
      assert.isAtLeast(asked, 10)
      assert.isAtMost(asked, 16)
      yield* outcome.stop
      const then = asked
      yield* advance(10_000)
      assert.strictEqual(asked, then)
    }))

  it.effect("of many sessions are asked for together", () =>
    Effect.gen(function*() {
      const sizes: Array<number> = []
      const { b, client, queue, store } = yield* severalServers({
        rig: ({ progress }) => ({
          progress: (requests) => {
            sizes.push(requests.length)
            return progress(requests)
          }
        })
      })
      assert.isDefined(store)
      const sessions = numbered(1_200, "session")
      yield* Effect.forEach(sessions, (session) => queue.open(session, 1))
      const receipts = yield* Effect.forEach(sessions, (session) => b.send(session, "hi"))
      yield* Effect.forEach(receipts, ({ handled }) => outcomeOf(handled))
      yield* advance(150, 50)
      assert.deepStrictEqual(sizes, [500, 500, 200])
      assert.strictEqual((yield* client.state)._tag, "Connected")
    }))

  it.effect("survive a store that fails for a while", () =>
    Effect.gen(function*() {
      let fails = true
      const { b } = yield* severalServers({
        rig: ({ progress }) => ({
          progress: (requests) =>
            fails
              ? Effect.fail(
                new WebSocketError.MessageQueueError({ session: "", operation: "progress", reason: "store" })
              )
              : progress(requests)
        })
      })
      const outcome = yield* outcomeOf((yield* b.send("alice", "hi")).handled)
      yield* advance(3_000)
      assert.isFalse(outcome.isOver())
      fails = false
      yield* advanceUntil("it is told", outcome.isOver, { atMost: 2_500 })
      assert.strictEqual(yield* outcome.value, "handled")
    }))

  it.effect("say so when what became of the message was swept before they asked", () =>
    Effect.gen(function*() {
      const { b, unplug } = yield* severalServers({
        rig: (queue) => ({
          progress: (requests) =>
            Effect.map(queue.progress(requests), (answers) =>
              answers.map((answer) => answer && { ...answer, acked: 9, dead: [{ ...sweptFate(1) }] }))
        })
      })
      yield* unplug
      const outcomes = yield* Effect.forEach(["one", "two"], (text) =>
        Effect.flatMap(b.send("alice", text), ({ handled }) =>
          outcomeOf(handled)))
      yield* advanceUntil("both are told", () =>
        outcomes.every(({ isOver }) =>
          isOver()
        ))
      assert.deepStrictEqual(yield* Effect.all(outcomes.map(({ value }) => value)), [
        { reason: "sessionEnded", maybeHandled: true },
        "handled"
      ])
    }))

  it.effect("of what another server's sends dropped here are told by the gap", () =>
    Effect.gen(function*() {
      const { a, b, networkA, unplug, client } = yield* severalServers({
        store: { queue: { maxMessages: 2, overflow: "dropOldest" } }
      })
      yield* unplug
      const outcomes = yield* Effect.forEach(["one", "two"], (text) =>
        Effect.flatMap(a.send("alice", text), ({ handled }) => outcomeOf(handled)))
      const letters = yield* H.collect(b.deadLetters)
      yield* b.send("alice", "three")
      yield* turn
      assert.deepStrictEqual(
        letters.map(({ message }) =>
          message
        ),
        ["one"]
      )
      networkA.dialling = "accepted"
      yield* advanceUntil("it is back", () => Effect.map(client.state, ({ _tag }) => _tag === "Connected"))
      yield* advanceUntil("both are told", () => outcomes.every(({ isOver }) => isOver()))
      assert.deepStrictEqual(yield* Effect.all(outcomes.map(({ value }) => value)), [
        { reason: "overflow", maybeHandled: false },
        "handled"
      ])
    }))
})

describe("receipts of a session that is ending here", () => {
  it.effect("give the reason of a message that expires while its queue is being removed", () =>
    Effect.gen(function*() {
      const [removes, tells] = [Latch.makeUnsafe(false), Latch.makeUnsafe(false)]
      let hasExpired = false
      const { a, unplug } = yield* severalServers({
        rig: (queue) => ({
          remove: (session) => Effect.andThen(removes.await, queue.remove(session)),
          expire: (isHere) =>
            Effect.tap(queue.expire(isHere), ({ length }) => {
              hasExpired ||= length > 0
              return length > 0 ? tells.await : Effect.void
            })
        })
      })
      yield* unplug
      const outcome = yield* outcomeOf((yield* a.send("alice", "soon over", { ttl: "2 seconds" })).handled)
      const lasting = yield* outcomeOf((yield* a.send("alice", "lasts")).handled)
      yield* advanceUntil("it has expired", () => hasExpired)
      const ending = yield* Effect.forkChild(a.endSession("alice"), { startImmediately: true })
      yield* turn
      yield* tells.open
      yield* turn
      yield* removes.open
      yield* Fiber.join(ending)
      assert.deepStrictEqual(yield* outcome.value, { reason: "expired", maybeHandled: false })
      assert.deepStrictEqual(yield* lasting.value, { reason: "sessionEnded", maybeHandled: false })
    }))
})

describe("a store that stores message and key in one step", () => {
  it.effect("is given both", () =>
    Effect.gen(function*() {
      const keys = new Map<string, { epoch: string; offset: number; atMillis: number }>()
      const { a, received } = yield* severalServers({
        rig: ({ append }) => ({
          appendOnce: (session, message) => {
            const first = keys.get(message.id)
            if (first !== undefined) {
              return Effect.succeed({ _tag: "Duplicate", receipt: { messageId: message.id, ...first } })
            }
            return Effect.map(append(session, [message]), (appended) => {
              const { enqueuedAt, epoch, first } = appended
              keys.set(message.id, { epoch, offset: first ?? 0, atMillis: enqueuedAt })
              return { _tag: "Appended", appended }
            })
          }
        })
      })
      const first = yield* a.send("alice", "order", { id: "17" })
      const second = yield* a.send("alice", "order", { id: "17" })
      assert.deepInclude(first, { _tag: "Sent", messageId: "17" })
      assert.deepInclude(second, { _tag: "Duplicate", messageId: "17" })
      yield* first.handled
      yield* second.handled
      assert.deepStrictEqual(received, ["order"])
    }))
})

describe("a store that hangs", () => {
  const clientOf = Effect.fnUntraced(function*(
    network: Effect.Success<typeof makeNetwork>,
    token: string,
    options: H.ClientOptions = {}
  ) {
    const received: Array<string> = []
    const client = yield* H.clientOn(network.context, {
      token,
      onMessage: (text) => Effect.sync(() => received.push(text)),
      ...options
    })
    yield* client.awaitConnected()
    return { client, received }
  })

  it.effect("with one session's messages keeps nobody else's from going out", () =>
    Effect.gen(function*() {
      const open = yield* Latch.make(false)
      const store = yield* durableStore(undefined, ({ read }) => ({
        read: (session, ...args) =>
          Effect.andThen(session === "alice" ? open.await : Effect.void, read(session, ...args))
      }))
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: H.byToken }, { store })
      const alice = yield* clientOf(network, "alice")
      const bob = yield* clientOf(network, "bob")
      for (const text of numbered(20)) {
        yield* server.send("alice", text)
        yield* (yield* server.send("bob", text)).handled
      }
      assert.deepStrictEqual([alice.received, bob.received], [[], numbered(20)])
      yield* open.open
      yield* until("hers came too", () => alice.received.length === 20)
      assert.deepStrictEqual(alice.received, numbered(20))
    }))

  it.effect("with acks keeps no message from going out, and is told the newest together after that", () =>
    Effect.gen(function*() {
      const open = yield* Latch.make(false)
      const acks: Array<number> = []
      const store = yield* durableStore(undefined, ({ ack }) => ({
        ack: (session, generation, upTo, failed) => {
          acks.push(upTo)
          return Effect.andThen(open.await, ack(session, generation, upTo, failed))
        }
      }))
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: H.byToken }, { store })
      const { received } = yield* clientOf(network, "alice")
      const receipts: Array<Effect.Effect<void, WebSocketError.DeadLetterError>> = []
      for (const text of numbered(20)) {
        receipts.push((yield* server.send("alice", text)).handled)
        yield* until("it came", () => received.at(-1) === text)
        yield* advance(10, 10)
      }
      const outcome = yield* outcomeOf(Effect.all(receipts, { discard: true }))
      assert.deepStrictEqual(acks, [1])
      yield* open.open
      yield* until("all are told", outcome.isOver)
      assert.deepStrictEqual(acks, [1, 20])
      assert.strictEqual((yield* server.stats).totals.messagesAcknowledged, 20)
    }))

  it.effect("or fails with acks is asked again, and tells of each failed message once", () =>
    Effect.gen(function*() {
      let failures = 3
      const store = yield* durableStore(undefined, ({ ack }) => ({
        ack: (session, generation, upTo, failed) =>
          failures-- > 0
            ? Effect.fail(new WebSocketError.MessageQueueError({ session, operation: "ack", reason: "store" }))
            : ack(session, generation, upTo, failed)
      }))
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: H.byToken }, { store })
      const letters = yield* H.collect(server.deadLetters)
      yield* clientOf(network, "alice", { handlerRetry: Schedule.recurs(0), onMessage: () => Effect.fail("no") })
      const outcomes = yield* Effect.forEach(numbered(5), (text) =>
        Effect.gen(function*() {
          const outcome = yield* outcomeOf((yield* server.send("alice", text)).handled)
          yield* advance(10, 10)
          return outcome
        }))
      yield* advanceUntil("all are told", () => outcomes.every(({ isOver }) => isOver()))
      for (const { value } of outcomes) assert.deepStrictEqual(yield* value, { reason: "failed", maybeHandled: false })
      assert.deepStrictEqual(letters.map(({ message }) => message), numbered(5))
      network.newest().cut()
      yield* advance(5_000)
      assert.strictEqual(letters.length, 5)
    }))

  it.effect("does not keep a shutdown from its end", () =>
    Effect.gen(function*() {
      const store = yield* durableStore(undefined, () => ({ read: () => Effect.never }))
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: H.byToken }, { store })
      yield* clientOf(network, "alice")
      yield* server.send("alice", "stays")
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      const took = yield* advanceUntil("it is closed", () => closing.pollUnsafe() !== undefined)
      assert.isAtLeast(took, 20_000)
      assert.isAtMost(took, 31_000)
      assert.deepInclude(yield* Fiber.join(closing), { pending: 1, retained: 1, dropped: 0 })
    }))
})

describe("an append whose outcome nobody knows", () => {
  it("says so", () => {
    const error = new WebSocketError.MessageQueueError({
      session: "alice",
      operation: "append",
      reason: "store",
      inDoubt: true
    })
    assert.include(error.message, "may have been done all the same")
    assert.isUndefined(new WebSocketError.MessageQueueError({ session: "", operation: "", reason: "store" }).inDoubt)
  })
})
