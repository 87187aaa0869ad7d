/**
 * Makes rounds of a workload: in each, every peer is measured once, in rotated order, so that whatever the machine does
 * meanwhile happens to all of them; what counts is the comparison with bare `ws` of the same round.
 */
import type { PeerName } from "../peers/index.ts"
import * as Child from "./Child.ts"
import { now } from "./clock.ts"
import { sidesOf } from "./throughput.ts"
import type { Case, Figures, Run, Scale, Workload } from "./Workload.ts"

/** A measurement that takes longer is given up. */
const usualTimeoutMillis = 240_000

export interface Measurement {
  readonly workload: string
  readonly label: string
  readonly peer: PeerName
  /** From 0. */
  readonly round: number
  /** Undefined when it failed. */
  readonly figures: Figures | undefined
  readonly error: string | undefined
  /** All of it: processes, connections, warm-up. */
  readonly tookSeconds: number
}

export interface Options {
  readonly scale: Scale
  readonly rounds: number
  /** Peers to measure, `ws` among them. */
  readonly peers: ReadonlySet<PeerName>
  readonly onMeasured: (measurement: Measurement, rounds: number) => void
  readonly signal: AbortSignal
}

export const peersOf = (workload: Workload, { peers, scale }: Pick<Options, "peers" | "scale">) =>
  workload.peers(scale).filter((peer) => peers.has(peer))

export const measureWorkload = async (workload: Workload, options: Options): Promise<Array<Measurement>> => {
  const measurements: Array<Measurement> = []
  const peers = peersOf(workload, options)
  const rounds = Math.min(options.rounds, workload.maxRounds ?? options.rounds)
  for (const current of workload.cases(options.scale)) {
    for (let round = 0; round < rounds; round++) {
      for (const peer of rotated(peers, round)) {
        if (round > 0 && workload.once?.includes(peer) === true) continue
        options.signal.throwIfAborted()
        const startedAt = now()
        const outcome = await measureOnce(current, peer, workload.timeoutMillis ?? usualTimeoutMillis, options.signal)
        const tookSeconds = (now() - startedAt) / 1e3
        const measurement = { workload: workload.name, label: current.label, peer, round, ...outcome, tookSeconds }
        measurements.push(measurement)
        options.onMeasured(measurement, rounds)
      }
    }
  }
  return measurements
}

const rotated = <A>(list: ReadonlyArray<A>, by: number): ReadonlyArray<A> => {
  const start = list.length === 0 ? 0 : by % list.length
  return [...list.slice(start), ...list.slice(0, start)]
}

/** With a pair of processes of its own, which are gone afterwards, whatever happened. */
const measureOnce = async (
  current: Case,
  peer: PeerName,
  timeoutMillis: number,
  signal: AbortSignal
): Promise<Pick<Measurement, "figures" | "error">> => {
  const run: Run = { peer, server: Child.start(peer, "server"), client: Child.start(peer, "client") }
  const deadline = makeDeadline(run, timeoutMillis, signal)
  try {
    return { figures: await Promise.race([current.measure(run), deadline.passed]), error: undefined }
  } catch (error) {
    return { figures: undefined, error: error instanceof Error ? error.message : String(error) }
  } finally {
    deadline.clear()
    await Promise.all([run.server.end(), run.client.end()])
  }
}

const makeDeadline = (run: Run, timeoutMillis: number, signal: AbortSignal) => {
  const { promise, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    void howFar(run).then((far) => reject(new Error(`not done in ${timeoutMillis / 1e3} s; received ${far}`)))
  }, timeoutMillis)
  const abort = () => reject(new Error("interrupted"))
  signal.addEventListener("abort", abort, { once: true })
  promise.catch(() => {}) // it may be that nobody waits any more
  return {
    passed: promise,
    clear: () => {
      clearTimeout(timer)
      signal.removeEventListener("abort", abort)
    }
  }
}

/** What the receiver has got, unless it is too busy to say. */
const howFar = async (run: Run): Promise<string> => {
  const { client, server } = sidesOf(run)
  const busy = new Promise<"?">((resolve) => setTimeout(resolve, 2_000, "?"))
  const of = (side: typeof server) => Promise.race([side.receivedSoFar().catch(() => "?" as const), busy])
  const [atServer, atClient] = await Promise.all([of(server), of(client)])
  return `${atServer} at the server, ${atClient} at the client`
}
