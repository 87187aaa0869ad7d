/** The examples run, talk to each other as real processes, and end cleanly when they are told to. */
import { assert, describe, it } from "@effect/vitest"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { createServer } from "node:net"
import { createInterface } from "node:readline"
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
    stop: async () => {
      child.kill("SIGTERM")
      const [code, signal] = await exit
      running.delete(child)
      return code ?? signal
    }
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

/** Runs a test; what it started and did not stop does not outlive it. */
const cleanly = (test: (start: Start) => Promise<void>) => async () => {
  const running = new Set<ChildProcess>()
  try {
    await test(startIn(running))
  } finally {
    for (const child of running) child.kill("SIGKILL")
  }
}

describe.concurrent("the examples", () => {
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
})
