/**
 * W4: how long a message is under way when the system is not busy. Sent by a timer, so that those of one millisecond
 * leave together; a late timer is not held against the system: the time runs from the making of each message.
 */
import { usualBytes } from "../harness/messages.ts"
import { sidesOf, warmUpOf } from "../harness/throughput.ts"
import type { Figures, Run, Scale, Workload } from "../harness/Workload.ts"

const perSecond = 2_000
const seconds: Record<Scale, number> = { full: 10, quick: 3 }
/** Of the paced kind, after a warm-up as fast as possible. */
const pacedWarmUpSeconds = 1
const connections = 1
const bytes = usualBytes

const measure = async (run: Run, scale: Scale): Promise<Figures> => {
  const { client, server } = sidesOf(run)
  const port = await server.listen({ connections, bytes })
  await client.connect({ port, connections, bytes })

  const warmUp = { count: warmUpOf({ count: 0, bytes }), connections, bytes }
  await client.expect(warmUp)
  await Promise.all([server.sendAll(warmUp), client.received()])

  const paced = async (count: number): Promise<void> => {
    await client.expect({ count, connections, bytes, latencies: "kept" })
    await Promise.all([server.begin(), client.begin()])
    await Promise.all([server.sendPaced({ count, perSecond, bytes }), client.received()])
  }
  await paced(pacedWarmUpSeconds * perSecond)
  const count = seconds[scale] * perSecond
  await paced(count)
  const [cpuServer, cpuClient] = await Promise.all([server.cpuSeconds(), client.cpuSeconds()])
  await client.confirm()
  return {
    ...await client.latencies(),
    cpuServer: cpuServer / count * 1e6,
    cpuClient: cpuClient / count * 1e6,
    count
  }
}

const micros = (value: number): string => value.toFixed(0)

export const w4: Workload = {
  name: "W4",
  title: "2,000 messages a second, server → client, 1 connection: one-way latency",
  peers: (scale) =>
    scale === "full"
      ? ["ws", "ws-batch", "effect-socket", "socketio", "socketio-acks", "mqtt", "resilient"]
      : ["ws", "socketio", "resilient"],
  figures: [
    { key: "p50", title: "p50 µs", show: micros, compare: "ratio" },
    { key: "p99", title: "p99 µs", show: micros, compare: "ratio" },
    { key: "cpuServer", title: "server CPU s/M", show: (value) => value.toFixed(1), detail: "median" },
    { key: "cpuClient", title: "client CPU s/M", show: (value) => value.toFixed(1), detail: "median" },
    { key: "count", title: "messages", show: (value) => value.toLocaleString("en"), detail: "median" }
  ],
  cases: (scale) => [{
    label: "",
    goals: [
      { figure: "p50", text: "≤ 1.3 ×", met: (ratio) => ratio <= 1.3 },
      { figure: "p99", text: "≤ 1.5 ×", met: (ratio) => ratio <= 1.5 }
    ],
    measure: (run) => measure(run, scale)
  }]
}
