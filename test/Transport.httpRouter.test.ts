/** Sessions on a route of the program's own HTTP server: in every order of layers, beside HTTP, cut, full, drained. */
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Latch, Layer, ManagedRuntime, Queue, Schema, Scope, Stream } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { NetAddress } from "effect/net"
import { PrometheusMetrics } from "effect/observability"
import { Socket } from "effect/socket"
import { once } from "node:events"
import { createServer } from "node:http"
import { connect } from "node:net"
import { Contract, MemoryStore, type ResilientServer, Transport } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { type ClientOptions, WebSocket } from "ws"
import { makeCuttableProxy } from "./support/cuttableProxy.ts"
import { closeScope, collect, forkScope, numbered, turn, until } from "./support/harness.ts"
import { mistake } from "./support/harness.ts"

type Body = () => Generator<Effect.Effect<unknown, unknown, Scope.Scope>, void, never>
const live = (name: string, body: Body) => it.live(name, () => Effect.scoped(Effect.gen(body)))

const strings = { toServer: Schema.String, toClient: Schema.String }
const Chat = Contract.make("test/Chat", strings)
const News = Contract.make("test/News", strings)

type Options = Omit<ResilientServer.Options<string, string>, "incoming" | "outgoing">
const echo: Options = { onMessage: (message, { server, session }) => server.send(session, message) }

const route = (options: Partial<Transport.HttpRouterOptions> = {}) =>
  Transport.layerServerHttpRouter({ path: "/live", ...options })
const sessions = (options: Options = echo, routeOptions: Partial<Transport.HttpRouterOptions> = {}) =>
  Chat.layerServer(options).pipe(Layer.provide([MemoryStore.layer(), route(routeOptions)]))
const Hello = HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello"))
/** A shutdown that waits for WebSockets would not end. */
const http = (options: Partial<NodeHttpServer.Options> = {}) =>
  NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1", gracefulShutdownTimeout: "1 hour", ...options })
const quiet = { disableLogger: true, disableListenLog: true }

const app = (options?: Options, routeOptions?: Partial<Transport.HttpRouterOptions>) =>
  HttpRouter.serve(Layer.merge(sessions(options, routeOptions), Hello), quiet).pipe(Layer.provide(http()))

const clients = {
  "the client of ws": NodeTransport.layerClient,
  "Effect's WebSocket": Transport.layerClientWebSocket.pipe(Layer.provide(Socket.layerWebSocketConstructorGlobal))
}

const clientOf = Effect.fnUntraced(function*(
  contract: typeof Chat | typeof News,
  port: number,
  path = "/live",
  transport: Layer.Layer<Transport.TransportClient> = NodeTransport.layerClient
) {
  const layer = (contract as typeof Chat).layerClient({
    url: `ws://127.0.0.1:${port}${path}`,
    reconnect: { base: "5 millis", cap: "20 millis" }
  }).pipe(Layer.provide([MemoryStore.layer(), transport]))
  return Context.get(yield* Layer.build(layer), (contract as typeof Chat).Client)
})

/** An app in a scope that the test closes itself. */
const opened = Effect.fnUntraced(function*<E>(layer: Layer.Layer<Contract.ServerOf<"test/Chat">, E>) {
  const scope = yield* forkScope
  const server = Context.get(yield* Layer.buildWithScope(layer, scope), Chat.Server)
  return { scope, server, port: server.address.port }
})

const get = (port: number, path: string, headers: Record<string, string> = {}) =>
  Effect.promise(async () => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers })
    return { status: response.status, text: await response.text(), upgrade: response.headers.get("upgrade") }
  })

/** A plain WebSocket that is open; or the status that its upgrade was answered with. */
const dialled = (port: number, protocols: ReadonlyArray<string> = [], options: ClientOptions = {}) =>
  Effect.callback<WebSocket | number>((resume) => {
    const ws = new WebSocket(`ws://127.0.0.1:${port}/live`, [...protocols], options)
    ws.on("error", () => {})
    ws.once("open", () => resume(Effect.succeed(ws)))
    ws.once("unexpected-response", (_, response) => {
      ws.terminate()
      resume(Effect.succeed(response.statusCode ?? 0))
    })
  })

/** The status of the answer to an upgrade, whose WebSocket is closed at once. */
const refused = (port: number) =>
  Effect.map(dialled(port), (ws) => {
    if (typeof ws === "number") return ws
    ws.terminate()
    return 101
  })

const closeOf = (ws: WebSocket | number) =>
  Effect.promise(async () => typeof ws === "number" ? ws : (await once(ws, "close"))[0])

const orders = {
  "served together": () => HttpRouter.serve(Layer.merge(sessions(), Hello), quiet).pipe(Layer.provide(http())),
  "provided to the routes": () =>
    HttpRouter.serve(Hello.pipe(Layer.provideMerge(sessions())), quiet).pipe(Layer.provideMerge(http())),
  "built before what is served": () =>
    HttpRouter.serve(Hello, quiet).pipe(Layer.provideMerge(sessions()), Layer.provide([HttpRouter.layer, http()])),
  "built after what is served": () =>
    sessions().pipe(
      Layer.provideMerge(HttpRouter.serve(Hello, quiet)),
      Layer.provide(HttpRouter.layer),
      Layer.provide(http())
    ),
  "beside what is served": () =>
    Layer.merge(HttpRouter.serve(Hello, quiet), sessions()).pipe(
      Layer.provide(HttpRouter.layer),
      Layer.provide(http())
    ),
  "on a server that does not wait": () =>
    HttpRouter.serve(Layer.merge(sessions(), Hello), quiet).pipe(
      Layer.provide(http({ disablePreemptiveShutdown: true }))
    )
} satisfies Record<string, () => Layer.Layer<Contract.ServerOf<"test/Chat">, unknown>>

describe("sessions on a route", () => {
  for (const [order, layerOf] of Object.entries(orders)) {
    live(`share the port when they are ${order}, and drain before it closes`, function*() {
      const { port, scope } = yield* opened<unknown>(layerOf())
      assert.strictEqual((yield* get(port, "/hello")).text, "hello")
      const client = yield* clientOf(Chat, port)
      const back = yield* collect(Stream.map(client.messages, ({ message }) => message))
      const receipt = yield* client.send("one")
      yield* receipt.handled
      yield* until("the echo is back", () => back.length === 1)
      yield* closeScope(scope)
      const state = yield* client.state
      assert.strictEqual(state._tag, "Disconnected")
      assert.include(JSON.stringify(state), "closed with 4000 (shutting down)")
    })
  }

  live("end with a ManagedRuntime", function*() {
    const runtime = ManagedRuntime.make(app())
    const server = yield* Effect.promise(() => runtime.runPromise(Chat.Server))
    const client = yield* clientOf(Chat, server.address.port)
    yield* client.awaitConnected()
    yield* Effect.promise(() => runtime.dispose())
    assert.include(JSON.stringify(yield* client.state), "closed with 4000 (shutting down)")
  })

  live("are flushed when the HTTP server closes: what is being handled is handled, and answered", function*() {
    const taken = yield* Deferred.make<void>()
    const goOn = yield* Latch.make()
    const { port, scope } = yield* opened(app({
      onMessage: (message, { server, session }) =>
        Effect.gen(function*() {
          yield* Deferred.succeed(taken, undefined)
          yield* goOn.await
          yield* server.send(session, `${message}, answered`)
        })
    }))
    const client = yield* clientOf(Chat, port)
    const back = yield* collect(Stream.map(client.messages, ({ message }) => message))
    const receipt = yield* client.send("one")
    yield* Deferred.await(taken)
    const closing = yield* Effect.forkScoped(closeScope(scope), { startImmediately: true })
    yield* until(
      "newcomers get a 503, while the port is open",
      () => Effect.map(refused(port), (status) => status === 503)
    )
    yield* goOn.open
    yield* receipt.handled
    yield* until("the answer is back", () => back.length === 1)
    assert.deepStrictEqual(back, ["one, answered"])
    yield* Fiber.join(closing)
  })

  live("leave an HTTP server that outlives them, and answer with 503 before and after", function*() {
    const scope = yield* forkScope
    const services = yield* Layer.build(Layer.merge(http(), HttpRouter.layer))
    const router = Context.get(services, HttpRouter.HttpRouter)
    const httpServer = Context.get(services, HttpServer.HttpServer)
    yield* httpServer.serve(router.asHttpEffect())
    const transport = Context.get(
      yield* Layer.buildWithScope(route(), scope).pipe(Effect.provide(services)),
      Transport.TransportServer
    )
    const port = NetAddress.isInetAddress(httpServer.address) ? httpServer.address.port : 0
    assert.strictEqual(yield* refused(port), 503)
    const connections: Array<Transport.Connection> = []
    yield* transport.listen((connection) => connections.push(connection)).pipe(Scope.provide(scope))
    const ws = yield* dialled(port)
    assert.lengthOf(connections, 1)
    const closed = yield* Effect.forkScoped(closeOf(ws), { startImmediately: true })
    yield* closeScope(scope)
    yield* Fiber.join(closed)
    assert.strictEqual(yield* refused(port), 503)
  })

  live("end with the HTTP server, if it goes without them", function*() {
    const scope = yield* forkScope
    const routed = yield* Layer.build(HttpRouter.layer)
    const router = Context.get(routed, HttpRouter.HttpRouter)
    const served = yield* Layer.buildWithScope(http({ disablePreemptiveShutdown: true }), scope)
    const httpServer = Context.get(served, HttpServer.HttpServer)
    // Before the transport has anything to do with it, so that nothing is drained.
    yield* httpServer.serve(router.asHttpEffect()).pipe(Scope.provide(yield* Scope.fork(scope)))
    const endings = yield* Queue.unbounded<number>()
    const transport = Context.get(
      yield* Layer.build(route()).pipe(Effect.provide(Context.merge(served, routed))),
      Transport.TransportServer
    )
    const { port } = yield* transport.listen((connection) =>
      connection.open({ ...silent, closed: (code) => void Queue.offerUnsafe(endings, code) })
    )
    const ws = yield* dialled(port)
    const closed = yield* Effect.forkScoped(closeOf(ws), { startImmediately: true })
    yield* closeScope(scope)
    assert.strictEqual(yield* Queue.take(endings), 1006)
    assert.strictEqual(yield* Fiber.join(closed), 1001)
  })
})

const Orders = HttpApi.make("test/Orders").add(
  HttpApiGroup.make("orders").add(HttpApiEndpoint.get("count", "/orders/count", { success: Schema.Int }))
)
const OrdersLive = HttpApiBuilder.layer(Orders).pipe(
  Layer.provide(HttpApiBuilder.group(Orders, "orders", (handlers) => handlers.handle("count", () => Effect.succeed(3))))
)

describe("one port", () => {
  for (const [name, transport] of Object.entries(clients)) {
    live(`has two contracts, an HttpApi and metrics, for ${name}, through cut connections`, function*() {
      const got: Record<string, Array<string>> = { chat: [], news: [] }
      const noting = (to: "chat" | "news"): Options => ({
        onMessage: (message, { server, session }) =>
          Effect.suspend(() => {
            got[to]?.push(message)
            return server.send(session, message)
          })
      })
      const both = Layer.mergeAll(
        Chat.layerServer(noting("chat")).pipe(Layer.provide([MemoryStore.layer(), route({ path: "/chat" })])),
        News.layerServer(noting("news")).pipe(Layer.provide([MemoryStore.layer(), route({ path: "/news" })])),
        OrdersLive,
        PrometheusMetrics.layerHttp()
      )
      const { port, scope } = yield* opened(HttpRouter.serve(both, quiet).pipe(Layer.provide(http())))
      const proxy = yield* Effect.acquireRelease(
        Effect.promise(async () => {
          let close = () => {}
          return { proxy: await makeCuttableProxy(port, (end) => void (close = end)), close: () => close() }
        }),
        ({ close }) => Effect.sync(close)
      ).pipe(Effect.map(({ proxy }) => proxy))
      const chat = yield* clientOf(Chat, proxy.port, "/chat", transport)
      const news = yield* clientOf(News, proxy.port, "/news", transport)
      const back = yield* collect(Stream.map(chat.messages, ({ message }) => message))
      const newsBack = yield* collect(Stream.map(news.messages, ({ message }) => message))
      const rounds = Array.from({ length: 4 }, (_, round) => numbered(100, `${round}.`))
      for (const [round, messages] of rounds.entries()) {
        yield* Effect.all([chat.awaitConnected(), news.awaitConnected()])
        yield* Effect.forEach(messages, (message) => Effect.all([chat.send(message), news.send(message)]))
        yield* until("some are back", () => back.length > round * 100)
        proxy.cut()
        proxy.mend()
      }
      yield* until("all are back", () => back.length === 400 && newsBack.length === 400)
      assert.deepStrictEqual(got, { chat: rounds.flat(), news: rounds.flat() })
      assert.deepStrictEqual([back, newsBack], [rounds.flat(), rounds.flat()])
      assert.deepStrictEqual(yield* get(port, "/orders/count"), { status: 200, text: "3", upgrade: null })
      assert.match((yield* get(port, "/metrics")).text, /^resilient_websocket_messages_handled_total [1-9]/m)
      yield* closeScope(scope)
      for (const client of [chat, news]) {
        yield* until("it has left", () => Effect.map(client.state, ({ _tag }) => _tag !== "Connected"))
      }
    })
  }
})

const silent = { frame() {}, drained() {}, alive() {}, closed() {} }

describe("a request on the route", () => {
  live("that is no upgrade gets a 426, and one of another page a 403; each is counted", function*() {
    const { port, server } = yield* opened(app())
    assert.deepInclude(yield* get(port, "/live"), { status: 426, upgrade: "websocket" })
    assert.strictEqual(yield* dialled(port, [], { origin: "https://evil.example" }), 403)
    assert.instanceOf(yield* dialled(port, [], { origin: `http://127.0.0.1:${port}` }), WebSocket)
    // Not a WebSocket, though it says so.
    const socket = connect(port, "127.0.0.1")
    socket.write("GET /live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert.match(String((yield* Effect.promise(() => once(socket, "data")))[0]), /^HTTP\/1.1 400/)
    yield* until("three are counted", () => Effect.map(server.stats, ({ totals }) => totals.connectionsRefused === 3))
  })

  live("that is refused is closed, even if its peer keeps its side open", function*() {
    const { port } = yield* opened(app())
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
    socket.on("error", () => {})
    const heads = "connection: upgrade\r\nupgrade: websocket\r\norigin: https://evil.example\r\n"
    socket.write(`GET /live HTTP/1.1\r\nhost: a\r\n${heads}\r\n`)
    socket.resume()
    yield* Effect.promise(() => once(socket, "end"))
    // What is written to a socket that is gone is answered with a reset.
    const writing = setInterval(() => socket.write("x"), 10)
    yield* Effect.promise(() => new Promise((resolve) => socket.once("close", resolve)))
    clearInterval(writing)
  })

  live("gets a 503 while there are as many connections as may be", function*() {
    const { port, server } = yield* opened(app(echo, { maxConnections: 1 }))
    const first = yield* dialled(port)
    assert.strictEqual(yield* refused(port), 503)
    assert.strictEqual((yield* server.stats).totals.connectionsRefused, 1)
    if (typeof first !== "number") first.terminate()
    yield* until("there is room again", () => Effect.map(refused(port), (status) => status === 101))
  })

  live("kills nothing when its peer is gone in the middle of it", function*() {
    const { port, server } = yield* opened(app(echo, { maxConnections: 1 }))
    for (let round = 0; round < 20; round++) {
      const socket = connect(port, "127.0.0.1")
      socket.on("error", () => {})
      yield* Effect.promise(() => once(socket, "connect"))
      socket.write(
        "GET /live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n" +
          "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
      )
      if (round % 2 === 0) yield* turn
      socket.resetAndDestroy()
    }
    yield* until("none is left", () => Effect.map(server.stats, ({ connections }) => connections === 0))
    yield* until("there is room", () => Effect.map(refused(port), (status) => status === 101))
  })

  live(
    "is ours if it offers our subprotocol first, a plain peer's if it does not, and refused if it is behind",
    function*() {
      const seen = yield* Queue.unbounded<boolean>()
      const { port } = yield* opened(app({
        authenticate: ({ plain }) => Effect.as(Queue.offer(seen, plain), {})
      }))
      const plain = yield* dialled(port, ["soap"])
      assert.isTrue(yield* Queue.take(seen))
      const ours = yield* dialled(port, ["resilient.v1", "soap"])
      assert.deepStrictEqual([plain, ours].map((ws) => typeof ws === "number" ? ws : ws.protocol), [
        "soap",
        "resilient.v1"
      ])
      assert.strictEqual(yield* dialled(port, ["soap", "resilient.v1"]), 400)
    }
  )
})

describe("a connection on the route", () => {
  live("ends with 1009 at a frame that is too large, whatever the HTTP server would take", function*() {
    const { port, server } = yield* opened(app(echo, { maxPayloadBytes: 1_000 }))
    const ws = yield* dialled(port)
    if (typeof ws === "number") return assert.fail(`${ws}`)
    const closed = yield* Effect.forkScoped(closeOf(ws), { startImmediately: true })
    ws.send("x".repeat(80_000))
    ws.send("x")
    assert.strictEqual(yield* Fiber.join(closed), 1009)
    yield* until("it is gone", () => Effect.map(server.stats, ({ connections }) => connections === 0))
    assert.strictEqual((yield* server.stats).totals.messagesReceived, 0)
  })

  live("counts what the network has not taken, and says when it has", function*() {
    const router = yield* Layer.build(HttpRouter.layer)
    const served = yield* Layer.build(http()).pipe(Effect.provide(router))
    const context = Context.merge(router, served)
    const transport = Context.get(yield* Layer.build(route()).pipe(Effect.provide(context)), Transport.TransportServer)
    yield* Context.get(served, HttpServer.HttpServer).serve(Context.get(router, HttpRouter.HttpRouter).asHttpEffect())
    const accepted = yield* Queue.unbounded<Transport.Connection>()
    const { port } = yield* transport.listen((connection) => void Queue.offerUnsafe(accepted, connection))
    const ws = yield* dialled(port)
    if (typeof ws === "number") return assert.fail(`${ws}`)
    ws.pause()
    const connection = yield* Queue.take(accepted)
    const events: Array<string> = []
    connection.open({ ...silent, drained: () => events.push("drained"), closed: () => events.push("closed") })
    const frame = "x".repeat(Transport.highWaterBytes)
    let sent = 0
    let written = 0
    yield* until("the network is full", () => {
      if (connection.buffered() >= Transport.highWaterBytes) return true
      sent++
      connection.send(frame, (ok) => ok && written++)
      return false
    })
    // The kernels' buffers hold some frames. A turn later, what was not taken then still is not.
    yield* Effect.repeat(turn, { times: 20 })
    while (connection.buffered() < 2 * Transport.highWaterBytes) {
      sent++
      connection.send(frame, (ok) => ok && written++)
      yield* Effect.repeat(turn, { times: 20 })
    }
    assert.isBelow(written, sent)
    ws.resume()
    yield* until("all is taken", () => connection.buffered() === 0)
    assert.strictEqual(written, sent)
    assert.include(events, "drained")
    connection.terminate()
    yield* until("it has ended", () => events.at(-1) === "closed")
  })
})

describe("Transport.layerServerHttpRouter", () => {
  const fault = (layer: ReturnType<typeof app>) =>
    Effect.map(Effect.flip(Layer.build(layer)), (error) => "message" in error ? error.message : "")

  live("says which option is wrong", function*() {
    const wrong = [
      [{ maxConnections: 0 }, "option maxConnections must be a whole number of at least 1, got 0"],
      [{ maxPayloadBytes: 1.5 }, "option maxPayloadBytes must be a whole number of at least 1, got 1.5"],
      [
        { path: "/live?token=1" },
        `option path must be a path of HttpRouter, without query: /live, got "/live?token=1"`
      ],
      [{ allowedOrigins: ["shop.example"] }, "option allowedOrigins must be"],
      [{ port: 80 }, "there is no option port"]
    ] as const
    for (const [options, message] of wrong) {
      const layer = app(echo, options as Partial<Transport.HttpRouterOptions>)
      assert.include((yield* mistake(Layer.build(layer))).message, message)
    }
  })

  live("needs a path of its own, for one server", function*() {
    const News2 = (
      transport: Layer.Layer<Transport.TransportServer, never, HttpRouter.HttpRouter | HttpServer.HttpServer>
    ) => News.layerServer().pipe(Layer.provide([MemoryStore.layer(), transport]))
    const shared = route()
    const twice = [
      [Layer.provideMerge(sessions(), News2(route())), "already declared"],
      [
        Layer.provideMerge(
          Chat.layerServer().pipe(Layer.provide([MemoryStore.layer(), shared])),
          News2(shared)
        ),
        "/live: another server has this transport already"
      ]
    ] as const
    for (const [layer, message] of twice) {
      assert.include(yield* fault(HttpRouter.serve(layer, quiet).pipe(Layer.provide(http()))), message)
    }
  })
})
