/** W1, W2, W3: how many messages a second, in one direction. */
import { usualBytes } from "../harness/messages.ts"
import { figures, measureThroughput } from "../harness/throughput.ts"
import type { Goal, Scale, Workload } from "../harness/Workload.ts"
import { describe, type PeerName, peerNames, storedPeers } from "../peers/index.ts"

const counts: Record<Scale, number> = { full: 500_000, quick: 100_000 }

const all = peerNames.filter((name) => !storedPeers.includes(name))

/** The quick look takes one of each kind. */
const peers = (scale: Scale): ReadonlyArray<PeerName> =>
  scale === "full"
    ? all
    : ["ws", "ws-batch", "effect-socket", "socketio", "mqtt", "resilient", "resilient-batch", "promise"]

const notes = [
  `Fewer messages, as they are slower: ${
    all.flatMap((name) => {
      const { share } = describe(name)
      return share === undefined ? [] : [`${name} ${share * 100} %`]
    }).join(", ")
  }. Rates are compared.`,
  "mqtt's CPU is without the broker's, which is a third process."
]

const workload = (
  name: string,
  title: string,
  direction: "toClient" | "toServer",
  connections: number,
  goals: ReadonlyArray<Goal>
): Workload => ({
  name,
  title,
  notes,
  peers,
  figures,
  cases: (scale) => [{
    label: "",
    goals,
    measure: (run) => measureThroughput(run, direction, { count: counts[scale], connections, bytes: usualBytes })
  }]
})

const atLeast = (factor: number): Goal => ({
  figure: "rate",
  text: `≥ ${factor.toFixed(1)} ×`,
  met: (ratio) => ratio >= factor
})

/** What the face without Effect may cost. */
const ofEffect: Goal = { ...atLeast(0.7), text: "≥ 0.7 × resilient", peer: "promise", base: "resilient" }

/** What a route of Effect's HTTP server may cost. */
const ofOwnPort: Goal = { ...atLeast(0.7), text: "≥ 0.7 × resilient", peer: "router", base: "resilient" }

export const w1 = workload("W1", "server → client, 1 connection", "toClient", 1, [atLeast(5), ofOwnPort])
export const w2 = workload("W2", "server → client, 100 connections, round robin", "toClient", 100, [
  atLeast(1.8),
  ofEffect,
  ofOwnPort
])
export const w3 = workload("W3", "client → server, 1 connection", "toServer", 1, [atLeast(4), ofOwnPort])
