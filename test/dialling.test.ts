/** What a client makes of an HTTP server, or a hop, that answers a dial with something else than a WebSocket of ours. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import { Socket } from "effect/socket"
import { createHash } from "node:crypto"
import { createServer, type IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import type { Duplex } from "node:stream"
import { type ResilientClient, Transport } from "resilient-websocket"
import * as H from "./support/harness.ts"

type Stopped = Extract<ResilientClient.ConnectionState, { readonly _tag: "Stopped" }>

/** An HTTP server whose upgrades are answered with these bytes, by the number of the dial. */
const httpServer = (answer: (socket: Duplex, dial: number, request: IncomingMessage) => void) =>
  Effect.acquireRelease(
    Effect.callback<{ url: string; dials: () => number; close: () => void }>((resume) => {
      let dials = 0
      const sockets = new Set<Duplex>()
      const server = createServer()
      server.on("upgrade", (request, socket) => {
        sockets.add(socket)
        socket.on("error", () => {})
        answer(socket, ++dials, request)
      })
      server.listen(0, "127.0.0.1", () => {
        const { port } = server.address() as AddressInfo
        const close = () => {
          for (const socket of sockets) socket.destroy()
          server.close()
        }
        resume(Effect.succeed({ url: `ws://127.0.0.1:${port}`, dials: () => dials, close }))
      })
    }),
    ({ close }) => Effect.sync(close)
  )

const status = (code: number, headers = "") => (socket: Duplex) =>
  socket.end(`HTTP/1.1 ${code} Whatever\r\n${headers}content-length: 0\r\n\r\n`)

/** Switches protocols, perhaps wrongly. */
const switched =
  (headers: (request: IncomingMessage) => string) => (socket: Duplex, _: number, request: IncomingMessage) =>
    void socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n${headers(request)}\r\n`
    )

const accept = (request: IncomingMessage): string =>
  `sec-websocket-accept: ${
    createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest("base64")
  }\r\n`

const quick = { reconnect: { base: 1, cap: 20 } } as const

const stopped = (client: H.Client): Effect.Effect<Stopped> =>
  Effect.map(
    Stream.runHead(Stream.filter(client.states, (state): state is Stopped => state._tag === "Stopped")),
    (state) => state._tag === "Some" ? state.value : assert.fail("it has not stopped")
  )

const isDisconnected = (state: ResilientClient.ConnectionState) => state._tag === "Disconnected"
const lost = (client: H.Client) =>
  Effect.map(
    Stream.runHead(Stream.filter(client.states, isDisconnected)),
    (state) =>
      state._tag === "Some" && state.value._tag === "Disconnected" ? state.value : assert.fail("it has met nothing")
  )

describe("a dial that is answered with", () => {
  for (const code of [200, 301, 302, 307, 400, 404, 405, 407, 410, 426]) {
    it.live(`${code} is tried again, and stops the client when it stays so`, () =>
      Effect.gen(function*() {
        const server = yield* httpServer(status(code, "location: http://127.0.0.1:1/\r\n"))
        const client = yield* H.nodeClient({ url: server.url, ...quick })
        const { error } = yield* stopped(client)
        assert.deepInclude(error, { _tag: "resilient-websocket/TransportError", operation: "dial", status: code })
        assert.include(error.message, String(code))
        assert.isAtLeast(server.dials(), 5)
      }))
  }

  for (const [code, reason] of [[401, "unauthorized"], [403, "forbidden"]] as const) {
    it.live(`${code} twice stops the client: the second time it came with a fresh token`, () =>
      Effect.gen(function*() {
        const server = yield* httpServer(status(code))
        let asked = 0
        const url = Effect.sync(() => `${server.url}/?token=${++asked}`)
        const client = yield* H.nodeClient({ url, ...quick })
        const { error } = yield* stopped(client)
        assert.deepInclude(error, { _tag: "resilient-websocket/HandshakeError", reason, retryable: false })
        assert.deepStrictEqual([server.dials(), asked], [2, 2])
      }))
  }

  it.live("a switch of protocols that is none, or not to ours, stops the client when it stays so", () =>
    Effect.gen(function*() {
      const answers = [switched(() => "sec-websocket-accept: AAAA\r\n"), switched(accept)]
      for (const answer of answers) {
        const server = yield* httpServer(answer)
        const client = yield* H.nodeClient({ url: server.url, ...quick })
        const { error } = yield* stopped(client)
        assert.deepInclude(error, { _tag: "resilient-websocket/TransportError", status: 101 })
      }
    }))

  for (const code of [408, 425, 429, 500, 502, 503, 504]) {
    it.live(`${code} is tried again for as long as it takes`, () =>
      Effect.gen(function*() {
        const server = yield* httpServer(status(code))
        const client = yield* H.nodeClient({ url: server.url, ...quick }, {
          store: { breaker: { endpoint: { consecutiveFailures: Infinity, failureRatio: 1, minimumCalls: 1e9 } } }
        })
        const states = yield* H.collect(client.states)
        yield* Effect.repeat(H.turn, { until: () => server.dials() >= 20 })
        assert.isFalse(states.some(({ _tag }) => _tag === "Stopped"))
      }))
  }

  for (
    const [name, headers, from, to] of [
      ["seconds", "retry-after: 7\r\n", 7_000, 7_000],
      ["a date", "date: Tue, 01 Jan 2030 00:00:00 GMT\r\nretry-after: Tue, 01 Jan 2030 00:00:09 GMT\r\n", 9_000, 9_000],
      ["a year", "retry-after: 31536000\r\n", 600_000, 600_000],
      ["nonsense", "retry-after: soon\r\n", 0, 20],
      ["the past", "date: Tue, 01 Jan 2030 00:00:09 GMT\r\nretry-after: Tue, 01 Jan 2030 00:00:00 GMT\r\n", 0, 20]
    ] as const
  ) {
    it.live(`503 and Retry-After, ${name}, is heeded within bounds`, () =>
      Effect.gen(function*() {
        const server = yield* httpServer(status(503, headers))
        const client = yield* H.nodeClient({ url: server.url, ...quick })
        const { retryInMillis } = yield* lost(client)
        assert.isAtLeast(retryInMillis, from)
        assert.isAtMost(retryInMillis, to)
      }))
  }

  it.live("404 while a server is deployed keeps nobody away", () =>
    Effect.gen(function*() {
      const real = yield* H.nodeServer()
      const server = yield* httpServer(status(404))
      const client = yield* H.nodeClient({
        // Three times the wrong server answers.
        url: Effect.sync(() => server.dials() < 3 ? server.url : real.url),
        ...quick
      })
      yield* client.awaitConnected()
    }))

  it.live("404 is just a failure to Effect's WebSockets, which don't say", () =>
    Effect.gen(function*() {
      const server = yield* httpServer(status(404))
      const layer = Layer.provide(Transport.layerClientWebSocket, Socket.layerWebSocketConstructorGlobal)
      const client = yield* H.clientOn(yield* Layer.build(layer), { url: server.url, ...quick })
      const { error } = yield* lost(client)
      assert.strictEqual(error._tag, "resilient-websocket/TransportError")
    }))
})

it.live("a URL with a fragment is dialled without it", () =>
  Effect.gen(function*() {
    const { url } = yield* H.nodeServer()
    const client = yield* H.nodeClient({ url: `${url}/page?x=1#part`, ...quick })
    yield* client.awaitConnected()
  }))
