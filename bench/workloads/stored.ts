/**
 * W9: a server that keeps what it has in a database. How many messages a second (a); what a stored session and a
 * queued message take, and whether a message costs the same beside very many of them (b). Functions that take a side
 * run in its process.
 */
import { Effect } from "effect"
import { makeTexts, usualBytes } from "../harness/messages.ts"
import { inParallel } from "../harness/parallel.ts"
import type { Side } from "../harness/Side.ts"
import { spreadOf } from "../harness/statistics.ts"
import { figures as usualFigures, measureThroughput, sidesOf } from "../harness/throughput.ts"
import type { Figure, Figures, Goal, Run, Scale, Workload } from "../harness/Workload.ts"
import { type PeerName, storedPeers } from "../peers/index.ts"
import { maxInFlightStored } from "../peers/sockets.ts"

const bytes = usualBytes

// --- a: throughput

const counts: Record<Scale, { readonly count: number; readonly warmUp: number }> = {
  full: { count: 200_000, warmUp: 50_000 },
  quick: { count: 5_000, warmUp: 5_000 }
}

const goalOf = (peer: PeerName, least: number): Goal => ({
  figure: "rate",
  peer,
  text: `≥ ${least.toFixed(1)} ×`,
  met: (ratio) => ratio >= least
})

const goals: ReadonlyArray<Goal> = [
  goalOf("sqlite", 1),
  goalOf("sqlite-batch", 1),
  goalOf("sqlite-full", 1),
  goalOf("postgres", 0.5),
  goalOf("postgres-batch", 0.5),
  goalOf("redis", 0.5),
  goalOf("redis-batch", 0.5),
  goalOf("redis-always", 0.5)
]

const cpuOwned: Figure = {
  key: "cpuOwned",
  title: "database CPU s/M",
  show: (value) => value === 0 ? "" : value.toFixed(2),
  detail: "median"
}

export const w9a: Workload = {
  name: "W9a",
  title: "server → client, stored before it is sent, by number of sessions",
  notes: [
    `${maxInFlightStored} messages are under way to the store or the broker; send by send, or by sendAll of 64 for one session.`,
    "What has been done when a send is done: SqliteStore has committed to the file's log, with full the disk has it;",
    "PostgresStore: the disk has it; RedisStore: Redis has it, with always the disk, with everysec the disk has it within",
    "a second; mosquitto has it in memory, and writes all to disk every second; NATS has written it to a file, which it",
    "syncs every two minutes. Bare ws stores nothing.",
    "mqtt.js and NATS: half as many messages. Database CPU is that of the broker too; SQLite's is the server's."
  ],
  peers: (scale) =>
    scale === "full"
      ? ["ws", "resilient", ...storedPeers]
      : ["ws", "sqlite", "postgres", "redis", "mqtt-durable", "nats"],
  figures: [...usualFigures.slice(0, 2), cpuOwned, ...usualFigures.slice(2)],
  maxRounds: 3,
  cases: (scale) =>
    [1, 100].map((connections) => ({
      label: connections === 1 ? "1 session" : `${connections} sessions`,
      goals,
      measure: (run) => measureThroughput(run, "toClient", { ...counts[scale], connections, bytes })
    }))
}

// --- b: beside many

interface Amounts {
  readonly sessions: number
  readonly queued: number
}

/** Few and many of each. */
const amounts: Record<Scale, { readonly few: Amounts; readonly many: Amounts }> = {
  full: { few: { sessions: 100, queued: 1_000 }, many: { sessions: 100_000, queued: 1_000_000 } },
  quick: { few: { sessions: 100, queued: 1_000 }, many: { sessions: 2_000, queued: 20_000 } }
}

/** Messages to the session that has a client: measured so often at each step, and what is taken is the median. */
const probe: Record<Scale, { readonly count: number; readonly times: number }> = {
  full: { count: 50_000, times: 3 },
  quick: { count: 1_000, times: 3 }
}

const storeOf = ({ server }: Side) => {
  if (server?.store === undefined) throw new Error("there is no store")
  return server.store
}

const relaxed = async (side: Side, fill: () => Promise<unknown>): Promise<void> => {
  const { relax } = storeOf(side)
  await relax?.(true)
  await fill()
  await relax?.(false)
}

const absent = (index: number): string => `absent-${index}`
const textOf = makeTexts(bytes)

/** Sessions `from` … `to` − 1: each as if a client had been there, and had gone. */
export const addSessions = async (
  side: Side,
  { from, to }: { readonly from: number; readonly to: number }
): Promise<void> => {
  const { queue, registry } = storeOf(side)
  const add = (session: string) =>
    Effect.gen(function*() {
      const { generation } = yield* registry.attach({
        session,
        principal: session,
        authorized: true,
        tokenHash: undefined,
        nextTokenHash: "0123456789abcdef0123456789abcdef0123456789ab",
        instance: "0123456789abcdef0123456789abcdef",
        attempt: 1
      })
      yield* queue.open(session, generation)
      yield* registry.detach(session, generation)
      yield* registry.release(session, generation)
    })
  await relaxed(
    side,
    () => inParallel(to - from, (index) => Effect.runPromise(add(absent(from + index))), maxInFlightStored)
  )
}

/** So many messages, one by one, round robin to these sessions. */
export const queueMessages = async (
  side: Side,
  { count, sessions }: { readonly count: number; readonly sessions: number }
): Promise<void> => {
  const { queue } = storeOf(side)
  const append = (n: number) => {
    const i = Math.floor(n / sessions)
    const connection = n % sessions
    const payload = JSON.stringify({ i, connection, at: 0, kind: "quote", text: textOf(connection, i) })
    return Effect.runPromise(queue.append(absent(connection), [{ payload, bytes: payload.length }]))
  }
  await relaxed(side, () => inParallel(count, async (n) => void await append(n), maxInFlightStored))
}

/** What all of it takes, outside of the process. */
export const storeBytes = (side: Side): Promise<number> => storeOf(side).bytes()

const measureBesideMany = async (run: Run, scale: Scale): Promise<Figures> => {
  const { client, server } = sidesOf(run)
  const { addSessions, queueMessages, storeBytes } = run.server.calls<typeof import("./stored.ts")>(
    new URL(import.meta.url)
  )
  const { memory } = run.server.calls<typeof import("./idle.ts")>(new URL("./idle.ts", import.meta.url))
  const { few, many } = amounts[scale]
  const connections = 1
  const port = await server.listen({
    connections,
    bytes,
    maxQueued: many.queued,
    maxSessions: 2 * many.sessions
  })
  await client.connect({ port, connections, bytes })

  const { count, times } = probe[scale]
  /** CPU µs a message, of the server and its database, and messages a second: medians. */
  const cost = async () => {
    const cpu: Array<number> = []
    const rates: Array<number> = []
    for (let time = 0; time < times; time++) {
      const content = { count, connections, bytes }
      await client.expect(content)
      await Promise.all([server.begin(), client.begin()])
      const [sent, receivedAt] = await Promise.all([server.sendAll(content), client.received()])
      const [own, owned] = await Promise.all([server.cpuSeconds(), server.ownedCpuSecondsSince()])
      cpu.push((own + owned) * 1e6 / count)
      rates.push(count / (receivedAt - sent.startedAt) * 1e3)
      await client.confirm()
    }
    return { cpu: spreadOf(cpu).median, rate: spreadOf(rates).median }
  }
  const takes = async () => ({ rss: (await memory()).rss, stored: await storeBytes() })

  await addSessions({ from: 0, to: few.sessions })
  await cost() // as a warm-up
  const besideFewSessions = await cost()
  const before = await takes()
  await addSessions({ from: few.sessions, to: many.sessions })
  const withSessions = await takes()
  const besideManySessions = await cost()
  await queueMessages({ count: few.queued, sessions: many.sessions })
  const besideFewQueued = await cost()
  const beforeQueued = await takes()
  await queueMessages({ count: many.queued - few.queued, sessions: many.sessions })
  const withQueued = await takes()
  const besideManyQueued = await cost()
  const sessions = many.sessions - few.sessions
  const queued = many.queued - few.queued
  return {
    sessionRss: (withSessions.rss - before.rss) / sessions,
    sessionStored: (withSessions.stored - before.stored) / sessions,
    queuedRss: (withQueued.rss - beforeQueued.rss) / queued,
    queuedStored: (withQueued.stored - beforeQueued.stored) / queued,
    rate: besideFewSessions.rate,
    rateBesideMany: besideManyQueued.rate,
    cost: besideFewSessions.cpu,
    bySessions: besideManySessions.cpu / besideFewSessions.cpu,
    byQueued: besideManyQueued.cpu / besideFewQueued.cpu
  }
}

const whole = (value: number): string => Math.round(value).toLocaleString("en")
const factor = (value: number): string => value.toFixed(2)
const storesMeasured: ReadonlyArray<PeerName> = ["sqlite", "postgres", "redis"]

export const w9b: Workload = {
  name: "W9b",
  title: "beside very many: bytes for a session and for a queued message, and what a message then costs",
  notes: [
    "Sessions without a client, each with an outbox that this server has opened; messages of 128 bytes, sent one by one.",
    "Bytes in the server: RSS after garbage collection. In the store: of the file (SQLite), the database (PostgreSQL),",
    "used_memory (Redis).",
    "Messages to a session with a client, beside few and beside many; CPU µs of the server and its database for one, and",
    "how that grows. Medians of three times 50,000.",
    "Measured once: it takes minutes."
  ],
  peers: () => ["resilient", ...storesMeasured],
  figures: [
    { key: "sessionRss", title: "B/session, server", show: whole },
    { key: "sessionStored", title: "in the store", show: whole },
    { key: "queuedRss", title: "B/message, server", show: whole },
    { key: "queuedStored", title: "in the store", show: whole },
    { key: "rate", title: "msgs/s, few", show: whole },
    { key: "rateBesideMany", title: "many", show: whole },
    { key: "cost", title: "CPU µs", show: (value) => value.toFixed(1) },
    { key: "bySessions", title: "× by sessions", show: factor },
    { key: "byQueued", title: "× by messages", show: factor }
  ],
  timeoutMillis: 900_000,
  maxRounds: 1,
  cases: (scale) => {
    const { few, many } = amounts[scale]
    const grown = (from: number, to: number): string => `${whole(from)} → ${whole(to)}`
    return [{
      label: `${grown(few.sessions, many.sessions)} sessions, ${grown(few.queued, many.queued)} messages`,
      goals: storesMeasured.flatMap((peer) =>
        ["bySessions", "byQueued"].map((figure) => ({
          figure,
          peer,
          text: "≤ 1.3 ×",
          met: (factor: number) => factor <= 1.3
        }))
      ),
      measure: (run) => measureBesideMany(run, scale)
    }]
  }
}
