/** As many messages as possible in one direction: the measurement behind W1, W2, W3 and W8. */
import { describe } from "../peers/index.ts"
import type * as commands from "./commands.ts"
import type { Content } from "./messages.ts"
import { tickBytes } from "./messages.ts"
import type { Figure, Figures, Run } from "./Workload.ts"

/** The two processes of a run, with the usual commands. */
export const sidesOf = ({ client, server }: Run) => {
  const module = new URL("./commands.ts", import.meta.url)
  return { server: server.calls<typeof commands>(module), client: client.calls<typeof commands>(module) }
}

export const figures: ReadonlyArray<Figure> = [
  { key: "rate", title: "msgs/s", show: (value) => Math.round(value).toLocaleString("en"), compare: "ratio" },
  { key: "cpuServer", title: "server CPU s/M", show: (value) => value.toFixed(2), detail: "median" },
  { key: "cpuClient", title: "client CPU s/M", show: (value) => value.toFixed(2), detail: "median" },
  { key: "count", title: "messages", show: (value) => value.toLocaleString("en"), detail: "median" }
]

/**
 * The rule for all peers: half of what is measured, at least 20,000 messages or, if they are large, 64 MiB. V8 takes a
 * second to optimize whatever is measured; what counts is how it runs then.
 */
export const warmUpOf = ({ bytes, count }: Pick<Content, "bytes" | "count">): number =>
  Math.max(Math.ceil(count / 2), Math.min(20_000, Math.ceil(64 * 1024 * 1024 / Math.max(bytes, tickBytes))))

/** Sends `content` through connections that were warmed up with the same kind of messages. */
export const measureThroughput = async (
  run: Run,
  direction: "toClient" | "toServer",
  wanted: Content & { readonly warmUp?: number | undefined }
): Promise<Figures> => {
  const { client, server } = sidesOf(run)
  const content = { ...wanted, count: Math.ceil(wanted.count * (describe(run.peer).share ?? 1)) }
  const { bytes, connections, count } = content
  const port = await server.listen({ connections, bytes })
  await client.connect({ port, connections, bytes })
  const [sender, receiver] = direction === "toClient" ? [server, client] : [client, server]

  const send = async (part: Content) => {
    await receiver.expect(part)
    await Promise.all([sender.begin(), receiver.begin()])
    const [sent, receivedAt] = await Promise.all([sender.sendAll(part), receiver.received()])
    return receivedAt - sent.startedAt
  }
  await send({ ...content, count: wanted.warmUp ?? warmUpOf(content) })
  await receiver.confirm()
  const millis = await send(content)
  const [cpuServer, cpuClient, cpuOwned] = await Promise.all([
    server.cpuSeconds(),
    client.cpuSeconds(),
    server.ownedCpuSecondsSince()
  ])
  await receiver.confirm()
  return {
    rate: count / millis * 1e3,
    seconds: millis / 1e3,
    cpuServer: cpuServer / count * 1e6,
    cpuClient: cpuClient / count * 1e6,
    cpuOwned: cpuOwned / count * 1e6,
    count
  }
}
