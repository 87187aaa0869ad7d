/**
 * Keeps what the demo must not leave behind: a directory, and a database in it. A process of its own, so that both go
 * also when the demo is killed: it ends them when its parent is gone. It imports nothing but Node.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { rmSync } from "node:fs"

/** What the keeper is told: what to remove in the end, then perhaps what to run in it. */
export type Order =
  | { readonly t: "keep"; readonly directory: string }
  | { readonly t: "run"; readonly program: Program }
  | { readonly t: "end" }

export interface Program {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly uid?: number
  readonly gid?: number
}

/** What it answers: that the program is up, or has ended by itself, with its last words. */
export type Answer = { readonly t: "ready" } | { readonly t: "ended"; readonly log: string }

/** How long the program may take to end. */
const graceMillis = 5_000
/** When the demo was killed, its other processes may still write for so long, in ms. */
const afterwardsMillis = 3_000

let directory: string | undefined
let child: ChildProcess | undefined

const answer = (said: Answer): void => {
  if (process.connected) process.send?.(said, undefined, undefined, () => {})
}

const runProgram = ({ args, command, gid, uid }: Program): void => {
  const program = spawn(command, args, {
    cwd: directory,
    stdio: ["ignore", "pipe", "pipe"],
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid })
  })
  child = program
  let log = ""
  let isReady = false
  const read = (text: string) => {
    log = (log + text).slice(-10_000)
    // Redis and PostgreSQL both say it in these words.
    if (isReady || !/ready to accept connections/i.test(log)) return
    isReady = true
    answer({ t: "ready" })
  }
  program.stdout.setEncoding("utf8").on("data", read)
  program.stderr.setEncoding("utf8").on("data", read)
  program.once("error", (error) => answer({ t: "ended", log: error.message }))
  program.once("close", () => answer({ t: "ended", log }))
}

const remove = (): void => {
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true, maxRetries: 5 })
  process.exit()
}

/** Ends the program, and after that removes the directory. */
const end = (removeLater: () => void): void => {
  const program = child
  if (program?.pid === undefined || program.exitCode !== null || program.signalCode !== null) return removeLater()
  program.once("close", removeLater)
  program.kill("SIGINT")
  setTimeout(() => program.kill("SIGKILL"), graceMillis)
}

// Ctrl-C goes to all processes of a terminal; this one ends after its parent.
process.on("SIGINT", () => {})
process.on("SIGTERM", () => {})
// The parent is StoreServer.ts, so what comes is what the type says.
process.on("message", (message) => {
  const order = message as Order
  if (order.t === "keep") directory = order.directory
  else if (order.t === "run") runProgram(order.program)
  else end(remove)
})
process.on("disconnect", () => end(() => setTimeout(remove, afterwardsMillis)))
