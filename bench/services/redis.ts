/** Redis with an append-only file. */
import { once } from "node:events"
import { connect } from "node:net"
import { freePort, startProgram, temporaryFolder } from "../harness/programs.ts"

export interface Redis {
  readonly url: string
  /** What it says of its memory, less what it had at the start. */
  readonly usedBytes: () => Promise<number>
}

/** `always` syncs the file before it answers, `everysec` each second. */
export const startRedis = async (appendfsync: "always" | "everysec"): Promise<Redis> => {
  const port = await freePort()
  const folder = await temporaryFolder()
  const args = [
    ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--daemonize", "no"],
    ["--logfile", `${folder}/log`, "--appendonly", "yes", "--appendfsync", appendfsync]
  ].flat()
  // Nothing of it is needed when it ends.
  await startProgram({ program: "redis-server", args, port, signal: "SIGKILL" })
  const atStart = await usedBytes(port)
  return { url: `redis://127.0.0.1:${port}`, usedBytes: async () => await usedBytes(port) - atStart }
}

const usedBytes = async (port: number): Promise<number> => {
  const socket = connect(port, "127.0.0.1")
  let reply = ""
  socket.setEncoding("utf8").on("data", (data) => {
    reply += String(data)
  })
  // It answers what it has read before it closes.
  socket.end("INFO memory\r\n")
  await once(socket, "close")
  return Number(/used_memory:(\d+)/.exec(reply)?.[1])
}
