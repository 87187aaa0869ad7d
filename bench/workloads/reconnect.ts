/**
 * W6: all connections cut at once, messages sent to each session while its client is away, until all are handled.
 * Bare `ws` has no sessions: there it is the time until all are connected again. Functions that take a side run in its
 * process.
 */
import { now } from "../harness/clock.ts"
import { planOf, usualBytes } from "../harness/messages.ts"
import type { Side } from "../harness/Side.ts"
import { sidesOf } from "../harness/throughput.ts"
import type { Figures, Run, Workload } from "../harness/Workload.ts"
import { proveOpen } from "./broadcast.ts"

const connections = 5_000
/** Messages for each. */
const each = 20
/** The same before, as a warm-up, with a fifth of them. */
const warmUpEach = 4
const bytes = usualBytes

/** In the server's process: cuts all connections, and sends `count` messages; says when it began. */
export const cut = async (
  { server }: Side,
  { count }: { readonly count: number }
): Promise<number> => {
  const startedAt = now()
  server?.cut()
  await server?.sendMany(planOf({ count, connections, bytes }))
  return startedAt
}

let reopened: Promise<number> = Promise.resolve(0)

/** In the clients' process: each connection is to be opened again. The server has opened it a moment earlier. */
export const expectReopened = (side: Side): void => {
  const { promise, resolve } = Promise.withResolvers<number>()
  const open = new Set<number>()
  side.opened = (connection) => {
    open.add(connection)
    if (open.size === connections) resolve(now())
  }
  reopened = promise
}

/** Waits until they are; says when that was. */
export const allReopened = (): Promise<number> => reopened

const measure = async (run: Run): Promise<Figures> => {
  const module = new URL(import.meta.url)
  const { client, server } = sidesOf(run)
  const { cut } = run.server.calls<typeof import("./reconnect.ts")>(module)
  const { allReopened, expectReopened } = run.client.calls<typeof import("./reconnect.ts")>(module)
  const count = (each: number): number => run.peer === "ws" ? 0 : connections * each
  const port = await server.listen({ connections, bytes })
  await client.connect({ port, connections, bytes })
  // Socket.IO recovers only sessions that have had a message.
  await proveOpen(run)

  const once = async (count: number): Promise<number> => {
    if (count === 0) await expectReopened()
    else await client.expect({ count, connections, bytes })
    await Promise.all([server.begin(), client.begin()])
    const finished = count === 0 ? allReopened() : client.received()
    const [startedAt, finishedAt] = await Promise.all([cut({ count }), finished])
    return finishedAt - startedAt
  }
  await once(count(warmUpEach))
  if (count(each) > 0) await client.confirm()
  const seconds = await once(count(each)) / 1e3
  const [cpuServer, cpuClient] = await Promise.all([server.cpuSeconds(), client.cpuSeconds()])
  if (count(each) > 0) await client.confirm()
  return { seconds, cpuServer, cpuClient, count: count(each) }
}

const hundredths = (value: number): string => value.toFixed(2)

export const w6: Workload = {
  name: "W6",
  title: `all clients cut at once, ${each} messages sent to each while away, until all are handled`,
  notes: [
    "Bare ws: its clients dial at once when they see the close; the time is until all are open again, without messages.",
    "The others wait as they do by default: the library up to a second at random.",
    "Socket.IO's recovery takes more than a minute, and is measured once."
  ],
  peers: (scale) => scale === "full" ? ["ws", "socketio-recovery", "resilient"] : ["ws", "resilient"],
  once: ["socketio-recovery"],
  figures: [
    { key: "seconds", title: "seconds", show: hundredths, compare: "ratio" },
    { key: "cpuServer", title: "server CPU s", show: hundredths },
    { key: "cpuClient", title: "client CPU s", show: hundredths },
    { key: "count", title: "handled", show: (value) => value.toLocaleString("en") }
  ],
  cases: () => [{
    label: `${connections.toLocaleString("en")} clients`,
    goals: [{ figure: "seconds", text: "≤ 1.5 ×", met: (ratio) => ratio <= 1.5 }],
    measure
  }]
}
