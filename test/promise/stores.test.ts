/** The stores that an option names: what one manager accepted, another delivers. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Store } from "resilient-websocket/promise"
import { onTestFinished } from "vitest"
import { describeWithDatabase, newSchema } from "../support/postgresServer.ts"
import { listen, makeManager, plainPeer, rejection, until } from "../support/promise.ts"
import { describeWithRedisKeys } from "../support/redisServer.ts"

/** A manager accepts messages for a peer that is away, and shuts down; another one has them. */
const handOver = async (store: Store) => {
  const first = await makeManager({ store })
  const { url: firstUrl } = await listen((ws) => first.registerConnection(ws, { sessionId: "alice" }))
  const before = await plainPeer(firstUrl)
  await until("it is registered", async () => (await first.getStats()).connected === 1)
  await (await first.sendWithReceipt("alice", 0, { critical: true, id: "zero" })).handled()
  await until("it is there", () => before.got.length === 1)
  before.ws.close()
  await until("it is away", async () => (await first.getStats()).connected === 0)
  for (const n of [1, 2, 3]) assert.isFalse(await first.send("alice", n, { critical: true }))
  const report = await first.gracefulShutdown()
  assert.deepInclude(report, { retained: 3, dropped: 0, flushed: 0, pending: 3 })

  const second = await makeManager({ store })
  // Known, though it has never been here.
  assert.isFalse(await second.send("alice", 4, { critical: true }))
  assert.isTrue(await second.send("alice", 0, { critical: true, id: "zero" }))
  assert.isTrue(await second.isDuplicateMessage("zero", "alice"))
  assert.deepInclude(await rejection(second.send("nobody", 1, { critical: true })), {
    _tag: "resilient-websocket/SessionNotFoundError"
  })
  const { url } = await listen((ws) => second.registerConnection(ws, { sessionId: "alice" }))
  const after = await plainPeer(url)
  await until("all is there", () => after.got.length === 4)
  assert.deepStrictEqual(after.got, [1, 2, 3, 4])
  assert.isAbove(second.messageIdTtl, 0)
  second.messageIdTtl = "1 hour"
  assert.strictEqual(second.messageIdTtl, 3_600_000)
  assert.deepInclude(await second.gracefulShutdown(), { retained: 0, dropped: 0 })
}

describe("a manager's SQLite store", () => {
  it("is what the next manager goes on with", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    await handOver({ type: "sqlite", filename: join(folder, "store.db") })
  })

  it("has what was sent just before the shutdown flushed, though it was still being stored", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const manager = await makeManager({ store: { type: "sqlite", filename: join(folder, "store.db") } })
    const { url } = await listen((ws) => manager.registerConnection(ws, { sessionId: "alice" }))
    const { got } = await plainPeer(url)
    await until("it is registered", async () => (await manager.getStats()).connected === 1)
    const sent = Array.from({ length: 500 }, (_, n) => manager.send("alice", n, { critical: true }))
    const all = manager.broadcast("all")
    assert.deepInclude(await manager.gracefulShutdown(), { flushed: 501, retained: 0, dropped: 0 })
    await Promise.all([...sent, all])
    await until("all is there", () => got.length === 501)
    assert.deepStrictEqual(got, [...sent.keys(), "all"])
  })
})

describeWithDatabase("a manager's PostgreSQL store", (server) => {
  it.live("is what the next manager goes on with", () =>
    Effect.flatMap(server, ({ database, host, port, username }) =>
      Effect.promise(() =>
        handOver({
          type: "postgres",
          url: `postgres://${username}@${host}:${port}/${database}`,
          schema: newSchema(),
          maxConnections: 4
        })
      )))
})

describeWithRedisKeys("a manager's Redis store", (keys) => {
  it.live("is what the next manager goes on with", () =>
    Effect.flatMap(
      keys,
      ({ newPrefix, url }) => Effect.promise(() => handOver({ type: "redis", url, prefix: newPrefix() }))
    ))
})
