/** Faults that a test causes: what each does to a server and a client, in memory and on real sockets. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"
import {
  CircuitBreaker,
  Contract,
  MemoryStore,
  type Message,
  type ResilientClient,
  Transport
} from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { Faults } from "resilient-websocket/testing"
import { advance, advanceUntil, collect, turn } from "./support/harness.ts"

const Shop = Contract.make("test/Faults", { toServer: Schema.String, toClient: Schema.String })

const url = ({ address }: { readonly address: Transport.Address }) =>
  address.host === "memory" ? "ws://memory" : `ws://${address.host}:${address.port}`

/** Transports of which one has the faults, or both as they are one. */
const places = {
  "in memory": Faults.layer(Transport.layerMemory),
  "at the client of real sockets": Layer.merge(
    Faults.layer(NodeTransport.layerClient),
    NodeTransport.layerServer({ port: 0 })
  ),
  "at the server of real sockets": Layer.merge(
    Faults.layer(NodeTransport.layerServer({ port: 0 })),
    NodeTransport.layerClient
  )
}

/** A server and a client, connected. */
const shopOn = Effect.fnUntraced(function*(
  place: keyof typeof places,
  options: {
    readonly store?: MemoryStore.Options
    readonly connected?: boolean
    readonly reconnect?: ResilientClient.Options<string, string>["reconnect"]
  } = {}
) {
  const transports = yield* Layer.build(Layer.fresh(places[place]))
  const faults = Context.get(transports, Faults.Faults)
  const atServer: Array<string> = []
  const atClient: Array<string> = []
  const Server = Shop.layerServer({
    authenticate: () => Effect.succeed({ session: "alice", principal: "alice" }),
    onMessage: (text) => Effect.sync(() => atServer.push(text))
  }).pipe(Layer.provide(MemoryStore.layer()), Layer.provide(Layer.succeedContext(transports)))
  const server = Context.get(yield* Layer.build(Server), Shop.Server)
  const events = yield* collect(server.connections)
  if (options.connected === false) yield* faults.loseNextWelcome
  const Client = Shop.layerClient({
    url: url(server),
    reconnect: options.reconnect,
    onMessage: (text) => Effect.sync(() => atClient.push(text))
  })
    .pipe(Layer.provideMerge(MemoryStore.layer(options.store)), Layer.provide(Layer.succeedContext(transports)))
  const context = yield* Layer.build(Client)
  const client = Context.get(context, Shop.Client)
  if (options.connected !== false) yield* client.awaitConnected()
  const breaker = Context.get(context, CircuitBreaker.CircuitBreaker)
  const isConnected = Effect.map(client.state, ({ _tag }) => _tag === "Connected")
  return { faults, server, client, breaker, isConnected, events, atServer, atClient }
})

/** Moves the clock until the message has been handled: retries and reconnects take their time. */
const handled = Effect.fnUntraced(function*(receipt: Message.Receipt) {
  const fiber = yield* Effect.forkChild(receipt.handled)
  yield* advanceUntil("it is handled", () => fiber.pollUnsafe() !== undefined)
  yield* Fiber.join(fiber)
})

describe.each(["in memory", "at the client of real sockets", "at the server of real sockets"] as const)(
  "%s",
  (place) => {
    it.effect("a message that is sent while the network is down is handled once, when it is back", () =>
      Effect.gen(function*() {
        const { atServer, client, faults } = yield* shopOn(place)
        yield* faults.refuse
        yield* faults.cut
        yield* advanceUntil("a dial is refused", () => Effect.map(faults.counts, ({ refused }) => refused > 0))
        const receipt = yield* client.send("tea")
        assert.strictEqual(receipt._tag, "Queued")
        assert.deepStrictEqual(atServer, [])
        yield* faults.heal
        yield* handled(receipt)
        assert.deepStrictEqual(atServer, ["tea"])
        assert.strictEqual((yield* faults.counts).open, 1)
      }))

    it.effect("a message whose ack is lost is not handled twice", () =>
      Effect.gen(function*() {
        const { atClient, faults, server } = yield* shopOn(place)
        yield* faults.loseNextAck({ direction: "toServer" })
        const receipt = yield* server.send("alice", "tea")
        yield* faults.awaitCounts(({ lost, open }) => lost === 1 && open === 0)
        assert.deepStrictEqual(atClient, ["tea"])
        yield* handled(receipt)
        assert.deepStrictEqual(atClient, ["tea"])
        assert.strictEqual((yield* faults.counts).dials, 2)
      }))

    it.effect("a message that is lost with its connection is sent again", () =>
      Effect.gen(function*() {
        const { atServer, client, faults } = yield* shopOn(place)
        yield* faults.loseNextMessage({ direction: "toClient" }) // never comes
        yield* faults.loseNextMessage({ direction: "toServer" })
        const receipt = yield* client.send("tea")
        yield* faults.awaitCounts(({ lost, open }) => lost === 1 && open === 0)
        assert.deepStrictEqual(atServer, [])
        yield* faults.heal
        yield* handled(receipt)
        assert.deepStrictEqual(atServer, ["tea"])
        assert.strictEqual((yield* client.stats).totals.messagesRedelivered, 1)
      }))

    it.effect("a client whose welcome is lost comes back to its session, and what it sent is handled once", () =>
      Effect.gen(function*() {
        const { atServer, client, events, faults } = yield* shopOn(place, { connected: false })
        const receipt = yield* client.send("tea")
        yield* faults.awaitCounts(({ lost, open }) => lost === 1 && open === 0)
        yield* handled(receipt)
        assert.deepStrictEqual(atServer, ["tea"])
        const connects = events.filter(({ _tag }) => _tag === "Connected")
        assert.deepStrictEqual(connects.map(({ session }) => session), ["alice", "alice"])
      }))

    it.effect("a half-open connection takes messages until heartbeats find it, and they are handled once", () =>
      Effect.gen(function*() {
        const { atServer, client, faults, isConnected } = yield* shopOn(place)
        yield* faults.halfOpen()
        const receipt = yield* client.send("tea")
        assert.strictEqual(receipt._tag, "Sent")
        yield* advance(7_000)
        assert.isTrue(yield* isConnected)
        assert.deepStrictEqual(atServer, [])
        yield* advanceUntil("they found it", () => Effect.map(faults.counts, ({ dials }) => dials === 2), {
          atMost: 25_000
        })
        yield* handled(receipt)
        assert.deepStrictEqual(atServer, ["tea"])
      }))

    it.effect("healing ends half-open connections, for both ends", () =>
      Effect.gen(function*() {
        const { client, events, faults } = yield* shopOn(place)
        yield* faults.halfOpen({ direction: "toServer" })
        const receipt = yield* client.send("tea")
        yield* faults.awaitCounts(({ lost }) => lost > 0)
        yield* faults.heal
        yield* handled(receipt)
        assert.deepInclude(events[1], { _tag: "Disconnected", code: 1006 })
      }))

    it.effect("of a cut, one side alone may be told", () =>
      Effect.gen(function*() {
        const { client, events, faults, isConnected } = yield* shopOn(place)
        yield* faults.halfOpen({ noticedBy: "server" })
        yield* advanceUntil("the server is told", () => events.length > 1, { step: 1 })
        assert.deepInclude(events[1], { _tag: "Disconnected", code: 1006 })
        assert.isTrue(yield* isConnected)
        yield* client.reconnect
        yield* advanceUntil("it is back", () => events.length > 2)
        yield* faults.halfOpen({ noticedBy: "client" })
        yield* advanceUntil("the client is back", () => Effect.map(faults.counts, ({ dials }) => dials === 3))
        yield* advanceUntil("the server knows", () => events.length > 3)
        // The server hears of the new connection first.
        assert.notInclude(events.slice(3).map((event) => "code" in event && event.code), 1006)
      }))

    it.effect("what is late comes at its time, in order", () =>
      Effect.gen(function*() {
        const { atServer, client, faults } = yield* shopOn(place)
        yield* faults.delay("3 seconds", { direction: "toServer" })
        const first = yield* client.send("tea")
        yield* faults.awaitCounts(({ late }) => late === 1)
        yield* advance(2_999)
        assert.deepStrictEqual(atServer, [])
        yield* faults.delay("1 second", { direction: "toServer" })
        yield* TestClock.adjust("1 milli")
        yield* first.handled
        yield* faults.delay("Infinity", { direction: "toServer" })
        const second = yield* client.send("cake")
        yield* faults.awaitCounts(({ late }) => late > 0)
        yield* advance(5_000)
        assert.deepStrictEqual(atServer, ["tea"])
        yield* faults.heal
        yield* second.handled
        assert.deepStrictEqual(atServer, ["tea", "cake"])
        assert.deepInclude(yield* faults.counts, { dials: 1, late: 0, lost: 0 })
      }))

    it.effect("a late connection closes without anybody moving the clock", () =>
      Effect.gen(function*() {
        const { client, faults, server } = yield* shopOn(place)
        yield* faults.delay("1 hour")
        yield* client.shutdown
        yield* server.shutdown
        assert.strictEqual((yield* faults.awaitCounts(({ open }) => open === 0)).dials, 1)
      }))
  }
)

describe("by the real clock", () => {
  it.live("a message is late, and then lost once, and is handled once", () =>
    Effect.gen(function*() {
      const { atServer, client, faults } = yield* shopOn("at the client of real sockets", {
        reconnect: { base: "1 milli", cap: "10 millis" }
      })
      yield* faults.delay("5 millis")
      yield* faults.loseNextAck()
      yield* (yield* client.send("tea")).handled
      assert.deepInclude(yield* faults.counts, { dials: 2, open: 1 })
      assert.deepStrictEqual(atServer, ["tea"])
    }))
})

describe("refused dials", () => {
  it.effect("open the circuit of the endpoint", () =>
    Effect.gen(function*() {
      const store = { breaker: { endpoint: { consecutiveFailures: 3, openBase: "30 seconds" } } } as const
      const { breaker, client, faults, isConnected } = yield* shopOn("in memory", { store })
      yield* faults.refuse
      yield* faults.cut
      const isOpen = () => breaker.stateUnsafe(CircuitBreaker.endpoint("ws://memory"))._tag === "Open"
      yield* advanceUntil("it is open", isOpen)
      assert.deepInclude(yield* faults.counts, { dials: 3, refused: 2 })
      const state = yield* client.state
      assert.isTrue("error" in state && state._tag === "Disconnected")
      yield* faults.heal
      yield* advanceUntil("it is back", () => isConnected)
    }))
})

/** Both ends of a connection in memory, the client's with faults, and what each was told. */
const ends = Effect.gen(function*() {
  const transports = yield* Layer.build(Faults.layer(Transport.layerMemory))
  const faults = Context.get(transports, Faults.Faults)
  let accepted: Transport.Connection | undefined
  yield* Context.get(transports, Transport.TransportServer).listen((connection) => {
    accepted = connection
  })
  const options = { url: "", protocol: "", headers: {}, timeoutMillis: 1, maxFrameBytes: 1 }
  const inner = yield* Context.get(transports, Transport.TransportClient).dial(options)
  const far = accepted ?? assert.fail("nothing was accepted")
  let isInCall = false
  /** Fails if the sink is called within a call to the connection. */
  const near = (call: (connection: Transport.Connection) => void) => {
    isInCall = true
    call(inner)
    isInCall = false
  }
  const told = { near: Array<string>(), far: Array<string>() }
  const sinkOf = (side: "near" | "far"): Transport.ConnectionSink => {
    const tell = (what: string) => {
      assert.isFalse(isInCall, `${what} within a call to the connection`)
      told[side].push(what)
    }
    return {
      frame: (data) => tell(typeof data === "string" && data.length < 10 ? data : "a long frame"),
      drained: () => tell("drained"),
      alive: () => tell("alive"),
      closed: (code) => tell(`closed ${code}`)
    }
  }
  near((connection) => connection.open(sinkOf("near")))
  far.open(sinkOf("far"))
  return { faults, near, far, told, inner, settle: Effect.replicateEffect(turn, 5, { discard: true }) }
})

const long = "x".repeat(100 * 1024)

describe("a connection with faults", () => {
  it.effect("counts what is late as buffered, and says when it has drained", () =>
    Effect.gen(function*() {
      const { faults, inner, near, settle, told } = yield* ends
      yield* faults.delay("Infinity")
      for (let i = 0; i < 3; i++) near((connection) => connection.send(long))
      yield* settle
      assert.strictEqual(inner.buffered(), 3 * long.length)
      yield* faults.heal
      yield* settle
      assert.strictEqual(inner.buffered(), 0)
      assert.deepStrictEqual(told, { near: ["drained"], far: Array(3).fill("a long frame") })
    }))

  it.effect("lets its sender wait while much of what it sent is late", () =>
    Effect.gen(function*() {
      const { far, faults, settle, told } = yield* ends
      yield* faults.delay("Infinity", { direction: "toClient" })
      for (let i = 0; i < 5; i++) far.send(long)
      yield* settle
      assert.strictEqual(far.buffered(), 2 * long.length)
      yield* faults.heal
      yield* settle
      assert.strictEqual(far.buffered(), 0)
      assert.deepStrictEqual(told, { near: Array(5).fill("a long frame"), far: ["drained"] })
    }))

  it.effect("holds back what is due while it is paused, and keeps the order", () =>
    Effect.gen(function*() {
      const { far, faults, near, settle, told } = yield* ends
      yield* faults.delay("1 second")
      far.send("one")
      yield* settle
      near((connection) => connection.pause())
      yield* TestClock.adjust("1 second")
      yield* faults.heal
      far.send("two")
      yield* settle
      assert.deepStrictEqual(told.near, [])
      near((connection) => connection.resume())
      yield* settle
      assert.deepStrictEqual(told.near, ["one", "two"])
    }))

  it.effect("answers pings late", () =>
    Effect.gen(function*() {
      const { faults, near, settle, told } = yield* ends
      yield* faults.delay("1 second")
      near((connection) => connection.ping())
      yield* advance(1_999, 1_000)
      assert.deepStrictEqual(told.near, [])
      yield* TestClock.adjust("1 milli")
      yield* settle
      assert.deepStrictEqual(told.near, ["alive"])
    }))

  it.effect("is closed once, and last, whoever closes it and however often", () =>
    Effect.gen(function*() {
      for (const first of ["cut", "close", "terminate", "far", "halfOpen"] as const) {
        const { far, faults, near, settle, told } = yield* ends
        const written: Array<boolean> = []
        yield* faults.delay("1 hour")
        far.send("late")
        near((connection) => connection.send("late", (ok) => written.push(ok)))
        yield* settle
        if (first === "cut") yield* faults.cut
        if (first === "far") far.close(1000, "")
        if (first === "halfOpen") yield* faults.halfOpen()
        if (first === "close") near((connection) => connection.close(1000, ""))
        near((connection) => connection.terminate())
        near((connection) => connection.close(4000, ""))
        near((connection) => connection.send("never", (ok) => written.push(ok)))
        yield* settle
        yield* faults.heal
        yield* settle
        assert.deepStrictEqual(told.near, [first === "far" ? "closed 1000" : "closed 1006"], first)
        assert.strictEqual(written.length, 2, first)
        assert.strictEqual((yield* faults.counts).open, 0, first)
        assert.strictEqual(told.far.filter((what) => what.startsWith("closed")).length, 1, first)
      }
    }).pipe(Effect.scoped))

  it.effect("tells a sink that comes after a cut", () =>
    Effect.gen(function*() {
      const transports = yield* Layer.build(Faults.layer(Transport.layerMemory))
      const faults = Context.get(transports, Faults.Faults)
      yield* Context.get(transports, Transport.TransportServer).listen(() => {})
      const options = { url: "", protocol: "", headers: {}, timeoutMillis: 1, maxFrameBytes: 1 }
      const connection = yield* Context.get(transports, Transport.TransportClient).dial(options)
      yield* faults.cut
      const ignore = () => {}
      const code = yield* Effect.callback<number>((resume) =>
        connection.open({
          frame: ignore,
          drained: ignore,
          alive: ignore,
          closed: (code) => resume(Effect.succeed(code))
        })
      )
      assert.strictEqual(code, 1006)
    }))
})
