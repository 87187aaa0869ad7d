/** Secrets are planted wherever a program may have some, and looked for in everything that comes out. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Layer, Logger, Metric, Redacted, References, Schema, Tracer } from "effect"
import { Socket } from "effect/socket"
import { once } from "node:events"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { inspect } from "node:util"
import { CircuitBreaker, Contract, MemoryStore, Transport, WebSocketError } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { PostgresStore } from "resilient-websocket/postgres"
import { ResilientClient, ResilientWebSocketManager } from "resilient-websocket/promise"
import { RedisStore } from "resilient-websocket/redis"
import { WebSocketServer } from "ws"
import { mayBeSentTo, shownCause, shownName, shownUrl, withoutUrl } from "../src/internal/kit/urls.ts"
import { freePort } from "./support/freePort.ts"
import * as H from "./support/harness.ts"
import { advanceUntil } from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"

const secrets = [
  "planted-query",
  "planted-user",
  "planted-password",
  "planted-fragment",
  "planted-token",
  "planted-header"
]

const withSecrets = (host: string, scheme = "ws"): string =>
  `${scheme}://planted-user:planted-password@${host}/live?token=planted-query&x=1#planted-fragment`

/** Everything that a value says of itself, in each of the ways that a program may show it. */
const saying = (value: unknown): string => {
  const texts = [String(value), inspect(value, { depth: Infinity, showHidden: true })]
  try {
    texts.push(JSON.stringify(value) ?? "")
  } catch {
    // cyclic
  }
  for (let error = value; error instanceof Error; error = error.cause) {
    texts.push(error.message, error.stack ?? "", JSON.stringify(error), inspect({ ...error }, { depth: Infinity }))
  }
  return texts.join("\n")
}

class Output {
  readonly texts: Array<string> = []
  readonly add = (value: unknown): void => void this.texts.push(saying(value))

  /** Collects logs of every level and spans with their attributes. */
  readonly layer = Layer.mergeAll(
    Logger.layer([
      Logger.make<unknown, void>(({ cause, message }) => {
        this.add(message)
        this.add(cause)
        this.texts.push(Cause.pretty(cause))
      })
    ]),
    Layer.succeed(References.MinimumLogLevel, "Trace"),
    Layer.succeed(
      Tracer.Tracer,
      Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          this.spans.push(span)
          return span
        }
      })
    )
  )
  readonly spans: Array<Tracer.NativeSpan> = []

  check(more: ReadonlyArray<string> = []): void {
    for (const { attributes, events, name } of this.spans) this.add([name, [...attributes], events])
    const text = this.texts.join("\n")
    assert.isAbove(text.length, 100, "something is said at all")
    for (const secret of [...secrets, ...more]) {
      const at = text.indexOf(secret)
      assert.strictEqual(at, -1, text.slice(Math.max(0, at - 200), at + 100))
    }
  }
}

const transports = {
  ws: Layer.build(NodeTransport.layerClient),
  effect: Layer.build(Layer.provide(Transport.layerClientWebSocket, Socket.layerWebSocketConstructorGlobal))
}

/** What a client with secrets everywhere says while it meets `url`, until it has failed thrice. */
const failing = Effect.fnUntraced(function*(transport: keyof typeof transports, url: string, output: Output) {
  const store = yield* H.makeStore({ breaker: { endpoint: { consecutiveFailures: 2, openBase: 1 } } })
  const breaker = Context.get(store, CircuitBreaker.CircuitBreaker)
  yield* breaker.onTransition(output.add)
  const client = yield* H.clientOn(yield* transports[transport], {
    url,
    token: Redacted.make("planted-token"),
    headers: transport === "ws" ? { authorization: "Bearer planted-header" } : {},
    reconnect: { base: 1, cap: 5 },
    onStateChange: (state) => Effect.sync(() => output.add(state))
  }, { store })
  output.add(client)
  let failures = 0
  const states = yield* H.collect(client.states)
  yield* Effect.repeat(Effect.sleep(5), {
    until: () => {
      failures = states.filter(({ _tag }) => _tag === "Disconnected" || _tag === "Stopped").length
      return failures >= 3 || states.some(({ _tag }) => _tag === "Stopped")
    }
  })
  output.add(yield* Effect.flip(client.awaitConnected({ timeout: 5 })))
  output.add(yield* client.stats)
  output.add(yield* breaker.stats)
  output.add(yield* Metric.snapshot)
})

const answering = (status: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = createServer()
      server.on("upgrade", (request, socket) => {
        socket.on("error", () => {})
        socket.end(`HTTP/1.1 ${status} No\r\nlocation: ${request.url}\r\ncontent-length: 0\r\n\r\n`)
      })
      server.listen(0, "127.0.0.1")
      await once(server, "listening")
      return server
    }),
    (server) => Effect.sync(() => server.close())
  )

const Talk = Contract.make("test/Talk", { toServer: Schema.Null, toClient: Schema.Null })
const mistaken = Talk.layerClient({ url: "ws://x", token: "planted-token" as never }).pipe(
  Layer.provide([MemoryStore.layer(), Transport.layerMemory])
)

describe("no secret of a client is shown", () => {
  it.effect("not even one that is given as plain text, which is a mistake", () =>
    Effect.gen(function*() {
      const { message } = yield* H.mistake(Effect.scoped(Layer.build(mistaken)))
      assert.strictEqual(message, "option token must be a Redacted, or an effect of one")
    }))

  for (const transport of ["ws", "effect"] as const) {
    for (
      const [name, url] of [
        ["a port that refuses", Effect.map(Effect.promise(freePort), (port) => withSecrets(`127.0.0.1:${port}`))],
        ["a host that does not exist", Effect.succeed(withSecrets("no.such.host.invalid"))],
        ["a scheme that is none", Effect.succeed(withSecrets("127.0.0.1:1", "wsx"))],
        ["a port that can't be", Effect.succeed(withSecrets("127.0.0.1:999999"))],
        ["what is no URL", Effect.succeed("planted-user:planted-password@127.0.0.1/?token=planted-query")],
        ["a fragment, which `ws` refuses", Effect.succeed("ws://127.0.0.1:1/#planted-fragment")],
        ...[302, 401, 404, 503].map((status) =>
          [
            `HTTP ${status}`,
            Effect.map(answering(status), (server) =>
              withSecrets(`127.0.0.1:${(server.address() as AddressInfo).port}`).split("#")[0] ?? "")
          ] as const
        )
      ] as const
    ) {
      it.live(`when it meets ${name}, by the transport of ${transport}`, () => {
        const output = new Output()
        return Effect.gen(function*() {
          yield* failing(transport, yield* url, output)
          output.check()
        }).pipe(Effect.withSpan("test"), Effect.provide(output.layer))
      })
    }
  }

  it.effect("nor a token, auth or resume, by client or server, through connects, refusals and renewals", () => {
    const output = new Output()
    return Effect.gen(function*() {
      const network = yield* makeNetwork
      const serverStore = yield* H.makeStore()
      const server = yield* H.serverOn(network.context, {
        authenticate: (handshake) => {
          output.add(handshake)
          const token = H.textOf(handshake.token)
          return token === "planted-token"
            ? Effect.succeed({ session: "alice", principal: "ann" })
            : new WebSocketError.HandshakeError({ reason: "unauthorized", detail: "who?", retryable: false })
        },
        onConnectionEvent: (event) => Effect.sync(() => output.add(event)),
        onMessage: () => Effect.die("a handler's defect")
      }, { store: serverStore })
      let token = "planted-token"
      const store = yield* H.makeStore()
      const client = yield* H.clientOn(network.context, {
        token: Effect.sync(() => Redacted.make(token)),
        onStateChange: (state) => Effect.sync(() => output.add(state))
      }, { store })
      yield* client.awaitConnected()
      yield* client.send("one")
      network.newest().cut()
      yield* advanceUntil("it is back", () => network.links.length === 2)
      yield* client.awaitConnected()
      network.newest().inject("toServer", "{broken")
      yield* advanceUntil("it has stopped", () => Effect.map(client.state, ({ _tag }) => _tag === "Stopped"))
      token = "planted-wrong-token"
      yield* client.reconnect
      yield* advanceUntil(
        "it is refused",
        () =>
          Effect.map(
            client.state,
            (state) => state._tag === "Stopped" && state.error._tag === "resilient-websocket/HandshakeError"
          )
      )
      for (const value of [client, server]) output.add(value)
      for (const figures of [client.stats, server.stats, server.sessionStats("alice"), Metric.snapshot]) {
        output.add(yield* figures)
      }
      const resume = network.links.flatMap(({ frames }) => frames).flatMap(({ frame }) =>
        /"t":"welcome".*"token":"([^"]+)"/.exec(frame)?.slice(1) ?? []
      )
      assert.isAtLeast(resume.length, 2)
      output.check(["planted-wrong-token", ...resume])
    }).pipe(Effect.withSpan("test"), Effect.provide(output.layer))
  })

  it("by the promise face: errors, events, logs, and the handshake as it is logged", async () => {
    const output = new Output()
    const log = output.add
    const port = await freePort()
    const urls = [withSecrets(`127.0.0.1:${port}`), withSecrets("127.0.0.1:1", "wsx"), withSecrets("127.0.0.1:999999")]
    for (const url of urls) {
      for (const make of [url, () => url]) {
        const options = {
          log,
          logLevel: "Trace",
          token: "planted-token",
          headers: { "x-key": "planted-header" },
          connectTimeout: 50,
          reconnect: { base: 1, cap: 5 },
          on: { stateChange: output.add, circuitChange: output.add }
        } as const
        output.add(await ResilientClient.connect(make, options).then(() => assert.fail("connected"), (error) => error))
      }
    }
    const handshakes: Array<unknown> = []
    const manager = await ResilientWebSocketManager.make({
      log,
      logLevel: "Trace",
      onMessage: () => {},
      authenticate: (handshake) => {
        handshakes.push(handshake, { ...handshake })
        output.add(handshake)
        assert.strictEqual(handshake.token, "planted-token")
        return { session: "ann", principal: "ann" }
      }
    })
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1" })
    await once(server, "listening")
    server.on("connection", (ws) => void manager.registerConnection(ws))
    const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/live?token=planted-query`
    const client = await ResilientClient.connect(url, { log, logLevel: "Trace", token: "planted-token" })
    for (const value of [client, manager, await client.getStats(), await manager.getStats(), handshakes]) {
      output.add(value)
    }
    await client.close()
    await manager.gracefulShutdown({ timeout: 1_000 })
    server.close()
    output.check()
  })

  for (
    const [name, layer] of [
      ["PostgreSQL", (url: string) => PostgresStore.layer({ url: Redacted.make(`postgres://${url}`) })],
      ["Redis", (url: string) => RedisStore.layer({ url: `redis://${url}` })]
    ] as const
  ) {
    it.live(`of ${name}, that can't be reached`, () => {
      const output = new Output()
      return Effect.gen(function*() {
        const port = yield* Effect.promise(freePort)
        const url = `planted-user:planted-password@127.0.0.1:${port}/1`
        const exit = yield* Effect.exit(
          Effect.scoped(Layer.build(Layer.fresh(layer(url) as Layer.Layer<unknown, unknown>)))
        )
        output.add(exit)
        if (exit._tag === "Failure") output.texts.push(Cause.pretty(exit.cause), saying(Cause.squash(exit.cause)))
        output.check()
      }).pipe(Effect.withSpan("test"), Effect.provide(output.layer))
    })
  }
})

describe("a URL that is shown", () => {
  const shown: ReadonlyArray<readonly [url: string, shown: string]> = [
    ["wss://example.org/live", "wss://example.org/live"],
    ["WSS://Example.org:443/live?token=a#b", "wss://example.org/live"],
    ["ws://ann:pw@example.org:8080", "ws://example.org:8080/"],
    ["ws:ann:pw@example.org", "ws://example.org/"],
    ["ws://ann:p@w:x@example.org/a/b", "ws://example.org/a/b"],
    ["/live?token=a", "/live"],
    ["ws://ann:pw@example.org:99999/", "(not a URL)"],
    ["ann:pw@example.org", "(not a URL)"],
    ["example.org?token=a", "(not a URL)"],
    ["", "(not a URL)"]
  ]
  for (const [url, text] of shown) it(`${url} is ${text}`, () => assert.strictEqual(shownUrl(url), text))

  it("is its circuit too: one for an endpoint, whatever the token; other names are their own", () => {
    const keys = new Set([1, 2, 3].map((n) => CircuitBreaker.endpoint(`wss://u:p${n}@example.org/live?token=${n}`)))
    assert.deepStrictEqual([...keys], ["endpoint:wss://example.org/live"])
    for (const name of ["store:redis", "payments", "a/b?c", "team@db"]) assert.strictEqual(shownName(name), name)
    assert.notStrictEqual(CircuitBreaker.endpoint("wss://a.example/x"), CircuitBreaker.endpoint("wss://a.example/y"))
  })

  it("of an error is left out, with each part of it that is secret; an error that has none stays as it is", () => {
    const url = "ws://ann:s%20ecret@example.org/?token=abc%2Fdef"
    assert.strictEqual(withoutUrl(`no ${url}, abc/def, s ecret`, url), "no ws://example.org/, …, …")
    assert.strictEqual(withoutUrl("Invalid URL: ", ""), "Invalid URL: ")
    const cause = Object.assign(new Error(`bad ${url}`), { code: "ERR", input: url })
    const clean = shownCause(cause, url)
    assert.notInclude(saying(clean), "abc")
    assert.deepInclude(clean, { code: "ERR", message: "bad ws://example.org/" })
    assert.strictEqual(shownCause(cause, "ws://example.org"), cause)
  })

  it("may be dialled for a drain, unless that would be less safe", () => {
    assert.isTrue(mayBeSentTo("ws://a/", "wss://b/"))
    assert.isTrue(mayBeSentTo("ws://a/", "ws://b/"))
    assert.isFalse(mayBeSentTo("wss://a/", "ws://a/"))
    assert.isFalse(mayBeSentTo("wss://a/", "https://a/"))
    assert.isFalse(mayBeSentTo("wss://a/", "a"))
  })
})
