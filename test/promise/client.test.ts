/** The client on real sockets: connecting, waiting, iterating, ending. */
import { assert, describe, it } from "@effect/vitest"
import * as Face from "resilient-websocket/promise"
import { onTestFinished } from "vitest"
import type { WebSocket } from "ws"
import { freePort } from "../support/freePort.ts"
import { listen, makeManager, rejection, turn, until } from "../support/promise.ts"

const { ResilientClient } = Face

type Options = Face.ClientOptions<unknown, unknown>

/** A manager that handles what comes, and clients of its own. */
const setUp = async (options: Face.ManagerOptions<unknown, unknown> = {}) => {
  const handled: Array<unknown> = []
  const sockets: Array<WebSocket> = []
  const manager = await makeManager({ onMessage: (message) => void handled.push(message), ...options })
  const { url } = await listen((ws) => {
    sockets.push(ws)
    return manager.registerConnection(ws, { sessionId: "alice" })
  })
  return { handled, manager, sockets, url, connect: (options: Options = {}) => connectTo(url, options) }
}

const connectTo = async (url: Parameters<typeof ResilientClient.connect>[0], options: Options = {}) => {
  const client = await ResilientClient.connect(url, { log: false, reconnect: { base: 1, cap: 20 }, ...options })
  onTestFinished(() => client.close({ timeout: 100 }).then(() => {}))
  return client
}

const take = async <A>(iterable: AsyncIterable<A>, count: number): Promise<Array<A>> => {
  const values: Array<A> = []
  for await (const value of iterable) {
    values.push(value)
    if (values.length === count) break
  }
  return values
}

describe("connect", () => {
  it("waits until there is a server, with the messages that were sent meanwhile", async () => {
    const port = await freePort()
    const client = await connectTo(`ws://127.0.0.1:${port}`, { wait: false })
    const receipt = await client.send("early")
    assert.deepInclude(receipt, { _tag: "Queued", reason: "disconnected" })
    await until("it has tried", async () => (await client.state())._tag === "Disconnected")
    const handled: Array<unknown> = []
    const manager = await makeManager({ onMessage: (message) => void handled.push(message) })
    const { url } = await listen((ws) => manager.registerConnection(ws), port)
    assert.include(url, String(port))
    await client.connected({ timeout: "200 seconds" })
    await receipt.handled()
    assert.deepStrictEqual(handled, ["early"])
  })

  it("tries as often as it was told to, also when its circuit opens", async () => {
    const states: Array<string> = []
    const on = { stateChange: ({ _tag }: Face.ConnectionState) => states.push(_tag) }
    await connectTo(`ws://127.0.0.1:${await freePort()}`, { wait: false, on })
    await until("it has tried often", () => states.filter((tag) => tag === "Disconnected").length > 20)
  })

  it("gives up in its time, or with its signal, and leaves nothing behind", async () => {
    const url = `ws://127.0.0.1:${await freePort()}`
    const late = await rejection(ResilientClient.connect(url, { log: false, connectTimeout: 50 }))
    assert.deepInclude(late, { _tag: "resilient-websocket/ConnectionTimeoutError", phase: "connect", afterMillis: 50 })
    assert.isTrue(late instanceof Face.ConnectionTimeoutError)
    assert.match(String(late), /no connect within 50 ms: .*ECONNREFUSED/)
    const wrong = ResilientClient.connect(url, { log: false, connectTimeout: "soon" as "1 second" })
    assert.isTrue(await rejection(wrong) instanceof Face.ConfigError)
    const reason = new Error("enough")
    const controller = new AbortController()
    const connecting = rejection(ResilientClient.connect(url, { log: false, signal: controller.signal }))
    await turn()
    controller.abort(reason)
    assert.strictEqual(await connecting, reason)
    assert.strictEqual(
      await rejection(ResilientClient.connect(url, { log: false, signal: AbortSignal.abort(reason) })),
      reason
    )
  })

  it("rejects with what the server says when that is stop", async () => {
    const { url } = await listen((ws) => {
      ws.send(JSON.stringify({ t: "reject", code: "unauthorized", detail: "who are you?" }))
      ws.close(4501)
    })
    const error = await rejection(ResilientClient.connect(url, { log: false }))
    assert.deepInclude(error, {
      _tag: "resilient-websocket/HandshakeError",
      reason: "unauthorized",
      detail: "who are you?"
    })
  })

  it("says which option is wrong", async () => {
    const error = await rejection(ResilientClient.connect("ws://127.0.0.1:1", { log: false, ttl: 0 }))
    assert.isTrue(error instanceof Face.ConfigError)
    assert.include(String(error), "ttl")
    // What is no URL is not shown: where its secrets are, nobody can tell.
    for (
      const [url, shown] of [["nonsense", "(not a URL)"], ["http://127.0.0.1", "http://127.0.0.1/"], [
        "",
        "(not a URL)"
      ]]
    ) {
      const error = await rejection(ResilientClient.connect(url ?? "", { log: false }))
      assert.isTrue(error instanceof Face.ConfigError)
      assert.include(String(error), `ws:// or wss://, got ${shown}`)
    }
  })

  it("asks again for a url that was no string, and says so", async () => {
    const { url } = await setUp()
    const answers: Array<unknown> = [undefined, null, 5, new URL(url), url]
    const states: Array<Face.ConnectionState> = []
    await connectTo(() => answers.shift() as string, { on: { stateChange: (state) => void states.push(state) } })
    assert.deepStrictEqual(
      states.flatMap((state) => state._tag === "Disconnected" ? [state.error.message] : []),
      Array<string>(4).fill("transport: dial failed: the url is no string")
    )
  })

  it("refuses headers that no request can have, without showing them, and events that there are not", async () => {
    const { url } = await setUp()
    for (const headers of [{ "x a": "secret" }, { "": "secret" }, { a: "secret\r\nb: c" }, { a: "secret日" }]) {
      const error = await rejection(ResilientClient.connect(url, { log: false, headers }))
      assert.deepInclude(error, { _tag: "ConfigError" })
      assert.include(String(error), "headers")
      assert.notInclude(String(error), "secret")
    }
    const client = await connectTo(url, { headers: { "x-a": "é\t", "x-b": "" } })
    assert.throws(() => client.off("deadletter" as "deadLetter", () => {}), "did you mean deadLetter?")
  })

  it("asks for address and token at every attempt; functions that fail are asked again", async () => {
    const { url } = await setUp()
    let urls = 0
    let tokens = 0
    const client = await connectTo(
      () => {
        if (++urls === 1) throw new Error("no address yet")
        return url
      },
      {
        token: async () => {
          if (++tokens === 1) throw new Error("no token yet")
          return `token ${tokens}`
        }
      }
    )
    assert.deepStrictEqual([urls >= 2, tokens >= 2], [true, true])
    const before = tokens
    await client.refreshToken()
    assert.strictEqual(tokens, before + 1)
  })
})

describe("a client's messages", () => {
  it("are iterated over, each acknowledged when the next is asked for", async () => {
    const { connect, manager } = await setUp()
    const client = await connect()
    const receipts = await manager.sendAll("alice", [1, 2, 3])
    const iterator = client[Symbol.asyncIterator]()
    assert.deepStrictEqual(await iterator.next(), { done: false, value: 1 })
    for (let i = 0; i < 20; i++) await turn()
    assert.notStrictEqual(await manager.locate("alice", receipts[0]?.messageId ?? ""), "handled")
    assert.deepStrictEqual(await iterator.next(), { done: false, value: 2 })
    await receipts[0]?.handled()
    // Who leaves has not acknowledged the one that he is at.
    await iterator.return?.()
    assert.deepStrictEqual(await take(client.messages(), 2), [
      { message: 2, session: "alice", messageId: receipts[1]?.messageId, volatile: false, trace: undefined },
      { message: 3, session: "alice", messageId: receipts[2]?.messageId, volatile: false, trace: undefined }
    ])
    await receipts[1]?.handled()
    await rejection(
      (async () => {
        for await (const message of client) throw new Error(`can't do ${String(message)}`)
      })()
    )
    assert.deepStrictEqual(await take(client, 1), [3])
  })

  it("come one after the other to who asks for many at once, and to who leaves while he waits", async () => {
    const { connect, manager } = await setUp()
    const client = await connect()
    const iterator = client[Symbol.asyncIterator]()
    const asked = [1, 2, 3].map(() => iterator.next())
    await manager.sendAll("alice", [1, 2, 3])
    assert.deepStrictEqual((await Promise.all(asked)).map(({ value }) => value), [1, 2, 3])
    const waiting = iterator.next()
    await turn()
    await iterator.return?.()
    assert.deepStrictEqual(await waiting, { done: true, value: undefined })
    assert.deepStrictEqual(await iterator.next(), { done: true, value: undefined })
    await manager.sendAll("alice", [4])
    assert.deepStrictEqual(await take(client, 1), [4])
  })

  it("end with the client", async () => {
    const { connect } = await setUp()
    const client = await connect()
    const all = take(client, Infinity)
    await turn()
    await client.close()
    assert.deepStrictEqual(await all, [])
  })

  it("go to onMessage if there is one, and are not iterated over then", async () => {
    const { connect, handled, manager } = await setUp()
    const client = await connect({ onMessage: (message, { reply }) => reply({ re: message }) })
    await (await manager.sendWithReceipt("alice", "hello", { critical: true })).handled()
    await until("it is answered", () => handled.length === 1)
    assert.deepStrictEqual(handled, [{ re: "hello" }])
    assert.throws(() => client.messages(), TypeError)
  })

  it("come once and in order through cut connections, both ways", async () => {
    const { connect, handled, manager, sockets } = await setUp()
    const got: Array<unknown> = []
    const client = await connect({ onMessage: (message) => void got.push(message) })
    const numbers = Array.from({ length: 400 }, (_, n) => n)
    for (const n of numbers) {
      await Promise.all([client.send(n), manager.send("alice", n, { critical: true })])
      if (n % 40 !== 39) continue
      sockets.at(-1)?.terminate()
      await turn()
    }
    await until("all are handled", () => handled.length >= 400 && got.length >= 400)
    assert.deepStrictEqual([handled, got], [numbers, numbers])
    const metrics = async () => (await client.getStats()).metrics
    await until("the server has said so", async () => (await metrics()).messages.acknowledged === 400)
    assert.strictEqual((await metrics()).messages.received, 400)
    assert.isAbove((await metrics()).connections.reconnections, 0)
  })
})

describe("a client", () => {
  it("sends reliably by default, volatile if told so, once under an id", async () => {
    const { connect, handled, sockets } = await setUp()
    const fallen: Array<unknown> = []
    const client = await connect({ fallbackSend: (message, { reason }) => fallen.push([message, reason]) })
    assert.deepInclude(await client.send("a", { id: "a" }), { _tag: "Sent", messageId: "a" })
    assert.deepInclude(await client.send("a", { id: "a" }), { _tag: "Duplicate", messageId: "a" })
    const [last] = (await client.sendAll(["b", "c"])).slice(-1)
    await last?.handled()
    assert.strictEqual(await client.locate("a"), "handled")
    assert.deepStrictEqual(handled, ["a", "b", "c"])
    const states: Array<string> = []
    client.on("stateChange", ({ _tag }) => states.push(_tag))
    sockets.at(-1)?.terminate()
    await until("it noticed", () => states.includes("Disconnected"))
    assert.deepInclude(await client.send("d", { volatile: true }), { _tag: "Skipped", reason: "disconnected" })
    assert.deepStrictEqual(fallen, [["d", "skipped"]])
    await until("it is back", () => states.includes("Connected"))
  })

  it("tells of its states from the first one on, to listeners among its options", async () => {
    const { connect } = await setUp()
    const states: Array<string> = []
    await connect({ on: { stateChange: ({ _tag }) => states.push(_tag) } })
    assert.deepStrictEqual(states, ["Connecting", "Connecting", "Connected"])
  })

  it("tells of its state, its circuits and its dead letters", async () => {
    const client = await connectTo(`ws://127.0.0.1:${await freePort()}`, {
      wait: false,
      ttl: 20,
      expirySweep: 20,
      breaker: { consecutiveFailures: 1 }
    })
    const [states, circuits, letters]: [Array<string>, Array<unknown>, Array<Face.DeadLetter<unknown>>] = [[], [], []]
    client.on("stateChange", ({ _tag }) => states.push(_tag))
    client.on("circuitChange", ({ circuit, session, to }) => circuits.push([circuit.slice(0, 14), session, to]))
    const listener = (letter: Face.DeadLetter<unknown>) => letters.push(letter)
    client.on("deadLetter", listener)
    const receipt = await client.send("never")
    assert.deepInclude(await rejection(receipt.handled()), {
      _tag: "resilient-websocket/DeadLetterError",
      reason: "expired"
    })
    assert.deepInclude(letters[0], { direction: "out", reason: "expired", message: "never" })
    client.off("deadLetter", listener)
    await until("its circuit opens", () => circuits.length > 0)
    assert.deepStrictEqual(circuits[0], ["endpoint:ws://", undefined, "Open"])
    await until("it has tried", () => states.includes("Disconnected"))
    const report = await client.close()
    assert.strictEqual(await client.close(), report)
    assert.strictEqual(states.at(-1), "Closed")
    assert.isTrue(await rejection(client.send("late")) instanceof Face.ShutdownError)
    assert.deepInclude((await client.getStats()).connection, { isConnected: false })
  })

  it("ends its session for good, and begins a new one", async () => {
    const manager = await makeManager({ onMessage: () => {} })
    const sessions: Array<string | undefined> = []
    const { url } = await listen(async (ws) => sessions.push(await manager.registerConnection(ws)))
    const client = await connectTo(url)
    await client.endSession()
    await client.reconnect()
    await client.connected()
    await until("it has another", () => sessions.length === 2)
    assert.notStrictEqual(sessions[0], sessions[1])
    assert.deepStrictEqual(Object.keys((await manager.getStats()).connections), [sessions[1]])
  })
})
