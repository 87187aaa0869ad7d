/** The program's functions for events and messages: effects, in order, with services of their own, and within bounds. */
import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  Context,
  Effect,
  Latch,
  Layer,
  Redacted,
  Schedule,
  Schema,
  SchemaTransformation
} from "effect"
import { Contract, MemoryStore, Transport } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { recordLogs } from "./support/logs.ts"

const { advanceUntil, connected, until } = H

describe("onDeadLetter, onConnectionEvent and onStateChange", () => {
  it.effect("are run one after the other, in order, and to the end before a shutdown is over", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      let running = 0
      const slowly = (what: string) =>
        Effect.gen(function*() {
          assert.strictEqual(++running, 1)
          yield* Effect.yieldNow
          seen.push(what)
          running--
        })
      const { client, network, server } = yield* connected({
        server: {
          onConnectionEvent: ({ _tag }) => slowly(_tag),
          onDeadLetter: ({ message, reason }) => Effect.sync(() => seen.push(`${message} ${reason}`))
        },
        client: { onStateChange: ({ _tag }) => Effect.sync(() => seen.push(`client ${_tag}`)) }
      })
      yield* H.unplug(network, client)
      yield* server.sendAll("alice", ["1", "2", "3"])
      yield* server.shutdown
      assert.deepStrictEqual(seen.filter((what) => /^\d/.test(what)), ["1 shutdown", "2 shutdown", "3 shutdown"])
      assert.deepStrictEqual(seen.filter((what) => /^[A-Z]/.test(what)), ["Connected", "Disconnected"])
      assert.deepStrictEqual(seen.filter((what) => what.startsWith("client")).slice(0, 4), [
        "client Connecting",
        "client Connecting",
        "client Connected",
        "client Disconnected"
      ])
    }))

  it.effect("lose the oldest events when they are too slow, and count them", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(false)
      const seen: Array<string | undefined> = []
      const { client, network, server } = yield* connected({
        serverStore: { queue: { maxMessages: 20_000 } },
        server: {
          onDeadLetter: ({ message }) => Effect.andThen(gate.await, Effect.sync(() => seen.push(message)))
        }
      })
      yield* H.unplug(network, client)
      const sent = H.numbered(20_000)
      yield* server.sendAll("alice", sent)
      yield* server.endSession("alice")
      assert.strictEqual((yield* server.stats).totals.hooksDropped, 20_000 - 16_384)
      yield* gate.open
      yield* until("all that are left are seen", () => seen.length === 16_384)
      assert.deepStrictEqual(seen, sent.slice(-16_384))
    }))

  it.effect("go on after a failure and a defect, which are logged", () => {
    const { layer, logs } = recordLogs()
    return Effect.gen(function*() {
      const seen: Array<string> = []
      const { client } = yield* connected({
        client: {
          onStateChange: ({ _tag }) => {
            seen.push(_tag)
            if (_tag === "Connecting") throw new Error("a listener's fault")
            return Effect.fail("a listener's failure")
          }
        }
      })
      yield* client.shutdown
      assert.deepStrictEqual(seen, ["Connecting", "Connecting", "Connected", "Closed"])
      assert.isTrue(logs.some((log) => log.includes("onStateChange failed: Error: a listener's fault")))
    }).pipe(Effect.provide(layer))
  })
})

class Accounts extends Context.Service<Accounts, { readonly nameOf: (token: string) => string }>()("test/Accounts") {}
class Mail extends Context.Service<Mail, { readonly deliver: (text: string) => Effect.Effect<void> }>()("test/Mail") {}
class Cipher extends Context.Service<Cipher, { readonly shift: number }>()("test/Cipher") {}
class Vault extends Context.Service<Vault, { readonly token: Redacted.Redacted }>()("test/Vault") {}
class Directory extends Context.Service<Directory, { readonly url: string }>()("test/Directory") {}

const turned = (text: string, by: number) =>
  [...text].map((letter) => String.fromCharCode(letter.charCodeAt(0) + by)).join("")

/** Its coding needs a service. */
const Secret = Schema.String.pipe(
  Schema.decodeTo(
    Schema.String,
    SchemaTransformation.transformEffect({
      decode: (text: string) => Effect.map(Cipher, ({ shift }) => turned(text, -shift)),
      encode: (text: string) => Effect.map(Cipher, ({ shift }) => turned(text, shift))
    })
  )
)

class Chat extends Contract.make("test/Chat", { toServer: Secret, toClient: Schema.String, version: "2" }) {}

describe("what varies in a program", () => {
  it.effect("services of each hook, the data of authenticate, the errors of a handler: all arrive typed", () =>
    Effect.gen(function*() {
      const delivered: Array<string> = []
      class Busy extends Schema.TaggedError<Busy>()("Busy", {}) {}
      let attempts = 0
      const Server = Chat.layerServer({
        authenticate: ({ token }) =>
          Effect.map(Accounts, ({ nameOf }) => ({
            principal: nameOf(token === undefined ? "" : Redacted.value(token)),
            data: { role: "agent" as const }
          })),
        onMessage: (text, { data, principal }) =>
          Effect.gen(function*() {
            if (++attempts === 1) return yield* new Busy()
            const { deliver } = yield* Mail
            const role: "agent" | undefined = data?.role
            yield* deliver(`${text} from ${principal}, ${role}`)
          }),
        handlerRetry: ($) => $(Schedule.spaced("1 second")).pipe(Schedule.while(({ input }) => input._tag === "Busy"))
      })
      const Client = Chat.layerClient({
        url: Effect.map(Directory, ({ url }) => url),
        token: Effect.map(Vault, ({ token }) => token)
      })
      const network = yield* makeNetwork
      const services = Layer.mergeAll(
        Layer.succeed(Accounts, { nameOf: (token) => `the owner of ${token}` }),
        Layer.succeed(Mail, { deliver: (text) => Effect.sync(() => void delivered.push(text)) }),
        Layer.succeed(Cipher, { shift: 1 }),
        Layer.succeed(Vault, { token: Redacted.make("t") }),
        Layer.succeed(Directory, { url: "ws://memory" })
      )
      yield* Effect.gen(function*() {
        const client = yield* Chat.Client
        const receipt = yield* client.send("hello")
        yield* advanceUntil("it is delivered", () => delivered.length === 1)
        yield* receipt.handled
      }).pipe(
        Effect.provide(Client.pipe(
          Layer.provideMerge(Server),
          Layer.provide([MemoryStore.layer(), Layer.succeedContext(network.context), services])
        ))
      )
      const sent = network.newest().frames.filter(({ frame }) => frame.includes("\"batch\""))
      assert.isTrue(sent.some(({ frame }) => frame.includes("ifmmp")), "it was not coded with the cipher")
      assert.deepStrictEqual(delivered, ["hello from the owner of t, agent"])
    }))

  it.effect("a renewed token brings new data", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      let token = "first"
      const { client } = yield* connected({
        server: {
          authenticate: ({ token }) => Effect.succeed({ session: "alice", principal: "ann", data: H.textOf(token) }),
          onMessage: (_, { data }) => Effect.sync(() => void seen.push(data))
        },
        client: { token: Effect.sync(() => token) }
      })
      yield* (yield* client.send("a")).handled
      token = "second"
      yield* client.refreshToken
      yield* (yield* client.send("b")).handled
      assert.deepStrictEqual(seen, ["first", "second"])
    }))
})

describe("a contract", () => {
  const store = MemoryStore.layer()
  const server = Contract.make("test/Shop", { toServer: Schema.String, toClient: Schema.String, version: "2" })
  const turnedAway = Effect.fnUntraced(function*<Id extends string>(
    other: Contract.Contract<Id, typeof Schema.String, typeof Schema.String>
  ) {
    const transport = yield* Layer.build(Transport.layerMemory)
    yield* server.makeServer().pipe(Effect.provide(store), Effect.provideContext(transport))
    const client = yield* other.makeClient({ url: "ws://memory" }).pipe(
      Effect.provide(store),
      Effect.provideContext(transport)
    )
    return yield* Effect.exit(client.awaitConnected())
  })

  it.effect.each(
    [
      ["of another name", { id: "test/Bank", version: "2" }, "test/Bank 2"],
      ["of another version", { id: "test/Shop", version: "1" }, "test/Shop 1"]
    ] as const
  )("turns a client away that is %s, with both names", ([, { id, version }, name]) =>
    Effect.gen(function*() {
      const exit = yield* turnedAway(
        Contract.make(id, { toServer: Schema.String, toClient: Schema.String, version })
      )
      const detail = `this is a server of test/Shop 2, and the client is one of ${name}`
      assert.deepInclude(yield* Effect.flip(exit), {
        _tag: "resilient-websocket/HandshakeError",
        reason: "contract",
        retryable: false,
        detail
      })
    }))

  it.effect("takes a client that names no version", () =>
    Effect.gen(function*() {
      yield* yield* turnedAway(Contract.make("test/Shop", { toServer: Schema.String, toClient: Schema.String }))
    }))

  it("can be a class, and its Schemas can be read", () => {
    class Shop
      extends Contract.make("test/Shop", { toServer: Schema.Struct({ n: Schema.Int }), toClient: Schema.Null })
    {}
    assert.isTrue(Contract.isContract(Shop) && Contract.isContract(server) && !Contract.isContract({}))
    assert.deepStrictEqual(Object.keys(Shop.toServer.fields), ["n"])
    assert.strictEqual(Shop.id, "test/Shop")
    assert.isUndefined(Shop.version)
    assert.throws(() => Contract.make("", { toServer: Schema.Null, toClient: Schema.Null }), /id of a contract must be/)
  })

  it.effect("has layers whose settings come from Config", () =>
    Effect.gen(function*() {
      const handled: Array<string> = []
      const onMessage = (text: string) => Effect.sync(() => void handled.push(text))
      const Server = server.layerServerConfig({ maxPayloadBytes: Config.Int("BYTES") }, { onMessage })
      const Client = server.layerClientConfig({ url: Config.String("URL"), token: Config.Redacted("TOKEN") })
      yield* Effect.gen(function*() {
        const client = yield* server.Client
        yield* (yield* client.send("short")).handled
        assert.strictEqual(
          (yield* Effect.flip(client.send("too long a text")))._tag,
          "resilient-websocket/PayloadError"
        )
      }).pipe(
        Effect.provide(Client.pipe(Layer.provideMerge(Server), Layer.provide([store, Transport.layerMemory]))),
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ BYTES: 10, URL: "ws://memory", TOKEN: "t" })))
      )
      assert.deepStrictEqual(handled, ["short"])
    }))
})
