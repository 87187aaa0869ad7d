/** Every error of the union, raised through the public API by what a user might do or suffer. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Schema } from "effect"
import { CircuitBreaker, MessageQueue, SessionRegistry, Transport, WebSocketError } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"

const { advanceUntil, connected, unplug, until } = H

const raised = new Set<string>()

/** The failure, noted as seen. */
const failure = <A, E extends WebSocketError.WebSocketError, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.tap(Effect.flip(effect), (error) => {
    // Errors are data: they survive being stored or sent.
    const encoded = Schema.encodeUnknownSync(WebSocketError.WebSocketError)(error)
    assert.strictEqual(Schema.decodeUnknownSync(WebSocketError.WebSocketError)(encoded)._tag, error._tag)
    assert.notStrictEqual(error.message, "")
    return Effect.sync(() => raised.add(error._tag))
  })

const stateError = Effect.fnUntraced(function*(client: H.Client) {
  const state = yield* client.state
  return yield* failure("error" in state ? Effect.fail(state.error) : Effect.die("there is no error"))
})

const broken = new WebSocketError.MessageQueueError({ session: "alice", operation: "append", reason: "store" })
const lost = new WebSocketError.SessionRegistryError({ session: "alice", operation: "remove", reason: "store" })

describe("sending", () => {
  it.effect("to nobody fails with SessionNotFoundError", () =>
    Effect.gen(function*() {
      const { server } = yield* connected()
      for (
        const effect of [
          server.send("nobody", "x"),
          server.endSession("nobody"),
          server.sessionStats("nobody"),
          server.locate("nobody", "x")
        ]
      ) {
        assert.deepInclude(yield* failure<unknown, WebSocketError.WebSocketError, never>(effect), {
          _tag: "resilient-websocket/SessionNotFoundError",
          session: "nobody"
        })
      }
    }))

  it.effect("what is too large, or no JSON, or no message fails with PayloadError", () =>
    Effect.gen(function*() {
      const { client, server } = yield* connected({ client: { maxPayloadBytes: 100 } })
      assert.deepInclude(yield* failure(client.send("x".repeat(99))), {
        _tag: "resilient-websocket/PayloadError",
        direction: "encode",
        sizeBytes: 101,
        limitBytes: 100
      })
      // Bytes count, not characters, and the other side's limit, too.
      assert.deepInclude(yield* failure(server.send("alice", "ü".repeat(50))), { sizeBytes: 102, limitBytes: 100 })
      assert.strictEqual((yield* failure(client.send(1 as unknown as string)))._tag, "resilient-websocket/PayloadError")
      assert.strictEqual((yield* failure(client.send("x", { id: "" })))._tag, "resilient-websocket/PayloadError")
      assert.strictEqual(
        (yield* failure(client.send("x", { id: "x".repeat(257) })))._tag,
        "resilient-websocket/PayloadError"
      )
      yield* (yield* client.send("x".repeat(98))).handled
    }))

  it.effect("what has no JSON form fails with PayloadError", () =>
    Effect.gen(function*() {
      const circular: { self?: unknown } = {}
      circular.self = circular
      const any = Schema.declare((value: unknown): value is string => value !== Symbol.iterator)
      const { client } = yield* connected({ client: { outgoing: any as unknown as Schema.Codec<string, unknown> } })
      for (const value of [circular, 1n, undefined, () => {}]) {
        assert.strictEqual(
          (yield* failure(client.send(value as unknown as string)))._tag,
          "resilient-websocket/PayloadError"
        )
      }
    }))

  it.effect("to a full queue fails with QueueOverflowError", () =>
    Effect.gen(function*() {
      const { client, network, server } = yield* connected({ serverStore: { queue: { maxMessages: 1 } } })
      yield* unplug(network, client)
      yield* server.send("alice", "1")
      assert.deepInclude(yield* failure(server.send("alice", "2")), {
        _tag: "resilient-websocket/QueueOverflowError",
        session: "alice",
        limit: "messages",
        bound: 1,
        size: 1
      })
    }))

  it.effect("under a key that was used for something else fails with DeduplicationError", () =>
    Effect.gen(function*() {
      const { client } = yield* connected()
      yield* client.send("1", { id: "k" })
      assert.deepInclude(yield* failure(client.send("2", { id: "k" })), {
        _tag: "resilient-websocket/DeduplicationError",
        key: "k",
        reason: "mismatch"
      })
    }))

  it.effect("into a store that is broken fails with MessageQueueError, and frees the key", () =>
    Effect.gen(function*() {
      const store = yield* H.makeStore()
      const queue = Context.get(store, MessageQueue.MessageQueue)
      let works = false
      const rigged = Context.add(store, MessageQueue.MessageQueue, {
        ...queue,
        append: (session, messages) => works ? queue.append(session, messages) : Effect.fail(broken)
      })
      const { server } = yield* connected({ serverStore: rigged })
      assert.deepInclude(yield* failure(server.send("alice", "x", { id: "k" })), {
        _tag: "resilient-websocket/MessageQueueError",
        reason: "store"
      })
      works = true
      assert.strictEqual((yield* server.send("alice", "x", { id: "k" }))._tag, "Sent")
    }))

  it.effect("what nobody can handle fails with DeadLetterError, when it is awaited", () =>
    Effect.gen(function*() {
      const { client } = yield* connected({ server: { incoming: Schema.Literal("yes") } })
      assert.deepInclude(yield* failure((yield* client.send("no")).handled), {
        _tag: "resilient-websocket/DeadLetterError",
        reason: "undecodable",
        maybeHandled: false
      })
    }))

  it.effect("after the shutdown fails with ShutdownError", () =>
    Effect.gen(function*() {
      const { client, server } = yield* connected()
      yield* client.shutdown
      yield* server.shutdown
      assert.deepInclude(yield* failure(client.send("x")), {
        _tag: "resilient-websocket/ShutdownError",
        component: "client"
      })
      assert.deepInclude(yield* failure(server.send("alice", "x")), {
        _tag: "resilient-websocket/ShutdownError",
        component: "server"
      })
      assert.deepInclude(yield* failure(client.awaitConnected()), {
        _tag: "resilient-websocket/ShutdownError",
        component: "client"
      })
    }))
})

describe("connecting", () => {
  it.effect("to nobody is a TransportError in the state, and a ConnectionTimeoutError for who waits", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const client = yield* H.clientOn(network.context)
      yield* until("it failed", () => Effect.map(client.state, ({ _tag }) => _tag === "Disconnected"))
      assert.deepInclude(yield* stateError(client), { _tag: "resilient-websocket/TransportError", operation: "dial" })
      const waiting = yield* Effect.forkChild(failure(client.awaitConnected({ timeout: "3 seconds" })))
      yield* advanceUntil("it gave up", () => waiting.pollUnsafe() !== undefined)
      assert.deepInclude(yield* Effect.flatten(Effect.sync(() => waiting.pollUnsafe() ?? Effect.die("?"))), {
        _tag: "resilient-websocket/ConnectionTimeoutError",
        phase: "connect",
        afterMillis: 3_000
      })
    }))

  it.effect("without the right to is a HandshakeError", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* H.serverOn(network.context, {
        authenticate: () =>
          new WebSocketError.HandshakeError({ reason: "unauthorized", detail: "no", retryable: false })
      })
      const client = yield* H.clientOn(network.context)
      assert.deepInclude(yield* failure(client.awaitConnected()), {
        _tag: "resilient-websocket/HandshakeError",
        reason: "unauthorized"
      })
      assert.strictEqual((yield* client.state)._tag, "Stopped")
    }))

  it.effect("to a full server is a HandshakeError that says to try again", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* H.serverOn(network.context, {}, { store: { registry: { maxSessions: 1 } } })
      yield* (yield* H.clientOn(network.context)).awaitConnected()
      const second = yield* H.clientOn(network.context)
      yield* until("it was refused", () => Effect.map(second.state, ({ _tag }) => _tag === "Disconnected"))
      assert.deepInclude(yield* stateError(second), {
        _tag: "resilient-websocket/HandshakeError",
        reason: "overloaded",
        retryable: true
      })
    }))

  it.effect("to what speaks something else is a ProtocolError", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* Context.get(network.context, Transport.TransportServer).listen((connection) => {
        connection.open({ frame: () => {}, drained: () => {}, alive: () => {}, closed: () => {} })
        connection.send(`{"t":"batch","o":1,"m":[1]}`)
      })
      const client = yield* H.clientOn(network.context)
      // It may be a hop that will be gone tomorrow: a client is not stopped by the first of them.
      yield* until("it was met", () => Effect.map(client.state, ({ _tag }) => _tag === "Disconnected"))
      assert.deepInclude(yield* stateError(client), { _tag: "resilient-websocket/ProtocolError", code: "unexpected" })
    }))

  it.effect("through an isolated circuit is a CircuitBreakerError", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const store = yield* H.makeStore()
      const breaker = Context.get(store, CircuitBreaker.CircuitBreaker)
      yield* breaker.isolate(CircuitBreaker.endpoint("ws://memory"), "moving house")
      const client = yield* H.clientOn(network.context, {}, { store })
      yield* until("it was refused", () => Effect.map(client.state, ({ _tag }) => _tag === "Disconnected"))
      assert.deepInclude(yield* stateError(client), {
        _tag: "resilient-websocket/CircuitBreakerError",
        state: "Isolated",
        reason: "moving house"
      })
      assert.strictEqual(network.dials, 0)
    }))

  it.live("on a port that is taken is a TransportError", () =>
    Effect.gen(function*() {
      const { server } = yield* H.nodeServer()
      const { port } = server.address
      const layer = NodeTransport.layerServer({ port })
      const second = Effect.scoped(Effect.flatMap(Layer.build(layer), (transport) => H.serverOn(transport)))
      const error = yield* Effect.flip(second)
      assert.deepInclude(error, { _tag: "resilient-websocket/TransportError", operation: "listen" })
    }))
})

describe("administering", () => {
  it.effect("a registry that is broken fails with SessionRegistryError", () =>
    Effect.gen(function*() {
      const store = yield* H.makeStore()
      const registry = Context.get(store, SessionRegistry.SessionRegistry)
      const { server } = yield* connected({
        serverStore: Context.add(store, SessionRegistry.SessionRegistry, {
          ...registry,
          remove: () => Effect.fail(lost)
        })
      })
      assert.deepInclude(yield* failure(server.endSession("alice")), {
        _tag: "resilient-websocket/SessionRegistryError",
        reason: "store"
      })
    }))

  it.effect("with an option that can't be dies of what is wrong with it", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const error = yield* H.mistake(H.serverOn(network.context, { heartbeat: "-1 seconds" as never }))
      assert.strictEqual(error.message, `option heartbeat must be a duration of more than zero, got "-1 seconds"`)
      const wrong = yield* H.mistake(H.clientOn(network.context, { maxPayloadBytes: 1.5 }))
      assert.strictEqual(wrong.message, "option maxPayloadBytes must be a whole number of at least 1, got 1.5")
    }))

  it("raised every error there is", () => {
    const tags = WebSocketError.WebSocketError.members.map(({ identifier }) => identifier)
    assert.deepStrictEqual([...raised].sort(), [...tags].sort())
  })
})
