/** Sockets that are taken over too late, while something is awaited, or that can't be taken over at all. */
import { assert, describe, it } from "@effect/vitest"
import { once } from "node:events"
import * as Face from "resilient-websocket/promise"
import { onTestFinished } from "vitest"
import { WebSocket } from "ws"
import { CloseCode } from "../../src/core/Protocol.ts"
import { collected, listen, makeManager, makeTimed, plainPeer, rejection, turn, until } from "../support/promise.ts"

const { ResilientClient } = Face

/** A server whose sockets wait here for what the test does with them. */
const hold = async (protocol?: string, pause = false) => {
  const sockets: Array<WebSocket> = []
  /** When the first message of each has come; from then on nobody listens. */
  const heard = new Map<WebSocket, Promise<void>>()
  let listens = false
  const { server, url } = await listen((ws) => {
    if (pause) ws.pause()
    if (listens) heard.set(ws, new Promise((resolve) => ws.once("message", () => resolve())))
    sockets.push(ws)
  })
  if (protocol !== undefined) server.options.handleProtocols = () => protocol
  const accepted = async () => {
    await until("a socket was accepted", () => sockets.length > 0)
    return sockets.shift() ?? assert.fail("there is none")
  }
  /** One whose first message is gone. */
  const missed = async () => {
    const ws = await accepted()
    await heard.get(ws)
    return ws
  }
  return { accepted, missed, misses: () => void (listens = true), url }
}

/** A client that goes on trying, and why it is not connected. */
const trying = async (url: string) => {
  const client = await ResilientClient.connect(url, { wait: false, log: false })
  onTestFinished(() => client.close({ flushPending: false, timeout: "1 second" }).then(() => {}))
  return client
}

const logging = () => {
  const lines: Array<string> = []
  return { lines, log: ({ message }: Face.LogEntry) => void lines.push(message) }
}

describe("a socket that is registered after something was awaited", () => {
  it("is refused if its hello was missed, and everybody is told why", async () => {
    const { lines, log } = logging()
    const manager = await makeManager({ onMessage: () => {}, log })
    const refused = collected(manager, "refused")
    const { misses, missed, url } = await hold()
    misses()
    const states: Array<Face.ConnectionState> = []
    const client = await trying(url)
    client.on("stateChange", (state) => states.push(state))
    const ws = await missed()
    await turn()
    assert.isUndefined(await manager.registerConnection(ws, { sessionId: "ann" }))
    assert.deepInclude(refused[0]?.error, { _tag: "resilient-websocket/TransportError", operation: "register" })
    assert.match(String(refused[0]?.error), /first message was missed.*in its `connection` event itself/)
    await until("the log names it", () => lines.some((line) => line.includes("registered too late")))
    await until("the client is told", () => states.some((state) => JSON.stringify(state).includes("was missed")))
  })

  it("loses what a plain peer has said, and the log says so; what comes after that is handled", async () => {
    const { lines, log } = logging()
    const handled: Array<unknown> = []
    const manager = await makeManager({ onMessage: (message) => void handled.push(message), log })
    const { misses, missed, url } = await hold()
    misses()
    const { ws: peer } = await plainPeer(url)
    peer.send(JSON.stringify("early"))
    const ws = await missed()
    await turn()
    assert.strictEqual(await manager.registerConnection(ws, { sessionId: "ann" }), "ann")
    await until("the log names it", () => lines.some((line) => line.includes("are lost")))
    peer.send(JSON.stringify("late"))
    await until("the late one is handled", () => handled.length > 0)
    assert.deepStrictEqual(handled, ["late"])
  })

  it("is no fault if it was paused meanwhile, was read by its owner, or had said nothing", async () => {
    const { lines, log } = logging()
    const handled: Array<unknown> = []
    const manager = await makeManager({ onMessage: (message) => void handled.push(message), log })
    const { accepted, url } = await hold()
    const paused = await plainPeer(url)
    const first = await accepted()
    first.pause()
    paused.ws.send("1")
    for (let i = 0; i < 20; i++) await turn()
    await manager.registerConnection(first)
    await until("it is handled", () => handled.length === 1)

    const read = await plainPeer(url)
    const second = await accepted()
    const registered = new Promise((resolve) =>
      second.once("message", () => resolve(manager.registerConnection(second, { sessionId: "bob" })))
    )
    read.ws.send("I am bob")
    await registered
    read.ws.send("2")
    await until("it is handled", () => handled.length === 2)

    const silent = await plainPeer(url)
    const third = await accepted()
    for (let i = 0; i < 20; i++) await turn()
    await manager.registerConnection(third)
    silent.ws.send("3")
    await until("it is handled", () => handled.length === 3)
    // And again: what it said before was ours.
    await manager.unregisterConnection(third)
    await manager.registerConnection(third)
    assert.deepStrictEqual([handled, lines], [[1, 2, 3], []])
  })

  it("may still say no hello: when its time is up, the log names the likely cause", async () => {
    const { lines, log } = logging()
    const { adjust, manager } = await makeTimed({ handshakeTimeout: "10 seconds", log })
    const refused = collected(manager, "refused")
    const { accepted, url } = await hold("resilient.v1")
    const peer = new WebSocket(url, "resilient.v1")
    onTestFinished(() => peer.terminate())
    const ws = await accepted()
    const registering = manager.registerConnection(ws)
    await adjust(12_000)
    assert.isUndefined(await registering)
    assert.deepInclude(refused[0]?.error, { _tag: "resilient-websocket/ConnectionTimeoutError", phase: "handshake" })
    await until("the log names it", () => lines.some((line) => /said no hello.*registered too late/.test(line)))
  })

  it("and is gone without a hello says the same", async () => {
    const manager = await makeManager()
    const { accepted, url } = await hold("resilient.v1")
    const refused = collected(manager, "refused")
    const peer = new WebSocket(url, "resilient.v1")
    const registering = manager.registerConnection(await accepted())
    await turn()
    peer.terminate()
    assert.isUndefined(await registering)
    assert.include(String(refused[0]?.error), "had said no hello")
  })
})

describe("a session id that has to be awaited", () => {
  it("is given as a promise: nothing of what a plain peer says meanwhile is lost", async () => {
    const handled: Array<unknown> = []
    const manager = await makeManager({
      onMessage: (message, { session }) => void handled.push([session, message])
    })
    const looking = Promise.withResolvers<string>()
    const registered: Array<unknown> = []
    const { url } = await listen(async (ws) => {
      registered.push(await manager.registerConnection(ws, { sessionId: looking.promise }))
    })
    const { ws } = await plainPeer(url)
    for (const n of [1, 2, 3]) ws.send(String(n))
    for (let i = 0; i < 20; i++) await turn()
    assert.deepStrictEqual(handled, [])
    looking.resolve("ann")
    await until("all are handled", () => handled.length === 3)
    assert.deepStrictEqual(handled, [["ann", 1], ["ann", 2], ["ann", 3]])
    assert.deepStrictEqual(registered, ["ann"])
  })

  it("is that of a client that speaks the protocol too", async () => {
    const handled: Array<unknown> = []
    const manager = await makeManager({ onMessage: (message, { session }) => void handled.push([session, message]) })
    const { url } = await listen((ws) => manager.registerConnection(ws, { sessionId: turn().then(() => "ann") }))
    const client = await trying(url)
    await (await client.send("hello")).handled()
    assert.deepStrictEqual(handled, [["ann", "hello"]])
  })

  it("may turn out to be none: then the peer is told a new one", async () => {
    const manager = await makeManager()
    const registered: Array<unknown> = []
    const { url } = await listen(async (ws) =>
      registered.push(await manager.registerConnection(ws, { sessionId: turn().then(() => null) }))
    )
    const { got } = await plainPeer(url)
    await until("it is told", () => got.length === 1 && registered.length === 1)
    assert.deepStrictEqual(got, [{ type: "session", sessionId: registered[0] }])
  })

  it.each([["plain", undefined], ["of ours", "resilient.v1"]])(
    "turns a peer away that is %s when its promise rejects, is no id, or takes longer than a handshake may",
    async (_, protocol) => {
      const { adjust, manager } = await makeTimed({ handshakeTimeout: "10 seconds" })
      const refused = collected(manager, "refused")
      const { accepted, url } = await hold(protocol, true)
      const hello = JSON.stringify({
        t: "hello",
        version: 1,
        instance: "instance",
        attempt: 1,
        out: { epoch: "epoch", acked: 0, last: 0 },
        in: { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } },
        window: { messages: 10, bytes: 1_000 },
        maxPayload: 1_000
      })
      const outcomeOf = async (sessionId: () => Promise<string>) => {
        const { length } = refused
        const peer = new WebSocket(url, protocol === undefined ? [] : [protocol])
        onTestFinished(() => peer.terminate())
        peer.on("open", () => peer.send(hello))
        const registering = manager.registerConnection(await accepted(), { sessionId: sessionId() })
        assert.isUndefined(await registering)
        return refused[length]?.error
      }
      assert.deepInclude(await outcomeOf(() => Promise.reject(new Error("who is that?"))), {
        _tag: "resilient-websocket/HandshakeError",
        reason: "unauthorized",
        detail: "who is that?"
      })
      assert.deepInclude(await outcomeOf(() => Promise.resolve("")), {
        _tag: "resilient-websocket/HandshakeError",
        reason: "invalid"
      })
      const never = new Promise<string>(() => {})
      const late = { isWaiting: true }
      const outcome = outcomeOf(() => never).finally(() => (late.isWaiting = false))
      while (late.isWaiting) {
        await turn()
        await adjust(1_000)
      }
      assert.deepInclude(await outcome, { _tag: "resilient-websocket/ConnectionTimeoutError", phase: "handshake" })
    }
  )
})

describe("what can't be registered", () => {
  it("is a typed error for its caller, who keeps it as it was", async () => {
    const manager = await makeManager()
    const other = await makeManager()
    const { accepted, url } = await hold()
    const detailOf = async (ws: unknown, by = manager) => {
      const error = await rejection(by.registerConnection(ws as WebSocket))
      assert.deepInclude(error, { _tag: "resilient-websocket/TransportError", operation: "register" })
      return (error as Face.TransportError).detail
    }
    for (const none of [undefined, null, 5, "ws", {}, new EventTarget()]) {
      assert.include(await detailOf(none), "no socket of the package `ws`")
    }
    const native = new globalThis.WebSocket(url)
    onTestFinished(() => native.close())
    assert.include(await detailOf(native), "no socket of the package `ws`")

    const connecting = new WebSocket(url)
    onTestFinished(() => connecting.terminate())
    assert.include(await detailOf(connecting), "still connecting")
    await once(connecting, "open")
    assert.strictEqual(connecting.readyState, WebSocket.OPEN)

    const ws = await accepted()
    assert.strictEqual(await manager.registerConnection(ws, { sessionId: "ann" }), "ann")
    assert.include(await detailOf(ws, other), "taken over already")
    assert.deepInclude((await manager.getStats()).connections["ann"], { isConnected: true })
    // It is the other's when it has been given back.
    await manager.unregisterConnection(ws)
    assert.strictEqual(await other.registerConnection(ws, { sessionId: "ann" }), "ann")
  })
})

describe("a socket with another binaryType", () => {
  it.each(["arraybuffer", "fragments", "blob"] as const)("%s is read as any", async (binaryType) => {
    const handled: Array<unknown> = []
    const manager = await makeManager({ onMessage: (message) => void handled.push(message) })
    const { url } = await listen((ws) => {
      ws.binaryType = binaryType as "arraybuffer"
      return manager.registerConnection(ws, { sessionId: "ann" })
    })
    const { ws } = await plainPeer(url)
    ws.send("1")
    await until("it is handled", () => handled.length === 1)
    ws.send(Buffer.from([1, 2, 3])) // which no plain peer may
    const [code] = await once(ws, "close") as [number]
    assert.strictEqual(code, CloseCode.protocol)
  })
})
