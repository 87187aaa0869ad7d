/** Servers that a measurement needs beside its two processes: found, started on loopback, and ended with the child. */
import { spawn, type SpawnOptions } from "node:child_process"
import { once } from "node:events"
import { existsSync, readdirSync } from "node:fs"
import { mkdtemp, rm } from "node:fs/promises"
import { type AddressInfo, connect as dial, createServer } from "node:net"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { beforeEnd, own, ownFolder } from "./endings.ts"

/** Where Debian keeps what is not on everybody's PATH. */
const elsewhere = (): ReadonlyArray<string> => {
  const postgres = "/usr/lib/postgresql"
  const versions = existsSync(postgres) ? readdirSync(postgres).sort((a, b) => Number(b) - Number(a)) : []
  return ["/usr/sbin", "/usr/local/sbin", ...versions.map((version) => join(postgres, version, "bin"))]
}

/** Path of a program, if it is installed. */
export const findProgram = (program: string): string | undefined =>
  [...(process.env["PATH"] ?? "").split(delimiter), ...elsewhere()]
    .map((folder) => join(folder, program))
    .find((path) => existsSync(path))

/** The same for one that must be there: main has looked. */
export const programOf = (program: string): string => {
  const path = findProgram(program)
  if (path === undefined) throw new Error(`there is no ${program}`)
  return path
}

/** A folder that is removed when the process ends. */
export const temporaryFolder = async (): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), "resilient-websocket-bench-"))
  ownFolder(folder)
  beforeEnd(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

export interface Start {
  readonly program: string
  readonly args: ReadonlyArray<string>
  /** Where it is to listen, on 127.0.0.1. */
  readonly port: number
  /** What it says when it is ready. Default: when it listens, it is. */
  readonly ready?: string | undefined
  /** How it is asked to end. Default SIGTERM. */
  readonly signal?: NodeJS.Signals | undefined
  readonly options?: Pick<SpawnOptions, "cwd" | "uid" | "gid"> | undefined
}

/** How often a server is dialled, every 20 ms, before it is given up. */
const attempts = 500

/** Ends when it is ready; the program ends with this process. */
export const startProgram = async (start: Start): Promise<void> => {
  const { args, options, port, program, ready, signal = "SIGTERM" } = start
  const child = spawn(programOf(program), args, { ...options, stdio: ["ignore", "ignore", "pipe"] })
  const said = Promise.withResolvers<void>()
  let complaints = ""
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaints = (complaints + text).slice(-1_000)
    if (ready !== undefined && complaints.includes(ready)) said.resolve()
  })
  const exited = once(child, "exit")
  if (child.pid !== undefined) own(child.pid)
  beforeEnd(async () => {
    child.kill(signal)
    await exited
  })
  await Promise.race([
    ready === undefined ? listening(program, port) : said.promise,
    exited.then(([code]) => Promise.reject(new Error(`${program} ended with code ${code}: ${complaints}`)))
  ])
}

export const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address() as AddressInfo // it listens on TCP
  server.close()
  await once(server, "close")
  return port
}

const listening = async (program: string, port: number): Promise<void> => {
  for (let attempt = 0; attempt < attempts; attempt++) {
    const socket = dial(port, "127.0.0.1")
    try {
      await once(socket, "connect")
      return
    } catch {
      await sleep(20)
    } finally {
      socket.destroy()
    }
  }
  throw new Error(`${program} does not listen on port ${port}`)
}
