/**
 * `npm run bench`: measures this library against bare `ws` and others, workload by workload, and prints a table for
 * each and the goals at the end. Progress goes to standard error. README.md says what is measured, and how.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect } from "effect"
import { Command } from "effect/cli"
import { writeFileSync } from "node:fs"
import { machine } from "./harness/machine.ts"
import { findProgram } from "./harness/programs.ts"
import { across, progressLine, type Results, summaryTable, workloadTable } from "./harness/report.ts"
import { type Measurement, measureWorkload, peersOf } from "./harness/rounds.ts"
import { toMarkdown, toText } from "./harness/Table.ts"
import { measureMicro, microNames, type MicroResult } from "./micro/index.ts"
import { format } from "./micro/measure.ts"
import * as Options from "./Options.ts"
import { describe, type PeerName } from "./peers/index.ts"
import { workloads } from "./workloads/index.ts"

const defaultRounds = { full: 5, quick: 1 }

/** Those that can be measured here. The others are named, loudly: a table without them must not look complete. */
const available = (peers: ReadonlySet<PeerName>): ReadonlySet<PeerName> => {
  const found = new Set(peers)
  for (const peer of peers) {
    const { needs, title } = describe(peer)
    if (needs === undefined || findProgram(needs.program) !== undefined) continue
    found.delete(peer)
    console.error(`SKIPPED: ${title} (${peer}) needs ${needs.program} on the PATH: ${needs.hint}`)
  }
  return found
}

const run = async (options: Options.Options, signal: AbortSignal): Promise<void> => {
  const scale = options.quick ? "quick" : "full"
  const peers = available(options.peers)
  const rounds = options.rounds ?? defaultRounds[scale]
  const about = machine()
  console.log(about.text)

  const all: Array<Results> = []
  const micro: Array<MicroResult> = []
  // After each: a run that is ended half-way leaves what it has.
  const save = (): void => {
    if (options.json !== undefined) writeFileSync(options.json, toJson(options, about, all, micro))
  }
  for (const workload of workloads) {
    if (!options.only.has(workload.name) || peersOf(workload, { peers, scale }).length === 0) continue
    const measurements = await measureWorkload(workload, {
      scale,
      rounds,
      peers,
      signal,
      onMeasured: (measurement, rounds) => console.error(progressLine(workload, measurement, rounds))
    })
    const results: Results = { workload, scale, measurements }
    all.push(results)
    printWorkload(results)
    save()
  }
  for (const name of options.only.has(Options.micro) ? microNames : []) {
    signal.throwIfAborted()
    const result = await measureMicro(name, scale)
    micro.push(result)
    console.log(`\n${format(`micro: ${name}, median (min – max)`, result.figures)}`)
    if (result.error !== undefined) console.error(`micro: ${name}  FAILED: ${result.error}`)
    save()
  }

  printSummary(all, options)
  const failed = [...all.flatMap(({ measurements }) => measurements), ...micro].filter(({ error }) =>
    error !== undefined
  )
  if (failed.length > 0) {
    console.log(`\nFAILED measurements:\n${failed.map(failureLine).join("\n")}`)
    process.exitCode = 1
  }
}

const failureLine = (failed: Measurement | MicroResult): string => {
  const what = "name" in failed
    ? `micro ${failed.name}`
    : [failed.workload, failed.label, failed.peer, `round ${failed.round + 1}`].filter((part) => part !== "").join(" ")
  return `  ${what}: ${failed.error?.split("\n")[0]}`
}

const printWorkload = (results: Results): void => {
  const { workload } = results
  console.log(`\n${workload.name}: ${workload.title}`)
  console.log(toText(workloadTable(results)))
  for (const { found, goal, ok, what } of across(results)) {
    console.log(`${what}: ${found}, goal ${goal}: ${ok ? "ok" : "MISSED"}`)
  }
  for (const note of workload.notes ?? []) console.log(note)
}

const printSummary = (all: ReadonlyArray<Results>, { markdown, quick }: Options.Options): void => {
  const summary = summaryTable(all)
  if (summary.rows.length === 0) return
  console.log(`\nGoals: median (min–max)${quick ? "; a quick look, too short to judge by" : ""}`)
  console.log(toText(summary))
  if (markdown) console.log(`\n${toMarkdown(summary)}`)
}

const toJson = (
  options: Options.Options,
  about: ReturnType<typeof machine>,
  all: ReadonlyArray<Results>,
  micro: ReadonlyArray<MicroResult>
): string =>
  JSON.stringify(
    {
      ...about,
      command: ["bench/main.ts", ...process.argv.slice(2)].join(" "),
      quick: options.quick,
      goals: summaryTable(all),
      measurements: all.flatMap(({ measurements }) => measurements),
      micro
    },
    undefined,
    2
  )

/** When interrupted, waits until the processes that it started are gone. */
const bench = Options.command((options) =>
  Effect.callback<void>((resume, signal) => {
    const done = run(options, signal).catch((error: unknown) => {
      if (signal.aborted) return
      console.error(error instanceof Error ? (error.stack ?? error.message) : String(error))
      process.exitCode = 1
    })
    void done.then(() => resume(Effect.void))
    return Effect.promise(() => done)
  })
)

bench.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain
)
