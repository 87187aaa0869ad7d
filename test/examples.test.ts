/** The examples run, talk to each other as real processes, and end cleanly when they are told to. */
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { MemoryStore } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { WebSocket } from "ws"
import { Shop } from "../examples/contract.ts"
import "../examples/faults.ts" // a test itself
import "../examples/testing.ts" // likewise
import { freePort } from "./support/freePort.ts"
import { startUntil } from "./support/processes.ts"

const start = startUntil(afterAll)

describe.concurrent("the examples", () => {
  it("server and client exchange messages, through a restart of the server, and exit with 0", async () => {
    const PORT = String(await freePort())
    const first = start("server.ts", { PORT })
    const client = start("client.ts", { PORT })
    await client.says(/^confirmed 1$/)
    assert.strictEqual(await first.stop(), 0)
    const second = start("server.ts", { PORT })
    await second.says(/^order \d+: tea$/)
    assert.strictEqual(await client.stop(), 0)
    assert.strictEqual(await second.stop(), 0)
    const orders = [...first.lines, ...second.lines].filter((line) => line.startsWith("order"))
    assert.deepStrictEqual(orders, orders.map((_, index) => `order ${index + 1}: tea`))
  })

  it("register.ts serves HTTP, plain WebSockets and clients on one port of its own", async () => {
    const PORT = String(await freePort())
    const server = start("register.ts", { PORT })
    await server.says(/^listening/)
    assert.strictEqual(await (await fetch(`http://127.0.0.1:${PORT}`)).text(), "hello over HTTP\n")
    const plain = new WebSocket(`ws://127.0.0.1:${PORT}`)
    await once(plain, "open")
    plain.send(JSON.stringify({ number: 7, item: "cake" }))
    const [answer] = await once(plain, "message")
    assert.deepStrictEqual(JSON.parse(String(answer)), { number: 7 })
    const client = start("client.ts", { PORT })
    await client.says(/^confirmed 1$/)
    assert.strictEqual(await client.stop(), 0)
    assert.strictEqual(await server.stop(), 0)
  })

  it("metrics.ts tells Prometheus what happened", async () => {
    const PORT = String(await freePort())
    const METRICS_PORT = String(await freePort())
    const server = start("metrics.ts", { PORT, METRICS_PORT })
    await server.says(/^listening/)
    const client = start("client.ts", { PORT })
    await client.says(/^confirmed 1$/)
    const scrape = await (await fetch(`http://127.0.0.1:${METRICS_PORT}/metrics`)).text()
    assert.match(scrape, /^resilient_websocket_messages_handled_total [1-9]/m)
    assert.match(scrape, /^resilient_websocket_connections_fresh_total 1$/m)
    assert.strictEqual(await client.stop(), 0)
    assert.strictEqual(await server.stop(), 0)
  })

  it("one-port.ts has an API, a page, metrics and sessions on one port, and one shutdown", async () => {
    const PORT = String(await freePort())
    const server = start("one-port.ts", { PORT })
    await server.says(/^listening/)
    const text = async (path: string) => (await fetch(`http://127.0.0.1:${PORT}${path}`)).text()
    const confirmed = Promise.withResolvers<number>()
    const Client = Shop.layerClient({
      url: `ws://127.0.0.1:${PORT}/live`,
      onMessage: ({ number }) => Effect.sync(() => confirmed.resolve(number))
    }).pipe(Layer.provide([MemoryStore.layer(), NodeTransport.layerClient]))
    await Effect.runPromise(
      Effect.gen(function*() {
        const client = yield* Shop.Client
        yield* client.send({ number: 7, item: "cake" })
        assert.strictEqual(yield* Effect.promise(() => confirmed.promise), 7)
        assert.strictEqual(yield* Effect.promise(() => text("/sessions")), "1")
        assert.include(yield* Effect.promise(() => text("/")), "The shop is open")
        assert.match(yield* Effect.promise(() => text("/metrics")), /^resilient_websocket_messages_handled_total 1$/m)
        // While the client is connected, and its page's connection is kept alive.
        assert.strictEqual(yield* Effect.promise(() => server.stop()), 0)
        assert.notStrictEqual((yield* client.state)._tag, "Connected")
      }).pipe(Effect.provide(Client))
    )
    assert.include(server.lines, "order 7: cake")
  })

  it("rejecting.ts tells a customer why an order can't be filled, and per-user.ts has a client for each", async () => {
    const PORT = String(await freePort())
    const HTTP_PORT = String(await freePort())
    const server = start("rejecting.ts", { PORT })
    await server.says(/^listening/)
    const Client = Shop.layerClient({ url: `ws://127.0.0.1:${PORT}`, token: Redacted.make("ann's token") }).pipe(
      Layer.provide([MemoryStore.layer(), NodeTransport.layerClient])
    )
    const fates = Effect.gen(function*() {
      const shop = yield* Shop.Client
      const receipts = yield* shop.sendAll([
        { number: 1, item: "unicorn" },
        { number: 101, item: "tea" },
        { number: 2, item: "tea" }
      ])
      return yield* Effect.forEach(
        receipts,
        ({ handled }) => Effect.match(handled, { onSuccess: () => "handled", onFailure: ({ detail }) => detail })
      )
    })
    assert.deepStrictEqual(await Effect.runPromise(Effect.provide(fates, Client)), [
      "no unicorn is left",
      "more than 100 orders",
      "handled"
    ])
    assert.include(server.lines, "order 2 of ann: tea")

    const gateway = start("per-user.ts", { PORT, HTTP_PORT })
    await gateway.says(/^.*Listening/i)
    const post = (query: string) => fetch(`http://127.0.0.1:${HTTP_PORT}/orders?${query}`, { method: "POST" })
    assert.strictEqual((await post("user=ann&number=3&item=tea")).status, 202)
    assert.strictEqual((await post("user=bob&number=4&item=tea")).status, 202) // he is not let in, but may be later
    assert.strictEqual((await post("user=ann&number=x&item=tea")).status, 400)
    await gateway.says(/^confirmed 3 for ann$/)
    assert.strictEqual(await gateway.stop(), 0)
    assert.strictEqual(await server.stop(), 0)
    assert.isFalse(server.lines.some((line) => line.includes("order 4")))
  })

  it("orders.ts has the orders that it confirmed, and no others, also when it is killed", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
    const env = { PORT: String(await freePort()), HTTP_PORT: String(await freePort()), DB: join(folder, "orders.db") }
    /** The status of the answer, or undefined if the service died before it gave one. */
    const order = (customer: string, number: number, item: string) =>
      fetch(
        `http://127.0.0.1:${env.HTTP_PORT}/orders?${new URLSearchParams({ customer, number: `${number}`, item })}`,
        { method: "POST" }
      ).then(({ status }) => status, () => undefined)
    try {
      const first = start("orders.ts", env)
      const client = start("client.ts", env)
      const [, customer = ""] = await first.says(/^order 1: tea for (.*)$/)

      assert.strictEqual(await order("nobody", 1, "tea"), 409)
      assert.strictEqual(await order(customer, 1_000, "cake"), 201)
      assert.strictEqual(await order(customer, 1_000, "cake"), 409)
      assert.strictEqual(await order(customer, 1_001, "cake"), 201)
      assert.strictEqual(await order(customer, 1_002, "cake"), 409) // sold out

      const numbers = Array.from({ length: 50 }, (_, index) => 2_000 + index)
      const answered = numbers.map((number) => order(customer, number, "tea"))
      await Promise.race(answered)
      assert.strictEqual(await first.kill(), "SIGKILL")
      const answers = await Promise.all(answered)
      const second = start("orders.ts", env)
      await second.says(/^listening/)
      assert.strictEqual(await order(customer, 3_000, "tea"), 201)
      const placed = [1_000, 1_001, ...numbers.filter((_, index) => answers[index] === 201), 3_000]
      await client.says(/^confirmed 3000$/)
      assert.strictEqual(await client.stop(), 0)
      assert.strictEqual(await second.stop(), 0)

      const database = new DatabaseSync(env.DB)
      const kept = database.prepare("SELECT number FROM orders WHERE customer = ? ORDER BY rowid").all(customer)
        .map((row) => Number(row["number"]))
      database.close()
      const confirmed = client.lines.filter((line) => line.startsWith("confirmed")).map((line) =>
        Number(line.slice("confirmed ".length))
      )
      const ours = (numbers: ReadonlyArray<number>) => numbers.filter((number) => number < 1_000)
      const theirs = (numbers: ReadonlyArray<number>) => numbers.filter((number) => number >= 1_000)
      assert.deepStrictEqual(theirs(confirmed), theirs(kept))
      assert.includeMembers(theirs(kept), placed)
      assert.deepStrictEqual(ours(kept), ours(kept).map((_, index) => index + 1))
      assert.deepStrictEqual(ours(confirmed), ours(kept).slice(0, ours(confirmed).length))
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})
