/** The orderly end: in time, with a report that adds up, and with nothing left behind. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Latch, Schedule, Scope, Stream } from "effect"
import { execFile } from "node:child_process"
import type { ResilientServer } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { programPath } from "./support/sharedByRun.ts"

const { advanceUntil, connected, turn, unplug, until } = H

const addsUp = ({ dropped, flushed, pending, retained }: ResilientServer.ShutdownReport) =>
  assert.strictEqual(flushed + retained + dropped, pending)

describe("a server with 1,000 sessions", () => {
  it.effect("and traffic on all of them closes in time, and its report adds up", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const scope = yield* H.forkScope
      let handled = 0
      const server = yield* Effect.provideService(
        H.serverOn(network.context, {
          authenticate: H.byToken,
          shutdownTimeout: "3 seconds",
          onMessage: () => Effect.sync(() => void handled++)
        }),
        Scope.Scope,
        scope
      )
      const names = H.numbered(1_000, "session-")
      const clients = yield* Effect.forEach(names, (token, index) =>
        H.clientOn(network.context, {
          token,
          shutdownTimeout: "100 millis",
          // Every hundredth never answers.
          onMessage: () => index % 100 === 0 ? Effect.never : Effect.void
        }), { concurrency: "unbounded" })
      yield* Effect.forEach(clients, (client) => client.awaitConnected())
      const receipts = yield* Effect.forEach(names, (name) =>
        Effect.forEach(H.numbered(5), (text) => server.send(name, text)))
      yield* Effect.forEach(clients, (client) =>
        client.send("up"))
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      yield* advanceUntil("it is closed", () => closing.pollUnsafe() !== undefined)
      const report = yield* Fiber.join(closing)
      yield* H.closeScope(scope)
      // Ten never answer: but for the timeout, this would never be.
      assert.isAtMost(report.durationMillis, 3_000)
      assert.strictEqual(report.closed, 1_000)
      assert.strictEqual(report.retained, 0)
      // Ten sessions of five messages each had one in hand and could not settle any.
      assert.strictEqual(report.dropped, 50)
      addsUp(report)
      const outcomes = yield* Effect.forEach(receipts.flat(), ({ handled }) => Effect.exit(handled))
      assert.strictEqual(outcomes.filter(Exit.isFailure).length, report.dropped)
      assert.strictEqual((yield* server.stats).totals.deadLetters, report.dropped)
      // Told to leave, clients keep what they have not sent; and of what was handled each has been told.
      const settled = yield* Effect.forEach(
        clients,
        (client) => Effect.map(client.stats, ({ queue }) => queue.messages)
      )
      assert.strictEqual(settled.filter((messages) => messages === 0).length, handled)
    }))
})

describe("shutdown", () => {
  it.effect("waits for what is under way, both ways", () =>
    Effect.gen(function*() {
      const { atClient, atServer, client, server } = yield* connected({
        server: { onMessage: () => Effect.sleep("100 millis") },
        client: { onMessage: () => Effect.sleep("200 millis") }
      })
      const ups = yield* Effect.forEach(H.numbered(20), (text) => client.send(text))
      const downs = yield* Effect.forEach(H.numbered(20), (text) => server.send("alice", text))
      yield* until("all of them are sent", () =>
        Effect.map(client.locate(ups.at(-1)?.messageId ?? ""), (state) => state === "sent"))
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      yield* advanceUntil("it is done", () =>
        closing.pollUnsafe() !== undefined)
      const report = yield* Fiber.join(closing)
      assert.deepInclude(report, { pending: 20, flushed: 20, retained: 0, dropped: 0, closed: 1 })
      assert.isAtLeast(report.durationMillis, 4_000)
      for (const { handled } of [...ups, ...downs]) yield* handled
      assert.deepStrictEqual([atClient, atServer], [[], []])
    }))

  it.effect("may be told to take less time, not to flush, and to leave the connections open", () =>
    Effect.gen(function*() {
      const { client, server } = yield* connected({ client: { onMessage: () => Effect.never } })
      yield* server.send("alice", "never handled")
      assert.include((yield* H.mistake(server.shutdownWith({ timeout: "-1 seconds" }))).message, "timeout")
      const report = yield* server.shutdownWith({ flush: false, closeConnections: false })
      assert.deepInclude(report, { pending: 1, flushed: 0, dropped: 1, closed: 0, durationMillis: 0 })
      assert.strictEqual(yield* server.shutdown, report)
      const closing = yield* Effect.forkChild(client.shutdownWith({ timeout: "2 seconds" }))
      yield* advanceUntil("it is done", () => closing.pollUnsafe() !== undefined)
      assert.isAtMost((yield* Fiber.join(closing)).durationMillis, 2_500)
    }))

  it.effect("gives the same report to all who ask, and takes no messages after it", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected()
      yield* unplug(network, client)
      const receipt = yield* server.send("alice", "never")
      const reports = yield* Effect.all([server.shutdown, server.shutdown, server.shutdown], {
        concurrency: "unbounded"
      })
      reports.push(yield* server.shutdown)
      assert.deepInclude(reports[0], { pending: 1, dropped: 1, flushed: 0 })
      for (const report of reports) assert.strictEqual(report, reports[0])
      assert.deepInclude(yield* Effect.flip(receipt.handled), { reason: "shutdown", maybeHandled: false })
      assert.strictEqual(yield* H.tagOf(server.send("alice", "x")), "resilient-websocket/ShutdownError")
    }))

  it.effect("takes no messages from its start on, and no connections", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(false)
      const { client, network, server } = yield* connected({ client: { onMessage: () => gate.await } })
      yield* server.send("alice", "slow")
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      yield* turn
      assert.strictEqual(yield* H.tagOf(server.send("alice", "x")), "resilient-websocket/ShutdownError")
      const late = yield* H.clientOn(network.context, { token: "late" })
      yield* until("it was turned away", () => Effect.map(late.state, ({ _tag }) => _tag === "Disconnected"))
      // A client that is told to leave keeps what it would send.
      assert.strictEqual((yield* client.send("for the next server"))._tag, "Queued")
      yield* gate.open
      assert.deepInclude(yield* Fiber.join(closing), { pending: 1, flushed: 1 })
    }))

  it.effect("lets handlers answer until all is flushed, and nobody else send", () =>
    Effect.gen(function*() {
      const letters: Array<string> = []
      const asOthers: Array<string> = []
      const { atClient, client, server } = yield* connected({
        server: {
          onMessage: (text, { server, session }) =>
            Effect.sleep("100 millis").pipe(
              Effect.andThen(server.send(session, `${text}, 1`)),
              // Whoever answers for the handler.
              Effect.andThen(Effect.flatMap(Effect.forkChild(server.sendAll(session, [`${text}, 2`])), Fiber.join))
            )
        },
        client: { onDeadLetter: ({ reason }) => Effect.sync(() => letters.push(reason)) }
      })
      const asked = yield* Effect.forEach(H.numbered(5, "question "), (text) => client.send(text))
      yield* until("all have arrived", () => Effect.map(server.stats, ({ totals }) => totals.messagesReceived === 5))
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      yield* advanceUntil("it is done", () =>
        Effect.gen(function*() {
          asOthers.push(yield* H.tagOf(server.send("alice", "x")), yield* H.tagOf(server.broadcast("x")))
          return closing.pollUnsafe() !== undefined
        }))
      const report = yield* Fiber.join(closing)
      assert.deepStrictEqual(new Set(asOthers), new Set(["resilient-websocket/ShutdownError"]))
      assert.deepInclude(report, { pending: 10, flushed: 10, dropped: 0 })
      for (const { handled } of asked) yield* handled
      assert.deepStrictEqual(
        atClient,
        H.numbered(5, "question ").flatMap((text) => [`${text}, 1`, `${text}, 2`])
      )
      assert.deepStrictEqual(letters, [])
      assert.strictEqual(yield* H.tagOf(server.send("alice", "x")), "resilient-websocket/ShutdownError")
    }))

  it.effect("lets those who read its messages as a stream answer, too", () =>
    Effect.gen(function*() {
      const { atClient, client, server } = yield* connected({ server: { onMessage: undefined } })
      yield* Effect.forkScoped(Stream.runForEach(server.messages, ({ message, session }) =>
        Effect.andThen(Effect.sleep("100 millis"), server.send(session, `${message}!`))))
      const asked = yield* Effect.forEach(H.numbered(3), (text) =>
        client.send(text))
      yield* until("all have arrived", () => Effect.map(server.stats, ({ totals }) => totals.messagesReceived === 3))
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      yield* advanceUntil("it is done", () => closing.pollUnsafe() !== undefined)
      for (const { handled } of asked) yield* handled
      assert.deepStrictEqual(atClient, ["m1!", "m2!", "m3!"])
      assert.strictEqual(yield* H.tagOf(server.send("alice", "x")), "resilient-websocket/ShutdownError")
    }))

  for (const flush of [true, false]) {
    it.effect(`of either side counts no failure against a message (${flush ? "flushing" : "at once"})`, () =>
      Effect.gen(function*() {
        const letters: Array<string> = []
        const onDeadLetter = ({ reason }: { readonly reason: string }) => Effect.sync(() => letters.push(reason))
        const gate = yield* Latch.make(false)
        // Handles the first, and fails with the second and later ones once the shutdown is on its way.
        const onMessage = (text: string) =>
          text === "1" ? Effect.void : Effect.andThen(gate.await, Effect.fail(`no ${text}`))
        const options = { onMessage, onDeadLetter, handlerRetry: Schedule.recurs(2) }
        const { client, server } = yield* connected({ server: options, client: options })
        const ups = yield* Effect.forEach(H.numbered(3, ""), (text) => client.send(text))
        const downs = yield* Effect.forEach(H.numbered(3, ""), (text) => server.send("alice", text))
        const firsts = yield* Effect.forkChild(
          Effect.all([ups[0]?.handled, downs[0]?.handled].map((handled) => handled ?? Effect.die("not sent")))
        )
        yield* advanceUntil("the first are handled", () => firsts.pollUnsafe() !== undefined)
        const closing = yield* Effect.forkChild(
          Effect.all([server.shutdownWith({ flush }), client.shutdownWith({ flush })], { concurrency: 2 }),
          { startImmediately: true }
        )
        yield* turn
        yield* gate.open
        yield* advanceUntil("it is done", () => closing.pollUnsafe() !== undefined)
        yield* Fiber.join(closing)
        // What both gave up is what their memory ends with, and nothing that a handler failed at.
        assert.deepStrictEqual(new Set(letters), new Set(["shutdown"]))
        assert.strictEqual(letters.length, 4)
      }))
  }

  it.effect("does not wait for a message that failed for good meanwhile", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(false)
      const { client, server } = yield* connected({
        server: { onMessage: () => Effect.andThen(gate.await, Effect.fail("no")), handlerRetry: Schedule.recurs(1) }
      })
      const { handled } = yield* client.send("fails")
      yield* client.send("waits behind it")
      const settled = yield* Effect.forkChild(handled)
      yield* turn
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      yield* turn
      yield* gate.open
      // At once, where the flush may take 21 s.
      yield* until("it is done", () => closing.pollUnsafe() !== undefined)
      assert.isUndefined(settled.pollUnsafe())
      assert.strictEqual((yield* server.stats).totals.deadLetters, 0)
    }))

  for (const name of ["interruptible", "uninterruptible"] as const) {
    it.effect(`is over in time though a handler never ends (${name})`, () =>
      Effect.gen(function*() {
        const never = name === "interruptible" ? Effect.never : Effect.uninterruptible(Effect.never)
        const network = yield* makeNetwork
        const scope = yield* H.forkScope
        yield* Effect.provideService(
          H.serverOn(network.context, { onMessage: () => never, shutdownTimeout: "10 seconds" }),
          Scope.Scope,
          scope
        )
        const client = yield* H.clientOn(network.context)
        yield* client.send("for ever")
        yield* client.awaitConnected()
        yield* turn
        const startedAt = yield* Clock.currentTimeMillis
        const ended = Effect.andThen(H.closeScope(scope), Clock.currentTimeMillis)
        const closing = yield* Effect.forkChild(ended, { startImmediately: true })
        yield* advanceUntil("it is closed", () => closing.pollUnsafe() !== undefined)
        const elapsed = (yield* Fiber.join(closing)) - startedAt
        assert.isAtLeast(elapsed, 6_900)
        assert.isAtMost(elapsed, 12_000)
      }))
  }

  it.effect("adds up though a session ends meanwhile", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected({
        client: { onMessage: () => Effect.never },
        serverStore: { registry: { retention: "5 seconds" } }
      })
      yield* unplug(network, client)
      yield* Effect.forEach(H.numbered(3), (text) => server.send("alice", text))
      network.dialling = "accepted"
      const bob = yield* H.clientOn(network.context, { token: "bob", onMessage: () => Effect.never })
      yield* bob.awaitConnected()
      network.dialling = "refused"
      yield* server.send("bob", "keeps it waiting")
      const closing = yield* Effect.forkChild(server.shutdown, { startImmediately: true })
      yield* advanceUntil("it is done", () => closing.pollUnsafe() !== undefined)
      const report = yield* Fiber.join(closing)
      assert.deepInclude(report, { pending: 4, flushed: 0, dropped: 4 })
      addsUp(report)
    }))

  it.effect("of a client ends its states with Closed, and it does not connect again", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected()
      const receipt = yield* client.send("last words")
      assert.deepInclude(yield* client.shutdown, { pending: 1, flushed: 1, closed: 1 })
      yield* receipt.handled
      yield* H.advance(70_000, 1_000)
      assert.strictEqual((yield* client.state)._tag, "Closed")
      assert.strictEqual(network.dials, 1)
      assert.isFalse((yield* server.sessionStats("alice")).connected)
    }))
})

describe("clients that share a store", () => {
  const sharing = Effect.gen(function*() {
    const network = yield* makeNetwork
    const store = yield* H.makeStore()
    const first = yield* H.clientOn(network.context, {}, { store })
    return { first, second: yield* H.clientOn(network.context, {}, { store }) }
  })

  it.effect("report of their own messages when they shut down", () =>
    Effect.gen(function*() {
      const { first, second } = yield* sharing
      yield* first.send("first's")
      const kept = yield* second.send("second's")
      const report = yield* first.shutdown
      assert.strictEqual(yield* second.locate(kept.messageId), "waiting")
      assert.deepInclude(report, { pending: 1, dropped: 1 })
    }))

  it.effect("are each told of their own expired messages", () =>
    Effect.gen(function*() {
      const { first, second } = yield* sharing
      const late = yield* Effect.forEach([first, second], (client) => client.send("late", { ttl: 1_000 }))
      yield* H.advance(61_000, 1_000)
      const told = yield* Effect.forEach(late, ({ handled }) => Effect.forkChild(Effect.flip(handled)))
      yield* turn
      assert.deepStrictEqual(told.map((fiber) => fiber.pollUnsafe() !== undefined), [true, true])
    }))
})

describe("a scope that closes with a failure", () => {
  /** A client and a server in it, with a message whose handler waits for a clock that nobody moves. */
  const failing = (end: Effect.Effect<never>) =>
    Effect.gen(function*() {
      const { client } = yield* connected({
        server: { onMessage: () => Effect.delay(Effect.void, "1 hour") },
        serverStore: yield* H.makeStore()
      })
      yield* client.send("one")
      return yield* end
    }).pipe(Effect.scoped, Effect.exit)

  it.effect("does not wait for what is not handled: the failure of a test is seen at once", () =>
    Effect.gen(function*() {
      const exit = yield* failing(Effect.die("an assertion"))
      assert.isTrue(Exit.hasDies(exit) && String(exit).includes("an assertion"))
    }))

  it.effect("still waits if it was only interrupted, as by a signal", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(failing(Effect.never), { startImmediately: true })
      for (let i = 0; i < 20; i++) yield* turn
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      for (let i = 0; i < 20; i++) yield* turn
      assert.isUndefined(fiber.pollUnsafe())
      yield* advanceUntil("it has given up the flush", () => interrupting.pollUnsafe() !== undefined)
    }))
})

describe("a process", () => {
  it.live("that closed its server and client ends by itself", () =>
    Effect.gen(function*() {
      const path = yield* Effect.promise(() => programPath("harnessExit"))
      const result = yield* Effect.callback<{ code: number | string | null; output: string }>((resume) => {
        const child = execFile(process.execPath, [path], { timeout: 100_000 }, (error, stdout, stderr) =>
          resume(Effect.succeed({
            code: error === null ? 0 : error.killed === true ? "killed, as it did not end" : error.code ?? null,
            output: stdout + stderr
          })))
        return Effect.sync(() =>
          child.kill()
        )
      })
      assert.strictEqual(result.code, 0, result.output)
      assert.include(result.output, "closed")
    }))
})
