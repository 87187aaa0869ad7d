/** Sessions through cuts, takeovers, restarts and ends; who may have one, and what each side is told. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { type Message, type ResilientClient, SessionRegistry, WebSocketError } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { sayHello } from "./support/harnessHello.ts"
import { makeNetwork, type Network } from "./support/harnessNetwork.ts"

const { advanceUntil, connected, turn, unplug, until } = H

const stateIs = (client: H.Client, tag: ResilientClient.ConnectionState["_tag"]) => () =>
  Effect.map(client.state, ({ _tag }) => _tag === tag)

const errorOf = Effect.fnUntraced(function*(client: H.Client) {
  const state = yield* client.state
  return "error" in state ? state.error : assert.fail(`the client is ${state._tag}`)
})

const hellos = (network: Network) =>
  network.links.flatMap(({ frames }) => frames).map(({ frame }) => JSON.parse(frame))
    .filter(({ t }) => t === "hello")

describe("a session", () => {
  it.effect("goes on through cuts: nothing lost, nothing twice, nothing out of order", () =>
    Effect.gen(function*() {
      const { atClient, atServer, client, network, server } = yield* connected()
      const states = yield* H.collect(client.states)
      const expected = H.numbered(200)
      for (const [index, text] of expected.entries()) {
        yield* client.send(text)
        yield* server.send("alice", text)
        if (index % 10 === 5) {
          // Sometimes before, sometimes in the middle of what is under way.
          for (let i = 0; i < index % 4; i++) yield* turn
          network.newest().cut()
          yield* turn
          yield* advanceUntil("it is back", stateIs(client, "Connected"))
        }
      }
      yield* advanceUntil("all is handled", () => atServer.length >= 200 && atClient.length >= 200)
      assert.deepStrictEqual(atServer, expected)
      assert.deepStrictEqual(atClient, expected)
      const results = states.flatMap((state) => state._tag === "Connected" ? [state.result] : [])
      assert.deepStrictEqual(results, ["fresh", ...Array.from({ length: 20 }, () => "resumed" as const)])
      assert.strictEqual((yield* client.stats).totals.connectionsResumed, 20)
    }))

  it.effect("belongs to the newest instance; the one before is told that it was replaced, and stops", () =>
    Effect.gen(function*() {
      const { atClient, client, network, server } = yield* connected()
      const seen: Array<string> = []
      const tab = yield* H.clientOn(network.context, {
        token: "alice",
        onMessage: (text) => Effect.sync(() => seen.push(text))
      })
      yield* tab.awaitConnected()
      yield* until("the first has stopped", stateIs(client, "Stopped"))
      assert.deepInclude(yield* errorOf(client), {
        _tag: "resilient-websocket/HandshakeError",
        reason: "replaced",
        retryable: false
      })
      yield* (yield* server.send("alice", "hi")).handled
      assert.deepStrictEqual([atClient, seen], [[], ["hi"]])
      assert.strictEqual((yield* server.stats).totals.connectionsReplaced, 1)
    }))

  it.effect("of a client that restarts keeps what was queued for it", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: H.byToken })
      const scope = yield* H.forkScope
      const first = yield* Effect.provideService(H.clientOn(network.context, { token: "alice" }), Scope.Scope, scope)
      yield* first.awaitConnected()
      yield* H.closeScope(scope)
      const receipts = yield* Effect.forEach(H.numbered(3), (text) => server.send("alice", text))
      const seen: Array<string> = []
      yield* H.clientOn(network.context, {
        token: "alice",
        onMessage: (text) => Effect.sync(() => seen.push(text))
      })
      for (const { handled } of receipts) yield* handled
      assert.deepStrictEqual(seen, H.numbered(3))
    }))

  it.effect("ends when its retention is over: dead letters, and nobody to send to", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected({ serverStore: { registry: { retention: "1 minute" } } })
      const events = yield* H.collect(server.connections)
      const letters = yield* H.collect(server.deadLetters)
      yield* unplug(network, client)
      const receipt = yield* server.send("alice", "too late")
      yield* H.advance(55_000)
      assert.deepStrictEqual(letters, [])
      yield* H.advance(6_500)
      assert.deepInclude(letters[0], { direction: "out", reason: "sessionEnded", message: "too late" })
      assert.deepInclude(yield* Effect.flip(receipt.handled), { reason: "sessionEnded", maybeHandled: false })
      assert.strictEqual(yield* H.tagOf(server.send("alice", "hello?")), "resilient-websocket/SessionNotFoundError")
      assert.deepStrictEqual(events.map(({ _tag }) => _tag), ["Disconnected", "Ended"])
    }))

  it.effect("that the server ends makes dead letters on both sides, and stops the client until it wants a new one", () =>
    Effect.gen(function*() {
      const { atServer, client, network, server } = yield* connected({
        server: { onMessage: undefined },
        clientStore: { queue: { ttl: Infinity } }
      })
      const here = yield* client.send("never handled")
      yield* until("it is sent", () => Effect.map(client.locate(here.messageId), (state) => state === "sent"))
      yield* server.endSession("alice")
      yield* until("the client has stopped", stateIs(client, "Stopped"))
      assert.strictEqual((yield* errorOf(client))._tag, "resilient-websocket/SessionNotFoundError")
      assert.deepInclude(yield* Effect.flip(here.handled), { reason: "sessionEnded", maybeHandled: true })
      assert.strictEqual(yield* H.tagOf(server.send("alice", "hello?")), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual(network.dials, 1)
      yield* client.reconnect
      yield* client.awaitConnected()
      assert.deepInclude(yield* client.state, { result: "fresh" })
      assert.deepStrictEqual(atServer, [])
    }))

  it.effect("that the client ends is gone at the server, and late acks don't count for the new one", () =>
    Effect.gen(function*() {
      const { atServer, client, network, server } = yield* connected()
      const sent = yield* Deferred.make<Message.Receipt>()
      // Ends the session when an ack has just come in and is not settled yet.
      network.passes = (direction, frame) => {
        if (direction === "toClient" && frame.startsWith(`{"t":"ack"`)) {
          const end = Effect.andThen(client.endSession, Effect.orDie(client.send("new")))
          queueMicrotask(() =>
            queueMicrotask(() => void Effect.runFork(Effect.flatMap(end, (receipt) => Deferred.succeed(sent, receipt))))
          )
        }
        return true
      }
      yield* client.send("old")
      const receipt = yield* Deferred.await(sent)
      network.passes = () => true
      yield* until("the server has ended it", () => Effect.map(server.stats, ({ sessions }) => sessions === 0))
      assert.strictEqual(yield* client.locate(receipt.messageId), "waiting")
      yield* client.reconnect
      yield* client.awaitConnected()
      yield* receipt.handled
      assert.deepStrictEqual(atServer, ["old", "new"])
    }))
})

describe("a client that comes back", () => {
  it.effect("tells its state as it changes", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected()
      const states = yield* H.collect(client.states)
      yield* unplug(network, client)
      network.dialling = "accepted"
      yield* advanceUntil("it is back", stateIs(client, "Connected"))
      yield* client.shutdown
      yield* until("it is closed", () => states.at(-1)?._tag === "Closed")
      assert.deepStrictEqual(states.map(({ _tag }) => _tag), [
        "Connected",
        "Disconnected",
        "Connecting",
        "Connected",
        "Closed"
      ])
    }))

  it.effect("tries at once when told to, also behind an open circuit", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected({
        clientStore: { breaker: { endpoint: { consecutiveFailures: 1, openBase: "60 seconds" } } }
      })
      yield* unplug(network, client)
      yield* advanceUntil("a dial has failed", () => network.dials === 2)
      network.dialling = "accepted"
      yield* client.reconnect
      yield* until("it is back without waiting", stateIs(client, "Connected"))
    }))

  it.effect("does not answer with the error from before when it tries again", () =>
    Effect.gen(function*() {
      let token = "nobody"
      const network = yield* makeNetwork
      yield* H.serverOn(network.context, {
        onMessage: () => Effect.void,
        authenticate: ({ token }) =>
          H.textOf(token) === "alice"
            ? Effect.succeed({ session: "alice" })
            : new WebSocketError.HandshakeError({ reason: "unauthorized", detail: "who?", retryable: false })
      })
      const client = yield* H.clientOn(network.context, { token: Effect.sync(() => token) })
      const receipt = yield* client.send("kept")
      assert.deepInclude(yield* Effect.flip(client.awaitConnected()), { reason: "unauthorized" })
      token = "alice"
      yield* client.reconnect
      yield* client.awaitConnected()
      yield* receipt.handled
    }))
})

describe("resume tokens", () => {
  it.effect("rotate at each resume; an old one is refused, the newest and the one before are good", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* H.serverOn(network.context)
      const first = yield* sayHello(network, {})
      const { session } = first.answer
      const tokens = [first.answer.token]
      for (let i = 0; i < 3; i++) {
        const { answer } = yield* sayHello(network, { session, token: tokens.at(-1) })
        assert.strictEqual(answer.session, session)
        tokens.push(answer.token)
      }
      assert.strictEqual(new Set(tokens).size, 4)
      const refused = yield* sayHello(network, { session, token: tokens[0] })
      assert.deepInclude(refused.answer, { t: "reject", code: "unauthorized" })
      assert.strictEqual(yield* refused.closed, 4501)
      assert.strictEqual((yield* sayHello(network, { session, token: tokens[2] })).answer.t, "welcome")
      assert.strictEqual((yield* sayHello(network, { session, token: tokens[3] })).answer.t, "reject")
    }))

  it.effect("survive a welcome that was lost", () =>
    Effect.gen(function*() {
      const { atServer, client, network } = yield* connected({ server: { authenticate: undefined } })
      network.passes = (_, frame) => !frame.startsWith(`{"t":"welcome"`)
      network.newest().cut()
      const receipt = yield* client.send("after all")
      yield* advanceUntil("two welcomes were lost", () => hellos(network).length >= 3)
      network.passes = () => true
      yield* advanceUntil("it is back", stateIs(client, "Connected"))
      yield* receipt.handled
      assert.deepInclude(yield* client.state, { result: "resumed" })
      assert.deepStrictEqual(atServer, ["after all"])
    }))

  it.effect("are not needed, and not enough, where the hook says whose session it is", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected({
        server: { authenticate: ({ token }) => Effect.succeed({ session: "shared", principal: H.textOf(token) }) }
      })
      yield* client.send("mine")
      const thief = yield* H.clientOn(network.context, { token: "mallory" })
      assert.deepInclude(yield* Effect.flip(thief.awaitConnected()), {
        _tag: "resilient-websocket/HandshakeError",
        reason: "forbidden"
      })
      assert.deepInclude(yield* server.sessionStats("shared"), { principal: "alice", connected: true })
    }))

  it.effect("with a position that can't be are refused, and the session's retention goes on", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const store = yield* H.makeStore({ registry: { retention: "1 minute" } })
      yield* H.serverOn(network.context, {}, { store })
      const registry = Context.get(store, SessionRegistry.SessionRegistry)
      const first = yield* sayHello(network, {})
      const { session, token } = first.answer
      first.connection.send(JSON.stringify({ t: "batch", o: 1, m: ["x"] }))
      yield* turn
      first.connection.terminate()
      yield* first.closed
      const wrong = yield* sayHello(network, { session, token, out: { epoch: "mine", acked: 0, last: 0 } })
      assert.deepInclude(wrong.answer, { t: "reject", code: "protocol" })
      assert.strictEqual(yield* wrong.closed, 4503)
      yield* advanceUntil("its retention is over", () => Effect.map(registry.count, ({ sessions }) => sessions === 0), {
        atMost: 70_000,
        step: 1_000
      })
    }))
})

describe("the authentication hook", () => {
  it.effect("that hangs is given up after the handshake's time, once", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: () => Effect.never })
      const answer = yield* Effect.forkChild(sayHello(network, {}, 2_000), { startImmediately: true })
      // The hello comes later than the connection: both clocks run out.
      yield* H.advance(13_000)
      const { closed } = yield* Fiber.join(answer)
      assert.strictEqual(yield* closed, 4004)
      assert.strictEqual((yield* server.stats).totals.connectionsFailed, 1)
    }))

  it.effect("is asked again when the token is renewed, and cuts off who became somebody else", () =>
    Effect.gen(function*() {
      const asked: Array<string | undefined> = []
      let token = "alice"
      const { client, network } = yield* connected({
        server: {
          authenticate: (handshake) => {
            const token = H.textOf(handshake.token)
            asked.push(token)
            if (token === "throws") throw new Error("a hook that throws")
            return Effect.succeed({ session: "alice", principal: token?.split(" ")[0] })
          }
        },
        client: { token: Effect.sync(() => token) }
      })
      for (const renewed of ["alice again", "throws"]) {
        token = renewed
        yield* client.refreshToken
        yield* until("the hook was asked", () => asked.at(-1) === renewed)
        yield* turn
        assert.strictEqual((yield* client.state)._tag, "Connected")
      }
      token = "mallory"
      yield* client.refreshToken
      yield* until("it was cut off", stateIs(client, "Stopped"))
      assert.deepInclude(yield* errorOf(client), { _tag: "resilient-websocket/HandshakeError", reason: "forbidden" })
      assert.strictEqual(network.dials, 1)
    }))
})

describe("a server that restarts", () => {
  const restarted = Effect.fnUntraced(function*(onFresh: "deadLetter" | "resend") {
    const network = yield* makeNetwork
    const scope = yield* H.forkScope
    const handler = () => Effect.never
    yield* Effect.provideService(
      H.serverOn(network.context, { authenticate: H.byToken, onMessage: handler, shutdownTimeout: "2 seconds" }),
      Scope.Scope,
      scope
    )
    const client = yield* H.clientOn(network.context, { token: "alice", onFresh })
    yield* client.awaitConnected()
    const sent = yield* client.send("sent")
    yield* until("it is sent", () => Effect.map(client.locate(sent.messageId), (state) => state === "sent"))
    const closing = yield* Effect.forkChild(H.closeScope(scope), { startImmediately: true })
    yield* advanceUntil("the server is gone", () => closing.pollUnsafe() !== undefined)
    const waiting = yield* client.send("waiting")
    const handled: Array<string> = []
    yield* H.serverOn(network.context, {
      authenticate: H.byToken,
      onMessage: (text) => Effect.sync(() => handled.push(text))
    })
    yield* advanceUntil("it is back", stateIs(client, "Connected"))
    yield* waiting.handled
    return { client, handled, sent }
  })

  it.effect("without its store tells the client that it does not know the session; what it had comes back", () =>
    Effect.gen(function*() {
      const { client, handled, sent } = yield* restarted("deadLetter")
      assert.deepInclude(yield* client.state, { result: "fresh", reason: "unknownSession" })
      assert.deepInclude(yield* Effect.flip(sent.handled), { reason: "fresh", maybeHandled: true })
      assert.strictEqual((yield* client.deadLetters.pipe(Stream.runHead))._tag, "Some")
      assert.deepStrictEqual(handled, ["waiting"])
    }))

  it.effect("or is sent again, if the client is told to", () =>
    Effect.gen(function*() {
      const { client, handled, sent } = yield* restarted("resend")
      assert.deepInclude(yield* client.state, { result: "fresh", reason: "unknownSession" })
      yield* sent.handled
      assert.deepStrictEqual(handled, ["sent", "waiting"])
    }))

  it.effect("tells its clients to leave and to come back within the jitter, and they do", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const scope = yield* H.forkScope
      const server = yield* Effect.provideService(
        H.serverOn(network.context, { authenticate: H.byToken, reconnectJitter: "3 seconds" }),
        Scope.Scope,
        scope
      )
      const client = yield* H.clientOn(network.context, { token: "alice" })
      yield* client.awaitConnected()
      yield* TestClock.adjust(1)
      assert.deepInclude(yield* server.shutdown, { closed: 1, pending: 0 })
      yield* until("it left", stateIs(client, "Disconnected"))
      assert.deepInclude(yield* errorOf(client), { _tag: "resilient-websocket/TransportError" })
      const handled: Array<string> = []
      yield* H.serverOn(network.context, {
        authenticate: H.byToken,
        onMessage: (text) => Effect.sync(() => handled.push(text))
      })
      assert.isAtMost(yield* advanceUntil("it is back", stateIs(client, "Connected")), 3_100)
      yield* (yield* client.send("here again")).handled
      assert.deepStrictEqual(handled, ["here again"])
    }))
})
