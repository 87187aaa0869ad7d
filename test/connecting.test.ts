/** What a client does about everything that may happen between a dial and a connection that lasts. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Stream } from "effect"
import { CircuitBreaker, type ResilientClient, Transport } from "resilient-websocket"
import { encode } from "../src/core/Codec.ts"
import type { Frame, Welcome } from "../src/core/Frame.ts"
import * as H from "./support/harness.ts"
import { advance, advanceUntil, connected, until } from "./support/harness.ts"
import { makeNetwork, type Network } from "./support/harnessNetwork.ts"

type State = ResilientClient.ConnectionState

const tagged = (client: H.Client, tag: State["_tag"]) => () => Effect.map(client.state, ({ _tag }) => _tag === tag)

/** Answers each connection with what the test says, instead of a server. */
const answering = Effect.fnUntraced(function*(network: Network, answer: (connection: Transport.Connection) => void) {
  const { listen } = Context.get(network.context, Transport.TransportServer)
  yield* listen((connection) => {
    connection.open({ frame: () => answer(connection), drained: () => {}, alive: () => {}, closed: () => {} })
  })
})

const position = { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } }
const outbox = { epoch: "theirs", acked: 0, last: 0 }
const welcome: Welcome = {
  t: "welcome",
  result: "fresh",
  session: "s",
  token: "t",
  generation: 1,
  out: outbox,
  in: position,
  continued: { in: false, out: false },
  window: { messages: 10, bytes: 1_000 },
  maxPayload: 1_000,
  heartbeat: 1,
  retention: 1,
  jitter: 1
}

describe("waits for the user's functions", () => {
  /** Hangs the second time it is asked, works before and after, and can't even be interrupted. */
  const hangsOnce = <A>(value: A) => {
    let calls = 0
    return Effect.suspend(() => ++calls === 2 ? Effect.uninterruptible(Effect.never) : Effect.succeed(value))
  }
  const hanging = {
    url: (): H.ClientOptions => ({ url: hangsOnce("ws://memory") }),
    token: (): H.ClientOptions => ({ token: hangsOnce<string | undefined>("alice") })
  }

  for (const name of ["url", "token"] as const) {
    const options = hanging[name]

    it.effect(`the ${name} that is never answered is given up, and asked for again`, () =>
      Effect.gen(function*() {
        const { client, network } = yield* connected({ client: options() })
        const states = yield* H.collect(client.states)
        network.newest().cut()
        yield* advanceUntil(
          "it is connected again",
          () => states.filter(({ _tag }) => _tag === "Connected").length === 2
        )
        const error = states.flatMap((state) => state._tag === "Disconnected" ? [state.error] : []).at(-1)
        assert.deepInclude(error, {
          _tag: "resilient-websocket/ConnectionTimeoutError",
          phase: name,
          afterMillis: 10_000
        })
      }))

    it.effect(`reconnect does not wait for the ${name}, and asks anew`, () =>
      Effect.gen(function*() {
        const { client, network } = yield* connected({ client: options() })
        network.newest().cut()
        yield* until("it is lost", tagged(client, "Disconnected"))
        yield* client.reconnect
        yield* until("it asks", tagged(client, "Connecting"))
        yield* H.turn
        assert.notStrictEqual((yield* client.state)._tag, "Connected")
        yield* client.reconnect
        yield* until("it is connected, and the clock stood still", tagged(client, "Connected"))
      }))
  }

  it.effect("a token that is never answered ends refreshToken", () =>
    Effect.gen(function*() {
      const { client } = yield* connected({ client: hanging.token() })
      const refreshed = yield* Effect.forkChild(Effect.flip(client.refreshToken), { startImmediately: true })
      yield* advance(10_000)
      yield* until("it has ended", () => refreshed.pollUnsafe() !== undefined)
    }))

  it.effect("a transport whose dial never settles is given up, and what it comes up with later is closed", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const inner = Context.get(network.context, Transport.TransportClient)
      let arrive: () => void = () => {}
      let dials = 0
      const context = Context.add(network.context, Transport.TransportClient, {
        dial: (options) =>
          ++dials > 1 ? inner.dial(options) : Effect.uninterruptible(
            Effect.flatMap(
              Effect.callback<void>((resume) => {
                arrive = () => resume(Effect.void)
              }),
              () => inner.dial(options)
            )
          )
      })
      const { client } = yield* H.pair({ ...network, context }).pipe(
        Effect.tap(({ client }) => Effect.succeed(client)),
        Effect.raceFirst(Effect.as(advance(30_000), undefined).pipe(Effect.andThen(Effect.never)))
      )
      assert.isTrue(yield* tagged(client, "Connected")())
      assert.strictEqual(dials, 2)
      arrive()
      yield* until("the late one has been made", () => network.links.length === 2)
      yield* H.turn
      const stats = yield* client.stats
      assert.isTrue(stats.session.connected)
    }))

  it.effect("a listener of states that throws is logged, and stops nothing", () =>
    Effect.gen(function*() {
      const { client } = yield* connected({
        client: {
          onStateChange: () => {
            throw new Error("a listener's fault")
          }
        }
      })
      assert.isTrue(yield* tagged(client, "Connected")())
      assert.strictEqual((yield* client.stats).totals.workerRestarts, 0)
    }))
})

describe("a frame before the welcome", () => {
  const frames: { readonly [T in Frame["t"]]: Extract<Frame, { readonly t: T }> } = {
    hello: { t: "hello", version: 1, instance: "i", out: outbox, in: position, window: welcome.window, maxPayload: 1 },
    welcome,
    batch: { t: "batch", o: 1, m: ["too early"] },
    ack: { t: "ack", a: [0, 0] },
    seen: { t: "seen", o: 1 },
    gap: { t: "gap", o: 1, e: 1, reason: "expired" },
    volatile: { t: "volatile", m: [1] },
    ping: { t: "ping" },
    pong: { t: "pong", a: [0, 0] },
    drain: { t: "drain", deadline: 1_000, window: 500 },
    auth: { t: "auth", auth: "x" },
    reject: { t: "reject", code: "overloaded", detail: "full" },
    end: { t: "end" }
  }
  const unexpected = { _tag: "resilient-websocket/ProtocolError", code: "unexpected" }
  const malformed = { _tag: "resilient-websocket/ProtocolError", code: "malformed" }
  /** What the client makes of each: which error, for how long it stays away at most, whether it stops in the end. */
  const rules: Record<string, { readonly text: string | Uint8Array; readonly error: object; readonly stops: boolean }> =
    {
      // Its log is not the client's.
      welcome: { text: encode(welcome), error: malformed, stops: true },
      drain: {
        text: encode(frames.drain),
        error: { _tag: "resilient-websocket/HandshakeError", reason: "draining" },
        stops: false
      },
      reject: {
        text: encode(frames.reject),
        error: { _tag: "resilient-websocket/HandshakeError", reason: "overloaded" },
        stops: false
      },
      ping: {
        text: encode(frames.ping),
        error: { _tag: "resilient-websocket/ConnectionTimeoutError", phase: "handshake" },
        stops: false
      },
      ...Object.fromEntries(
        Object.values(frames)
          .filter(({ t }) => !["welcome", "drain", "reject", "ping"].includes(t))
          .map((frame) => [frame.t, { text: encode(frame), error: unexpected, stops: true }])
      ),
      "a binary frame": { text: new Uint8Array([1, 2, 3]), error: malformed, stops: true },
      "a page": { text: "<html>please log in</html>", error: malformed, stops: true },
      "an unknown type": { text: `{"t":"hallo"}`, error: malformed, stops: true }
    }

  for (const [name, { error, stops, text }] of Object.entries(rules)) {
    it.effect(`${name}: ${stops ? "comes back, but not for ever" : "comes back"}`, () =>
      Effect.gen(function*() {
        const network = yield* makeNetwork
        const { listen } = Context.get(network.context, Transport.TransportServer)
        yield* listen((connection) =>
          connection.open({
            // As bytes, too: no sender here can write those.
            frame: () => typeof text === "string" ? connection.send(text) : connection.send("\u0000binary"),
            drained: () => {},
            alive: () => {},
            closed: () => {}
          })
        )
        const client = yield* H.clientOn(binary(network.context))
        const states = yield* H.collect(client.states)
        yield* advanceUntil("it has met it", () => states.some(({ _tag }) => _tag === "Disconnected"))
        const first = states.find((state) => state._tag === "Disconnected")
        assert.deepInclude(first?._tag === "Disconnected" ? first.error : undefined, error)
        if (!stops) {
          yield* advance(600_000, 5_000)
          assert.isFalse(states.some(({ _tag }) => _tag === "Stopped"))
          assert.isAbove(network.dials, 3)
          return
        }
        yield* advanceUntil("it has stopped", tagged(client, "Stopped"), { atMost: 600_000, step: 1_000 })
        assert.isAtLeast(network.dials, 5)
        const stopped = yield* client.state
        assert.deepInclude(stopped._tag === "Stopped" ? stopped.error : undefined, error)
        const { dials } = network
        yield* client.reconnect
        yield* until("it tries again when it is told to", () => network.dials > dials)
      }))
  }

  /** Gives a text frame that begins with a zero as bytes. */
  const binary = (context: Network["context"]): Network["context"] => {
    const { dial } = Context.get(context, Transport.TransportClient)
    const asBytes = (connection: Transport.Connection): Transport.Connection => ({
      ...connection,
      open: (sink) =>
        connection.open({
          frame: (data, bytes) => sink.frame(String(data).startsWith("\u0000") ? new Uint8Array(bytes) : data, bytes),
          drained: () => sink.drained(),
          alive: () => sink.alive(),
          closed: (code, reason) => sink.closed(code, reason)
        })
    })
    return Context.add(context, Transport.TransportClient, {
      dial: (options) => Effect.map(dial(options), asBytes)
    })
  }

  for (const { t } of Object.values(frames)) {
    if (t === "hello") continue
    it.effect(`at the server, ${t} instead of hello is a violation`, () =>
      Effect.gen(function*() {
        const network = yield* makeNetwork
        yield* H.serverOn(network.context)
        const { dial } = Context.get(network.context, Transport.TransportClient)
        const options = {
          url: "ws://memory",
          protocol: "resilient.v1",
          headers: {},
          timeoutMillis: 1,
          maxFrameBytes: 1e6
        }
        const connection = yield* dial(options)
        const heard: Array<string> = []
        const closed: Array<number> = []
        connection.open({
          frame: (data) => heard.push(String(data)),
          drained: () => {},
          alive: () => {},
          closed: (code) => closed.push(code)
        })
        connection.send(encode(frames[t]))
        yield* until("it is closed", () => closed.length > 0)
        assert.deepStrictEqual(closed, [4503])
        assert.deepInclude(JSON.parse(heard[0] ?? "{}"), { t: "reject", code: "protocol" })
      }))
  }

  it.effect("a second frame before the welcome is a violation, whatever it is", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      yield* H.serverOn(network.context, { authenticate: () => Effect.never })
      const { dial } = Context.get(network.context, Transport.TransportClient)
      for (const frame of Object.values(frames)) {
        const connection = yield* dial({
          url: "ws://memory",
          protocol: "resilient.v1",
          headers: {},
          timeoutMillis: 1,
          maxFrameBytes: 1e6
        })
        const closed: Array<number> = []
        connection.open({ frame: () => {}, drained: () => {}, alive: () => {}, closed: (code) => closed.push(code) })
        connection.send(encode(frames.hello))
        connection.send(encode(frame))
        yield* until("it is closed", () => closed.length > 0)
        assert.deepStrictEqual(closed, [4503], frame.t)
      }
    }))
})

describe("a connection that does not last", () => {
  /** A server whose connections are cut so long after each welcome. */
  const dropping = Effect.fnUntraced(function*(afterMillis: number, client: H.ClientOptions = {}) {
    const network = yield* makeNetwork
    const store = yield* H.makeStore()
    yield* H.serverOn(network.context)
    const made = yield* H.clientOn(network.context, client, { store })
    yield* Effect.forkScoped(Stream.runForEach(made.states, (state) => {
      if (state._tag !== "Connected") return Effect.void
      const link = network.newest()
      return Effect.forkDetach(Effect.delay(Effect.sync(() => link.cut()), afterMillis))
    }))
    return { network, client: made, breaker: Context.get(store, CircuitBreaker.CircuitBreaker) }
  })

  const dialsIn = Effect.fnUntraced(function*(network: Network, millis: number) {
    const { dials } = network
    yield* advance(millis, 50)
    return network.dials - dials
  })

  for (const afterMillis of [30, 900, 4_000]) {
    it.effect(`${afterMillis} ms after each welcome: it backs off, as from a server that refuses`, () =>
      Effect.gen(function*() {
        const { network } = yield* dropping(afterMillis)
        const first = yield* dialsIn(network, 60_000)
        yield* advance(240_000, 200)
        const later = yield* dialsIn(network, 120_000)
        assert.isAbove(first, 3)
        assert.isBelow(later, 12)
      }))
  }

  it.effect("is no success to the circuit of its endpoint, which opens", () =>
    Effect.gen(function*() {
      const { breaker } = yield* dropping(30)
      yield* advanceUntil("it is open", () => breaker.stateUnsafe("endpoint:ws://memory/")._tag === "Open")
    }))

  it.effect("one that lasts wipes the slate", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected()
      const states = yield* H.collect(client.states)
      for (let i = 0; i < 20; i++) {
        yield* advance(11_000)
        network.newest().cut()
        yield* until("it is lost", tagged(client, "Disconnected"))
        yield* advanceUntil("it is back", tagged(client, "Connected"))
      }
      const pauses = states.flatMap((state) => state._tag === "Disconnected" ? [state.retryInMillis] : [])
      assert.lengthOf(pauses, 20)
      assert.isAtMost(Math.max(...pauses), 1_000)
      assert.isTrue(states.every((state) => state._tag !== "Connecting" || state.attempt <= 1))
    }))

  it.effect("a drain of it is a drain, but not twelve in a row, without a pause, from a server that asks for none", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const store = yield* H.makeStore()
      yield* H.serverOn(network.context)
      const client = yield* H.clientOn(network.context, {}, { store })
      yield* Effect.forkScoped(Stream.runForEach(client.states, (state) =>
        Effect.sync(() => {
          if (state._tag !== "Connected") return
          network.newest().inject("toClient", `{"t":"drain","deadline":0,"window":0}`)
          queueMicrotask(() => network.newest().cut())
        })))
      yield* advance(300_000, 200)
      assert.isBelow(network.dials, 30)
      const breaker = Context.get(store, CircuitBreaker.CircuitBreaker)
      assert.strictEqual(breaker.stateUnsafe("endpoint:ws://memory/")._tag, "Closed")
    }))

  it.effect("no drain keeps a client away for longer than ten minutes", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected()
      network.newest().inject("toClient", `{"t":"drain","deadline":0,"window":315360000000}`)
      yield* H.turn
      network.newest().cut()
      yield* until("it is lost", tagged(client, "Disconnected"))
      const state = yield* client.state
      assert.isAtMost(state._tag === "Disconnected" ? state.retryInMillis : Infinity, 600_000)
    }))

  it.effect("a drain can't send a client from a secured endpoint to one that is not, or to what is no WebSocket", () =>
    Effect.gen(function*() {
      const urls: Array<string> = []
      const network = yield* makeNetwork
      const { dial } = Context.get(network.context, Transport.TransportClient)
      const context = Context.add(network.context, Transport.TransportClient, {
        dial: (options) => {
          urls.push(options.url)
          return dial(options)
        }
      })
      const { client } = yield* H.pair({ ...network, context }, { client: { url: "wss://a.example/live" } })
      for (const endpoint of ["ws://a.example/live", "http://a.example", "nonsense", "wss://b.example/live"]) {
        network.newest().inject("toClient", JSON.stringify({ t: "drain", deadline: 0, window: 1, endpoint }))
        yield* H.turn
        network.newest().cut()
        yield* until("it is lost", tagged(client, "Disconnected"))
        yield* advanceUntil("it is back", tagged(client, "Connected"), { step: 500 })
      }
      assert.deepStrictEqual(urls, [...Array<string>(4).fill("wss://a.example/live"), "wss://b.example/live"])
    }))

  it.effect("two clients of one session replace each other once: the one that was there stops, with nothing held against the server", () =>
    Effect.gen(function*() {
      const { client, network } = yield* connected()
      const store = yield* H.makeStore()
      const other = yield* H.clientOn(network.context, { token: "alice" }, { store })
      yield* other.awaitConnected()
      yield* until("the first has stopped", tagged(client, "Stopped"))
      yield* advance(120_000, 5_000)
      assert.strictEqual(network.dials, 2)
      const breaker = Context.get(store, CircuitBreaker.CircuitBreaker)
      assert.deepStrictEqual(breaker.stateUnsafe("endpoint:ws://memory/"), { _tag: "Closed", consecutiveFailures: 0 })
    }))
})

describe("a close that will repeat", () => {
  for (const code of [1002, 1003, 1007, 1008, 1009]) {
    it.effect(`${code} in answer to each hello stops the client after a while, with the code`, () =>
      Effect.gen(function*() {
        const network = yield* makeNetwork
        yield* answering(network, (connection) => connection.close(code, "no"))
        const client = yield* H.clientOn(network.context)
        yield* advanceUntil("it has stopped", tagged(client, "Stopped"), { atMost: 900_000, step: 1_000 })
        const state = yield* client.state
        const error = state._tag === "Stopped" ? state.error : undefined
        assert.deepInclude(error, { _tag: "resilient-websocket/TransportError", detail: `closed with ${code} (no)` })
      }))
  }

  it.effect("1006 and 1012 don't, for however long", () =>
    Effect.gen(function*() {
      for (const code of [1006, 1012]) {
        const network = yield* makeNetwork
        yield* answering(network, (connection) => connection.close(code, ""))
        const client = yield* H.clientOn(network.context)
        yield* advance(900_000, 5_000)
        assert.notStrictEqual((yield* client.state)._tag, "Stopped", String(code))
      }
    }))
})
