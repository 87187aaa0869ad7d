import { NodeSocketServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Latch, Layer, Queue, Scope, Stream } from "effect"
import { NetAddress } from "effect/net"
import { Socket } from "effect/socket"
import { TestClock } from "effect/testing"
import * as Net from "node:net"
import { Transport } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import * as Harness from "./support/harness.ts"

const { closeScope, collect, forkScope, numbered, tagOf, turn, until } = Harness

type Data = string | Uint8Array
type Body = () => Generator<Effect.Effect<unknown, unknown, Scope.Scope>, void, never>
const test = (name: string, body: Body) => it.effect(name, () => Effect.scoped(Effect.gen(body)))
const live = (name: string, body: Body) => it.live(name, () => Effect.scoped(Effect.gen(body)))

const errorOf = (reason: Socket.SocketErrorReason) => new Socket.SocketError({ reason })
const closed = (code: number, closeReason?: string) => errorOf(new Socket.SocketCloseError({ code, closeReason }))
const cause = new Error("pipe")

/** A Socket whose other side is the test, the connection on it, and what that reports. */
const fake = Effect.gen(function*() {
  const incoming = yield* Queue.unbounded<readonly [Data, ...Array<Data>] | Socket.SocketError>()
  const taking = yield* Latch.make(true)
  const state = { pulls: 0, isReleased: false, writeFails: false, isCalling: false }
  const batches: Array<ReadonlyArray<Data | Socket.CloseEvent>> = []
  const take = Effect.fnUntraced(function*(chunks: ReadonlyArray<Data | Socket.CloseEvent>) {
    yield* taking.await
    if (state.writeFails) return yield* errorOf(new Socket.SocketWriteError({ cause }))
    batches.push(chunks)
  })
  const pull = Effect.gen(function*() {
    state.pulls++
    const next = yield* Queue.take(incoming)
    return Socket.isSocketError(next) ? yield* next : next
  })
  const reader = Effect.acquireRelease(
    Effect.succeed({ pull, upgrade: Socket.SocketUpgradeError.unsupported }),
    () => Effect.sync(() => void (state.isReleased = true))
  )
  const socket = Socket.make({ reader, writer: Effect.succeed({ write: (chunk) => take([chunk]), writeAll: take }) })
  const scope = yield* forkScope
  const connection = yield* Scope.provide(Transport.fromSocket(socket, { protocol: "resilient.v1" }), scope)
  const events: Array<unknown> = []
  const report = (event: unknown) => void events.push(state.isCalling ? "from within a call" : event)
  const call = (use: (connection: Transport.Connection) => void) => {
    state.isCalling = true
    use(connection)
    state.isCalling = false
  }
  const sink: Transport.ConnectionSink = {
    frame: (data, bytes) => report([data, bytes]),
    drained: () => report("drained"),
    alive: () => report("alive"),
    closed: (code, reason) => report({ code, reason })
  }
  const open = () => call((connection) => connection.open(sink))
  const send = (frame: string) =>
    call((connection) => connection.send(frame, (ok) => report(`${frame.slice(0, 9)} ${ok}`)))
  const push = (...frames: readonly [Data, ...Array<Data>]) => Queue.offer(incoming, frames)
  const fail = (error: Socket.SocketError) => Queue.offer(incoming, error)
  return { connection, sink, scope, state, batches, taking, events, call, open, send, push, fail }
})

/** Lets the socket do what it can, without the clock. */
const settle = Effect.repeat(turn, { times: 5 })

describe("Transport.fromSocket", () => {
  test("gives what comes in, in order, from when it is opened", function*() {
    const { connection, events, open, push, state } = yield* fake
    yield* push("ä", new Uint8Array([1, 2, 3]))
    yield* push("third")
    yield* settle
    assert.strictEqual(state.pulls, 0)
    open()
    yield* settle
    assert.deepStrictEqual(events, [["ä", 2], [new Uint8Array([1, 2, 3]), 3], ["third", 5]])
    assert.strictEqual(connection.protocol, "resilient.v1")
  })

  test("stops pulling while paused, also in the middle of a batch", function*() {
    const { connection, push, sink, state } = yield* fake
    const frames: Array<Data> = []
    const frame = (data: Data) => frames.push(data) === 2 && connection.pause()
    connection.open({ ...sink, frame })
    yield* push("one", "two", "three")
    yield* push("four")
    yield* settle
    assert.deepStrictEqual(frames, ["one", "two"])
    assert.strictEqual(state.pulls, 1)
    connection.resume()
    yield* settle
    assert.deepStrictEqual(frames, ["one", "two", "three", "four"])
  })

  test("writes in order, what is sent in one turn together, and counts what was not taken", function*() {
    const { batches, connection, events, open, send, taking } = yield* fake
    open()
    taking.closeUnsafe()
    const large = "x".repeat(Transport.highWaterBytes)
    for (const frame of ["one", "twö"]) send(frame)
    yield* settle
    for (const frame of [large, "four"]) send(frame)
    yield* settle
    assert.deepStrictEqual(events, [])
    assert.strictEqual(connection.buffered(), 3 + 4 + Transport.highWaterBytes + 4)
    yield* taking.open
    yield* settle
    assert.deepStrictEqual(batches, [["one", "twö"], [large, "four"]])
    assert.deepStrictEqual(events, ["one true", "twö true", "xxxxxxxxx true", "four true", "drained"])
    assert.strictEqual(connection.buffered(), 0)
  })

  test("gives up a socket that takes nothing, when more waits than anybody should send", function*() {
    const { connection, events, open, send, taking } = yield* fake
    open()
    taking.closeUnsafe()
    for (let i = 0; i < 16; i++) connection.send("x".repeat(1024 * 1024))
    send("one more")
    yield* settle
    assert.deepStrictEqual(events, ["one more false", { code: 1006, reason: "16777216 bytes wait to be written" }])
    assert.strictEqual(connection.buffered(), 0)
  })

  test("says once how it ended, after what was written and not taken", function*() {
    const readError = errorOf(new Socket.SocketReadError({ cause }))
    const inRead = { code: 1006, reason: "An error occurred during Read: pipe" }
    const endings = [[closed(4100, "enough"), { code: 4100, reason: "enough" }], [readError, inRead]] as const
    for (const [error, ending] of endings) {
      const { events, fail, open, push, send, state, taking } = yield* fake
      open()
      taking.closeUnsafe()
      send("waiting")
      yield* Effect.all([push("last"), fail(error), settle])
      assert.deepStrictEqual(events, [["last", 4], "waiting false", ending])
      assert.isTrue(state.isReleased)
    }
  })

  test("ends when a write fails", function*() {
    const { events, open, send, state } = yield* fake
    open()
    state.writeFails = true
    send("refused")
    yield* settle
    send("too late")
    yield* settle
    const ending = { code: 1006, reason: "An error occurred during Write: pipe" }
    assert.deepStrictEqual(events, ["refused false", ending, "too late false"])
  })

  test("closes after what was sent, and takes the peer's answer for the end", function*() {
    const { batches, call, events, fail, open, push, send } = yield* fake
    open()
    call((connection) => connection.pause())
    send("first")
    call((connection) => connection.close(4001, "ü".repeat(100)))
    send("too late")
    yield* settle
    assert.deepStrictEqual(batches, [["first"], [new Socket.CloseEvent(4001, "ü".repeat(61))]])
    yield* Effect.all([push("still read"), fail(closed(4001)), settle])
    assert.deepStrictEqual(events, ["first true", "too late false", ["still read", 10], { code: 4001, reason: "" }])
  })

  test("waits two seconds for the peer's answer to a close", function*() {
    const { call, events, open, state } = yield* fake
    open()
    call((connection) => connection.close(4001, ""))
    yield* Effect.all([settle, TestClock.adjust(1_999), settle])
    assert.deepStrictEqual(events, [])
    yield* Effect.all([TestClock.adjust(1), settle])
    assert.deepStrictEqual(events, [{ code: 1006, reason: "the peer did not close in time" }])
    assert.isTrue(state.isReleased)
  })

  test("ends at once when terminated, and with its scope; also before it is opened", function*() {
    for (const end of ["terminate", "scope"]) {
      for (const isOpenBefore of [true, false]) {
        const { call, events, open, push, scope, state } = yield* fake
        if (isOpenBefore) open()
        yield* end === "scope" ? closeScope(scope) : Effect.sync(() => call((connection) => connection.terminate()))
        yield* settle
        if (!isOpenBefore) open()
        yield* Effect.all([push("nobody's"), settle])
        assert.deepStrictEqual(events, [{ code: 1006, reason: "" }])
        assert.isTrue(state.isReleased)
      }
    }
  })

  test("fails with a TransportError when the socket can't be opened", function*() {
    const reader = Effect.fail(errorOf(new Socket.SocketOpenError({ kind: "Unknown", cause })))
    const error = yield* Effect.flip(Transport.fromSocket(Socket.make({ reader, writer: Effect.never })))
    assert.strictEqual(error.message, "transport: dial failed: An error occurred during Open: pipe")
  })
})

const { layerClientWebSocket, TransportServer } = Transport
const globalClient = Layer.build(Layer.provide(layerClientWebSocket, Socket.layerWebSocketConstructorGlobal))
const nodeTransport = Effect.map(Layer.build(NodeTransport.layerServer({ port: 0 })), Context.get(TransportServer))

const echo: Harness.ServerOptions = { onMessage: (message, { server, session }) => server.send(session, message) }

/** A Node server that hands over its connections. */
const accepting = Effect.gen(function*() {
  const connections = yield* Queue.unbounded<Transport.Connection>()
  const { port } = yield* (yield* nodeTransport).listen((connection) => void Queue.offerUnsafe(connections, connection))
  return { url: `ws://127.0.0.1:${port}`, connections }
})

const dialling = Effect.fnUntraced(function*(url: string, options?: Partial<Transport.DialOptions>) {
  const { dial } = Context.get(yield* globalClient, Transport.TransportClient)
  const defaults = { protocol: "resilient.v1", headers: {}, timeoutMillis: 10_000, maxFrameBytes: 1_000 }
  return yield* dial({ url, ...defaults, ...options })
})

describe("Transport.layerClientWebSocket, on the global WebSocket", () => {
  live("carries a client's session with a Node server through cut connections", function*() {
    const connections: Array<Transport.Connection> = []
    const node = yield* nodeTransport
    const recording = Context.make(TransportServer, {
      listen: (accept) => node.listen((connection) => (connections.push(connection), accept(connection)))
    })
    const server = yield* Harness.serverOn(recording, echo)
    const client = yield* Harness.clientOn(yield* globalClient, {
      url: `ws://127.0.0.1:${server.address.port}`,
      reconnect: { base: "5 millis", cap: "20 millis" }
    })
    const back = yield* collect(Stream.map(client.messages, ({ message }) => message))
    const rounds = Array.from({ length: 5 }, (_, round) => numbered(200, `${round}.`))
    for (const [round, messages] of rounds.entries()) {
      yield* client.awaitConnected()
      yield* Effect.forEach(messages, (message) => client.send(message))
      yield* until("some are back", () => back.length > round * 200)
      connections.at(-1)?.terminate()
    }
    yield* until("all are back", () => back.length >= 1_000)
    assert.deepStrictEqual(back, rounds.flat())
    assert.strictEqual((yield* client.stats).totals.connectionsFresh, 1)
  })

  live("asks for the subprotocol, and closes with a code and a reason either way", function*() {
    const { connections, url } = yield* accepting
    for (const near of ["server", "client"] as const) {
      const ends = { client: yield* dialling(url), server: yield* Queue.take(connections) }
      assert.strictEqual(ends.client.protocol, "resilient.v1")
      const endings: Array<unknown> = []
      const closed = (code: number, reason: string) => endings.push(code, reason)
      for (const end of [ends.client, ends.server]) end.open({ frame() {}, drained() {}, alive() {}, closed })
      ends[near].close(4100, "enough")
      yield* until("both have ended", () => endings.length === 4)
      // The far end is told the reason; the answer to it need not say it again.
      assert.deepStrictEqual(endings.slice(0, 3), [4100, "enough", 4100])
    }
  })

  live("takes no frame that is larger than agreed", function*() {
    const { connections, url } = yield* accepting
    const client = yield* dialling(url)
    const events = yield* Queue.unbounded<unknown>()
    const report = (...event: ReadonlyArray<unknown>) => void Queue.offerUnsafe(events, event)
    client.open({ frame: report, drained: report, alive: report, closed: report })
    const server = yield* Queue.take(connections)
    for (const length of [1_000, 1_001]) server.send("x".repeat(length))
    assert.deepStrictEqual(yield* Queue.take(events), ["x".repeat(1_000), 1_000])
    assert.deepStrictEqual(yield* Queue.take(events), [1009, "a frame of 1001 bytes"])
  })

  live("fails with a typed error when it can't dial", function*() {
    const silent = yield* Effect.acquireRelease(
      Effect.sync(() => Net.createServer((socket) => socket.resume()).listen(0, "127.0.0.1")),
      (server) => Effect.sync(() => server.close())
    )
    yield* until("it listens", () => silent.listening)
    const silentUrl = `ws://127.0.0.1:${(silent.address() as Net.AddressInfo).port}`
    assert.strictEqual(
      yield* tagOf(dialling(silentUrl, { timeoutMillis: 50 })),
      "resilient-websocket/ConnectionTimeoutError"
    )
    const { url } = yield* accepting
    const failing = [dialling("ws://127.0.0.1:1"), dialling("not a URL"), dialling(url, { headers: { a: "b" } })]
    assert.deepStrictEqual(
      new Set(yield* Effect.forEach(failing, tagOf)),
      new Set(["resilient-websocket/TransportError"])
    )
  })

  live("finds a ResilientServer behind an Effect WebSocket server, by fromSocket", function*() {
    const sockets = yield* NodeSocketServer.makeWebSocket({ host: "127.0.0.1", port: 0 })
    const { server } = yield* Harness.nodeServer(echo)
    const register = Effect.fnUntraced(function*(socket: Socket.Socket) {
      yield* server.register(yield* Transport.fromSocket(socket, { protocol: "resilient.v1" }))
      return yield* Effect.never
    }, Effect.scoped)
    yield* Effect.forkScoped(sockets.run(register))
    const port = NetAddress.isInetAddress(sockets.address) ? sockets.address.port : 0
    const client = yield* Harness.clientOn(yield* globalClient, { url: `ws://127.0.0.1:${port}` })
    const back = yield* collect(Stream.map(client.messages, ({ message }) => message))
    yield* Effect.forEach(numbered(900), (message) => client.send(message))
    yield* until("all are back", () => back.length >= 900)
    assert.deepStrictEqual(back, numbered(900))
  })
})
