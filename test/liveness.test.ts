/** Peers that go silent, servers that don't answer, and the circuits that learn from it. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect } from "effect"
import { TestClock } from "effect/testing"
import { createServer } from "node:net"
import { CircuitBreaker, Transport } from "resilient-websocket"
import { amount } from "./support/everything.ts"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"

const { advance, advanceUntil, connected, turn, until } = H

const hours = amount(24, 1)

const tag = (client: H.Client) => Effect.map(client.state, ({ _tag }) => _tag)

const isConnected = (client: H.Client) => () => Effect.map(tag(client), (tag) => tag === "Connected")

const errorOf = Effect.fnUntraced(function*(client: H.Client) {
  const state = yield* client.state
  return "error" in state ? state.error : assert.fail(`the client is ${state._tag}`)
})

describe("a half-open connection", () => {
  it.effect("is noticed by the client within 20 s, and replaced", () =>
    Effect.gen(function*() {
      const { atServer, client, network } = yield* connected()
      yield* advance(60_000, 1_000)
      assert.strictEqual(yield* tag(client), "Connected")
      network.newest().vanish()
      const receipt = yield* client.send("into the void")
      const elapsed = yield* advanceUntil("the client noticed", () => Effect.map(tag(client), (t) => t !== "Connected"))
      assert.isAtMost(elapsed, 20_000)
      assert.deepInclude(yield* errorOf(client), {
        _tag: "resilient-websocket/ConnectionTimeoutError",
        phase: "heartbeat"
      })
      yield* advanceUntil("it is back", isConnected(client))
      yield* receipt.handled
      assert.deepStrictEqual(atServer, ["into the void"])
      assert.strictEqual((yield* client.stats).totals.connectionsTimedOut, 1)
    }))

  it.effect("is noticed by the server within 20 s", () =>
    Effect.gen(function*() {
      const { network, server } = yield* connected()
      const events = yield* H.collect(server.connections)
      yield* advance(60_000, 1_000)
      network.dialling = "refused"
      network.newest().vanish()
      const elapsed = yield* advanceUntil("the server noticed", () => events.length > 0)
      assert.isAtMost(elapsed, 20_000)
      assert.deepInclude(events[0], { _tag: "Disconnected", session: "alice", code: 4001 })
      assert.strictEqual((yield* server.stats).totals.connectionsTimedOut, 1)
    }))

  for (const direction of ["toServer", "toClient"] as const) {
    it.effect(`in one direction only (${direction}) is noticed, too`, () =>
      Effect.gen(function*() {
        const { client, network } = yield* connected()
        network.newest().vanish(direction)
        assert.isAtMost(
          yield* advanceUntil("somebody noticed", () => Effect.map(tag(client), (t) => t !== "Connected")),
          20_000
        )
        yield* advanceUntil("it is back", isConnected(client))
      }))
  }

  it.effect(`is not seen where both are only idle, for ${hours} hours`, () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected({ clientStore: { queue: { ttl: Infinity } } })
      for (let hour = 0; hour < hours; hour++) yield* advance(3_600_000, 5_000)
      assert.strictEqual(yield* tag(client), "Connected")
      assert.strictEqual(network.dials, 1)
    }))
})

describe("a peer that answers but does not take messages", () => {
  it.effect("is cut off after the ack timeout, and gets them on the next connection", () =>
    Effect.gen(function*() {
      const { atServer, client, network } = yield* connected()
      network.passes = (direction, frame) => direction === "toClient" || !frame.startsWith(`{"t":"batch"`)
      const receipt = yield* client.send("stuck")
      const elapsed = yield* advanceUntil("it is cut off", () => Effect.map(tag(client), (t) => t !== "Connected"))
      assert.isAtLeast(elapsed, 30_000)
      assert.isAtMost(elapsed, 32_000)
      assert.deepInclude(yield* errorOf(client), {
        _tag: "resilient-websocket/ConnectionTimeoutError",
        phase: "ack",
        session: "alice"
      })
      network.passes = () => true
      yield* advanceUntil("it is back", isConnected(client))
      yield* receipt.handled
      assert.deepStrictEqual(atServer, ["stuck"])
    }))

  it.effect("is cut off as stalled when its socket takes nothing", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected()
      network.passes = (direction, frame) => direction === "toClient" || !frame.startsWith(`{"t":"batch"`)
      yield* client.send("stuck")
      yield* turn
      network.stuckBytes = 1
      yield* advanceUntil("it is cut off", () => Effect.map(tag(client), (t) => t !== "Connected"))
      assert.deepInclude(yield* errorOf(client), { _tag: "resilient-websocket/ConnectionTimeoutError", phase: "flush" })
    }))

  it.effect("may take its time to handle what it has confirmed", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected({ server: { onMessage: () => Effect.sleep("10 minutes") } })
      const receipt = yield* client.send("slow")
      yield* advance(601_000, 2_000)
      yield* receipt.handled
      assert.strictEqual(network.dials, 1)
    }))
})

describe("a connection that never comes to be", () => {
  it.live("is given up after the dial timeout", () =>
    Effect.gen(function*() {
      const deaf = createServer(() => {})
      yield* Effect.acquireRelease(
        Effect.callback<void>((resume) => void deaf.listen(0, "127.0.0.1", () => resume(Effect.void))),
        () => Effect.sync(() => deaf.close())
      )
      const address = deaf.address()
      const port = typeof address === "object" ? address?.port : undefined
      const client = yield* H.nodeClient({ url: `ws://127.0.0.1:${port}`, dialTimeout: "50 millis" })
      yield* until("the dial was given up", () => Effect.map(tag(client), (t) => t === "Disconnected"))
      assert.deepInclude(yield* errorOf(client), {
        _tag: "resilient-websocket/ConnectionTimeoutError",
        phase: "dial",
        afterMillis: 50
      })
    }))

  it.effect("is given up by the client after the handshake timeout", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* H.serverOn(network.context)
      network.passes = (direction) => direction === "toServer"
      const client = yield* H.clientOn(network.context)
      const elapsed = yield* advanceUntil("it gave up", () => Effect.map(tag(client), (t) => t === "Disconnected"))
      assert.strictEqual(elapsed, 10_000)
      assert.deepInclude(yield* errorOf(client), {
        _tag: "resilient-websocket/ConnectionTimeoutError",
        phase: "handshake"
      })
      network.passes = () => true
      yield* advanceUntil("it connected", isConnected(client))
    }))

  it.effect("is closed by the server after the handshake timeout", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { handshakeTimeout: "3 seconds" })
      const connection = yield* Context.get(network.context, Transport.TransportClient).dial({
        url: "",
        protocol: "resilient.v1",
        headers: {},
        timeoutMillis: 1,
        maxFrameBytes: 1
      })
      const closed = yield* Deferred.make<number>()
      connection.open({
        frame: () => {},
        drained: () => {},
        alive: () => {},
        closed: (code) => void Deferred.doneUnsafe(closed, Effect.succeed(code))
      })
      yield* advance(4_000)
      assert.strictEqual(yield* Deferred.await(closed), 4004)
      assert.deepInclude((yield* server.stats).totals, { connectionsTimedOut: 1, connectionsFailed: 1 })
    }))
})

describe("the circuit of an endpoint", () => {
  it.effect("opens after refused dials, lets one probe through, and closes when it works", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      network.dialling = "refused"
      const store = yield* H.makeStore({ breaker: { endpoint: { consecutiveFailures: 3, openBase: "30 seconds" } } })
      const breaker = Context.get(store, CircuitBreaker.CircuitBreaker)
      const key = CircuitBreaker.endpoint("ws://memory")
      const transitions = yield* H.collect(breaker.transitions)
      const client = yield* H.clientOn(network.context, { reconnect: { base: "10 millis", cap: "10 millis" } }, {
        store
      })
      yield* advanceUntil("it is open", () => breaker.stateUnsafe(key)._tag === "Open", { step: 10 })
      assert.strictEqual(network.dials, 3)
      const state = breaker.stateUnsafe(key)
      const openUntil = state._tag === "Open" ? state.untilMillis : assert.fail("open")
      yield* TestClock.setTime(openUntil - 1)
      yield* turn
      assert.strictEqual(network.dials, 3)
      yield* H.serverOn(network.context)
      network.dialling = "accepted"
      yield* TestClock.setTime(openUntil + 1)
      yield* until("it is connected", isConnected(client))
      assert.strictEqual(network.dials, 4)
      yield* advanceUntil("it is closed", () => transitions.length === 3)
      assert.deepStrictEqual(transitions.map(({ to }) => to), ["Open", "HalfOpen", "Closed"])
      assert.strictEqual((yield* client.stats).totals.breakerTransitions, 3)
    }))
})

describe("the circuit of a session", () => {
  const alice = CircuitBreaker.session("alice")

  it.effect("opens when the peer falls silent, and closes by the acks of the next connection", () =>
    Effect.gen(function*() {
      const { atClient, breaker, client, network, server } = yield* connected({
        server: { heartbeat: "1 second", heartbeatTimeout: "1 second" },
        client: { heartbeat: "1 hour" },
        serverStore: { breaker: { session: { openBase: "1 hour", openCap: "1 hour" } } }
      })
      const transitions = yield* H.collect(breaker.transitions)
      network.dialling = "refused"
      const link = network.newest()
      link.vanish()
      yield* advanceUntil("it is open", () => breaker.stateUnsafe(alice)._tag === "Open")
      const receipts = yield* Effect.forEach(H.numbered(100), (text) => server.send("alice", text))
      assert.strictEqual(receipts[0]?._tag, "Queued")
      network.dialling = "accepted"
      // The client is deaf as well, and does not look for an hour.
      yield* Effect.forkScoped(client.endSession)
      yield* turn
      yield* client.reconnect
      yield* advanceUntil("it is back", isConnected(client))
      yield* advanceUntil("all is handled", () => atClient.length === 100)
      assert.deepStrictEqual(atClient, H.numbered(100))
      assert.deepStrictEqual(transitions.map(({ to }) => to), ["Open", "HalfOpen", "Closed"])
      const batches = network.newest().frames.filter(({ frame }) => frame.startsWith(`{"t":"batch"`))
      // A small batch first, and more as they are handled.
      assert.isAtMost(JSON.parse(batches[0]?.frame ?? "").m.length, 16)
    }))

  it.effect("stays closed over any number of cuts, as long as messages get through in between", () =>
    Effect.gen(function*() {
      const { breaker, client, network, server } = yield* connected({
        serverStore: { breaker: { session: { consecutiveFailures: 3 } } }
      })
      const transitions = yield* H.collect(breaker.transitions)
      for (let i = 0; i < 8; i++) {
        yield* (yield* server.send("alice", "through")).handled
        network.passes = () => false
        const lost = yield* server.send("alice", "cut in flight")
        yield* turn
        network.passes = () => true
        network.newest().cut()
        yield* until("it noticed", () => Effect.map(tag(client), (t) => t !== "Connected"))
        yield* advanceUntil("it is back", isConnected(client))
        yield* lost.handled
      }
      assert.deepStrictEqual(transitions, [])
      // Without anything getting through they count.
      network.passes = (_, frame) => !frame.startsWith(`{"t":"batch"`)
      yield* server.send("alice", "never")
      for (let i = 0; i < 3; i++) {
        yield* turn
        network.newest().cut()
        yield* until("it noticed", () => Effect.map(tag(client), (t) => t !== "Connected"))
        yield* advanceUntil("it is back", isConnected(client))
      }
      assert.strictEqual(transitions[0]?.to, "Open")
    }))

  it.effect("that is isolated stops delivery until it is released", () =>
    Effect.gen(function*() {
      const { atClient, atServer, breaker, client, server } = yield* connected()
      yield* breaker.isolate(alice, "maintenance")
      const receipts = yield* Effect.forEach(H.numbered(3), (text) => server.send("alice", text))
      yield* (yield* client.send("the other way goes on")).handled
      yield* advance(120_000, 2_000)
      assert.deepStrictEqual([atClient, atServer], [[], ["the other way goes on"]])
      assert.strictEqual((yield* server.sessionStats("alice")).circuit, "Isolated")
      yield* breaker.release(alice)
      for (const { handled } of receipts) yield* handled
      assert.deepStrictEqual(atClient, H.numbered(3))
    }))

  it.effect("of one session does not stop the others", () =>
    Effect.gen(function*() {
      const { breaker, network, server } = yield* connected()
      const seen: Array<string> = []
      yield* H.clientOn(network.context, { token: "bob", onMessage: (text) => Effect.sync(() => seen.push(text)) })
      yield* until("bob is there", () => Effect.isSuccess(server.sessionStats("bob")))
      yield* breaker.isolate(alice, "maintenance")
      const kept = yield* server.send("alice", "kept")
      yield* (yield* server.send("bob", "goes")).handled
      assert.deepStrictEqual(seen, ["goes"])
      assert.deepStrictEqual(yield* kept.handled.pipe(Effect.forkChild, Effect.map((f) => f.pollUnsafe())), undefined)
    }))
})
