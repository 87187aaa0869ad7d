/** Which pages may connect: every form that an `Origin`, a `Host` and the option have. */
import { assert, describe, it, onTestFinished } from "@effect/vitest"
import { Effect } from "effect"
import { once } from "node:events"
import { WebSocket, WebSocketServer } from "ws"
import { makeOriginCheck } from "../src/internal/session/origins.ts"
import { NodeTransport } from "../src/node/index.ts"
import { ConfigError, ResilientWebSocketManager, webSocketServerOptions } from "../src/promise/index.ts"
import type { Request } from "../src/Transport.ts"

const request = (origin: string | undefined, host: string | undefined): Request => ({
  url: "/",
  headers: { origin, host },
  remoteAddress: "127.0.0.1"
})

const allows = (option: NodeTransport.AllowedOrigins | undefined, origin: string | undefined, host?: string): boolean =>
  makeOriginCheck(option)(request(origin, host)) === undefined

describe("origins", () => {
  it("of the own host are those with the same host and port", () => {
    for (
      const [origin, host] of [
        ["https://shop.example", "shop.example"],
        ["https://shop.example", "shop.example:443"],
        ["http://shop.example", "shop.example:80"],
        ["http://shop.example:8080", "shop.example:8080"],
        ["https://SHOP.example", "shop.EXAMPLE"],
        ["http://[::1]:8080", "[::1]:8080"],
        ["http://[0:0:0:0:0:0:0:1]:8080", "[::1]:8080"],
        ["http://127.0.0.1:3000", "127.0.0.1:3000"],
        ["https://xn--bcher-kva.example", "bücher.example"]
      ] as const
    ) {
      assert.isTrue(allows(undefined, origin, host), `${origin} at ${host}`)
      assert.isTrue(allows("own", origin, host))
    }
    for (
      const [origin, host] of [
        ["https://evil.example", "shop.example"],
        ["https://shop.example.evil.example", "shop.example"],
        ["https://notshop.example", "shop.example"],
        ["https://shop.example@evil.example", "shop.example"],
        ["https://evil.example@shop.example", "shop.example"],
        ["https://shop.example:444", "shop.example"],
        ["http://localhost:5173", "localhost:8080"],
        ["http://localhost", "127.0.0.1"],
        ["https://shop.example/", "shop.example"],
        ["https://shop.example, https://shop.example", "shop.example"],
        ["https://shop.example https://evil.example", "shop.example"],
        ["https://shop.example", "shop.example, evil.example"],
        ["https://shop.example", undefined],
        ["https://shop.example", ""],
        ["https://shop.example", "shop.example/x"],
        ["null", "null"],
        ["", "shop.example"],
        ["shop.example", "shop.example"],
        ["file://shop.example", "shop.example"],
        ["chrome-extension://shop.example", "shop.example"],
        ["https://", ""],
        ["https://shop.example\\evil", "shop.example"]
      ] as const
    ) assert.isFalse(allows("own", origin, host), `${origin} at ${host}`)
    assert.isTrue(allows("own", undefined, "shop.example"), "no browser")
  })

  it("of a list are these alone, however they are written", () => {
    const list = ["https://Shop.example:443", "http://localhost:5173", "capacitor://localhost", "null"]
    for (
      const origin of [
        "https://shop.example",
        "https://shop.example:443",
        "http://localhost:5173",
        "capacitor://localhost",
        "null"
      ]
    ) assert.isTrue(allows(list, origin, "elsewhere.example"), origin)
    for (const origin of ["http://shop.example", "https://a.shop.example", "http://localhost", "NULL", "*"]) {
      assert.isFalse(allows(list, origin, "shop.example"), origin)
    }
    assert.isFalse(allows([], "https://shop.example", "shop.example"))
    assert.isTrue(allows([], undefined))
  })

  it("of a function are those that it says yes to, and nothing like yes", () => {
    assert.isTrue(allows((origin, { headers }) => origin === `https://${headers["host"]}`, "https://a", "a"))
    const almost = (() => Promise.resolve(true)) as unknown as () => boolean
    assert.isFalse(allows(almost, "https://a", "a"))
    assert.isFalse(allows(
      () => {
        throw new Error("no")
      },
      "https://a",
      "a"
    ))
  })

  it("any is said by name, and what can't be is refused", () => {
    assert.isTrue(allows("any", "https://evil.example", "shop.example"))
    for (const wrong of ["*", "https://shop.example", ["*"], ["shop.example"], ["https://shop.example/"], null, true]) {
      assert.throws(() => makeOriginCheck(wrong as "any"), /allowedOrigins/)
      assert.throws(() => webSocketServerOptions({ allowedOrigins: wrong as "any" }), ConfigError)
      assert.throws(() => NodeTransport.webSocketServerOptions({ allowedOrigins: wrong as "any" }), /allowedOrigins/)
    }
  })
})

const serve = async (options: ConstructorParameters<typeof WebSocketServer>[0]) => {
  const server = new WebSocketServer({ ...options, port: 0, host: "127.0.0.1" })
  onTestFinished(() => {
    for (const ws of server.clients) ws.terminate()
    server.close()
  })
  await once(server, "listening")
  const address = server.address()
  assert.isObject(address)
  return { server, url: `ws://127.0.0.1:${typeof address === "object" ? address?.port : 0}` }
}

/** What became of a dial: the subprotocol chosen, or the status. */
const dial = async (url: string, protocols: Array<string>, origin?: string): Promise<[WebSocket, string | number]> => {
  const ws = new WebSocket(url, protocols, origin === undefined ? {} : { origin })
  ws.on("error", () => {})
  onTestFinished(() => ws.terminate())
  return new Promise((resolve) => {
    ws.once("open", () => resolve([ws, ws.protocol]))
    ws.once("unexpected-response", (_, response) => resolve([ws, response.statusCode ?? 0]))
  })
}

describe("a WebSocketServer with our options", () => {
  it.live("keeps our rules", () =>
    Effect.promise(async () => {
      const { server, url } = await serve(webSocketServerOptions({ maxPayloadBytes: 100_000 }))
      assert.strictEqual((await dial(url, ["chat", "resilient.v1"]))[1], "resilient.v1")
      assert.strictEqual((await dial(url, ["chat"]))[1], "chat")
      assert.strictEqual((await dial(url, [], "https://evil.example"))[1], 403)
      const [own] = await dial(url, [], url.replace("ws:", "http:"))
      // Nobody listens for the errors of its sockets.
      own.send("x".repeat(200_000))
      assert.strictEqual((await once(own, "close"))[0], 1009)
      assert.strictEqual(server.options.perMessageDeflate, false)
    }))

  it.live("a socket that was made without them is refused, with the cause", () =>
    Effect.promise(async () => {
      const { server, url } = await serve({})
      const refused: Array<unknown> = []
      const manager = await ResilientWebSocketManager.make({
        on: { refused: ({ error }) => void refused.push(error) }
      })
      onTestFinished(() => manager.gracefulShutdown().then(() => {}))
      server.on("connection", (ws, request) => void manager.registerConnection(ws, { request }))
      const ends = async (protocols: Array<string>, origin?: string): Promise<unknown> => {
        const ws = new WebSocket(url, protocols, origin === undefined ? {} : { origin })
        onTestFinished(() => ws.terminate())
        return new Promise((resolve) => ws.once("close", resolve).once("message", () => resolve("a message")))
      }
      assert.isNumber(await ends(["chat", "resilient.v1"]))
      assert.strictEqual(await ends([], "https://evil.example"), 4502)
      assert.strictEqual(await ends([], url.replace("ws:", "http:")), "a message")
      assert.deepStrictEqual(refused.length, 2)
      assert.match(String(refused[0]), /resilient.v1 was offered, .* chose chat: see webSocketServerOptions/)
      assert.match(String(refused[1]), /forbidden.*evil.example/)
    }))

  it.live("a socket that was given back ends nobody's process by a peer's nonsense", () =>
    Effect.promise(async () => {
      const { server, url } = await serve({})
      const manager = await ResilientWebSocketManager.make()
      onTestFinished(() => manager.gracefulShutdown().then(() => {}))
      const given = once(server, "connection")
      const [peer] = await dial(url, [])
      const [ws] = await given
      await manager.registerConnection(ws)
      await manager.unregisterConnection(ws)
      const closed = new Promise((resolve) => ws.once("close", resolve))
      // A frame of an opcode that there is not, unmasked.
      const { _socket: socket } = peer as unknown as { readonly _socket: { readonly write: (data: Buffer) => void } }
      socket.write(Buffer.from([0x83, 0x00]))
      await closed
    }))
})
