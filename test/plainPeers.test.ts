/** WebSockets without the subprotocol, and sockets that somebody else accepted. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber } from "effect"
import type { IncomingMessage } from "node:http"
import { Transport, WebSocketError } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { WebSocket, WebSocketServer } from "ws"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"

const { advanceUntil, until } = H

/** A plain WebSocket, what it got, and how it ended. */
const plainSocket = (url: string, protocols: ReadonlyArray<string> = []) =>
  Effect.acquireRelease(
    Effect.callback<{ ws: WebSocket; got: Array<string>; closed: { code: number | undefined } }>((resume) => {
      const ws = new WebSocket(url, [...protocols])
      const got: Array<string> = []
      const closed: { code: number | undefined } = { code: undefined }
      ws.on("message", (data) => got.push(String(data)))
      ws.on("close", (code) => void (closed.code = code))
      ws.once("open", () => resume(Effect.succeed({ ws, got, closed })))
      ws.once("error", (error) => resume(Effect.die(error)))
    }),
    ({ ws }) => Effect.sync(() => ws.terminate())
  )

/** Somebody else's WebSocket server; gives the sockets that it accepted, paused so that nothing is lost meanwhile. */
const foreignServer = Effect.acquireRelease(
  Effect.callback<{ url: string; accepted: Array<[WebSocket, IncomingMessage]>; server: WebSocketServer }>(
    (resume) => {
      const server = new WebSocketServer({ port: 0 })
      const accepted: Array<[WebSocket, IncomingMessage]> = []
      server.on("connection", (ws, request) => {
        ws.pause()
        accepted.push([ws, request])
      })
      server.once("listening", () => {
        const address = server.address()
        const port = typeof address === "object" ? address?.port : undefined
        resume(Effect.succeed({ url: `ws://127.0.0.1:${port}`, accepted, server }))
      })
    }
  ),
  ({ server }) => Effect.sync(() => server.close())
)

const accept = Effect.fnUntraced(function*(foreign: Effect.Success<typeof foreignServer>) {
  yield* until("the other server has accepted it", () => foreign.accepted.length > 0)
  const [ws, request] = foreign.accepted.shift() ?? assert.fail("nobody was accepted")
  return yield* NodeTransport.fromWebSocket(ws, request)
})

describe("a plain peer", () => {
  it.live("sends and gets payloads as they are", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const { server, url } = yield* H.nodeServer({
        authenticate: H.byToken,
        onMessage: (text, { server, session }) =>
          Effect.andThen(Effect.sync(() => seen.push(text)), server.send(session, `re: ${text}`))
      })
      const { got, ws } = yield* plainSocket(`${url}/?token=bob`)
      ws.send("no JSON, so a text")
      ws.send(JSON.stringify("JSON"))
      yield* until("both are answered", () => got.length === 2)
      assert.deepStrictEqual(seen, ["no JSON, so a text", "JSON"])
      assert.deepStrictEqual(got, [`"re: no JSON, so a text"`, `"re: JSON"`])
      assert.isTrue((yield* server.sessionStats("bob")).plain)
    }))

  it.live("gets what was kept for its session when it comes back", () =>
    Effect.gen(function*() {
      const { server, url } = yield* H.nodeServer({ authenticate: H.byToken })
      const first = yield* plainSocket(`${url}/?token=bob`)
      yield* until("it is known", () => Effect.map(server.stats, ({ connections }) => connections === 1))
      yield* (yield* server.send("bob", "0")).handled
      first.ws.close()
      yield* until("it is gone", () => Effect.map(server.stats, ({ connections }) => connections === 0))
      const receipts = yield* Effect.forEach(H.numbered(500), (text) => server.send("bob", text))
      assert.strictEqual(receipts[0]?._tag, "Queued")
      const second = yield* plainSocket(`${url}/?token=bob`)
      yield* until("all is there", () => second.got.length === 500)
      assert.deepStrictEqual(second.got, H.numbered(500).map((text) => JSON.stringify(text)))
      for (const { handled } of receipts) yield* handled
      assert.deepStrictEqual(first.got, [`"0"`])
    }))

  it.effect("that is silent is closed after the connection timeout, and one that answers pings is not", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: H.byToken, connectionTimeout: "120 seconds" })
      const dialler = Context.get(network.context, Transport.TransportClient)
      for (const name of ["alive", "silent"]) {
        const connection = yield* dialler.dial({
          url: `/?token=${name}`,
          protocol: "",
          headers: {},
          timeoutMillis: 1_000,
          maxFrameBytes: 1_000
        })
        connection.open({ frame: () => {}, drained: () => {}, alive: () => {}, closed: () => {} })
      }
      const events = yield* H.collect(server.connections)
      yield* until("both are there", () => Effect.map(server.stats, ({ connections }) => connections === 2))
      network.newest().vanish()
      const elapsed = yield* advanceUntil("one is gone", () => events.some(({ _tag }) => _tag === "Disconnected"), {
        atMost: 130_000,
        step: 1_000
      })
      assert.isAtLeast(elapsed, 119_000)
      assert.deepInclude(events.at(-1), { session: "silent", code: 4007 })
      yield* H.advance(130_000, 1_000)
      assert.isTrue((yield* server.sessionStats("alive")).connected)
    }))

  it.live("is turned away where only the subprotocol is spoken", () =>
    Effect.gen(function*() {
      const { url } = yield* H.nodeServer({ plainPeers: "reject" })
      const { closed } = yield* plainSocket(url)
      yield* until("it is closed", () => closed.code === 4503)
    }))

  it.live("that turns to the protocol takes along what waits, and who waits for it", () =>
    Effect.gen(function*() {
      const { server, url } = yield* H.nodeServer({ authenticate: H.byToken })
      const { ws } = yield* plainSocket(`${url}/?token=bob`)
      yield* until("it is known", () => Effect.map(server.stats, ({ connections }) => connections === 1))
      ws.close()
      yield* until("it is gone", () => Effect.map(server.stats, ({ connections }) => connections === 0))
      const receipt = yield* server.send("bob", "for whichever of you")
      yield* H.nodeClient({ url, token: "bob", onMessage: () => Effect.void })
      yield* Effect.timeout(receipt.handled, "5 seconds")
    }))
})

describe("a connection that has said nothing", () => {
  it.live("is closed when the server shuts down", () =>
    Effect.gen(function*() {
      const { server, url } = yield* H.nodeServer({ authenticate: () => Effect.never })
      const silent = yield* plainSocket(url, ["resilient.v1"])
      const unknown = yield* plainSocket(url)
      yield* until("both are accepted", () => Effect.map(server.stats, ({ totals }) => totals.connectionsTotal === 2))
      yield* server.shutdown
      yield* until("both are closed", () => silent.closed.code === 4000 && unknown.closed.code === 4000)
    }))
})

describe("register", () => {
  it.live("takes over a plain socket for a session, and unregister gives it back open", () =>
    Effect.gen(function*() {
      const foreign = yield* foreignServer
      const seen: Array<string> = []
      const { server } = yield* H.nodeServer({ onMessage: (text) => Effect.sync(() => seen.push(text)) })
      const { closed, got, ws } = yield* plainSocket(foreign.url)
      const connection = yield* accept(foreign)
      assert.strictEqual(yield* server.register(connection, { session: "carol" }), "carol")
      ws.send("hello")
      yield* (yield* server.send("carol", "welcome")).handled
      yield* until("both heard", () => seen.length === 1 && got.length === 1)

      assert.isTrue(yield* server.unregister(connection))
      assert.isFalse(yield* server.unregister(connection))
      const kept = yield* server.send("carol", "later")
      assert.deepInclude(kept, { _tag: "Queued", reason: "disconnected" })
      const mine = connection.release()
      yield* server.shutdown
      mine.send("still yours")
      yield* until("it is still open", () => got.includes("still yours"))
      assert.isUndefined(closed.code)
    }))

  it.live("takes an effect for the session, and loses nothing that comes meanwhile", () =>
    Effect.gen(function*() {
      const foreign = yield* foreignServer
      const seen: Array<string> = []
      const { server } = yield* H.nodeServer({ onMessage: (text) => Effect.sync(() => seen.push(text)) })
      const { ws } = yield* plainSocket(foreign.url)
      const looking = yield* Deferred.make<string>()
      const registered = yield* Effect.forkScoped(
        server.register(yield* accept(foreign), { session: Deferred.await(looking) })
      )
      yield* Effect.callback<void>((resume) => ws.send("early", () => resume(Effect.void)))
      for (let i = 0; i < 20; i++) yield* H.turn
      assert.deepStrictEqual(seen, [])
      yield* Deferred.succeed(looking, "carol")
      assert.strictEqual(yield* Fiber.join(registered), "carol")
      yield* until("it is handled", () => seen.length === 1)

      const unknown = new WebSocketError.HandshakeError({ reason: "unauthorized", detail: "who?", retryable: false })
      const second = yield* plainSocket(foreign.url)
      const refused = yield* Effect.flip(server.register(yield* accept(foreign), { session: Effect.fail(unknown) }))
      assert.strictEqual(refused, unknown)
      second.ws.terminate()
    }))

  it.live("takes a connection once, and a socket once", () =>
    Effect.gen(function*() {
      const foreign = yield* foreignServer
      const { server } = yield* H.nodeServer({})
      const { server: other } = yield* H.nodeServer({})
      yield* plainSocket(foreign.url)
      yield* until("the other server has accepted it", () => foreign.accepted.length > 0)
      const [ws] = foreign.accepted[0] ?? assert.fail("nobody was accepted")
      const connection = yield* accept(foreign)
      const twice = yield* Effect.flip(NodeTransport.fromWebSocket(ws))
      assert.deepInclude(twice, { _tag: "resilient-websocket/TransportError", operation: "register" })
      assert.strictEqual(yield* server.register(connection, { session: "carol" }), "carol")
      for (const each of [server, other]) {
        const again = yield* Effect.flip(each.register(connection, { session: "carol" }))
        assert.deepInclude(again, { _tag: "resilient-websocket/TransportError", operation: "register" })
      }
      assert.strictEqual((yield* server.stats).connections, 1)
      const misspelt = { sesion: "carol" } as object
      assert.include(String(yield* Effect.flip(server.register(connection, misspelt))), "did you mean session?")
    }))

  it.live("loses nothing that comes while the hook is being asked", () =>
    Effect.gen(function*() {
      const foreign = yield* foreignServer
      const seen: Array<string> = []
      let hookRuns = false
      let answer = () => {}
      const { server } = yield* H.nodeServer({
        authenticate: () =>
          Effect.callback((resume) => {
            hookRuns = true
            answer = () => resume(Effect.succeed({ session: "carol" }))
          }),
        onMessage: (text) => Effect.sync(() => seen.push(text))
      })
      const { ws } = yield* plainSocket(foreign.url)
      const connection = yield* accept(foreign)
      yield* Effect.forkScoped(server.register(connection))
      yield* until("the hook runs", () => hookRuns)
      yield* Effect.callback<void>((resume) => ws.send("early", () => resume(Effect.void)))
      for (let i = 0; i < 20; i++) yield* H.turn
      answer()
      ws.send("late")
      yield* until("the late one is handled", () => seen.includes("late"))
      assert.deepStrictEqual(seen, ["early", "late"])
    }))

  it.live("serves a socket that speaks the protocol like one of its own", () =>
    Effect.gen(function*() {
      const foreign = yield* foreignServer
      foreign.server.options.handleProtocols = () => "resilient.v1"
      const seen: Array<string> = []
      const { server } = yield* H.nodeServer({
        authenticate: H.byToken,
        onMessage: (text) => Effect.sync(() => seen.push(text))
      })
      const client = yield* H.nodeClient({ url: foreign.url, token: "dave", reconnect: { cap: "20 millis" } })
      for (const text of ["1", "2"]) {
        const connection = yield* accept(foreign)
        assert.strictEqual(yield* server.register(connection), "dave")
        yield* client.awaitConnected()
        yield* (yield* client.send(text)).handled
        connection.terminate()
        yield* until("it noticed", () => Effect.map(client.state, ({ _tag }) => _tag !== "Connected"))
      }
      assert.deepStrictEqual(seen, ["1", "2"])
      assert.strictEqual((yield* client.stats).totals.connectionsResumed, 1)
    }))

  it.live("gives a socket that speaks the protocol the session it is registered for, whatever its hello says", () =>
    Effect.gen(function*() {
      const foreign = yield* foreignServer
      foreign.server.options.handleProtocols = () => "resilient.v1"
      const { server } = yield* H.nodeServer({ authenticate: () => Effect.die("not to be asked") })
      const client = yield* H.nodeClient({ url: foreign.url, token: "dave", onMessage: () => Effect.void })
      assert.strictEqual(yield* server.register(yield* accept(foreign), { session: "carol" }), "carol")
      yield* client.awaitConnected()
      yield* (yield* server.send("carol", "welcome")).handled
      assert.strictEqual((yield* server.sessionStats("carol")).session, "carol")
    }))

  it.live("fails when the handshake is refused, and when the socket is gone before it is done", () =>
    Effect.gen(function*() {
      const foreign = yield* foreignServer
      foreign.server.options.handleProtocols = () => "resilient.v1"
      const { server } = yield* H.nodeServer({ authenticate: H.byToken })
      const { closed, ws } = yield* plainSocket(foreign.url, ["resilient.v1"])
      const refused = yield* Effect.forkScoped(Effect.flip(server.register(yield* accept(foreign))))
      ws.send("no hello")
      assert.propertyVal(yield* Fiber.join(refused), "_tag", "resilient-websocket/ProtocolError")
      yield* until("it is closed", () => closed.code === 4503)
      const second = yield* plainSocket(foreign.url, ["resilient.v1"])
      const early = yield* Effect.forkScoped(Effect.flip(server.register(yield* accept(foreign))))
      second.ws.close()
      assert.deepInclude(yield* Fiber.join(early), {
        _tag: "resilient-websocket/TransportError",
        operation: "register"
      })
    }))
})
