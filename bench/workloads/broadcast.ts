/**
 * W7: one message to all connections, until the last client has handled it. Functions that take a side run in its
 * process.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { now } from "../harness/clock.ts"
import { makeTexts, usualBytes } from "../harness/messages.ts"
import type { Quote } from "../harness/Peer.ts"
import type { Side } from "../harness/Side.ts"
import { spreadOf } from "../harness/statistics.ts"
import { sidesOf } from "../harness/throughput.ts"
import type { Figures, Run, Scale, Workload } from "../harness/Workload.ts"

const connections = 5_000
const broadcasts: Record<Scale, number> = { full: 20, quick: 10 }
const warmUps = 5
/** Between broadcasts: what a system still does after the last message was handled, such as acks, is not the next one's. */
const pauseMillis = 100
const bytes = usualBytes

const textOf = makeTexts(bytes)
const messageOf = (i: number): Quote => ({ i, connection: 0, at: now(), kind: "quote", text: textOf(0, i) })

/** In the server's process: sends number `i` to all; says when it began. */
export const broadcast = async ({ server }: Side, { i }: { readonly i: number }): Promise<number> => {
  const startedAt = now()
  await server?.broadcast(messageOf(i), connections)
  return startedAt
}

let arrived: Promise<number> = Promise.resolve(0)
let mistake: Error | undefined

/** In the clients' process: number `i` is to arrive at all, once at each and unaltered, and nothing else is. */
export const expectAtAll = (side: Side, { i }: { readonly i: number }): void => {
  if (mistake !== undefined) throw mistake
  const { promise, reject, resolve } = Promise.withResolvers<number>()
  const has = new Uint8Array(connections)
  let count = 0
  side.receive = (connection, message) => {
    if (message.i !== i || !("text" in message) || message.text !== textOf(0, i) || has[connection] !== 0) {
      mistake = new Error(`message ${message.i} on connection ${connection}, where ${i} was to come once`)
      return reject(mistake)
    }
    has[connection] = 1
    if (++count === connections) resolve(now())
  }
  arrived = promise
  promise.catch(() => {}) // whoever asks for it is told
}

/** Waits until it has arrived at the last one; says when that was. */
export const arrivedAtAll = (): Promise<number> => arrived

/** Fails if something came twice after all. */
export const confirmOnce = (): void => {
  if (mistake !== undefined) throw mistake
}

/** In ms. */
const broadcastOnce = async (run: Run, i: number): Promise<number> => {
  const module = new URL(import.meta.url)
  const server = run.server.calls<typeof import("./broadcast.ts")>(module)
  const client = run.client.calls<typeof import("./broadcast.ts")>(module)
  await client.expectAtAll({ i })
  const startedAt = await server.broadcast({ i })
  const millis = await client.arrivedAtAll() - startedAt
  await sleep(pauseMillis)
  await client.confirmOnce()
  return millis
}

/** That as many connections as here are open and work: what is sent to each arrives. */
export const proveOpen = (run: Run): Promise<number> => broadcastOnce(run, 0)

const measure = async (run: Run, scale: Scale): Promise<Figures> => {
  const { client, server } = sidesOf(run)
  const port = await server.listen({ connections, bytes })
  await client.connect({ port, connections, bytes })
  let i = 0
  for (; i < warmUps; i++) await broadcastOnce(run, i)

  await Promise.all([server.begin(), client.begin()])
  const millis: Array<number> = []
  for (; i < warmUps + broadcasts[scale]; i++) millis.push(await broadcastOnce(run, i))
  const [cpuServer, cpuClient] = await Promise.all([server.cpuSeconds(), client.cpuSeconds()])
  return {
    millis: spreadOf(millis).median,
    slowest: spreadOf(millis).max,
    cpuServer: cpuServer / millis.length * 1e3,
    cpuClient: cpuClient / millis.length * 1e3
  }
}

const tenths = (value: number): string => value.toFixed(1)

export const w7: Workload = {
  name: "W7",
  title: "one message to all connections, until the last client has handled it",
  notes: ["Median of several broadcasts, a tenth of a second apart. CPU time includes what comes after, such as acks."],
  peers: (scale) => scale === "full" ? ["ws", "socketio", "resilient"] : ["ws", "resilient"],
  figures: [
    { key: "millis", title: "ms", show: tenths, compare: "ratio" },
    { key: "slowest", title: "slowest ms", show: tenths },
    { key: "cpuServer", title: "server CPU ms", show: tenths },
    { key: "cpuClient", title: "client CPU ms", show: tenths }
  ],
  cases: (scale) => [{
    label: `${connections.toLocaleString("en")} connections`,
    goals: [{ figure: "millis", text: "≤ 1.3 ×", met: (ratio) => ratio <= 1.3 }],
    measure: (run) => measure(run, scale)
  }]
}
