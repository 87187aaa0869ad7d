/**
 * No option is overlooked in silence: a name that there is not, and a value that can't be, are refused wherever options
 * are taken. The interfaces are found in the sources, so that a new one, or a new option, is noticed here.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, Effect, Exit, Layer, Redacted, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { createServer } from "node:http"
import {
  CircuitBreaker,
  Contract,
  Deduplicator,
  MemoryStore,
  MessageQueue,
  ResilientClient,
  ResilientServer,
  SessionRegistry,
  Transport
} from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { PostgresStore } from "resilient-websocket/postgres"
import * as Face from "resilient-websocket/promise"
import { RedisClient, RedisStore } from "resilient-websocket/redis"
import { SqliteClient, SqliteStore } from "resilient-websocket/sqlite"
import { FaultProxy } from "resilient-websocket/testing/node"
import { onTestFinished } from "vitest"
import type { WebSocket } from "ws"
import * as Docs from "./support/docs.ts"
import { listen, makeManager, plainPeer } from "./support/promise.ts"

/** What is given is of any shape: that it is refused is what is tested. */
type Given = never

/** Gives options to whoever takes them, and says what is wrong with them; undefined if nothing is. */
type Take = (given: Given) => Promise<string | undefined>

const messageOf = (fault: unknown): string => {
  if (fault instanceof Config.ConfigError) return fault.cause.message
  if (!(fault instanceof Error)) return String(fault)
  return fault.message === "" ? messageOf(fault.cause) : fault.message
}

const effect = (make: (given: Given) => Effect.Effect<unknown, unknown>): Take => async (given) => {
  const exit = await Effect.runPromiseExit(Effect.suspend(() => make(given)))
  if (Exit.isSuccess(exit)) return undefined
  return messageOf(Cause.squash(exit.cause))
}

const layer = (make: (given: Given) => Layer.Layer<never, unknown> | Layer.Layer<unknown, unknown>): Take =>
  effect((given) => Effect.scoped(Layer.build(make(given) as Layer.Layer<unknown, unknown>)))

const promise = (call: (given: Given) => Promise<unknown>): Take => (given) =>
  call(given).then(() => undefined, messageOf)

const Memory = Layer.merge(MemoryStore.layer(), Transport.layerMemory)
const schemas = { incoming: Schema.Unknown, outgoing: Schema.Unknown }

/** A server, or a client, in memory, and what is asked of it. */
const ofServer = (
  use: (server: ResilientServer.ResilientServer<unknown, unknown>, given: Given) => Effect.Effect<unknown, unknown>
) =>
  effect((given) =>
    Effect.scoped(Effect.flatMap(ResilientServer.make(schemas), (server) => use(server, given))).pipe(
      Effect.provide(Memory)
    )
  )

const ofClient = (
  use: (client: ResilientClient.ResilientClient<unknown, unknown>, given: Given) => Effect.Effect<unknown, unknown>
) =>
  effect((given) =>
    Effect.scoped(Effect.gen(function*() {
      yield* ResilientServer.make(schemas)
      const client = yield* ResilientClient.make({ ...schemas, url: "ws://memory" })
      return yield* use(client, given)
    })).pipe(Effect.provide(Memory))
  )

/** A manager that has a session `ann`. */
const ofManager = (use: (manager: Face.ResilientWebSocketManager, given: Given) => Promise<unknown>): Take =>
  promise(async (given) => {
    const manager = await makeManager()
    const registered = Promise.withResolvers<unknown>()
    const { url } = await listen((ws) => registered.resolve(manager.registerConnection(ws, { sessionId: "ann" })))
    await plainPeer(url)
    await registered.promise
    return use(manager, given)
  })

const make = (options: (given: Given) => object): Take =>
  promise(async (given) => {
    const manager = await Face.ResilientWebSocketManager.make({ log: false, ...options(given) })
    await manager.gracefulShutdown({ timeout: 100 })
  })

const connect = (options: (given: Given) => object) => async (given: Given) => {
  const client = await Face.ResilientClient.connect("ws://127.0.0.1:9", { log: false, wait: false, ...options(given) })
  onTestFinished(() => client.close({ timeout: 100, flushPending: false }).then(() => {}))
  return client
}

const ofFaceClient = (use: (client: Face.ResilientClient, given: Given) => Promise<unknown>): Take =>
  promise(async (given) => use(await connect(() => ({}))(undefined as Given), given))

/** By the names under which the interfaces are documented. */
const takers: Readonly<Record<string, Take>> = {
  "ResilientServer.Options": effect((given: object) =>
    Effect.provide(Effect.scoped(ResilientServer.make({ ...schemas, ...given })), Memory)
  ),
  "ResilientServer.ShutdownOptions": ofServer((server, given) => server.shutdownWith(given)),
  "ResilientClient.Options": effect((given: object) =>
    Effect.provide(Effect.scoped(ResilientClient.make({ ...schemas, url: "ws://memory", ...given })), Memory)
  ),
  "MessageQueue.Options": layer((given) => MessageQueue.layerMemory(given)),
  "Deduplicator.Options": layer((given) => Deduplicator.layerMemory(given)),
  "SessionRegistry.Options": layer((given) => SessionRegistry.layerMemory(given)),
  "CircuitBreaker.SessionOptions": layer((session) => CircuitBreaker.layer({ session })),
  "CircuitBreaker.EndpointOptions": layer((endpoint) => CircuitBreaker.layer({ endpoint })),
  "CircuitBreaker.Options": layer((given) => CircuitBreaker.layer(given)),
  "MemoryStore.Options": layer((given) => MemoryStore.layer(given)),
  StoreOptions: layer((given: object) => SqliteStore.layer({ filename: ":memory:", ...given })),
  "SqliteStore.ClientOptions": layer((given: object) => SqliteStore.layer({ filename: ":memory:", ...given })),
  "SqliteClient.Options": layer((given: object) => SqliteClient.layer({ filename: ":memory:", ...given })),
  "PostgresStore.ClientOptions": layer((given: object) =>
    PostgresStore.layer({ url: Redacted.make("postgres://127.0.0.1:9/none"), connectTimeout: "1 second", ...given })
  ),
  "postgresDriver.PostgresDriverOptions": layer((given: { readonly timeout?: never; readonly schema?: never }) =>
    PostgresStore.layer({
      url: Redacted.make("postgres://127.0.0.1:9/none"),
      ...given
    })
  ),
  "RedisStore.ClientOptions": layer((given: object) => RedisStore.layer({ url: "redis://127.0.0.1:9", ...given })),
  "RedisStore.Options": layer((given: object) => RedisStore.layer({ url: "redis://127.0.0.1:9", ...given })),
  "RedisStore.ClusterOptions": layer((given: object) =>
    RedisStore.layerCluster({ cluster: { nodes: ["redis://127.0.0.1:9"] }, ...given })
  ),
  "RedisClient.ClusterOptions": layer((given: object) =>
    RedisClient.layerCluster({ nodes: ["redis://127.0.0.1:9"], ...given })
  ),
  "NodeTransport.ServerOptions": effect((given: object) =>
    Effect.flatMap(Transport.TransportServer, (transport) => Effect.scoped(transport.listen(() => {}))).pipe(
      Effect.provide(NodeTransport.layerServer({ port: 0, ...given }))
    )
  ),
  "Transport.HttpRouterOptions": effect((given: object) =>
    Effect.flatMap(Transport.TransportServer, (transport) => Effect.scoped(transport.listen(() => {}))).pipe(
      Effect.provide(Transport.layerServerHttpRouter({ path: "/live", ...given })),
      Effect.provide(
        Layer.merge(HttpRouter.layer, NodeHttpServer.layerServer(createServer, { port: 0, host: "127.0.0.1" }))
      )
    )
  ),
  "ownServers.WebSocketServerOptions": effect((given: object) =>
    Effect.try({
      try: () => NodeTransport.webSocketServerOptions(given),
      catch: (fault) => fault
    })
  ),
  "FaultProxy.Options": effect((given: object) =>
    Effect.scoped(FaultProxy.make({ target: { host: "127.0.0.1", port: 9 }, ...given }))
  ),
  "Message.TracingOptions": effect((given: object) =>
    Effect.provide(Effect.scoped(ResilientServer.make({ ...schemas, ...given })), Memory)
  ),
  "Message.SendOptions": ofClient((client, given) => client.send(1, given)),
  "Message.SendAllOptions": ofClient((client, given) => client.sendAll([1], given)),
  "Message.BroadcastOptions": ofServer((server, given) => server.broadcast(1, given)),

  "options.QueueOptions": make((given) => given),
  "options.BreakerOptions": make((breaker) => ({ breaker })),
  "options.RetryOptions": make((handlerRetry) => ({ handlerRetry })),
  "options.CommonOptions": make((given) => given),
  "managerOptions.ManagerOptions": make((given) => given),
  "managerOptions.RegisterOptions": ofManager((manager, given) => manager.registerConnection({} as WebSocket, given)),
  "managerOptions.SendOptions": ofManager((manager, given) => manager.send("ann", 1, given)),
  "options.SendAllOptions": ofManager((manager, given) => manager.sendAll("ann", [1], given)),
  "managerOptions.BroadcastOptions": ofManager((manager, given) => manager.broadcast(1, given)),
  "managerOptions.StatsOptions": ofManager((manager, given) => manager.getStats(given)),
  "managerOptions.GracefulShutdownOptions": ofManager((manager, given) => manager.gracefulShutdown(given)),
  "clientOptions.ClientOptions": promise(connect((given) => given)),
  "options.ReliableSendOptions": ofFaceClient((client, given) => client.send(1, given)),
  "clientOptions.ConnectedOptions": ofFaceClient((client, given) => client.connected(given)),
  "clientOptions.CloseOptions": ofFaceClient((client, given) => client.close(given))
}

const interfaces = Docs.optionsInterfaces().filter(({ name }) => !Docs.notForUsers.includes(name))

/** Values that no option of this type may have; null is one for all. */
const impossible: Readonly<Record<string, ReadonlyArray<unknown>>> = {
  duration: [Number.NaN, -1, "soon", {}, { second: 1 }, true],
  number: [Number.NaN, -1, "5", 1.5, {}],
  bytes: [Number.NaN, -1, "5", 1.5, {}],
  function: [5, {}],
  boolean: [0, "true"],
  string: [5, {}],
  options: [5, "x", [], true]
}

/** Null is what `URLSearchParams` gives for none; and an id may be the peer's choice, so that it is the peer who is refused. */
const mayBeAnything = ["managerOptions.RegisterOptions.sessionId"]

const refused = async (take: Take, given: object): Promise<string> => {
  const message = await take(given as Given)
  return message ?? assert.fail(`${JSON.stringify(given)} is taken`)
}

describe.each(interfaces)("$name", ({ name, options }) => {
  const take: Take = takers[name] ?? (() => assert.fail(`say in this test who takes ${name}`))

  it("has no option that is misspelt in silence", async () => {
    for (const option of options) {
      const misspelt = option.name.slice(0, -1)
      const message = await refused(take, { [misspelt]: undefined })
      assert.include(message, `${misspelt}: did you mean`)
      assert.include(message, option.name)
    }
    assert.match(await refused(take, { zzzzzzzz: 1 }), /there is no option (\w+\.)*zzzzzzzz: there are /)
  })

  it("has no option with a value that can't be", async () => {
    for (const option of options) {
      if (mayBeAnything.includes(`${name}.${option.name}`)) continue
      for (const value of [null, ...(impossible[option.type] ?? [])]) {
        assert.include(await refused(take, { [option.name]: value }), option.name, String(value))
      }
    }
  })
})

it.each<[string, Take]>([
  ["a manager", promise((given) => Face.ResilientWebSocketManager.make(given))],
  ["a client of the promise face", promise((given) => Face.ResilientClient.connect("ws://127.0.0.1:9", given))],
  ["a send", takers["managerOptions.SendOptions"] ?? assert.fail()],
  ["a client's send", takers["Message.SendOptions"] ?? assert.fail()],
  ["a queue", takers["MessageQueue.Options"] ?? assert.fail()],
  ["a store", takers["MemoryStore.Options"] ?? assert.fail()]
])("the options of %s are an object", async (_, take) => {
  for (const given of [5, "text", true, null, []]) {
    const message = await take(given as Given)
    assert.isDefined(message, `${given} is taken`)
  }
})

describe("options within options", () => {
  it.each<[string, Take, object]>([
    ["window.mesages", make((given) => given), { window: { mesages: 1 } }],
    ["restartIntensity.restart", make((given) => given), { restartIntensity: { restart: 1, period: 1 } }],
    ["handlerRetry.attempt", make((given) => given), { handlerRetry: { attempt: 1 } }],
    ["reconnect.bas", promise(connect((given) => given)), { reconnect: { bas: 1 } }],
    ["on.refusd", make((given) => given), { on: { refusd: () => {} } }],
    ["store.filname", make((given) => given), { store: { type: "sqlite", filname: "x", filename: "x" } }],
    ["queue.maxMesages", layer((given) => MemoryStore.layer(given)), { queue: { maxMesages: 1 } }],
    ["breaker.session.openBas", layer((given) => MemoryStore.layer(given)), { breaker: { session: { openBas: 1 } } }]
  ])("%s is refused by its whole name", async (name, take, given) => {
    assert.include(await refused(take, given), name)
  })

  it.each([
    ["overflow", "dropAll"],
    ["logLevel", "Warning"],
    ["log", true],
    ["sessionMessage", "welcome"],
    ["store", "sqlite"]
  ])("%s is one of those that there are", async (name, value) => {
    assert.include(await refused(make((given) => given), { [name]: value }), `option ${name} must be`)
  })
})

describe("what a contract gives", () => {
  const Chat = Contract.make("test/options/Chat", { toServer: Schema.String, toClient: Schema.String })
  const given = { incoming: Schema.Number } as object

  it("is no option of its server and client", async () => {
    const server = layer(() => Layer.provide(Chat.layerServer(given), Memory))
    const client = layer(() => Layer.provide(Chat.layerClient({ url: "ws://memory", ...given }), Memory))
    assert.include(await refused(server, {}), "there is no option incoming")
    assert.include(await refused(client, {}), "there is no option incoming")
  })
})

describe("events", () => {
  it("that there are not have no listeners", async () => {
    const manager = await makeManager()
    const client = await connect(() => ({}))(undefined as Given)
    assert.throws(() => manager.on("refusd" as "refused", () => {}), Face.ConfigError, "did you mean refused?")
    assert.throws(
      () => client.on("stateChang" as "stateChange", () => {}),
      Face.ConfigError,
      "did you mean stateChange?"
    )
    assert.throws(() => manager.on("refused", undefined as unknown as () => void), "must be a function")
  })
})
