/** The programs in `examples/`, each run as a process of its own. */
import { assert } from "@effect/vitest"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { bundleOf, entryOf, programs, shared } from "./sharedByRun.ts"

const folder = await shared("programs")
const bundled = new Set<string>(programs.map(entryOf))

const path = (relative: string) => fileURLToPath(new URL(`../../${relative}`, import.meta.url))

/** An exit code, or the signal that ended it. */
type End = number | NodeJS.Signals

export interface Program {
  /** All that it has written so far. */
  readonly lines: ReadonlyArray<string>
  /** Waits for a line like this, from the one with index `from` on, and gives the match; fails if it ends without one. */
  readonly says: (pattern: RegExp, from?: number) => Promise<RegExpExecArray>
  /** Gives it a line to read. */
  readonly hears: (line: string) => void
  /** Waits until it has ended. */
  readonly ends: () => Promise<End>
  /** Ends it as a service manager does. */
  readonly stop: () => Promise<End>
  /** Ends it where it stands. */
  readonly kill: () => Promise<End>
}

/** Runs a program, by its path in `examples/`; unless `env` says otherwise, it listens on a free port. */
export type Start = (name: string, env?: Readonly<Record<string, string>>) => Program

/** What this starts is over when `atEnd` says so, which is `afterAll`, or a test's `onTestFinished`. */
export const startUntil = (atEnd: (kill: () => void) => void): Start => {
  const running = new Set<ChildProcess>()
  let isOver = false
  atEnd(() => {
    isOver = true
    for (const child of running) child.kill("SIGKILL")
  })
  return (name, env) => {
    if (isOver) assert.fail(`too late for ${name}`) // its test ran out of time, and went on
    const entry = `examples/${name.replace(/\.ts$/, "")}`
    const program = bundled.has(entry) ? join(folder, bundleOf(entry)) : path(`${entry}.ts`)
    const child = spawn(process.execPath, [program], {
      env: { ...process.env, PORT: "0", ...env },
      stdio: ["pipe", "pipe", "inherit"]
    })
    running.add(child)
    const lines: Array<string> = []
    const output = createInterface({ input: child.stdout }).on("line", (line) => lines.push(line))
    // At its "exit" there may be lines that were not read yet.
    const ended = once(child, "close").then(([code, signal]): End => {
      running.delete(child)
      return code ?? signal
    })
    const end = (signal: NodeJS.Signals) => {
      child.kill(signal)
      return ended
    }
    return {
      lines,
      says: (pattern, from = 0) =>
        new Promise((resolve, reject) => {
          const look = () => {
            const match = lines.slice(from).map((line) => pattern.exec(line)).find((match) => match !== null)
            if (match === undefined) return
            output.off("line", look)
            resolve(match)
          }
          output.on("line", look)
          look()
          ended.then((end) => {
            reject(new Error(`${name} ended with ${end} and has not said ${pattern}, but:\n${lines.join("\n")}`))
          }, reject)
        }),
      hears: (line) => void child.stdin.write(`${line}\n`),
      ends: () => ended,
      stop: () => end("SIGTERM"),
      kill: () => end("SIGKILL")
    }
  }
}
