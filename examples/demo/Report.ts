/**
 * What the demo shows: progress while it runs, and the table and verdict at its end. The `render…` functions are
 * pure; {@link make} is the part that writes.
 *
 * In a terminal progress is one line, rewritten ten times a second; elsewhere it is a plain line every two seconds.
 * With `json` standard output carries one JSON document, the end's, and nothing else; progress goes to standard error.
 */
import { Effect } from "effect"
import type { Scope } from "effect"
import type { FaultProxy } from "../../src/testing/node/index.ts"
import type { Direction, Finding, Tally, Verdict } from "./Checker.ts"
import type { Counts as FleetCounts } from "./Fleet.ts"
import type { DurableKind } from "./Ipc.ts"

/** The faults that are shown, out of the proxy's counts. */
export type Faults = Pick<FaultProxy.Counts, "faults" | "cuts" | "stalls" | "halfOpens" | "refusedDials">

/** A look at a run that is going on. */
export interface Progress {
  readonly elapsedMillis: number
  /** Messages to be handled, both ways together. */
  readonly goal: number
  readonly toServer: Pick<Tally, "sent" | "handled">
  readonly toClient: Pick<Tally, "sent" | "handled">
  readonly faults: Faults
  readonly reconnects: number
  /** Of servers that are processes of their own. */
  readonly fleet?: Pick<FleetCounts, "kills" | "moves"> | undefined
}

/** What a run says of itself when it has ended. */
export interface Run {
  /** From when the servers listened until all was handled. */
  readonly elapsedMillis: number
  readonly faults: Faults
  readonly reconnects: number
  /** Messages put on the wire again after a reconnect, by direction; as the library counts them. */
  readonly redelivered: Readonly<Record<Direction, number>>
  /** Why the run ended before all was handled, if it did. */
  readonly aborted?: string | undefined
  /** Undefined if the only server was in the demo's own process, with a store in memory. */
  readonly fleet?: FleetSummary | undefined
}

/** Of servers that are processes of their own. */
export interface FleetSummary extends Omit<FleetCounts, "redelivered"> {
  readonly store: DurableKind
  readonly servers: number
}

/** All there is to say about a run that has ended. */
export interface Summary extends Run {
  readonly seed: number
  readonly clients: number
  /** Where the lines came from, in words. */
  readonly source: string
  readonly verdict: Verdict
}

export interface Look {
  /** Columns that may be filled. */
  readonly width: number
  readonly color: boolean
}

/** Whether the run kept the promise: it ended by itself, and the checker found nothing. */
export const isSuccess = (summary: Summary): boolean => summary.verdict.ok && summary.aborted === undefined

/** One line without a line break; what does not fit is left out, the most telling parts last. */
export const renderProgress = (progress: Progress, look: Look): string => {
  const { elapsedMillis, faults, fleet, goal, reconnects, toClient, toServer } = progress
  const handled = toServer.handled + toClient.handled
  const share = goal === 0 ? 1 : Math.min(1, handled / goal)
  const parts = [
    // Rounded down: 100 % means all.
    `${Math.floor(share * 100)} %`.padStart(5),
    seconds(elapsedMillis),
    `handled ${count(handled)} of ${count(goal)}`,
    plural(faults.faults, "fault"),
    ...(fleet === undefined ? [] : [plural(fleet.kills, "kill")]),
    plural(reconnects, "reconnect"),
    `${count(perSecond(handled, elapsedMillis))} msgs/s`,
    ...(fleet === undefined ? [] : [plural(fleet.moves, "move")]),
    `${count(faults.cuts)} cut, ${count(faults.stalls)} stalled, ${count(faults.halfOpens)} half-open`
  ]
  let line = ""
  for (const part of parts) {
    const longer = line === "" ? part : `${line} · ${part}`
    if (longer.length > look.width) break
    line = longer
  }
  return paint(line === "" ? (parts[0] ?? "").slice(0, look.width) : line, "dim", look)
}

/** The table, the verdict and, if there are any, the findings; lines joined by line breaks. */
export const renderSummary = (summary: Summary, look: Look): string => {
  const run = [`seed ${summary.seed}`, ...inWords(summary), summary.source].join(", ")
  const verdictStyle = isSuccess(summary) ? "green" : "red"
  return [
    ...renderTable(summary, look),
    "",
    ...wrap(run, look.width),
    ...wrap(renderVerdict(summary), look.width).map((line) => paint(line, verdictStyle, look)),
    ...summary.verdict.failures.flatMap((finding) => wrap(renderFinding(finding), look.width, "  "))
  ].join("\n")
}

const inWords = ({ clients, fleet }: Summary): ReadonlyArray<string> => [
  plural(clients, "client"),
  ...(fleet === undefined ? [] : [plural(fleet.servers, "server"), fleet.store])
]

/** What came of it, in a sentence. */
export const renderVerdict = (summary: Summary): string => {
  const { faults, fleet, seed, verdict } = summary
  const { corrupted, duplicated, lost, reordered, sent } = verdict.total
  if (isSuccess(summary)) {
    const kills = fleet === undefined || fleet.kills === 0 ? "" : ` and ${plural(fleet.kills, "killed server")}`
    return `OK: ${plural(sent, "message")} handled exactly once and in order, through ${
      plural(faults.faults, "fault")
    }${kills}.`
  }
  const broken = [
    [lost, "lost"],
    [duplicated, "duplicated"],
    [reordered, "out of order"],
    [corrupted, "corrupted"]
  ] as const
  const found = broken.filter(([n]) => n > 0).map(([n, what]) => `${count(n)} ${what}`)
  const why = [...(summary.aborted === undefined ? [] : [summary.aborted]), ...found].join(", ")
  return `FAILED: ${why}. To try again: --seed ${seed}`
}

/** The whole summary as one JSON document. */
export const renderJson = (summary: Summary): string =>
  JSON.stringify({
    ok: isSuccess(summary),
    seed: summary.seed,
    clients: summary.clients,
    source: summary.source,
    elapsedMillis: Math.round(summary.elapsedMillis),
    toServer: jsonTally(summary, "toServer"),
    toClient: jsonTally(summary, "toClient"),
    total: {
      ...summary.verdict.total,
      redelivered: summary.redelivered.toServer + summary.redelivered.toClient,
      messagesPerSecond: perSecond(summary.verdict.total.handled, summary.elapsedMillis)
    },
    faults: summary.faults,
    reconnects: summary.reconnects,
    ...(summary.fleet === undefined ? { store: "memory", servers: 1, kills: 0, handedAgain: 0 } : summary.fleet),
    failures: summary.verdict.failures,
    ...(summary.aborted === undefined ? {} : { aborted: summary.aborted })
  })

const jsonTally = ({ elapsedMillis, redelivered, verdict }: Summary, direction: Direction) => ({
  ...verdict[direction],
  redelivered: redelivered[direction],
  messagesPerSecond: perSecond(verdict[direction].handled, elapsedMillis)
})

/** Cells as they are shown. What is not counted by direction has only a total. */
interface Row {
  readonly label: string
  readonly toServer: string
  readonly toClient: string
  readonly total: string
  /** Not zero where zero was promised. */
  readonly isBad: boolean
}

const messageRows = ({ elapsedMillis, fleet, redelivered, verdict }: Summary): ReadonlyArray<Row> => {
  const row = (label: string, toServer: number, toClient: number, total: number): Row => ({
    label,
    toServer: count(toServer),
    toClient: count(toClient),
    total: count(total),
    isBad: false
  })
  const tallied = (label: string, of: (tally: Tally) => number) =>
    row(label, of(verdict.toServer), of(verdict.toClient), of(verdict.total))
  const promisedZero = (label: string, key: "lost" | "duplicated" | "reordered" | "corrupted"): Row => ({
    ...tallied(label, (tally) => tally[key]),
    isBad: verdict.total[key] > 0
  })
  const { toClient, toServer } = redelivered
  return [
    tallied("sent", (tally) => tally.sent),
    tallied("handled", (tally) => tally.handled),
    promisedZero("lost", "lost"),
    promisedZero("duplicated", "duplicated"),
    promisedZero("out of order", "reordered"),
    promisedZero("corrupted", "corrupted"),
    row("redelivered", toServer, toClient, toServer + toClient),
    ...(fleet === undefined ? [] : [row("handed again", fleet.handedAgain, 0, fleet.handedAgain)]),
    tallied("msgs/s", (tally) => perSecond(tally.handled, elapsedMillis))
  ]
}

const runRows = ({ elapsedMillis, faults, fleet, reconnects }: Summary): ReadonlyArray<Row> => {
  const row = (label: string, total: string): Row => ({ label, toServer: "", toClient: "", total, isBad: false })
  return [
    row("cuts", count(faults.cuts)),
    row("stalls", count(faults.stalls)),
    row("half-opens", count(faults.halfOpens)),
    row("refused dials", count(faults.refusedDials)),
    row("reconnects", count(reconnects)),
    ...(fleet === undefined ? [] : fleetRows(fleet)),
    row("time", seconds(elapsedMillis))
  ]
}

const fleetRows = ({ kills, moves, starts }: FleetSummary): ReadonlyArray<Row> => {
  const row = (label: string, n: number): Row => ({ label, toServer: "", toClient: "", total: count(n), isBad: false })
  return [row("servers killed", kills), row("servers started", starts), row("sessions moved", moves)]
}

const head: Row = { label: "", toServer: "to server", toClient: "to clients", total: "total", isBad: false }
const columns = ["label", "toServer", "toClient", "total"] as const

const renderTable = (summary: Summary, look: Look): ReadonlyArray<string> => {
  const messages = messageRows(summary)
  const run = runRows(summary)
  const widths = columns.map((column) => Math.max(...[head, ...messages, ...run].map((row) => row[column].length)))
  const line = (row: Row) =>
    columns.map((column, i) =>
      column === "label" ? row.label.padEnd(widths[i] ?? 0) : row[column].padStart(widths[i] ?? 0)
    )
      .join("  ")
  const plainRule = "─".repeat(line(head).length)
  if (plainRule.length > look.width) return renderList([...messages, ...run], look)
  const painted = (row: Row) => row.isBad ? paint(line(row), "red", look) : line(row)
  const rule = paint(plainRule, "dim", look)
  return [paint(line(head), "bold", look), rule, ...messages.map(painted), rule, ...run.map(painted), rule]
}

/** For widths that the table does not fit. */
const renderList = (rows: ReadonlyArray<Row>, look: Look): ReadonlyArray<string> =>
  rows.flatMap((row) => {
    const total = `${row.label}: ${row.total}`
    const lines = row.toServer === ""
      ? [total]
      : [total, `  ${row.toServer} ${head.toServer}`, `  ${row.toClient} ${head.toClient}`]
    return row.isBad ? lines.map((line) => paint(line, "red", look)) : lines
  })

const renderFinding = ({ detail, direction, index, kind, stream }: Finding): string =>
  `${kind}: ${stream}, ${direction === "toServer" ? "to server" : "to client"}, message ${index}: ${detail}`

/** Lines of at most `width`, longer only if a single word is. */
const wrap = (text: string, width: number, indent = ""): ReadonlyArray<string> => {
  const lines: Array<string> = []
  let line = ""
  for (const word of text.split(" ")) {
    const longer = line === "" ? indent + word : `${line} ${word}`
    if (line !== "" && longer.length > width) {
      lines.push(line)
      line = indent + word
    } else {
      line = longer
    }
  }
  return [...lines, line]
}

const count = (n: number): string => n.toLocaleString("en-US")

const plural = (n: number, noun: string): string => `${count(n)} ${noun}${n === 1 ? "" : "s"}`

const seconds = (millis: number): string => `${(millis / 1000).toFixed(1)} s`

const perSecond = (messages: number, millis: number): number => millis <= 0 ? 0 : Math.round((messages * 1000) / millis)

/** SGR parameters, ECMA-48. */
const styles = { bold: "1", dim: "2", red: "31", green: "32" } as const

const paint = (text: string, style: keyof typeof styles, look: Look): string =>
  look.color && text !== "" ? `\u001b[${styles[style]}m${text}\u001b[0m` : text

/** Somewhere to write to. */
export interface Output {
  readonly isTerminal: boolean
  /** Asked at every line: windows change their size. */
  readonly look: () => Look
  /** Ends when the text is handed over. Never fails: a reader that went away is no reason to stop. */
  readonly write: (text: string) => Effect.Effect<void>
}

/** As much of `process.stdout` as is used. */
export interface OutputStream extends NodeJS.WritableStream {
  readonly isTTY?: boolean
  readonly columns?: number
}

/** A stream of the process as an output. Colour only in a terminal, and not if `NO_COLOR` is set. */
export const processOutput = (
  stream: OutputStream,
  env: Readonly<Record<string, string | undefined>> = process.env
): Output => {
  const isTerminal = stream.isTTY === true
  // no-color.org: present and not empty, whatever its value.
  const color = isTerminal && (env["NO_COLOR"] ?? "") === "" && env["TERM"] !== "dumb"
  // Without a listener a closed pipe (`npm start | head -1`) ends the process.
  stream.on("error", () => {})
  return {
    isTerminal,
    look: () => ({ width: isTerminal ? Math.max(20, (stream.columns || 80) - 1) : 80, color }),
    write: (text) =>
      text === "" ? Effect.void : Effect.callback((resume) => {
        stream.write(text, () => resume(Effect.void))
      })
  }
}

export interface Report {
  /** Shows progress in the background until the scope closes. */
  readonly live: (progress: Effect.Effect<Progress>) => Effect.Effect<void, never, Scope.Scope>
  /** A line of its own, beside the progress. */
  readonly note: (text: string) => Effect.Effect<void>
  /** The end: table and verdict, or the JSON document. To be called when `live`'s scope is closed. */
  readonly finish: (summary: Summary) => Effect.Effect<void>
}

/** Back to the first column, and clear what is to the right. */
const clearLine = "\r\u001b[K"

export const make = (options: {
  readonly json: boolean
  readonly stdout?: Output | undefined
  readonly stderr?: Output | undefined
}): Report => {
  const stdout = options.stdout ?? processOutput(process.stdout)
  const side = options.json ? options.stderr ?? processOutput(process.stderr) : stdout
  const period = side.isTerminal ? "100 millis" : "2 seconds"
  const start = side.isTerminal ? clearLine : ""
  const end = side.isTerminal ? "" : "\n"
  return {
    live: (progress) =>
      progress.pipe(
        Effect.flatMap((now) => side.write(start + renderProgress(now, side.look()) + end)),
        Effect.delay(period),
        Effect.forever,
        Effect.ensuring(side.write(start)),
        Effect.forkScoped,
        Effect.asVoid
      ),
    note: (text) => side.write(`${start}${text}\n`),
    finish: (summary) =>
      options.json
        ? Effect.andThen(stdout.write(`${renderJson(summary)}\n`), side.write(`${renderVerdict(summary)}\n`))
        : stdout.write(`${renderSummary(summary, stdout.look())}\n`)
  }
}
