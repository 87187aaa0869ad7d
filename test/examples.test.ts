/** The examples run, talk to each other as real processes, and end cleanly when they are told to. */
import { assert, describe, it, type TestContext } from "@effect/vitest"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { WebSocket } from "ws"
import "../examples/testing.ts" // a test itself

interface Example {
  /** Everything that it has written so far. */
  readonly lines: ReadonlyArray<string>
  /** Waits for a line like this. */
  readonly says: (pattern: RegExp) => Promise<void>
  /** Ends it as a service manager does; gives its exit code. */
  readonly stop: () => Promise<unknown>
  /** Ends it where it stands. */
  readonly kill: () => Promise<void>
}

type Start = (name: string, env: Readonly<Record<string, string>>) => Example

const startIn = (running: Set<ChildProcess>): Start => (name, env) => {
  const child = spawn(process.execPath, [fileURLToPath(new URL(`../examples/${name}`, import.meta.url))], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"]
  })
  running.add(child)
  const lines: Array<string> = []
  const waiting = new Set<() => void>()
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line)
    for (const look of waiting) look()
  })
  const exit = once(child, "exit")
  const end = async (signal: NodeJS.Signals) => {
    child.kill(signal)
    const [code, by] = await exit
    running.delete(child)
    return code ?? by
  }
  return {
    lines,
    says: async (pattern) => {
      const said = new Promise<void>((resolve) => {
        const look = () => lines.some((line) => pattern.test(line)) ? resolve() : void waiting.add(look)
        look()
      })
      const ended = exit.then(([code]) => assert.fail(`${name} ended with ${code}; it said ${lines.join(" | ")}`))
      await Promise.race([said, ended])
    },
    stop: () => end("SIGTERM"),
    kill: async () => assert.strictEqual(await end("SIGKILL"), "SIGKILL")
  }
}

/** The number of a port that is free, most likely also a moment later. */
const freePort = async (): Promise<string> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  return String(typeof address === "object" ? address?.port : undefined)
}

/** Runs a test; what it started and did not stop does not outlive it, also when its time is over. */
const cleanly = (test: (start: Start) => Promise<void>) => ({ onTestFinished }: TestContext) => {
  const running = new Set<ChildProcess>()
  const start = startIn(running)
  let isOver = false
  onTestFinished(() => {
    isOver = true
    for (const child of running) child.kill("SIGKILL")
  })
  return test((name, env) => isOver ? assert.fail(`too late for ${name}`) : start(name, env))
}

describe("the examples", () => {
  it(
    "server and client exchange messages, through a restart of the server, and exit with 0",
    cleanly(async (start) => {
      const PORT = await freePort()
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
  )

  it(
    "register.ts serves HTTP, plain WebSockets and clients on one port of its own",
    cleanly(async (start) => {
      const PORT = await freePort()
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
  )

  it(
    "metrics.ts tells Prometheus what happened",
    cleanly(async (start) => {
      const PORT = await freePort()
      const METRICS_PORT = await freePort()
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
  )

  it(
    "orders.ts has the orders that it confirmed, and no others, also when it is killed",
    cleanly(async (start) => {
      const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
      const env = { PORT: await freePort(), HTTP_PORT: await freePort(), DB: join(folder, "orders.db") }
      /** The status of the answer, or undefined if the service died before it gave one. */
      const order = (customer: string, number: number, item: string) =>
        fetch(
          `http://127.0.0.1:${env.HTTP_PORT}/orders?${new URLSearchParams({ customer, number: `${number}`, item })}`,
          { method: "POST" }
        ).then(({ status }) => status, () => undefined)
      try {
        const first = start("orders.ts", env)
        const client = start("client.ts", env)
        await first.says(/^order 1: tea for /)
        const customer = /for (.*)$/.exec(first.lines.find((line) => line.startsWith("order")) ?? "")?.[1] ?? ""

        assert.strictEqual(await order("nobody", 1, "tea"), 409)
        assert.strictEqual(await order(customer, 1_000, "cake"), 201)
        assert.strictEqual(await order(customer, 1_000, "cake"), 409)
        assert.strictEqual(await order(customer, 1_001, "cake"), 201)
        assert.strictEqual(await order(customer, 1_002, "cake"), 409) // sold out

        const numbers = Array.from({ length: 50 }, (_, index) => 2_000 + index)
        const answered = numbers.map((number) => order(customer, number, "tea"))
        await Promise.race(answered)
        await first.kill()
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
  )
})
