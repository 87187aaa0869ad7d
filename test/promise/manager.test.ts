/** The manager on real sockets: whose is which, what `send` says, what waits, what comes back. */
import { assert, describe, it } from "@effect/vitest"
import { once } from "node:events"
import { createConnection } from "node:net"
import { inspect } from "node:util"
import { WebSocketError } from "resilient-websocket"
import * as Face from "resilient-websocket/promise"
import { onTestFinished } from "vitest"
import { WebSocket } from "ws"
import { collected, listen, makeManager, makeTimed, plainPeer, rejection, turn, until } from "../support/promise.ts"

const { ResilientClient, ResilientWebSocketManager } = Face

/** A manager, and a `ws` server whose sockets are registered for the session that their URL names, if it does. */
const setUp = async (options: Face.ManagerOptions<unknown, unknown> = {}) => setUpOn(await makeManager(options))

const setUpOn = async (manager: Awaited<ReturnType<typeof makeManager>>) => {
  const sockets: Array<WebSocket> = []
  const sessions: Array<string> = []
  const { url } = await listen(async (ws, request) => {
    sockets.push(ws)
    const sessionId = new URL(request.url ?? "/", "ws://localhost").searchParams.get("session") ?? undefined
    const session = await manager.registerConnection(ws, { sessionId })
    if (session !== undefined) sessions.push(session)
  })
  /** A plain peer whose socket is registered; the socket at the server's side, and its session. */
  const connect = async (session?: string) => {
    const { length } = sessions
    const peer = await plainPeer(session === undefined ? url : `${url}/?session=${session}`)
    await until("it is registered", () => sessions.length > length)
    const socket = sockets.at(-1) ?? assert.fail("no socket")
    return { ...peer, socket, session: sessions.at(-1) ?? assert.fail("no session") }
  }
  const away = (session: string) =>
    until(`${session} is away`, async () => (await manager.getStats()).connections[session]?.isConnected === false)
  return { manager, url, sockets, connect, away }
}

const critical = { critical: true }

describe("a plain socket without a session id", () => {
  it("is told a new one, and whoever comes back with it is sent what waited, in order and once", async () => {
    const { away, connect, manager } = await setUp()
    const [first, other] = [await connect(), await connect()]
    assert.deepStrictEqual(first.got, [{ type: "session", sessionId: first.session }])
    assert.match(first.session, /^[0-9a-f-]{36}$/)
    assert.notStrictEqual(first.session, other.session)
    assert.isTrue(await manager.send(first.session, { n: 0 }, critical))
    await until("it is there", () => first.got.length === 2)
    first.ws.close()
    await away(first.session)
    // By either name.
    assert.isFalse(await manager.send(first.socket, { n: 1 }, critical))
    for (let n = 2; n < 100; n++) assert.isFalse(await manager.send(first.session, { n }, critical))
    const back = await connect(first.session)
    await until("all is there", () => back.got.length === 99)
    assert.deepStrictEqual(back.got, Array.from({ length: 99 }, (_, i) => ({ n: i + 1 })))
    assert.strictEqual(other.got.length, 1)
  })

  it("may be told otherwise, or nothing", async () => {
    const talking = await setUp({ sessionMessage: (sessionId) => ["you are", sessionId] })
    const { got, session } = await talking.connect()
    assert.deepStrictEqual(got, [["you are", session]])
    const silent = await setUp({ sessionMessage: false })
    const quiet = await silent.connect()
    await silent.manager.send(quiet.session, "first")
    await until("it is there", () => quiet.got.length > 0)
    assert.deepStrictEqual(quiet.got, ["first"])
  })
})

describe("a plain socket's own messages", () => {
  it("are yours to read without onMessage, whatever they are", async () => {
    const { connect, manager } = await setUp()
    const { got, socket, ws } = await connect("alice")
    const read: Array<string> = []
    socket.on("message", (data, isBinary) => read.push(`${String(data)} ${isBinary}`))
    ws.send("no JSON")
    ws.send(Buffer.from([65, 66]))
    for (let n = 0; n < 3_000; n++) ws.send(String(n)) // more than any window
    await until("all are read", () => read.length === 3_002)
    assert.deepStrictEqual(read.slice(0, 3), ["no JSON false", "AB true", "0 false"])
    await manager.send("alice", "still there", critical)
    await until("it is there", () => got.includes("still there"))
  })

  it("go to onMessage, with the session, the socket and a way to answer", async () => {
    const seen: Array<unknown> = []
    const { connect, sockets } = await setUp({
      onMessage: async (message, { messageId, reply, session, signal, volatile, ws }) => {
        seen.push([message, session, messageId, volatile, ws === sockets[0], signal.aborted])
        const receipt = await reply({ re: message })
        seen.push(receipt._tag)
      }
    })
    const { got, ws } = await connect("alice")
    ws.send(JSON.stringify({ hello: 1 }))
    await until("it is answered", () => got.length === 1)
    assert.deepStrictEqual(got, [{ re: { hello: 1 } }])
    await until("it was seen", () => seen.length === 2)
    assert.deepStrictEqual(seen, [[{ hello: 1 }, "alice", undefined, false, true, false], "Sent"])
  })
})

describe("a socket that speaks the protocol", () => {
  it("is served exactly once both ways, for the session it is registered for", async () => {
    const handled: Array<unknown> = []
    const { manager, sockets, url } = await setUp({ onMessage: (message) => void handled.push(message) })
    const got: Array<unknown> = []
    const client = await ResilientClient.connect(`${url}/?session=alice`, {
      log: false,
      reconnect: { base: 1, cap: 20 },
      onMessage: (message) => void got.push(message)
    })
    assert.deepInclude(await client.state(), { _tag: "Connected", session: "alice" })
    const numbers = Array.from({ length: 300 }, (_, n) => n)
    for (const n of numbers) {
      await client.send(n)
      await manager.send("alice", n, critical)
      if (n % 50 === 49) {
        sockets.at(-1)?.terminate()
        await turn()
      }
    }
    await until("all are handled", () => handled.length >= 300 && got.length >= 300)
    assert.deepStrictEqual(handled, numbers)
    assert.deepStrictEqual(got, numbers)
    await client.close()
  })

  it("is asked about, by its token, where there is an authenticate and no session id", async () => {
    const asked: Array<unknown> = []
    const manager = await makeManager({
      onMessage: () => {},
      authenticate: async ({ headers, session, token, url }) => {
        asked.push([token, session, url, headers["x-shop"]])
        await turn()
        if (token === "wrong") throw new Error("who are you?")
        if (token === "later") throw Object.assign(new Error("the database is down"), { retryable: true })
        return { session: `of ${token}`, principal: token }
      }
    })
    const { url } = await listen((ws, request) => manager.registerConnection(ws, { request }))
    const options = { log: false, headers: { "x-shop": "tea" } } as const
    const client = await ResilientClient.connect(`${url}/path`, { ...options, token: "ann" })
    assert.deepInclude(await client.state(), { _tag: "Connected", session: "of ann" })
    assert.deepStrictEqual(asked, [["ann", undefined, "/path", "tea"]])
    await client.refreshToken()
    await until("it is asked again", () => asked.length === 2)
    const refused = await rejection(ResilientClient.connect(url, { ...options, token: "wrong" }))
    assert.deepInclude(refused, {
      _tag: "resilient-websocket/HandshakeError",
      reason: "unauthorized",
      detail: "who are you?"
    })
    const later = await rejection(ResilientClient.connect(url, { ...options, token: "later", connectTimeout: 2_000 }))
    assert.deepInclude(later, { _tag: "resilient-websocket/ConnectionTimeoutError", phase: "connect" })
    assert.include(String(later), "the database is down")
    await client.close()
    // Who was registered for a session is not asked about.
    const { length } = asked
    const { url: named } = await listen((ws) => manager.registerConnection(ws, { sessionId: "named" }))
    const carol = await ResilientClient.connect(named, { ...options, token: "wrong" })
    await carol.refreshToken()
    await (await carol.send("still there")).handled()
    assert.strictEqual(asked.length, length)
    await carol.close()
  })

  it("gets its messages back as dead letters when there is no onMessage", async () => {
    const { manager, url } = await setUp()
    const letters = collected(manager, "deadLetter")
    const client = await ResilientClient.connect(url, { log: false })
    const receipt = await client.send("is anybody there?")
    assert.deepInclude(await rejection(receipt.handled()), {
      _tag: "resilient-websocket/DeadLetterError",
      reason: "failed"
    })
    assert.deepInclude(letters[0], { direction: "in", reason: "failed", message: "is anybody there?" })
    await client.close()
  })

  it("is closed when its handshake is refused, and its registration comes to nothing", async () => {
    const manager = await makeManager()
    const refused = collected(manager, "refused")
    const sessions: Array<unknown> = []
    const { url } = await listen(async (ws) => {
      ws.once("close", async () => sessions.push(await manager.unregisterConnection(ws)))
      sessions.push(await manager.registerConnection(ws))
    })
    const ws = new WebSocket(url, "resilient.v1")
    ws.once("open", () => ws.send("no hello"))
    const [code] = await once(ws, "close")
    assert.strictEqual(code, 4503)
    const early = new WebSocket(url, "resilient.v1")
    early.once("open", () => early.terminate())
    await until("both are refused", () => sessions.length === 4)
    assert.sameMembers(sessions, [undefined, undefined, false, false])
    assert.deepInclude(refused[0]?.error, { _tag: "resilient-websocket/ProtocolError" })
    assert.deepInclude(refused[1]?.error, { _tag: "resilient-websocket/TransportError", operation: "register" })
  })
})

describe("send", () => {
  it("is not critical unless it says so: it goes out now, or is skipped and given to fallbackSend", async () => {
    const fallen: Array<unknown> = []
    const { away, connect, manager } = await setUp({
      fallbackSend: (message, { reason, session }) => fallen.push([message, session, reason])
    })
    const { got, session, ws } = await connect("alice")
    assert.isTrue(await manager.send(session, "now"))
    await until("it is there", () => got.length === 1)
    ws.close()
    await away(session)
    const receipt = await manager.sendWithReceipt(session, "too late")
    assert.deepInclude(receipt, { _tag: "Skipped", reason: "disconnected" })
    assert.isFalse(await manager.send(session, "too late as well"))
    assert.deepStrictEqual(fallen, [["too late", "alice", "skipped"], ["too late as well", "alice", "skipped"]])
    assert.deepInclude(await rejection(receipt.handled()), {
      _tag: "resilient-websocket/DeadLetterError",
      reason: "skipped"
    })
    const back = await connect("alice")
    await manager.send(session, "here again")
    await until("it is there", () => back.got.length === 1)
    assert.deepStrictEqual(back.got, ["here again"])
  })

  it("rejects with a typed error, and then has sent nothing", async () => {
    const { away, connect, manager } = await setUp({ maxMessages: 2, maxPayloadBytes: 1_000 })
    const stranger = new WebSocket("ws://127.0.0.1:1")
    stranger.on("error", () => {})
    const { got, ws } = await connect("alice")
    const tagOf = async (promise: Promise<unknown>) => ((await rejection(promise)) as Face.WebSocketError)._tag
    assert.strictEqual(await tagOf(manager.send("nobody", 1, critical)), "resilient-websocket/SessionNotFoundError")
    assert.strictEqual(await tagOf(manager.send(stranger, 1, critical)), "resilient-websocket/TransportError")
    assert.strictEqual(await tagOf(manager.send("alice", () => {}, critical)), "resilient-websocket/PayloadError")
    assert.strictEqual(await tagOf(manager.send("alice", 1n, critical)), "resilient-websocket/PayloadError")
    assert.strictEqual(
      await tagOf(manager.send("alice", "x".repeat(1_000), critical)),
      "resilient-websocket/PayloadError"
    )
    for (const ttl of ["soon" as "1 second", Number.NaN, -1]) {
      assert.strictEqual(
        await tagOf(manager.send("alice", 1, { critical: true, ttl })),
        "resilient-websocket/PayloadError"
      )
    }
    for (const id of ["", 5 as unknown as string, {} as unknown as string]) {
      assert.strictEqual(
        await tagOf(manager.send("alice", 1, { critical: true, id })),
        "resilient-websocket/PayloadError"
      )
      assert.strictEqual(await tagOf(manager.send("alice", 1, { id })), "resilient-websocket/PayloadError")
    }
    ws.close()
    await away("alice")
    await manager.send("alice", 1, { critical: true, id: "one" })
    assert.strictEqual(
      await tagOf(manager.send("alice", 2, { critical: true, id: "one" })),
      "resilient-websocket/DeduplicationError"
    )
    await manager.sendAll("alice", [2])
    const overflow = await rejection(manager.send("alice", 3, critical))
    assert.deepInclude(overflow, {
      _tag: "resilient-websocket/QueueOverflowError",
      session: "alice",
      limit: "messages",
      bound: 2
    })
    // The same classes as in the other face.
    assert.instanceOf(overflow, Face.QueueOverflowError)
    assert.instanceOf(overflow, WebSocketError.QueueOverflowError)
    assert.instanceOf(overflow, Error)
    // And it is shown as one.
    assert.match(inspect(overflow), /the queue of session alice is full[\s\S]*limit: 'messages'/)
    const back = await connect("alice")
    await until("they are there", () => back.got.length === 2)
    assert.deepStrictEqual([got, back.got], [[], [1, 2]])
  })

  it("that waits for room ends with the signal's reason, and the message is not sent", async () => {
    const { away, connect, manager } = await setUp({ maxMessages: 1, overflow: "suspend" })
    const { ws } = await connect("alice")
    ws.close()
    await away("alice")
    await manager.send("alice", "fills it", critical)
    const controller = new AbortController()
    const waiting = rejection(manager.send("alice", "has no room", { critical: true, signal: controller.signal }))
    await turn()
    const reason = new Error("enough")
    controller.abort(reason)
    assert.strictEqual(await waiting, reason)
    const telling = new AbortController()
    const told = rejection(manager.broadcast("has no room", { signal: telling.signal }))
    await turn()
    telling.abort(reason)
    assert.strictEqual(await told, reason)
    const already = { critical: true, signal: AbortSignal.abort(reason) }
    assert.strictEqual(await rejection(manager.send("alice", "never", already)), reason)
    const receipt = manager.sendWithReceipt("alice", "waits", critical)
    const back = await connect("alice")
    await (await receipt).handled({ signal: AbortSignal.timeout(200_000) })
    assert.deepStrictEqual(back.got, ["fills it", "waits"])
  })

  it("keeps its place, by the socket or by the session's id, with a receipt or many at once", async () => {
    const { connect, manager } = await setUp()
    const { got, session, socket } = await connect("alice")
    await Promise.all([
      manager.send(socket, 1, critical),
      manager.send(session, 2, critical),
      manager.sendWithReceipt(socket, 3, critical),
      manager.sendAll(session, [4, 5]),
      manager.sendAll(socket, [6]),
      manager.sendWithReceipt(session, 7, critical),
      manager.send(session, 8, critical)
    ])
    await until("all are there", () => got.length === 8)
    assert.deepStrictEqual(got, [1, 2, 3, 4, 5, 6, 7, 8])
  })

  it("ends with the signal's reason also if the message itself gives it", async () => {
    const { away, connect, manager } = await setUp({ maxMessages: 1, overflow: "suspend" })
    const { ws } = await connect("alice")
    ws.close()
    await away("alice")
    await manager.send("alice", "fills it", critical)
    const controller = new AbortController()
    const message = {
      get text() {
        controller.abort("by itself")
        return "json"
      }
    }
    const { signal } = controller
    assert.strictEqual(await rejection(manager.send("alice", message, { critical: true, signal })), "by itself")
  })

  it("to many: all or none to one session, or one message to many sessions", async () => {
    const { connect, manager } = await setUp()
    const [alice, bob, carol] = [await connect("alice"), await connect("bob"), await connect("carol")]
    const receipts = await manager.sendAll(alice.socket, [1, 2, 3])
    for (const { handled } of receipts) await handled()
    await until("they are there", () => alice.got.length === 3)
    assert.deepStrictEqual(alice.got, [1, 2, 3])
    assert.deepStrictEqual(await manager.broadcast("all"), { accepted: 3, skipped: 0, failures: [] })
    const some = await manager.broadcast("some", { sessions: ["bob", "nobody"] })
    assert.deepInclude(some, { accepted: 1 })
    assert.deepInclude(some.failures[0], { session: "nobody" })
    await until("they are there", () => bob.got.length === 2 && carol.got.length === 1)
    assert.deepStrictEqual([bob.got, carol.got], [["all", "some"], ["all"]])
  })
})

describe("ids", () => {
  it("keep a message from being sent twice: those given; or by `deduplicate` its own, or its content's", async () => {
    const plain = await setUp()
    const one = await plain.connect("alice")
    for (let i = 0; i < 2; i++) await plain.manager.send("alice", { tick: 1 }, critical)
    assert.isTrue(await plain.manager.send("alice", { id: 7 }, { critical: true, id: "given" }))
    assert.isTrue(await plain.manager.send("alice", { id: 7 }, { critical: true, id: "given" }))
    await until("they are there", () => one.got.length === 3)
    assert.deepStrictEqual(one.got, [{ tick: 1 }, { tick: 1 }, { id: 7 }])
    assert.isFalse(await plain.manager.isDuplicateMessage(plain.manager.getMessageId({ tick: 1 })))
    assert.isTrue(await plain.manager.isDuplicateMessage("given"))

    const { connect, manager } = await setUp({ deduplicate: true })
    const { got } = await connect("alice")
    await connect("bob")
    for (const message of [{ tick: 1 }, { tick: 1 }, { id: 7, a: 1 }, { id: 7, a: 1 }, "text", "text"]) {
      assert.isTrue(await manager.send("alice", message))
    }
    await until("they are there", () => got.length === 3)
    assert.deepStrictEqual(got, [{ tick: 1 }, { id: 7, a: 1 }, "text"])
    const own = { id: "x".repeat(300) } // too long for an id
    assert.isTrue(await manager.send("alice", own))
    assert.isTrue(await manager.isDuplicateMessage(manager.getMessageId(own), "alice"))
    const circular: { self?: unknown } = {}
    circular.self = circular
    for (const message of [1n, circular, () => {}]) {
      assert.deepInclude(await rejection(manager.send("alice", message)), { _tag: "resilient-websocket/PayloadError" })
    }
    assert.strictEqual(manager.getMessageId({ id: 7, a: 1 }), "7")
    assert.strictEqual(manager.getMessageId({ id: "seven" }), "seven")
    assert.isTrue(await manager.isDuplicateMessage("7", "alice"))
    assert.isFalse(await manager.isDuplicateMessage("7", "bob")) // each session has its own
    assert.strictEqual((await manager.getStats()).metrics.messages.deduplicated, 3)
  })

  it("are free again when nothing was sent", async () => {
    const { away, connect, manager } = await setUp()
    const { ws } = await connect("alice")
    ws.close()
    await away("alice")
    assert.isFalse(await manager.send("alice", "volatile", { id: "k" }))
    assert.isFalse(await manager.isDuplicateMessage("k"))
    const back = await connect("alice")
    assert.isTrue(await manager.send("alice", "volatile", { id: "k" }))
    await until("it is there", () => back.got.length === 1)
  })
})

describe("registerConnection", () => {
  it("of the same socket again is the same, for another session a typed error, and of one that is closed nothing", async () => {
    const { connect, manager } = await setUp()
    const { socket, ws } = await connect("alice")
    assert.strictEqual(await manager.registerConnection(socket), "alice")
    assert.strictEqual(await manager.registerConnection(socket, { sessionId: "alice" }), "alice")
    assert.deepInclude(await rejection(manager.registerConnection(socket, { sessionId: "bob" })), {
      _tag: "resilient-websocket/TransportError",
      operation: "register"
    })
    ws.close()
    await once(socket, "close")
    assert.isUndefined(await manager.registerConnection(socket))
    // Ids may be the peer's choice, so that it must not be the caller who fails.
    for (const sessionId of ["", "x".repeat(257), ["a", "b"], 5, {}]) {
      const { socket: other, ws: peer } = await connect("bob")
      await manager.unregisterConnection(other)
      const closed = once(peer, "close")
      assert.isUndefined(await manager.registerConnection(other, { sessionId: sessionId as string }))
      assert.strictEqual((await closed)[0], 4503)
    }
  })

  it("of nobody's session makes one, also if that was said by null", async () => {
    const { connect, manager } = await setUp()
    const { socket } = await connect("alice")
    await manager.unregisterConnection(socket)
    assert.match((await manager.registerConnection(socket, { sessionId: null })) ?? "", /^[0-9a-f-]{36}$/)
  })

  it("twice at once is once, and tells both the same when it comes to nothing", async () => {
    const manager = await makeManager({ handshakeTimeout: 20, heartbeat: 50 })
    const results: Array<unknown> = []
    const { url } = await listen(async (ws) =>
      results.push(...await Promise.all([manager.registerConnection(ws), manager.registerConnection(ws)]))
    )
    const silent = new WebSocket(url, "resilient.v1")
    await once(silent, "close")
    const { got } = await plainPeer(url)
    await until("both are told", () => results.length === 4)
    assert.deepStrictEqual(results.slice(0, 2), [undefined, undefined])
    assert.isString(results[2])
    assert.strictEqual(results[2], results[3])
    await until("and the peer once", () => got.length === 1)
  })

  it("for a session that has a socket replaces that one", async () => {
    const { connect, manager } = await setUp()
    const [first, second] = [await connect("alice"), await connect("alice")]
    await until("the first is closed", () => first.ws.readyState === WebSocket.CLOSED)
    await manager.send("alice", "to the second", critical)
    await until("it is there", () => second.got.length === 1)
    assert.deepStrictEqual(first.got, [])
    assert.deepInclude((await manager.getStats()).metrics.connections, { total: 2, active: 1, replaced: 1 })
  })

  it("closes a socket for whom there is no session, whatever its peer does then, and tells of it", async () => {
    const { connect, manager, sockets, url } = await setUp({ maxSessions: 1 })
    const refused = collected(manager, "refused")
    await connect("alice")
    /** Upgrades by hand, and never answers a close: with nothing, or with what is no frame. */
    const rude = async (answer: Buffer | undefined) => {
      const { port } = new URL(url)
      const tcp = createConnection(Number(port), "127.0.0.1").on("error", () => {})
      const key = "dGhlIHNhbXBsZSBub25jZQ=="
      tcp.write(
        `GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n` +
          `sec-websocket-version: 13\r\nsec-websocket-key: ${key}\r\n\r\n`
      )
      const { length } = refused
      await until("it is refused", () => refused.length > length)
      if (answer !== undefined) tcp.write(answer)
      const ws = sockets.at(-1) ?? assert.fail("no socket")
      await until("it is gone", () => ws.readyState === WebSocket.CLOSED)
      tcp.destroy()
    }
    await rude(Buffer.from([0xff, 0xff, 0xff, 0xff]))
    await rude(undefined)
    assert.deepInclude(refused[0]?.error, { _tag: "resilient-websocket/HandshakeError", reason: "overloaded" })
    const { got } = await connect("alice")
    assert.deepStrictEqual(got, [])
  })

  it("ends with its signal's reason while a handshake goes on", async () => {
    const manager = await makeManager()
    const reasons = [new Error("enough"), "in words", null, 0]
    const failures: Array<unknown> = []
    const { url } = await listen((ws) => {
      const controller = new AbortController()
      const reason = reasons[failures.length >> 1]
      if (failures.length % 2 === 1) controller.abort(reason)
      void manager.registerConnection(ws, { signal: controller.signal }).catch((error) => failures.push(error))
      controller.abort(reason)
    })
    for (let i = 0; i < 2 * reasons.length; i++) {
      const ws = new WebSocket(url, "resilient.v1")
      ws.on("error", () => {})
      await once(ws, "close")
      await until("it has failed", () => failures.length > i)
    }
    assert.deepStrictEqual(failures, reasons.flatMap((reason) => [reason, reason]))
  })
})

describe("a plain socket that is silent", () => {
  it("and answers no ping is closed after the connection timeout, however short", async () => {
    const { connect, manager } = await setUp({ connectionTimeout: "1 second" })
    const { ws } = await connect("alice")
    const { ws: alive } = await connect("bob")
    ws.pause()
    await until("it is found", async () => (await manager.getStats()).metrics.connections.timeouts === 1)
    await until("it counts so", async () => (await manager.getStats()).connections["alice"]?.isTimeout === true)
    assert.strictEqual(alive.readyState, WebSocket.OPEN)
  })
})

describe("unregisterConnection", () => {
  it("gives the socket back open, and keeps what is sent to its session until it is registered again", async () => {
    const { connect, manager } = await setUp({ onMessage: () => {} })
    const { got, socket, ws } = await connect("alice")
    assert.isTrue(await manager.unregisterConnection(socket))
    assert.isFalse(await manager.unregisterConnection(socket))
    assert.isFalse(await manager.send(socket, "later", critical))
    const read: Array<string> = []
    socket.on("message", (data) => read.push(String(data)))
    socket.send(`"by hand"`)
    ws.send("to its owner")
    await until("both pass", () => got.length === 1 && read.length === 1)
    assert.strictEqual(await manager.registerConnection(socket, { sessionId: "alice" }), "alice")
    await until("it is there", () => got.length === 2)
    assert.deepStrictEqual(got, ["by hand", "later"])
    const listeners = socket.listenerCount("close")
    for (let i = 0; i < 5; i++) {
      await manager.unregisterConnection(socket)
      await manager.registerConnection(socket, { sessionId: "alice" })
    }
    assert.strictEqual(socket.listenerCount("close"), listeners)
  })
})

describe("the background tasks", () => {
  it("can be stopped and started: meanwhile nothing expires", async () => {
    const { away, connect, manager } = await setUp({ expirySweep: "20 millis", heartbeat: "100 millis" })
    const letters = collected(manager, "deadLetter")
    const { ws } = await connect("alice")
    ws.close()
    await away("alice")
    await manager.startBackgroundTasks()
    await manager.stopBackgroundTasks()
    await manager.stopBackgroundTasks()
    await manager.send("alice", "late", { critical: true, ttl: 10 })
    const { ws: other } = await connect("bob")
    const pings: Array<unknown> = []
    other.on("ping", (data) => pings.push(data))
    // What can be written at once is.
    for (let n = 0; n < 50; n++) await manager.send("bob", n, critical)
    assert.deepStrictEqual(letters, [])
    await manager.startBackgroundTasks()
    await until("it has expired", () => letters.length === 1)
    assert.deepInclude(letters[0], { reason: "expired", message: "late" })
  })
})

describe("what is told", () => {
  it("goes to each listener, until it is taken off; one that throws or rejects keeps nobody from it", async () => {
    const logged: Array<string> = []
    const first: Array<unknown> = []
    const { connect, manager } = await setUp({
      log: ({ message }) => logged.push(message),
      on: { stateChange: ({ _tag }) => first.push(_tag) }
    })
    const events: Array<string> = []
    manager.on("stateChange", () => {
      throw new Error("a listener's own")
    })
    manager.on("stateChange", () => Promise.reject(new Error("another's")))
    const listener = (event: Face.ConnectionEvent) =>
      events.push(`${event._tag} ${event.session}${event._tag === "Connected" && event.resumed ? " again" : ""}`)
    manager.on("stateChange", listener)
    for (const count of [2, 4]) {
      const { ws } = await connect("alice")
      ws.close()
      await until("both are told", () => events.length === count)
    }
    await manager.endSession("alice")
    manager.off("stateChange", listener)
    await connect("bob")
    assert.deepStrictEqual(first, ["Connected", "Disconnected", "Connected", "Disconnected", "Ended", "Connected"])
    assert.deepStrictEqual(events, [
      "Connected alice",
      "Disconnected alice",
      "Connected alice again",
      "Disconnected alice",
      "Ended alice"
    ])
    await until(
      "it is logged",
      () => logged.filter((line) => line === "a listener of stateChange failed").length === 12
    )
  })

  it("of messages that `parse` refuses: dead letters at both sides, and the next has its turn", async () => {
    const handled: Array<unknown> = []
    const { manager, url } = await setUp({
      parse: (value) => {
        if (typeof value !== "number") throw new TypeError("not a number")
        return value + 1
      },
      onMessage: (message) => void handled.push(message)
    })
    const letters = collected(manager, "deadLetter")
    const client = await ResilientClient.connect(url, { log: false })
    const refused = await client.send("text")
    await (await client.send(1)).handled()
    assert.deepInclude(await rejection(refused.handled()), { reason: "undecodable" })
    assert.deepInclude(letters[0], { direction: "in", reason: "undecodable", payload: "text" })
    assert.include(String(letters[0]?.cause), "not a number")
    assert.deepStrictEqual(handled, [2])
    await client.close()
  })

  it("of a `parse` that returns a promise: nothing is handled that was not looked at", async () => {
    const { url } = await setUp({ parse: async () => Promise.reject(new Error("too late")), onMessage: () => {} })
    const client = await ResilientClient.connect(url, { log: false })
    assert.deepInclude(await rejection((await client.send("x")).handled()), { reason: "undecodable" })
    await client.close()
  })

  it("of a handler that fails: it is retried as often as it says, then given up", async () => {
    let attempts = 0
    const { url } = await setUp({
      handlerRetry: { base: 1, cap: 2, attempts: 3 },
      onMessage: () => {
        attempts++
        throw new Error("always")
      }
    })
    const client = await ResilientClient.connect(url, { log: false })
    const receipt = await client.send("x")
    assert.deepInclude(await rejection(receipt.handled()), { reason: "failed", maybeHandled: false })
    assert.strictEqual(attempts, 3)
    await client.close()
  })
})

describe("gracefulShutdown", () => {
  it("flushes, closes, and gives the same report to all who ask; its numbers add up", async () => {
    const { away, connect, manager } = await setUp()
    const fallen: Array<string> = []
    const { got, ws } = await connect("alice")
    const { ws: gone } = await connect("bob")
    gone.close()
    await away("bob")
    manager.on("deadLetter", ({ message, reason }) => fallen.push(`${String(message)} ${reason}`))
    for (const n of [1, 2]) await manager.send("bob", n, critical)
    const sent = Array.from({ length: 500 }, (_, n) => manager.send("alice", n, critical))
    const reports = await Promise.all([manager.gracefulShutdown(), manager.gracefulShutdown(), Promise.all(sent)])
    assert.strictEqual(reports[0], reports[1])
    assert.strictEqual(await manager.gracefulShutdown({ timeout: 1 }), reports[0])
    const { closed, dropped, flushed, pending, retained } = reports[0]
    assert.deepStrictEqual({ closed, dropped, retained, pending }, {
      closed: 1,
      dropped: 2,
      retained: 0,
      pending: flushed + 2
    })
    await until("all is there", () => got.length === 500)
    assert.deepStrictEqual(fallen, ["1 shutdown", "2 shutdown"])
    await until("it is closed", () => ws.readyState === WebSocket.CLOSED)
    for (const late of [manager.send("alice", 1), manager.sendAll("alice", [1]), manager.broadcast(1)]) {
      assert.instanceOf(await rejection(late), Face.ShutdownError)
    }
    const { url } = await listen((ws) => manager.registerConnection(ws))
    const [code] = await once((await plainPeer(url)).ws, "close")
    assert.strictEqual(code, 4000)
    assert.isObject(await manager.getStats())
  })

  it("may leave the sockets open and not flush, and waits for fallbackSend", async () => {
    const fallen: Array<string> = []
    const { away, connect, manager } = await setUp({
      fallbackSend: async (message, { reason }) => {
        await turn()
        fallen.push(`${String(message)} ${reason}`)
      }
    })
    const { got, socket } = await connect("alice")
    const { ws: gone } = await connect("bob")
    gone.close()
    await away("bob")
    for (let n = 0; n < 5; n++) await manager.send("bob", n, critical)
    assert.deepInclude(await rejection(manager.gracefulShutdown({ timeout: -1 })), { _tag: "ConfigError" })
    const report = await manager.gracefulShutdown({ closeConnections: false, flushPending: false, timeout: Infinity })
    assert.deepInclude(report, { closed: 0, dropped: 5, pending: 5 })
    assert.deepStrictEqual(fallen, [0, 1, 2, 3, 4].map((n) => `${n} shutdown`))
    socket.send(`"still open"`)
    await until("it is there", () => got.includes("still open"))
    assert.strictEqual(socket.listenerCount("message"), 0)
  })

  it("ends handlers that go on, and tells them by their signal", async () => {
    const contexts: Array<Face.MessageContext<unknown>> = []
    const { adjust, manager } = await makeTimed({
      onMessage: (_, context) => {
        contexts.push(context)
        return new Promise(() => {})
      }
    })
    const { connect } = await setUpOn(manager)
    const { ws } = await connect("alice")
    ws.send("1")
    await until("it is being handled", () => contexts.length === 1)
    let durationMillis: number | undefined
    void manager.gracefulShutdown({ timeout: "200 millis" }).then((report) => void ({ durationMillis } = report))
    await until("it has ended", async () => {
      await adjust(10)
      return durationMillis !== undefined
    })
    assert.isBelow(durationMillis ?? Infinity, 5_000)
    // Also if nobody has looked at it before.
    assert.isTrue(contexts[0]?.signal.aborted)
  })

  it("is what `await using` does", async () => {
    let kept: Face.ResilientWebSocketManager | undefined
    {
      await using manager = await ResilientWebSocketManager.make({ log: false })
      kept = manager
    }
    assert.instanceOf(await rejection(kept.send("alice", 1)), Face.ShutdownError)
  })
})

describe("what authenticate says", () => {
  it("is refused when it has a field that there is not: nobody gets a random session instead", async () => {
    const log: Array<Face.LogEntry> = []
    const manager = await makeManager({
      authenticate: () => ({ sessionId: "ann", principal: "ann" }) as unknown as Face.Identity,
      log: (entry) => log.push(entry)
    })
    const refused = collected(manager, "refused")
    const { url } = await listen((ws) => void manager.registerConnection(ws))
    const client = await ResilientClient.connect(url, { wait: false, log: false })
    onTestFinished(() => client.close({ flushPending: false, timeout: "1 second" }).then(() => {}))
    await until("it is refused", () => refused.length > 0)
    assert.include(String(refused[0]?.error), "there is no field sessionId: did you mean session?")
    assert.include(log.map(({ message }) => message).join(), "there is no field sessionId")
    await until("it will come back", async () => (await client.state())._tag === "Disconnected")
  })
})

describe("options", () => {
  it("that are wrong are a ConfigError that names them", async () => {
    const messageOf = async (options: Face.ManagerOptions<unknown, unknown>) => {
      const error = await rejection(ResilientWebSocketManager.make({ log: false, ...options }))
      assert.instanceOf(error, Face.ConfigError)
      assert.instanceOf(error, Error)
      return error.message
    }
    assert.match(await messageOf({ ttl: -1 }), /^option ttl must be/)
    const manager = await makeManager()
    assert.throws(() => (manager.messageIdTtl = Number.NaN), /^option messageIdTtl must be/)
    assert.include(await messageOf({ maxMessages: 0.5 }), "maxMessages")
    assert.include(await messageOf({ handlerRetry: { attempts: 0 }, onMessage: () => {} }), "handlerRetry.attempts")
    assert.include(await messageOf({ messageIdTtl: "1 minute" }), "retry horizon")
    assert.include(await messageOf({ breaker: { consecutiveFailures: 0 } }), "consecutiveFailures")
    assert.include(await messageOf({ store: { type: "mongo" } as unknown as Face.Store }), "store.type")
  })

  it("of a store that can't be had are a MessageQueueError", async () => {
    const store: Face.Store = { type: "sqlite", filename: "/nowhere/to/be/found.db" }
    const error = await rejection(ResilientWebSocketManager.make({ log: false, store }))
    assert.deepInclude(error, { _tag: "resilient-websocket/MessageQueueError", operation: "start", reason: "store" })
  })
})
