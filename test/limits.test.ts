/** What one side must refuse, the other does not send: every way in, by the decoder's own rules. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema, Tracer } from "effect"
import { SqliteStore } from "resilient-websocket/sqlite"
import { decode } from "../src/core/Codec.ts"
import { Violation } from "../src/core/Violation.ts"
import { HandshakeError } from "../src/WebSocketError.ts"
import * as H from "./support/harness.ts"
import { sayHello } from "./support/harnessHello.ts"
import { makeNetwork, type Network } from "./support/harnessNetwork.ts"

/** No peer takes these for the name of something. */
const badIds = ["", "x".repeat(257), "\u0000", "a\u0000b", "\ud800", "\udc00\ud800", "a\udfff"]
const goodIds = ["x".repeat(256), "\u{1F600}".repeat(128), "__proto__", "\u0001", "\"\\\u2028\n"]

const stateOf = (client: H.Client) => Effect.map(client.state, (state) => ({ ...state }))
const stopped = (client: H.Client) =>
  H.until("it has stopped", () => Effect.map(client.state, ({ _tag }) => _tag === "Stopped"))

/** Each frame that either side has sent is one that the other takes. */
const allAreFrames = (network: Network): void => {
  for (const { frame } of network.links.flatMap(({ frames }) => frames)) {
    assert.notInstanceOf(decode(frame), Violation, frame.slice(0, 200))
  }
}

const sqlite = Layer.orDie(SqliteStore.layer({ filename: ":memory:" }))

describe("What a receiver refuses", () => {
  it.effect("as a message id, send refuses; what it takes arrives", () =>
    Effect.gen(function*() {
      const { atServer, client, network, server } = yield* H.connected()
      for (const id of badIds) {
        for (const volatile of [false, true]) {
          const error = yield* Effect.flip(client.send("up", { id, volatile }))
          assert.deepInclude(
            error,
            { _tag: "resilient-websocket/PayloadError", direction: "encode" },
            JSON.stringify(id)
          )
          assert.strictEqual(
            (yield* Effect.flip(server.send("alice", "down", { id, volatile })))._tag,
            "resilient-websocket/PayloadError"
          )
        }
      }
      for (const id of goodIds) {
        const receipt = yield* client.send("up", { id })
        yield* receipt.handled
      }
      assert.strictEqual(atServer.length, goodIds.length)
      allAreFrames(network)
    }))

  it.effect("as a session's id, is no session: by each store", () =>
    Effect.gen(function*() {
      for (const store of [undefined, yield* Layer.build(sqlite)]) {
        const { server } = yield* H.connected({ serverStore: store })
        for (const id of badIds) {
          assert.strictEqual(
            (yield* Effect.flip(server.send(id, "x")))._tag,
            "resilient-websocket/SessionNotFoundError"
          )
          const { failures } = yield* server.broadcast("x", { sessions: [id] })
          assert.strictEqual(failures[0]?.error._tag, "resilient-websocket/SessionNotFoundError")
          assert.strictEqual(
            (yield* Effect.flip(server.sessionStats(id)))._tag,
            "resilient-websocket/SessionNotFoundError"
          )
          assert.strictEqual(
            (yield* Effect.flip(server.endSession(id)))._tag,
            "resilient-websocket/SessionNotFoundError"
          )
          assert.strictEqual(
            (yield* Effect.flip(server.locate(id, "m")))._tag,
            "resilient-websocket/SessionNotFoundError"
          )
        }
      }
    }))

  it.effect("authenticate may not say: the client is told, and the session of nobody is touched", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      let identity: { session?: string; principal?: string } = {}
      const server = yield* H.serverOn(network.context, { authenticate: () => Effect.succeed(identity) })
      for (const bad of badIds) {
        // A principal may be as long as it likes.
        const identities = bad.length > 256 ? [{ session: bad }] : [{ session: bad }, { principal: bad }]
        for (const next of identities) {
          identity = next
          const client = yield* H.clientOn(network.context)
          yield* stopped(client)
          const { error } = yield* Effect.map(client.state, (state) => state._tag === "Stopped" ? state : assert.fail())
          assert.deepInclude(
            error,
            { _tag: "resilient-websocket/ProtocolError", code: "protocol" },
            JSON.stringify(next)
          )
        }
      }
      assert.deepStrictEqual(yield* server.sessions, [])
      allAreFrames(network)
    }))

  it.effect("as a token, a client does not present; it stops with what is wrong", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* H.serverOn(network.context)
      for (const token of ["", "a\u0000", "\ud800", "é".repeat(4097), "x".repeat(8193)]) {
        for (const option of [token, Effect.succeed(token)]) {
          const client = yield* H.clientOn(network.context, { token: option })
          yield* stopped(client)
          assert.deepInclude(yield* stateOf(client), { _tag: "Stopped" })
          const error = yield* Effect.flip(client.awaitConnected())
          assert.deepInclude(error, { _tag: "resilient-websocket/HandshakeError", reason: "invalid" })
          assert.strictEqual((yield* Effect.flip(client.refreshToken))._tag, "resilient-websocket/HandshakeError")
        }
      }
      const client = yield* H.clientOn(network.context, { token: "é".repeat(4096) })
      yield* client.awaitConnected()
      allAreFrames(network)
    }))

  it.effect("as a renewed token, is not sent on an open connection", () =>
    Effect.gen(function*() {
      let token = "alice"
      const { client, network } = yield* H.connected({ client: { token: Effect.sync(() => token) } })
      token = "alice\u0000"
      assert.strictEqual((yield* Effect.flip(client.refreshToken))._tag, "resilient-websocket/HandshakeError")
      allAreFrames(network)
      assert.strictEqual((yield* client.state)._tag, "Connected")
    }))

  it.effect("as an option, is what comes nearest", () =>
    Effect.gen(function*() {
      const limitless = { window: { messages: Infinity, bytes: Infinity }, maxPayloadBytes: Infinity }
      const { atServer, client, network } = yield* H.connected({
        server: { ...limitless, heartbeat: "20000 days", reconnectJitter: Infinity, shutdownTimeout: "30000 days" },
        client: limitless,
        serverStore: { registry: { retention: Infinity } }
      })
      const receipt = yield* client.send("x")
      yield* receipt.handled
      assert.deepStrictEqual(atServer, ["x"])
      allAreFrames(network)
    }))

  it.effect("in a hook's detail, is cut to what fits", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const detail = "\u{1F600}".repeat(100_000)
      yield* H.serverOn(network.context, {
        authenticate: () => Effect.fail(new HandshakeError({ reason: "forbidden", detail, retryable: false }))
      })
      const client = yield* H.clientOn(network.context)
      const error = yield* Effect.flip(client.awaitConnected())
      assert.deepInclude(error, {
        _tag: "resilient-websocket/HandshakeError",
        reason: "forbidden",
        detail: detail.slice(0, 512)
      })
      allAreFrames(network)
    }))

  it.effect("as a trace, is left out", () =>
    Effect.gen(function*() {
      const { atServer, client, network } = yield* H.connected()
      for (const ids of [["t".repeat(300), "s"], ["", ""], ["\u0000".repeat(32), "s".repeat(16)]]) {
        const [traceId = "", spanId = ""] = ids
        const span = Tracer.externalSpan({ traceId, spanId, sampled: true })
        const receipt = yield* client.send("traced").pipe(Effect.withParentSpan(span))
        yield* receipt.handled
      }
      assert.strictEqual(atServer.length, 3)
      allAreFrames(network)
    }))

  it.effect("by any rule of payloads, no way in takes", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const schemas = { incoming: Schema.Unknown as never, outgoing: Schema.Unknown as never }
      const { client, server } = yield* H.pair(network, { server: schemas, client: schemas })
      const deep = (levels: number): unknown => levels === 0 ? 0 : [deep(levels - 1)]
      const faulty = [JSON.parse(`{"__proto__":1}`), JSON.parse(`[{"a":{"__proto__":null}}]`), deep(65), [Infinity]]
      for (const payload of faulty as unknown as ReadonlyArray<never>) {
        for (
          const effect of [
            client.send(payload),
            client.send(payload, { volatile: true }),
            client.send(payload, { id: "k" }),
            client.send(payload, { deduplicate: "content" }),
            client.sendAll(["good" as never, payload]),
            server.send("alice", payload),
            server.send("alice", payload, { volatile: true }),
            server.sendAll("alice", [payload]),
            server.broadcast(payload)
          ]
        ) {
          assert.strictEqual(
            (yield* Effect.flip<unknown, { readonly _tag: string }, never>(effect))._tag,
            "resilient-websocket/PayloadError"
          )
        }
      }
      const receipt = yield* client.send(deep(64) as never)
      yield* receipt.handled
      allAreFrames(network)
    }))
})

describe("A hello", () => {
  const inbox = { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } }

  it.live("that names anything by what is no text is malformed, whatever the store", () =>
    Effect.gen(function*() {
      for (const store of [undefined, yield* Layer.build(sqlite)]) {
        const network = yield* makeNetwork
        const server = yield* H.serverOn(network.context, {}, { store })
        for (const bad of badIds) {
          for (
            const fields of [
              { instance: bad },
              { session: bad, token: "k" },
              { session: "s", token: bad },
              { out: { epoch: bad, acked: 0, last: 0 } },
              { in: { ...inbox, epoch: bad } },
              { auth: bad.slice(0, 10_000).padEnd(bad.length > 256 ? 8193 : 0, "x") }
            ]
          ) {
            const { answer, closed } = yield* sayHello(network, fields)
            assert.deepInclude(answer, { t: "reject", code: "protocol" }, JSON.stringify(fields).slice(0, 200))
            assert.strictEqual(yield* closed, 4503)
          }
        }
        assert.deepStrictEqual(yield* server.sessions, [])
      }
    }))

  it.live("is at most 69,632 bytes", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* H.serverOn(network.context)
      const bare = yield* sayHello(network, { padding: "" })
      assert.strictEqual(bare.answer.t, "welcome")
      const size = network.newest().frames.find(({ frame }) => frame.includes("hello"))?.frame.length ?? 0
      assert.strictEqual((yield* sayHello(network, { padding: "x".repeat(69_632 - size) })).answer.t, "welcome")
      const { answer, closed } = yield* sayHello(network, { padding: "x".repeat(69_633 - size) })
      assert.deepInclude(answer, { t: "reject", code: "protocol" })
      assert.strictEqual(yield* closed, 4503)
    }))
})
