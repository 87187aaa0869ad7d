/** What most workloads have the two processes do. Workloads with other wishes have a module of their own beside it. */
import { setTimeout as sleep } from "node:timers/promises"
import { now } from "./clock.ts"
import { ownedCpuSeconds } from "./endings.ts"
import { type Content, planOf, shapeOf, timedMaker } from "./messages.ts"
import type { Side } from "./Side.ts"
import { type Expected, Verifier } from "./Verifier.ts"

/** After the last message: time for one that should not come. */
const surplusMillis = 100

/** Opens the server; says its port. */
export const listen = async (
  side: Side,
  options: {
    readonly connections: number
    readonly bytes: number
    readonly maxQueued?: number | undefined
    readonly maxSessions?: number | undefined
  }
): Promise<number> => {
  side.server = await side.peer.listen({
    connections: options.connections,
    shape: shapeOf(options.bytes),
    receive: (connection, message) => side.receive(connection, message),
    maxQueued: options.maxQueued,
    maxSessions: options.maxSessions
  })
  return side.server.port
}

/** When a command began to do its work and when it was done, in ms of `now()`. */
export interface Period {
  readonly startedAt: number
  readonly finishedAt: number
}

/** Opens the clients; ends when all are open. */
export const connect = async (
  side: Side,
  options: { readonly port: number; readonly connections: number; readonly bytes: number }
): Promise<Period> => {
  const startedAt = now()
  side.clients = await side.peer.connect({
    port: options.port,
    connections: options.connections,
    shape: shapeOf(options.bytes),
    receive: (connection, message) => side.receive(connection, message),
    opened: (connection) => side.opened(connection)
  })
  return { startedAt, finishedAt: now() }
}

export const closeClients = async (side: Side): Promise<void> => {
  await side.clients?.close()
  side.clients = undefined
}

/** Lets nothing of what was before into what is measured: collects garbage, and begins to count CPU time. */
export const begin = (side: Side): void => {
  globalThis.gc?.()
  side.cpuAtStart = process.cpuUsage()
  side.ownedCpuAtStart = ownedCpuSeconds()
}

/** CPU seconds since {@link begin}, of all threads. */
export const cpuSeconds = (side: Side): number => {
  const { system, user } = process.cpuUsage(side.cpuAtStart)
  return (user + system) / 1e6
}

/** The same of the processes that this one has started: brokers, databases. */
export const ownedCpuSecondsSince = (side: Side): number => ownedCpuSeconds() - side.ownedCpuAtStart

/** From now on exactly these messages are to arrive. */
export const expect = (side: Side, expected: Expected): void => {
  const verifier = new Verifier(expected)
  side.verifier = verifier
  side.receive = verifier.receive
}

/** Waits until all that is expected has arrived; says when that was. */
export const received = (side: Side): Promise<number> => verifierOf(side).finished

/** How many have arrived until now. */
export const receivedSoFar = (side: Side): number => side.verifier?.received ?? 0

/** Waits a little for what should not come, and fails if it does. */
export const confirm = async (side: Side): Promise<void> => {
  await sleep(surplusMillis)
  const { mistake } = verifierOf(side)
  if (mistake !== undefined) throw new Error(mistake)
}

/** Sends as fast as the peer takes it; ends when all was handed over. */
export const sendAll = async (side: Side, content: Content): Promise<Period> => {
  const plan = planOf(content)
  const startedAt = now()
  await senderOf(side).sendMany(plan)
  return { startedAt, finishedAt: now() }
}

/** Sends at a steady rate over one connection: whenever the timer fires, those that are due. */
export const sendPaced = async (
  side: Side,
  options: { readonly count: number; readonly perSecond: number; readonly bytes: number }
): Promise<void> => {
  const sender = senderOf(side)
  const make = timedMaker(options.bytes)
  const startedAt = now()
  for (let i = 0; i < options.count;) {
    const due = Math.min(options.count, Math.floor((now() - startedAt) * options.perSecond / 1e3) + 1)
    for (; i < due; i++) sender.send(0, make(0, i))
    await sleep(1)
  }
}

/** Quantiles of the time from making to handling, in microseconds. */
export const latencies = (side: Side): { readonly p50: number; readonly p99: number } => {
  const sorted = verifierOf(side).latencies.toSorted()
  const quantile = (q: number) => (sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0) * 1e3
  return { p50: quantile(0.5), p99: quantile(0.99) }
}

const verifierOf = ({ verifier }: Side): Verifier => {
  if (verifier === undefined) throw new Error("nothing is expected")
  return verifier
}

const senderOf = ({ clients, server }: Side) => {
  const sender = server ?? clients
  if (sender === undefined) throw new Error("neither listening nor connected")
  return sender
}
