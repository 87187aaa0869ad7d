/** The time of day is set while programs run: durations are none of its business. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber } from "effect"
import { CircuitBreaker } from "resilient-websocket"
import { steadyOf } from "../src/internal/kit/time.ts"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { day, hour, settable } from "./support/wall.ts"

const { advance, advanceUntil, connected, unplug, until } = H

const tag = (client: H.Client) => Effect.map(client.state, ({ _tag }) => _tag)
const isConnected = (client: H.Client) => () => Effect.map(tag(client), (tag) => tag === "Connected")

describe.each([["back an hour", -hour], ["forward a day", day], ["back by a second", -1_000]])(
  "a clock that is set %s",
  (_, byMillis) => {
    it.effect("keeps no client away, though the circuit was open", () =>
      Effect.gen(function*() {
        const set = yield* settable
        const network = yield* makeNetwork
        network.dialling = "refused"
        const store = yield* H.makeStore({ breaker: { endpoint: { openBase: "30 seconds", openCap: "30 seconds" } } })
        const client = yield* H.clientOn(network.context, { reconnect: { cap: "1 second" } }, { store })
        yield* H.serverOn(network.context)
        yield* advance(30_000)
        set(byMillis)
        network.dialling = "accepted"
        const elapsed = yield* advanceUntil("it is connected", isConnected(client))
        assert.isAtMost(elapsed, 46_000)
      }))

    it.effect("lets an idle link be, and half-open ones be noticed within 20 s by both sides", () =>
      Effect.gen(function*() {
        const set = yield* settable
        const { client, network, server } = yield* connected()
        yield* advance(5_000)
        set(byMillis)
        yield* advance(120_000, 1_000)
        assert.strictEqual(network.dials, 1)
        const events = yield* H.collect(server.connections)
        network.dialling = "refused"
        network.newest().vanish()
        set(byMillis)
        const elapsed = yield* advanceUntil(
          "both noticed",
          () => Effect.map(tag(client), (tag) => tag === "Disconnected" && events.length > 0)
        )
        assert.isAtMost(elapsed, 20_000)
      }))

    it.effect("lets messages, sessions and publish keys live as long as they were to", () =>
      Effect.gen(function*() {
        const set = yield* settable
        const { atClient, client, network, server } = yield* connected({
          // Back well within the TTL of what waits for it, however long its circuit was open.
          client: { reconnect: { cap: "5 seconds" } },
          clientStore: { breaker: { endpoint: { openCap: "5 seconds" } } },
          serverStore: {
            queue: { ttl: "2 minutes" },
            registry: { retention: "10 minutes" },
            deduplicator: { window: "13 minutes" }
          }
        })
        yield* unplug(network, client)
        const receipt = yield* server.send("alice", "kept", { id: "k" })
        set(byMillis)
        yield* advance(70_000, 5_000)
        assert.strictEqual((yield* server.send("alice", "kept", { id: "k" }))._tag, "Duplicate")
        network.dialling = "accepted"
        yield* advanceUntil("it is back", isConnected(client))
        yield* receipt.handled
        assert.deepStrictEqual(atClient, ["kept"])
      }))

    it.effect("lets messages expire and sessions end in their time", () =>
      Effect.gen(function*() {
        const set = yield* settable
        const { client, network, server } = yield* connected({
          serverStore: { queue: { ttl: "2 minutes" }, registry: { retention: "10 minutes" } }
        })
        yield* unplug(network, client)
        const late = yield* Effect.forkChild(Effect.flip((yield* server.send("alice", "late")).handled))
        set(byMillis)
        yield* advanceUntil("the message has expired", () => late.pollUnsafe() !== undefined, {
          atMost: 190_000,
          step: 1_000
        })
        assert.deepInclude(yield* Fiber.join(late), { reason: "expired" })
        set(byMillis)
        yield* advanceUntil(
          "the session has ended",
          () => Effect.map(server.sessions, (sessions) => sessions.length === 0),
          { atMost: 600_000, step: 1_000 }
        )
      }))

    it.effect("lets a shutdown, a handshake and what handlers take be over in time", () =>
      Effect.gen(function*() {
        const set = yield* settable
        const { client, network, server } = yield* connected({ server: { onMessage: () => Effect.never } })
        yield* client.send("for ever")
        yield* until(
          "it is being handled",
          () => Effect.map(server.stats, ({ totals }) => totals.messagesReceived === 1)
        )
        network.dialling = "unanswered"
        const other = yield* H.clientOn(network.context, { token: "other" })
        const closing = yield* Effect.forkChild(server.shutdownWith({ timeout: "10 seconds" }))
        yield* advance(2_000)
        set(byMillis)
        yield* advanceUntil("it is closed", () => closing.pollUnsafe() !== undefined, { atMost: 12_000 })
        assert.isAtMost((yield* Fiber.join(closing)).durationMillis, 12_000)
        yield* advanceUntil("the dial is given up", () => Effect.map(tag(other), (tag) => tag === "Disconnected"), {
          atMost: 12_000
        })
      }))

    it.effect("is told to people, by which the time of events is the one of day", () =>
      Effect.gen(function*() {
        const set = yield* settable
        const store = yield* H.makeStore()
        const { client, server } = yield* connected({ serverStore: store })
        const breaker = yield* Effect.provide(CircuitBreaker.CircuitBreaker, store)
        const seen: Array<number> = []
        yield* breaker.onTransition(({ atMillis }) => seen.push(atMillis))
        set(10 * day + byMillis)
        yield* breaker.isolate(CircuitBreaker.session("alice"), "closed by hand")
        assert.deepStrictEqual(seen, [yield* Clock.currentTimeMillis])
        yield* client.send("hello")
        yield* advanceUntil("it is heard", () =>
          Effect.gen(function*() {
            const { heardAtMillis = 0 } = yield* server.sessionStats("alice")
            return Math.abs(heardAtMillis - (yield* Clock.currentTimeMillis)) < 20_000
          }))
      }))
  }
)

describe("steady time", () => {
  it.effect("goes on whatever is set, and is the same for all who have the same clock", () =>
    Effect.gen(function*() {
      const set = yield* settable
      const clock = yield* Clock.Clock
      const first = steadyOf(clock)
      const at = first()
      yield* advance(1_500, 500)
      set(-hour)
      const second = steadyOf(clock)
      assert.strictEqual(first() - at, 1_500)
      assert.strictEqual(second(), first())
      set(2 * day)
      yield* advance(500, 500)
      assert.strictEqual(second() - at, 2_000)
    }))
})
