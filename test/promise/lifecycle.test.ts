/**
 * The life of a connection as the Python manager's own test tells it, on this face: register, send and recognize
 * duplicates, trip a breaker and see it recover, expire a message, deduplicate again after the window, unregister, shut
 * down. There, most of it was called by hand; here it happens.
 */
import { assert, describe, it } from "@effect/vitest"
import { ResilientClient } from "resilient-websocket/promise"
import type { WebSocket } from "ws"
import { collected, listen, makeTimed, until } from "../support/promise.ts"

const minute = 60_000

describe("the life-cycle of a connection", () => {
  it("is what the old system's test asks for, end to end", async () => {
    const { adjust, manager } = await makeTimed({
      deduplicate: true,
      ttl: "1 minute",
      retention: "5 minutes",
      // The clock is moved by minutes, in which nobody can answer.
      heartbeat: "1 day",
      ackTimeout: "1 day"
    })
    const circuits = collected(manager, "circuitChange")
    const letters = collected(manager, "deadLetter")

    // 1. Register.
    const sockets: Array<WebSocket> = []
    const sessions: Array<string> = []
    /** Sockets of which the network loses what peers say, once they are connected: acknowledgements. */
    const deaf = new Set<WebSocket>()
    let isLossy = false
    const { url } = await listen(async (ws) => {
      const { emit } = ws
      ws.emit = (event, ...args) => (event === "message" && deaf.has(ws)) || emit.call(ws, event, ...args)
      sockets.push(ws)
      const session = await manager.registerConnection(ws, { sessionId: "alice" })
      if (isLossy) deaf.add(ws)
      if (session !== undefined) sessions.push(session)
    })
    const got: Array<unknown> = []
    const client = await ResilientClient.connect(url, {
      log: false,
      reconnect: { base: 1, cap: 5 },
      onMessage: (message) => void got.push(message)
    })
    await until("it is registered", () => sessions.length === 1)
    assert.deepStrictEqual(sessions, ["alice"])
    const { connected, metrics: { connections } } = await manager.getStats()
    assert.deepStrictEqual({ connected, total: connections.total, active: connections.active }, {
      connected: 1,
      total: 1,
      active: 1
    })

    // 2. Five distinct messages, and each again.
    const [socket = assert.fail("no socket")] = sockets
    for (let i = 0; i < 5; i++) {
      const message = { type: "test", data: `message-${i}` }
      const id = manager.getMessageId(message)
      assert.isFalse(await manager.isDuplicateMessage(id))
      assert.isTrue(await manager.send(socket, message, { critical: true }))
      assert.isTrue(await manager.isDuplicateMessage(id))
      assert.isTrue(await manager.isDuplicateMessage(id, "alice"))
      const again = await manager.sendWithReceipt("alice", message, { critical: true })
      assert.deepInclude(again, { _tag: "Duplicate", messageId: id })
      await again.handled()
      // Not critical, and the same all the same.
      assert.isTrue(await manager.send("alice", message))
    }
    assert.deepStrictEqual(got, [0, 1, 2, 3, 4].map((i) => ({ type: "test", data: `message-${i}` })))
    const { messages } = (await manager.getStats()).metrics
    assert.deepInclude(messages, { sent: 5, acknowledged: 5, deduplicated: 10, failed: 0, expired: 0 })

    // 3. Five failures: connections that break before it is known that a message arrived.
    deaf.add(socket)
    for (let n = 1; n <= 5; n++) {
      const { length: count } = sessions
      isLossy = n < 5
      const last = sockets.at(-1) ?? assert.fail("no socket")
      await manager.send(last, { n }, { critical: true })
      await until("it is handled", () => got.length === 5 + n)
      last.terminate()
      await until("it is back", () => sessions.length > count)
    }
    await until("the circuit is tried", () => circuits.length === 2)
    assert.deepInclude(circuits[0], { session: "alice", from: "Closed", to: "Open" })
    // A new connection is a probe: it recovers when something is acknowledged.
    assert.deepInclude(circuits[1], { session: "alice", from: "Open", to: "HalfOpen" })
    await (await manager.sendWithReceipt("alice", { n: 6 }, { critical: true })).handled()
    await until("it is closed", () => circuits.length === 3)
    assert.deepInclude(circuits[2], { session: "alice", from: "HalfOpen", to: "Closed" })
    assert.deepStrictEqual(got.slice(5), [1, 2, 3, 4, 5, 6].map((n) => ({ n })))
    const recovered = await manager.getStats()
    assert.deepStrictEqual(recovered.metrics.circuitBreaker, { opens: 1, halfOpens: 1, closes: 1 })
    assert.deepInclude(recovered.circuitBreaker, { state: "Closed", open: 0 })
    assert.strictEqual(recovered.metrics.connections.reconnections, 5)

    // 4. A message that waits for longer than its TTL.
    await client.close()
    await until("it is away", async () => (await manager.getStats()).connected === 0)
    assert.isFalse(await manager.send("alice", { type: "late" }, { critical: true }))
    assert.deepInclude((await manager.getStats()).connections["alice"], { isConnected: false, queueSize: 1 })
    await adjust(2 * minute)
    await until("it has expired", () => letters.length === 1)
    assert.deepInclude(letters[0], {
      direction: "out",
      reason: "expired",
      message: { type: "late" },
      maybeHandled: false
    })
    assert.strictEqual((await manager.getStats()).metrics.messages.expired, 1)

    // 5. After the window, the same content is a new message.
    const back = await ResilientClient.connect(url, { log: false, onMessage: (message) => void got.push(message) })
    await until("it is back", async () => (await manager.getStats()).connected === 1)
    const first = { type: "test", data: "message-0" }
    assert.isAtLeast(manager.messageIdTtl, 6 * minute)
    manager.messageIdTtl = "6 minutes" // no shorter: until then a message may be on its way
    assert.throws(() => (manager.messageIdTtl = 1_000), /at least the retry horizon/)
    assert.isTrue(await manager.isDuplicateMessage(manager.getMessageId(first), "alice"))
    await adjust(13 * minute)
    assert.isFalse(await manager.isDuplicateMessage(manager.getMessageId(first), "alice"))
    await (await manager.sendWithReceipt("alice", first, { critical: true })).handled()
    assert.deepStrictEqual(got.at(-1), first)

    // 6. Unregister, and shut down.
    const [last = assert.fail("no socket")] = sockets.slice(-1)
    assert.isTrue(await manager.unregisterConnection(last))
    assert.isFalse(await manager.unregisterConnection(last))
    assert.strictEqual((await manager.getStats()).metrics.connections.active, 0)
    for (const n of [1, 2, 3]) assert.isFalse(await manager.send(last, { n }, { critical: true }))
    const report = await manager.gracefulShutdown({ timeout: "5 seconds" })
    assert.deepInclude(report, { pending: 3, flushed: 0, retained: 0, dropped: 3, closed: 0 })
    assert.strictEqual(report.flushed + report.retained + report.dropped, report.pending)
    assert.deepStrictEqual(letters.slice(1).map(({ reason }) => reason), ["shutdown", "shutdown", "shutdown"])
    await back.close({ timeout: "1 second" })
  })
})
