/** W8: how the cost of a message grows with its size (a), with the connections (b) and with the outbox (c). */
import { usualBytes } from "../harness/messages.ts"
import { figures, measureThroughput, sidesOf, warmUpOf } from "../harness/throughput.ts"
import type { Across, Figures, Goal, Run, Scale, Spread, Workload } from "../harness/Workload.ts"

interface Payload {
  readonly label: string
  readonly bytes: number
  /** Takes a second or a few. */
  readonly count: number
}

const payloads: ReadonlyArray<Payload> = [
  { label: "10 B", bytes: 10, count: 500_000 },
  { label: "128 B", bytes: 128, count: 500_000 },
  { label: "1 kB", bytes: 1_000, count: 300_000 },
  { label: "16 kB", bytes: 16_000, count: 50_000 },
  { label: "256 kB", bytes: 256_000, count: 3_000 }
]

/** Part of the messages that a quick look sends, and of the steps that it takes. */
const shares: Record<Scale, number> = { full: 1, quick: 0.2 }
const quickPayloads = new Set([128, 16_000, 256_000])
const quickSteps = new Set([1, 100, 1_000])
const quickDepths = new Set([1_000, 10_000, 100_000])

const steps = <A>(scale: Scale, all: ReadonlyArray<A>, keep: (step: A) => boolean): ReadonlyArray<A> =>
  scale === "full" ? all : all.filter(keep)

const notWorse: Goal = { figure: "rate", text: "≥ 0.9 ×", met: (ratio) => ratio >= 0.9 }

export const w8a: Workload = {
  name: "W8a",
  title: "server → client, 1 connection, by size of the message",
  peers: () => ["ws", "resilient"],
  figures,
  cases: (scale) =>
    steps(scale, payloads, ({ bytes }) => quickPayloads.has(bytes)).map(({ bytes, count, label }) => ({
      label,
      goals: bytes >= 16_000 ? [notWorse] : [],
      measure: (run) =>
        measureThroughput(run, "toClient", { count: Math.ceil(count * shares[scale]), connections: 1, bytes })
    }))
}

/** The steps, and what is held against what: below a hundred connections it is batches that shrink. */
const connectionSteps = [1, 10, 100, 1_000, 5_000]
const [fewSessions, manySessions] = [100, 5_000]
/** A tenth above what bare `ws` itself grows counts as flat, and as much again for the noise. */
const sessionTolerance = 1.2

const plainLabel = (value: number): string => value.toLocaleString("en")

export const w8b: Workload = {
  name: "W8b",
  title: "server → client, round robin, by number of connections",
  peers: () => ["ws", "resilient"],
  figures,
  cases: (scale) =>
    steps(scale, connectionSteps, (step) => quickSteps.has(step)).map((connections) => ({
      label: plainLabel(connections),
      measure: (run) =>
        measureThroughput(run, "toClient", { count: 500_000 * shares[scale], connections, bytes: usualBytes })
    })),
  across: (spread) => {
    const growth = (peer: "ws" | "resilient") =>
      ratio(spread(plainLabel(fewSessions), peer, "rate"), spread(plainLabel(manySessions), peer, "rate"))
    const [bare, resilient] = [growth("ws"), growth("resilient")]
    if (bare === undefined || resilient === undefined) return []
    return [{
      what: `cost a message from ${plainLabel(fewSessions)} to ${plainLabel(manySessions)} connections`,
      goal: `≤ ${sessionTolerance} × the growth of bare ws`,
      found: `${resilient.toFixed(2)} × (bare ws: ${bare.toFixed(2)} ×)`,
      ok: resilient <= sessionTolerance * bare
    }]
  }
}

const depths = [1, 100, 1_000, 10_000, 100_000]
/** Shallow outboxes are filled and drained often: one time would be lost in the noise. */
const cyclesOf = (depth: number): number => Math.min(20, Math.max(1, Math.ceil(5_000 / depth)))
/** What is held against what. Where the handshake's share is small already, its fall can't hide a rise. */
const [shallow, middling, deep] = [1_000, 10_000, 100_000]
/** So many messages fit no cache any more, and are garbage that has to be collected. */
const depthTolerance = 1.5

const measureDepth = async (run: Run, depth: number): Promise<Figures> => {
  const { client, server } = sidesOf(run)
  const connections = 1
  const bytes = usualBytes
  const port = await server.listen({ connections, bytes, maxQueued: deep })

  const warmUp = { count: warmUpOf({ count: depth, bytes }), connections, bytes }
  await client.expect(warmUp)
  await client.connect({ port, connections, bytes })
  await Promise.all([server.sendAll(warmUp), client.received()])
  await client.closeClients()

  const cycles = cyclesOf(depth)
  let appending = 0
  let draining = 0
  await Promise.all([server.begin(), client.begin()])
  for (let cycle = 0; cycle < cycles; cycle++) {
    const content = { count: depth, connections, bytes }
    await client.expect(content)
    const sent = await server.sendAll(content)
    const [connected, receivedAt] = await Promise.all([
      client.connect({ port, connections, bytes }),
      client.received()
    ])
    appending += sent.finishedAt - sent.startedAt
    draining += receivedAt - connected.startedAt
    await client.confirm()
    await client.closeClients()
  }
  const nanos = (millis: number): number => millis * 1e6 / cycles / depth
  return {
    total: nanos(appending + draining),
    append: nanos(appending),
    drain: nanos(draining),
    count: cycles * depth
  }
}

const nanos = (value: number): string => Math.round(value).toLocaleString("en")

export const w8c: Workload = {
  name: "W8c",
  title: "messages that queue while the client is away, by how many there are: to append and to drain one",
  notes: ["Drained is from the client's dial to its last message: a shallow outbox pays for the handshake."],
  peers: () => ["resilient"],
  figures: [
    { key: "total", title: "ns a message", show: nanos },
    { key: "append", title: "append", show: nanos },
    { key: "drain", title: "drain", show: nanos },
    { key: "count", title: "messages", show: (value) => value.toLocaleString("en"), detail: "median" }
  ],
  cases: (scale) =>
    steps(scale, depths, (depth) => quickDepths.has(depth)).map((depth) => ({
      label: plainLabel(depth),
      measure: (run) => measureDepth(run, depth)
    })),
  across: (spread) => {
    const grown = (what: string, figure: string, from: number): ReadonlyArray<Across> => {
      const growth = ratio(
        spread(plainLabel(deep), "resilient", figure),
        spread(plainLabel(from), "resilient", figure)
      )
      if (growth === undefined) return []
      return [{
        what: `cost to ${what} from ${plainLabel(from)} to ${plainLabel(deep)} queued`,
        goal: `≤ ${depthTolerance} ×`,
        found: `${growth.toFixed(2)} ×`,
        ok: growth <= depthTolerance
      }]
    }
    return [...grown("append", "append", shallow), ...grown("append and drain", "total", middling)]
  }
}

const ratio = (over: Spread | undefined, under: Spread | undefined): number | undefined =>
  over === undefined || under === undefined ? undefined : over.median / under.median
