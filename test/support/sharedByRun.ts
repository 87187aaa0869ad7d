/** How a test file gets what the files of a run share: see `onceARun.ts`. */
import { join } from "node:path"
import { fileURLToPath } from "node:url"

/** Programs that tests run as processes of their own; from here. */
export const programs = [
  "../../examples/client",
  "../../examples/guides/python-after",
  "../../examples/guides/ws-client-after",
  "../../examples/guides/ws-server-after",
  "../../examples/metrics",
  "../../examples/one-port",
  "../../examples/orders",
  "../../examples/per-user",
  "../../examples/register",
  "../../examples/rejecting",
  "../../examples/server",
  "attackedServer",
  "attacker",
  "crashServer",
  "fullServer",
  "givesUp",
  "harnessExit",
  "promiseExit",
  "promiseFaults",
  "resetServer",
  "slowReader",
  "sqliteAppender"
] as const

export type ProgramName = typeof programs[number]

export interface Shared {
  /** A folder with the programs. */
  readonly programs: string
  readonly postgres: {
    readonly host: string
    readonly port: number
    readonly username: string
    readonly directory: string
  }
  readonly redis: { readonly port: number; readonly url: string }
  /** Another one whenever it is asked for: for names that nobody else has in what is shared. */
  readonly number: number
}

/** The variable with the address where files ask. */
export const addressVariable = "TEST_RUN_ADDRESS"

/** What there is once a run. The first who asks waits until it is made. */
export const shared = async <Name extends keyof Shared>(name: Name): Promise<Shared[Name]> => {
  const response = await fetch(`${process.env[addressVariable]}/${name}`)
  const text = await response.text()
  if (!response.ok) throw new Error(`${name} can't be shared: ${text}`)
  return JSON.parse(text) as Shared[Name]
}

/** The path of a program: its bundle, which starts faster; its source where there is no run, as in the benchmarks. */
export const programPath = async (name: ProgramName): Promise<string> =>
  process.env[addressVariable] === undefined
    ? fileURLToPath(new URL(`${name}.ts`, import.meta.url))
    : join(await shared("programs"), bundleOf(name))

/** What a program is called in that folder, */
export const entryOf = (program: string): string => program.replace("../../", "")

/** and its file. */
export const bundleOf = (program: string): string => `${entryOf(program)}.mjs`
