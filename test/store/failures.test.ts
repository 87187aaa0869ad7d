/**
 * What becomes of a server's messages when its database server is not there, goes away and comes back, answers late or
 * never: nothing that was accepted is lost, nothing is handled twice, every failure is typed, and all goes on by itself.
 * SQLite is in `sqliteFailures.test.ts`.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Option, References, type Scope } from "effect"
import { TestClock } from "effect/testing"
import { CircuitBreaker, MessageQueue } from "resilient-websocket"
import { PostgresStore } from "resilient-websocket/postgres"
import { RedisStore } from "resilient-websocket/redis"
import { type StoreDriver, StoreError } from "../../src/internal/store/driver.ts"
import { layerOf, type StoreOptions } from "../../src/internal/store/layer.ts"
import { amount } from "../support/everything.ts"
import { advance, advanceUntil, byToken, clientOn, serverOn, type Store, until } from "../support/harness.ts"
import { makeNetwork } from "../support/harnessNetwork.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"
import { connectTo, describeWithPostgres, newSchema, type PostgresServer } from "../support/postgresServer.ts"
import { newPrefix } from "../support/redisDrivers.ts"
import { describeWithRedis, type RedisServer } from "../support/redisServer.ts"
import { makeStoreProxy } from "../support/storeProxy.ts"
import { assertOfTheStore, startTraffic } from "../support/storeTraffic.ts"

/** A database server, and a store on it that no other test has. */
interface Database {
  readonly port: number
  readonly kill: Effect.Effect<void>
  readonly start: Effect.Effect<void>
  /** Cuts the connections that there are, as an administrator does. */
  readonly cutConnections: Effect.Effect<unknown, unknown, Scope.Scope>
  /** The services, on this port. */
  readonly store: (options?: StoreOptions, port?: number) => Effect.Effect<Store, unknown, Scope.Scope>
}

interface Kind {
  readonly name: "postgres" | "redis"
  readonly title: string
  /** Like `describe`, with a server that its tests share: each leaves it running. */
  readonly describeWith: (title: string, tests: (database: Effect.Effect<Database>) => void) => void
}

/** Calls that are given up soon, sends that are not, and circuits that come back soon. */
const soon: StoreOptions = {
  callTimeout: "500 millis",
  appendTimeout: "200 seconds",
  breaker: { endpoint: { openBase: "50 millis", openCap: "200 millis" } }
}

const databaseOnPostgres = (server: PostgresServer): Database => {
  const { database, host, username } = server
  const schema = newSchema()
  return {
    ...server,
    cutConnections: Effect.flatMap(
      connectTo(server, { maxConnections: 1 }),
      (sql) => sql.unsafe("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    ),
    store: (options, port = server.port) =>
      Layer.build(PostgresStore.layer({ ...soon, ...options, schema, host, port, username, database }))
  }
}

const databaseOnRedis = (server: RedisServer): Database => {
  const prefix = newPrefix()
  return {
    ...server,
    cutConnections: Effect.andThen(
      server.command("CLIENT", "KILL", "TYPE", "pubsub"),
      server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    ),
    store: (options, port = server.port) =>
      Effect.suspend(() => {
        // As by itself, a client gives up while it has never been connected; but then it comes back sooner.
        let wasConnected = false
        const reconnectStrategy = (_: number, cause: Error) => wasConnected ? 20 : cause
        const url = `redis://127.0.0.1:${port}`
        return Effect.tap(
          Layer.build(
            RedisStore.layer({ ...soon, ...options, prefix, url, client: { socket: { reconnectStrategy } } })
          ),
          () => Effect.sync(() => (wasConnected = true))
        )
      })
  }
}

const kinds: ReadonlyArray<Kind> = [
  {
    name: "postgres",
    title: "PostgreSQL",
    describeWith: (title, tests) =>
      describeWithPostgres(title, {}, (server) => tests(Effect.map(server, databaseOnPostgres)))
  },
  {
    name: "redis",
    title: "Redis",
    describeWith: (title, tests) =>
      describeWithRedis(title, { appendfsync: "always" }, (server) => tests(Effect.map(server, databaseOnRedis)))
  }
]

/** Without logs: that connections are lost is what these tests are about. */
const test = (name: string, effect: Effect.Effect<void, unknown, Scope.Scope>) =>
  it.live(name, () => Effect.provideService(effect, References.MinimumLogLevel, "None"))

for (const { describeWith, name, title } of kinds) {
  const untilCircuit = (store: Store, tag: CircuitBreaker.State["_tag"]) => {
    const circuit = Context.get(store, CircuitBreaker.CircuitBreaker).state(CircuitBreaker.endpoint(`store:${name}`))
    return until(`the circuit is ${tag}`, () => Effect.map(circuit, ({ _tag }) => _tag === tag))
  }

  describeWith(`a server whose ${title} fails`, (server) => {
    test(
      "is told so at once when the database is not there at the start",
      Effect.gen(function*() {
        const database = yield* server
        yield* database.kill
        // In no time: on a clock that nobody moves.
        const exit = yield* Effect.provide(Effect.exit(database.store()), TestClock.layer())
        yield* database.start
        const error = Exit.findErrorOption(exit)
        assert.propertyVal(
          Option.getOrThrow(error),
          "_tag",
          name === "redis" ? "RedisError" : "resilient-websocket/MessageQueueError"
        )
      })
    )

    test(
      "loses and repeats nothing when the database is killed and comes back, and sends wait for it",
      Effect.gen(function*() {
        const database = yield* server
        const store = yield* database.store()
        const traffic = yield* startTraffic(store)
        for (let outage = 0; outage < amount(4, 1); outage++) {
          yield* traffic.more(10)
          yield* database.kill
          yield* untilCircuit(store, "Open")
          yield* database.start
          yield* untilCircuit(store, "Closed")
        }
        yield* traffic.more(10)
        yield* traffic.end
        assert.deepStrictEqual(traffic.failures, [])
      })
    )

    test(
      "loses and repeats nothing when its clients lose their connections too, before, while and after it is down",
      Effect.gen(function*() {
        const database = yield* server
        const store = yield* database.store()
        const traffic = yield* startTraffic(store)
        for (let outage = 0; outage < amount(6, 2); outage++) {
          yield* traffic.more(5)
          yield* traffic.cutClients
          yield* database.kill
          yield* traffic.cutClients
          yield* untilCircuit(store, "Open")
          yield* traffic.cutClients
          yield* database.start
          yield* traffic.cutClients
        }
        yield* traffic.more(5)
        yield* traffic.end
        assert.deepStrictEqual(traffic.failures, [])
      })
    )

    test(
      "fails sends that can't wait for the database, in time and with a typed error, and goes on when it is back",
      Effect.gen(function*() {
        const database = yield* server
        const store = yield* database.store({ appendTimeout: "300 millis" })
        const traffic = yield* startTraffic(store)
        yield* traffic.more(10)
        yield* database.kill
        yield* until("sends fail", () => traffic.failures.length >= 10)
        yield* database.start
        yield* traffic.more(10)
        yield* traffic.end
        assertOfTheStore(traffic.failures)
      })
    )

    test(
      "loses and repeats nothing when its connections are cut again and again",
      Effect.gen(function*() {
        const database = yield* server
        const store = yield* database.store()
        const traffic = yield* startTraffic(store)
        for (let cut = 0; cut < amount(24, 6); cut++) {
          yield* traffic.more(3)
          yield* Effect.scoped(database.cutConnections)
        }
        yield* traffic.more(3)
        yield* traffic.end
        assert.deepStrictEqual(traffic.failures, [])
      })
    )

    test(
      "stores everything once when the answers of the database are lost",
      Effect.gen(function*() {
        const database = yield* server
        const proxy = yield* makeStoreProxy(database.port)
        const store = yield* database.store({}, proxy.port)
        const traffic = yield* startTraffic(store)
        for (let lost = 1; lost <= amount(60, 10); lost++) {
          yield* traffic.more(1)
          proxy.loseAnswer()
          yield* until("an answer is lost", () => proxy.lost() === lost)
        }
        yield* traffic.more(3)
        yield* traffic.end
        assert.deepStrictEqual(traffic.failures, [])
      })
    )

    test(
      "acknowledges a message only when it is stored that it was handled",
      Effect.gen(function*() {
        const database = yield* server
        const store = yield* database.store()
        const network = yield* makeNetwork
        const handled: Array<string> = []
        yield* serverOn(network.context, {
          authenticate: byToken,
          onMessage: (text) => Effect.sync(() => handled.push(text))
        }, { store })
        const client = yield* clientOn(network.context, { token: "alice" })
        yield* client.awaitConnected()
        yield* database.kill
        const [receipt = assert.fail("no receipt")] = yield* client.sendAll(["a", "b"])
        const acknowledged = yield* Effect.forkScoped(receipt.handled)
        yield* until("it is handled", () => handled.length === 2)
        yield* untilCircuit(store, "Open")
        assert.isUndefined(acknowledged.pollUnsafe())
        yield* database.start
        yield* Fiber.join(acknowledged)
        assert.deepStrictEqual(handled, ["a", "b"])
        assert.lengthOf(network.links, 1)
      })
    )

    test(
      "holds up nothing that needs no database when that is slow",
      Effect.gen(function*() {
        const database = yield* server
        const proxy = yield* makeStoreProxy(database.port)
        const store = yield* database.store({ appendTimeout: "500 millis", callTimeout: "20 seconds" }, proxy.port)
        const network = yield* makeNetwork
        const handled: Array<string> = []
        const onMessage = (text: string) => Effect.sync(() => handled.push(text))
        const { send } = yield* serverOn(
          network.context,
          { authenticate: byToken, heartbeat: "200 millis", onMessage },
          {
            store
          }
        )
        const [alice, bob] = yield* Effect.all([
          clientOn(network.context, { token: "alice", onMessage }),
          clientOn(network.context, { token: "bob", onMessage })
        ])
        yield* Effect.all([alice.awaitConnected(), bob.awaitConnected()])
        yield* Effect.addFinalizer(() => Effect.sync(proxy.flow))

        proxy.stall()
        const sending = yield* Effect.forkScoped(Effect.exit(send("alice", "stored")))
        const ofAlice = yield* alice.send("alice's")
        yield* until("it is handled, and its position on its way", () => handled.includes("alice's"))
        const ofBob = yield* bob.send("bob's")
        yield* send("alice", "volatile", { volatile: true })
        yield* until(
          "what needs no database passes",
          () => ["bob's", "volatile"].every((text) => handled.includes(text))
        )
        const exit = yield* Fiber.join(sending)
        assert.isTrue(Exit.isFailure(exit) && !Cause.hasDies(exit.cause))
        const before = network.newest().frames.length
        yield* until("heartbeats go on", () => network.newest().frames.length > before + 2)

        proxy.flow()
        yield* Effect.all([ofAlice.handled, ofBob.handled])
        yield* Effect.andThen(send("alice", "afterwards"), (sent) => sent.handled)
        assert.sameMembers(handled.filter((text) => text !== "stored"), ["alice's", "bob's", "volatile", "afterwards"])
        assert.lengthOf(network.links, 2)
      })
    )
  })
}

describe("a store that was down for long", () => {
  it.effect("is noticed soon when it is back", () =>
    Effect.gen(function*() {
      const driver = makeMemoryDriver(makeMemoryDatabase())
      let isDown = false
      const down = Effect.fail(new StoreError("append", new Error("the database is down")))
      const append: StoreDriver["append"] = (...args) => isDown ? down : driver.append(...args)
      const takeNudges: StoreDriver["takeNudges"] = (...args) => isDown ? down : driver.takeNudges(...args)
      const context = yield* Layer.build(layerOf(Effect.succeed({ ...driver, append, takeNudges }), 1, {}))
      const queue = Context.get(context, MessageQueue.MessageQueue)
      yield* queue.open("s", 1)
      const send = queue.append("s", [{ payload: "1", bytes: 1 }])
      isDown = true
      for (let i = 0; i < 30; i++) {
        const sending = yield* Effect.forkScoped(Effect.flip(send))
        yield* advance(10_000)
        yield* Fiber.join(sending)
      }
      isDown = false
      const sending = yield* Effect.forkScoped(send)
      const millis = yield* advanceUntil("it is stored", () => sending.pollUnsafe() !== undefined)
      yield* Fiber.join(sending)
      assert.isBelow(millis, 8_000)
    }))
})

describe("an append that failed, and is stored all the same", () => {
  it.effect("says that it is in doubt, and is delivered though nothing more is sent", () =>
    Effect.gen(function*() {
      const driver = makeMemoryDriver(makeMemoryDatabase())
      const lost = Effect.fail(new StoreError("append", new Error("the answer was lost")))
      const append: StoreDriver["append"] = (...args) => Effect.andThen(driver.append(...args), lost)
      const context = yield* Layer.build(
        layerOf(Effect.succeed({ ...driver, append }), 1, { appendTimeout: "1 second" })
      )
      const queue = Context.get(context, MessageQueue.MessageQueue)
      yield* queue.open("s", 1)
      const told: Array<string> = []
      yield* queue.onAppend((session) => told.push(session))
      const sending = yield* Effect.forkScoped(Effect.flip(queue.append("s", [{ payload: "1", bytes: 1 }])))
      yield* advance(2_000)
      assert.deepInclude(yield* Fiber.join(sending), {
        _tag: "resilient-websocket/MessageQueueError",
        reason: "store",
        inDoubt: true
      })
      yield* advanceUntil("it is found", () => told.length > 0)
      const { slots } = yield* queue.read("s", 1, 0, { maxMessages: 10, maxBytes: 1_000 })
      assert.lengthOf(slots, 1)
    }))
})
