/** W5: what an idle connection costs in the server's memory. Functions that take a side run in its process. */
import { setTimeout as sleep } from "node:timers/promises"
import { usualBytes } from "../harness/messages.ts"
import { sidesOf } from "../harness/throughput.ts"
import type { Figures, Run, Workload } from "../harness/Workload.ts"
import { proveOpen } from "./broadcast.ts"

const connections = 5_000
/** Opened and closed before: what is needed once, code above all, is no connection's. */
const first = 200
const bytes = usualBytes

const collections = 6
const settleMillis = 150

/** In bytes. */
export interface Memory {
  readonly rss: number
  /** RSS before V8 gave back what it keeps for later. */
  readonly unshrunk: number
  readonly heap: number
}

/** After garbage is collected: several times, as some of it is found only then, and freed pages are given back late. */
export const memory = async (): Promise<Memory> => {
  await collect()
  const { rss: unshrunk } = process.memoryUsage()
  await collect({ type: "major", execution: "sync", flavor: "last-resort" })
  const { heapUsed: heap, rss } = process.memoryUsage()
  return { rss, unshrunk, heap }
}

const collect = async (options?: NodeJS.GCOptions): Promise<void> => {
  for (let i = 0; i < collections; i++) {
    if (options === undefined) globalThis.gc?.()
    else globalThis.gc?.(options)
    await sleep(settleMillis)
  }
}

const measure = async (run: Run): Promise<Figures> => {
  const { client, server } = sidesOf(run)
  const { memory } = run.server.calls<typeof import("./idle.ts")>(new URL(import.meta.url))
  const port = await server.listen({ connections, bytes })
  await client.connect({ port, connections: first, bytes })
  await client.closeClients()
  const before = await memory()
  await client.connect({ port, connections, bytes })
  const after = await memory()
  await proveOpen(run)
  const each = (key: keyof Memory) => (after[key] - before[key]) / 1024 / connections
  return { rss: each("rss"), heap: each("heap"), unshrunk: each("unshrunk"), base: before.rss / 1024 ** 2 }
}

const kilobytes = (value: number): string => value.toFixed(1)

export const w5: Workload = {
  name: "W5",
  title: "idle connections: the server's memory for each, after garbage collection",
  notes: [
    "kB are 1,024 bytes. A system's own memory, before the connections, is the last column.",
    "Not shrunk: before the last collections (flavor last-resort) gave back what V8 keeps for later, such as pages of the",
    "young generation, which grew while the clients dialled: 10 to 30 MB that are no connection's.",
    "mqtt is left out: its server is no Node process."
  ],
  peers: (scale) => scale === "full" ? ["ws", "effect-socket", "socketio", "resilient", "router"] : ["ws", "resilient"],
  figures: [
    { key: "rss", title: "RSS kB each", show: kilobytes, compare: "difference" },
    { key: "heap", title: "heap kB each", show: kilobytes, compare: "difference" },
    { key: "unshrunk", title: "RSS not shrunk", show: kilobytes, compare: "difference" },
    { key: "base", title: "before, MB", show: (value) => value.toFixed(0) }
  ],
  cases: () => [{
    label: `${connections.toLocaleString("en")} connections`,
    goals: [{ figure: "rss", text: "≤ + 4.0 kB", met: (difference) => difference <= 4 }],
    measure
  }]
}
