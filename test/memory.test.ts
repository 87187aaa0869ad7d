/** A client that stops reading costs the server a bounded amount of memory, whatever is offered to it. */
import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { WebSocket } from "ws"
import { amount } from "./support/everything.ts"
import { programPath } from "./support/sharedByRun.ts"

const messages = amount(1_000_000, 200_000)

interface Result {
  readonly outcomes: Readonly<Record<string, number>>
  /** Resident memory at its highest, and heap after a collection at the end; both against before. */
  readonly grownMiB: number
  readonly retainedMiB: number
  readonly queued: number
  readonly suspended: number
  readonly deadLetters: number
}

const hello = {
  t: "hello",
  version: 1,
  instance: "slow",
  out: { epoch: "e", acked: 0, last: 0 },
  in: { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } },
  window: { messages: 1024, bytes: 4 * 1024 * 1024 },
  maxPayload: 1024 * 1024
}

interface Variant {
  readonly transport?: "own port" | "router"
  /** A WebSocket that knows nothing of the protocol: what the socket has taken counts as handled. */
  readonly isPlain?: boolean
}

/** Runs the server in a process of its own, with a client that says hello and then reads no more. */
const offer = async (policy: string, { isPlain, transport = "own port" }: Variant = {}): Promise<Result> => {
  const server = spawn(
    process.execPath,
    ["--expose-gc", await programPath("slowReader"), policy, String(messages), transport],
    { stdio: ["ignore", "pipe", "inherit"] }
  )
  try {
    const lines = createInterface({ input: server.stdout })[Symbol.asyncIterator]()
    const { port } = JSON.parse(String((await lines.next()).value))
    const ws = new WebSocket(`ws://127.0.0.1:${port}`, isPlain === true ? [] : "resilient.v1")
    await once(ws, "open")
    if (isPlain !== true) {
      ws.send(JSON.stringify(hello))
      await once(ws, "message")
    }
    ws.pause()
    const result: Result = JSON.parse(String((await lines.next()).value))
    ws.terminate()
    return result
  } finally {
    server.kill()
  }
}

describe(`a client that stops reading, offered ${messages.toLocaleString("en")} messages of 1 kB`, () => {
  it("costs less than 64 MiB with `reject`, and every sender beyond the bound is told", async () => {
    const { deadLetters, grownMiB, outcomes, queued } = await offer("reject")
    assert.isBelow(grownMiB, 64)
    assert.strictEqual(queued, 1_000)
    assert.strictEqual(outcomes["resilient-websocket/QueueOverflowError"], messages - 1_000)
    assert.strictEqual(deadLetters, 0)
  })

  // Here as many strings live for a moment each. How far V8 lets that grow before it collects is its own affair (a
  // plain ring of 2,000 such strings takes 126 MiB); what counts is what is kept.
  it("keeps less than 64 MiB with `dropOldest`, and every dropped message is a dead letter", async () => {
    const { deadLetters, outcomes, queued, retainedMiB } = await offer("dropOldest")
    assert.isBelow(retainedMiB, 64)
    assert.strictEqual(queued, 1_000)
    assert.strictEqual(deadLetters, messages - 1_000)
    assert.isUndefined(outcomes["resilient-websocket/QueueOverflowError"])
  })

  it("costs less than 64 MiB with `dropNewest`, and every sender beyond the bound gets `Skipped`", async () => {
    const { grownMiB, outcomes, queued } = await offer("dropNewest")
    assert.isBelow(grownMiB, 64)
    assert.strictEqual(queued, 1_000)
    assert.strictEqual(outcomes["Skipped"], messages - 1_000)
  })

  it("costs less than 64 MiB with `suspend`, and the sender waits", async () => {
    const { grownMiB, outcomes, queued } = await offer("suspend")
    assert.isBelow(grownMiB, 64)
    assert.strictEqual(queued, 1_000)
    assert.strictEqual((outcomes["Sent"] ?? 0) + (outcomes["Queued"] ?? 0), 1_000)
  })

  it.each(["own port", "router"] as const)(
    "costs as little if it is a plain peer, on the %s too",
    async (transport) => {
      for (const isPlain of [false, true]) {
        const { grownMiB, outcomes, queued } = await offer("reject", { transport, isPlain })
        assert.isBelow(grownMiB, 64)
        assert.strictEqual(queued, 1_000)
        // What the kernel has taken of a plain peer's counts as handled.
        assert.isAbove(
          outcomes["resilient-websocket/QueueOverflowError"] ?? 0,
          messages - 1_000 - (isPlain ? 50_000 : 0) - 1
        )
      }
    }
  )
})
