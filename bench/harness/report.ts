/** What the figures come to: a table for each workload, and the summary of all goals. Pure. */
import { describe, type PeerName } from "../peers/index.ts"
import type { Measurement } from "./rounds.ts"
import { spreadOf } from "./statistics.ts"
import type { Table } from "./Table.ts"
import type { Across, Case, Figure, Goal, Scale, Spread, Workload } from "./Workload.ts"

/** Whose goals these are, where a goal doesn't say. */
const subject: PeerName = "resilient"
const baseline: PeerName = "ws"

export interface Results {
  readonly workload: Workload
  readonly scale: Scale
  readonly measurements: ReadonlyArray<Measurement>
}

/** The figure as it was measured. */
const spread = (results: Results, label: string, peer: PeerName, figure: string): Spread | undefined => {
  const values = valuesOf(results, label, peer, figure)
  return values.size === 0 ? undefined : spreadOf([...values.values()])
}

/** The figure compared, in each round, with that of bare `ws`, or of another peer, in the same round. */
const comparison = (
  results: Results,
  label: string,
  peer: PeerName,
  { compare = "none", key }: Figure,
  base: PeerName = baseline
): Spread | undefined => {
  if (compare === "none") return undefined
  const bases = valuesOf(results, label, base, key)
  const compared: Array<number> = []
  for (const [round, value] of valuesOf(results, label, peer, key)) {
    const other = bases.get(round)
    if (other !== undefined) compared.push(compare === "ratio" ? value / other : value - other)
  }
  return compared.length === 0 ? undefined : spreadOf(compared)
}

/** By round. */
const valuesOf = (
  { measurements }: Results,
  label: string,
  peer: PeerName,
  key: string
): ReadonlyMap<number, number> => {
  const values = new Map<number, number>()
  for (const measurement of measurements) {
    if (measurement.label !== label || measurement.peer !== peer) continue
    const value = measurement.figures?.[key]
    if (value !== undefined) values.set(measurement.round, value)
  }
  return values
}

const showSpread = ({ max, median, min }: Spread, show: (value: number) => string): string =>
  min === max ? show(median) : `${show(median)} (${show(min)}–${show(max)})`

const showFigure = (value: Spread, { detail, show }: Figure): string =>
  detail === "median" ? show(value.median) : showSpread(value, show)

const showCompared = ({ compare, show }: Figure) => (value: number): string =>
  compare === "ratio" ? value.toFixed(2) : `${value < 0 ? "−" : "+"}${show(Math.abs(value))}`

/** One figure of one case that has a goal. */
interface Judged {
  readonly peer: PeerName
  readonly figure: Figure
  readonly goal: Goal
  readonly value: Spread
  readonly base: PeerName
  /** The figure of `base`. */
  readonly against: Spread | undefined
  readonly compared: Spread | undefined
  readonly ok: boolean
}

const judge = (results: Results, { goals = [], label }: Case): ReadonlyArray<Judged> =>
  goals.flatMap((goal): ReadonlyArray<Judged> => {
    const figure = results.workload.figures.find(({ key }) => key === goal.figure)
    if (figure === undefined) throw new Error(`${results.workload.name} has no figure ${goal.figure}`)
    const { base = baseline, peer = subject } = goal
    const value = spread(results, label, peer, figure.key)
    const compared = comparison(results, label, peer, figure, base)
    const judged = compared ?? (figure.compare === undefined || figure.compare === "none" ? value : undefined)
    if (value === undefined || judged === undefined) return []
    const against = spread(results, label, base, figure.key)
    return [{ peer, figure, goal, value, base, against, compared, ok: goal.met(judged.median) }]
  })

const verdict = (ok: boolean): string => ok ? "ok" : "MISSED"

/** A row a case and peer, a column a figure and, where it is compared, another. */
export const workloadTable = (results: Results): Table => {
  const { scale, workload } = results
  const cases = workload.cases(scale)
  const labelled = cases.some(({ label }) => label !== "")
  const compared = ({ compare = "none" }: Figure) => compare !== "none"
  const head = [
    ...(labelled ? [""] : []),
    "peer",
    ...workload.figures.flatMap((figure) => [
      figure.title,
      ...(compared(figure) ? [figure.compare === "ratio" ? "÷ bare ws" : "− bare ws"] : [])
    ]),
    "goal"
  ]
  const rows = cases.flatMap((current) =>
    workload.peers(scale).flatMap((peer) => {
      const cells = workload.figures.flatMap((figure) => {
        const value = spread(results, current.label, peer, figure.key)
        const against = comparison(results, current.label, peer, figure)
        return [
          value === undefined ? "" : showFigure(value, figure),
          ...(compared(figure)
            ? [peer === baseline || against === undefined ? "" : showSpread(against, showCompared(figure))]
            : [])
        ]
      })
      if (cells.every((cell) => cell === "")) return []
      const goals = judge(results, current).flatMap((judged) => {
        const { base, compared, figure, goal, ok } = judged
        // What it comes to has a column where it is compared with bare `ws`.
        const found = base === baseline || compared === undefined
          ? ""
          : `${showSpread(compared, showCompared(figure))}, `
        return judged.peer === peer ? [`${figure.key} ${goal.text}: ${found}${verdict(ok)}`] : []
      })
      return [[...(labelled ? [current.label] : []), describe(peer).title, ...cells, goals.join(", ")]]
    })
  )
  return { words: labelled ? 2 : 1, head, rows }
}

export const across = (results: Results): ReadonlyArray<Across> =>
  results.workload.across?.((label, peer, figure) => spread(results, label, peer, figure), results.scale) ?? []

/** All goals there are, and what became of them. */
export const summaryTable = (all: ReadonlyArray<Results>): Table => ({
  words: 1,
  head: ["workload", "goal", "resilient-websocket", "bare ws", "compared", ""],
  rows: all.flatMap((results) => [
    ...results.workload.cases(results.scale).flatMap((current) =>
      judge(results, current).map(({ against, base, compared, figure, goal, ok, peer, value }) => [
        [
          results.workload.name,
          results.workload.title,
          current.label,
          peer === subject ? "" : describe(peer).title,
          figure.title
        ].filter((part) => part !== "").join(", "),
        goal.text,
        showSpread(value, figure.show),
        against === undefined ? "" : `${showSpread(against, figure.show)}${base === baseline ? "" : `: ${base}`}`,
        compared === undefined ? "" : showSpread(compared, showCompared(figure)),
        verdict(ok)
      ])
    ),
    ...across(results).map(({ found, goal, ok, what }) => [
      `${results.workload.name}, ${what}`,
      goal,
      "",
      "",
      found,
      verdict(ok)
    ])
  ])
})

/** A finished measurement in a line. */
export const progressLine = (workload: Workload, measurement: Measurement, rounds: number): string => {
  const { error, figures, label, peer, round } = measurement
  const what = [workload.name, label, `round ${round + 1}/${rounds}`, peer].filter((part) => part !== "").join("  ")
  if (figures === undefined) return `${what}  FAILED: ${error}`
  const shown = workload.figures.flatMap(({ key, show, title }) => {
    const value = figures[key]
    return value === undefined ? [] : [`${show(value)} ${title}`]
  })
  return `${what}  ${shown.join(", ")}`
}
