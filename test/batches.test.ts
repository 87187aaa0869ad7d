/** Many messages to one session at once, and one message to many sessions. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Latch, Schema } from "effect"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"

const { connected, unplug, until } = H

describe("sendAll", () => {
  it.effect("brings all messages to the handler, once and in order, both ways, with a receipt for each", () =>
    Effect.gen(function*() {
      const { atClient, atServer, client, server } = yield* connected()
      const texts = H.numbered(900)
      yield* client.send("before")
      const up = yield* client.sendAll(texts)
      const down = yield* server.sendAll("alice", new Set(texts))
      yield* client.send("after")
      for (const { handled } of [...up, ...down]) yield* handled
      yield* until("all came", () => atServer.length === 902)
      assert.deepStrictEqual(atServer, ["before", ...texts, "after"])
      assert.deepStrictEqual(atClient, texts)
      assert.strictEqual(new Set(up.map(({ messageId }) => messageId)).size, 900)
      assert.strictEqual(yield* client.locate(up[899]?.messageId ?? ""), "handled")
      assert.deepStrictEqual(yield* client.sendAll([]), [])
    }))

  it.effect("sends none when one can't be encoded, is too large, or there is no room for all", () =>
    Effect.gen(function*() {
      const { atClient, server } = yield* connected({
        server: { outgoing: Schema.String.check(Schema.isMaxLength(20)), maxPayloadBytes: 12 },
        serverStore: { queue: { maxMessages: 4 } }
      })
      const failure = (messages: ReadonlyArray<string>) => Effect.flip(server.sendAll("alice", messages))
      assert.deepInclude(yield* failure(["1", "x".repeat(21)]), {
        _tag: "resilient-websocket/PayloadError",
        direction: "encode"
      })
      assert.deepInclude(yield* failure(["1", "x".repeat(11)]), {
        _tag: "resilient-websocket/PayloadError",
        limitBytes: 12,
        sizeBytes: 13
      })
      assert.deepInclude(yield* failure(["1", "2", "3", "4", "5"]), {
        _tag: "resilient-websocket/QueueOverflowError",
        limit: "messages"
      })
      assert.deepInclude(yield* Effect.flip(server.sendAll("nobody", ["1"])), {
        _tag: "resilient-websocket/SessionNotFoundError"
      })
      const [receipt] = yield* server.sendAll("alice", ["only"])
      yield* receipt?.handled ?? Effect.die("no receipt")
      assert.deepStrictEqual(atClient, ["only"])
      assert.strictEqual((yield* server.stats).totals.queueOverflows, 1)
    }))

  it.effect("waits for room for all under `suspend`, and drops what is oldest under `dropOldest`", () =>
    Effect.gen(function*() {
      for (const overflow of ["suspend", "dropOldest"] as const) {
        const { atClient, client, network, server } = yield* connected({
          serverStore: { queue: { maxMessages: 4, overflow } }
        })
        yield* unplug(network, client)
        yield* until("the server noticed", () => Effect.map(server.stats, ({ connections }) => connections === 0))
        yield* server.sendAll("alice", ["1", "2", "3"])
        const second = yield* Effect.forkChild(server.sendAll("alice", ["4", "5"]), { startImmediately: true })
        network.dialling = "accepted"
        yield* client.reconnect
        for (const { handled } of yield* Fiber.join(second)) yield* handled
        assert.deepStrictEqual(atClient, overflow === "suspend" ? ["1", "2", "3", "4", "5"] : ["2", "3", "4", "5"])
      }
    }))

  it.effect("lets each message live as long as it is told", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected()
      yield* unplug(network, client)
      const receipts = yield* server.sendAll("alice", ["1", "2"], { ttl: "1 second" })
      yield* H.advance(120_000)
      for (const { handled } of receipts) assert.strictEqual((yield* Effect.flip(handled)).reason, "expired")
      assert.strictEqual(
        yield* H.tagOf(server.sendAll("alice", ["1"], { ttl: "-1 seconds" as never })),
        "resilient-websocket/PayloadError"
      )
    }))
})

describe("broadcast", () => {
  const crowd = Effect.fnUntraced(function*(names: ReadonlyArray<string>, options: H.ServerOptions = {}, store = {}) {
    const network = yield* makeNetwork
    const seen = new Map(names.map((name) => [name, [] as Array<string>]))
    const server = yield* H.serverOn(network.context, { authenticate: H.byToken, ...options }, { store })
    for (const name of names) {
      const client = yield* H.clientOn(network.context, {
        token: name,
        onMessage: (text) => Effect.sync(() => seen.get(name)?.push(text))
      })
      yield* client.awaitConnected()
    }
    return { network, seen, server }
  })

  it.effect("brings one message to every session, in the order of what else they are sent", () =>
    Effect.gen(function*() {
      const names = H.numbered(300, "c")
      const { seen, server } = yield* crowd(names)
      yield* server.send("c7", "before")
      assert.deepStrictEqual(yield* server.broadcast("all"), { accepted: 300, skipped: 0, failures: [] })
      yield* server.send("c7", "after")
      assert.deepStrictEqual(yield* server.broadcast("two", { sessions: ["c7", "c8", "c7"] }), {
        accepted: 2,
        skipped: 0,
        failures: []
      })
      yield* until("all came", () => seen.get("c7")?.length === 4 && seen.get("c8")?.length === 2)
      assert.deepStrictEqual(seen.get("c7"), ["before", "all", "after", "two"])
      assert.deepStrictEqual(names.filter((name) => seen.get(name)?.[0] !== "all"), ["c7"])
    }))

  it.effect("waits in the outbox of who is away", () =>
    Effect.gen(function*() {
      const { atClient, client, network, server } = yield* connected()
      yield* unplug(network, client)
      yield* server.broadcast("news")
      network.dialling = "accepted"
      yield* client.reconnect
      yield* until("it came", () => atClient.length === 1)
      assert.deepStrictEqual(atClient, ["news"])
    }))

  it.effect("says who could not have it, and reaches everybody else", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected({ serverStore: { queue: { maxMessages: 1 } } })
      yield* unplug(network, client)
      yield* until("the server noticed", () => Effect.map(server.stats, ({ connections }) => connections === 0))
      assert.strictEqual((yield* server.broadcast("1")).accepted, 1)
      const { accepted, failures } = yield* server.broadcast("2", { sessions: ["alice", "nobody"] })
      assert.strictEqual(accepted, 0)
      assert.deepStrictEqual(failures.map(({ error, session }) => [session, error._tag]).sort(), [
        ["alice", "resilient-websocket/QueueOverflowError"],
        ["nobody", "resilient-websocket/SessionNotFoundError"]
      ])
      assert.strictEqual((yield* server.stats).totals.queueOverflows, 1)
    }))

  it.effect("fails as a whole only for what is wrong with the message, or when the server is closed", () =>
    Effect.gen(function*() {
      const { server } = yield* connected({ server: { maxPayloadBytes: 12 } })
      assert.strictEqual(yield* H.tagOf(server.broadcast("x".repeat(11))), "resilient-websocket/PayloadError")
      assert.strictEqual(
        yield* H.tagOf(server.broadcast("x", { ttl: "-1 seconds" as never })),
        "resilient-websocket/PayloadError"
      )
      yield* server.shutdown
      assert.strictEqual(yield* H.tagOf(server.broadcast("x")), "resilient-websocket/ShutdownError")
      assert.strictEqual(yield* H.tagOf(server.sendAll("alice", ["x"])), "resilient-websocket/ShutdownError")
    }))

  it.effect("waits for a full session under `suspend`, while the others have it already", () =>
    Effect.gen(function*() {
      const { network, seen, server } = yield* crowd(["a", "b"], {}, { queue: { maxMessages: 1, overflow: "suspend" } })
      const gate = yield* Latch.make(false)
      const slow: Array<string> = []
      const client = yield* H.clientOn(network.context, {
        token: "slow",
        onMessage: (text) => Effect.andThen(gate.await, Effect.sync(() => slow.push(text)))
      })
      yield* client.awaitConnected()
      yield* server.send("slow", "1")
      const all = yield* Effect.forkChild(server.broadcast("2"), { startImmediately: true })
      yield* until("the others have it", () => seen.get("a")?.length === 1 && seen.get("b")?.length === 1)
      assert.isUndefined(all.pollUnsafe())
      yield* gate.open
      assert.deepStrictEqual(yield* Fiber.join(all), { accepted: 3, skipped: 0, failures: [] })
      yield* until("it has both", () => slow.length === 2)
    }))
})
