/**
 * What a benchmark is: cases, each measured for several peers in turn, and the figures that come of it with their
 * goals. How rounds are made of it is in `rounds.ts`, how it is shown in `report.ts`.
 */
import type { PeerName } from "../peers/index.ts"
import type { Child } from "./Child.ts"

/** `quick` is for a look in minutes: less of everything, same shape. */
export type Scale = "full" | "quick"

/** A fresh pair of processes with one peer; both are ended after the measurement. */
export interface Run {
  readonly peer: PeerName
  readonly server: Child
  readonly client: Child
}

/** By {@link Figure.key}. */
export type Figures = Readonly<Record<string, number>>

export interface Figure {
  readonly key: string
  /** Head of its column, with the unit. */
  readonly title: string
  readonly show: (value: number) => string
  /**
   * How it is compared with bare `ws` of the same round: divided by it, or its difference from it, or not at all.
   * Default `none`.
   */
  readonly compare?: "ratio" | "difference" | "none" | undefined
  /** What a table shows of the rounds; the JSON has them all. Default `spread`: median, minimum and maximum. */
  readonly detail?: "spread" | "median" | undefined
}

/** What the library wants to reach in one figure, compared as the figure says. */
export interface Goal {
  readonly figure: string
  /** Whose it is. Default `resilient`. */
  readonly peer?: PeerName | undefined
  /** What its figure is compared with, in the same round. Default `ws`. */
  readonly base?: PeerName | undefined
  /** As in the issue: `≥ 5.0 ×`; with what, if it isn't `ws`. */
  readonly text: string
  /** Given the median of what is compared: ratio, difference, or the value itself. */
  readonly met: (compared: number) => boolean
}

export interface Case {
  /** What is special about it, `16 kB`; empty when the workload has but one. */
  readonly label: string
  readonly goals?: ReadonlyArray<Goal> | undefined
  /** One measurement. A wrong count or order rejects. */
  readonly measure: (run: Run) => Promise<Figures>
}

/** What one figure came to over the rounds. */
export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** Something that follows from several cases, such as that a cost is flat. */
export interface Across {
  readonly what: string
  readonly goal: string
  /** What was found, as it is to be shown. */
  readonly found: string
  readonly ok: boolean
}

export interface Workload {
  /** `W1`: what `--only` takes. A part of a larger one has a letter, `W8a`, and is meant by `W8` too. */
  readonly name: string
  readonly title: string
  /** Anything that a reader of the table should know. */
  readonly notes?: ReadonlyArray<string> | undefined
  /** In the order of the table, bare `ws` first. Without `ws` there is nothing to compare with. */
  readonly peers: (scale: Scale) => ReadonlyArray<PeerName>
  readonly figures: ReadonlyArray<Figure>
  readonly cases: (scale: Scale) => ReadonlyArray<Case>
  /** A measurement that takes longer is given up. Default 240 s. */
  readonly timeoutMillis?: number | undefined
  /** Fewer rounds than the command line says, for what takes long or varies little. Default: all. */
  readonly maxRounds?: number | undefined
  /** Peers that take minutes, and are measured in the first round only. */
  readonly once?: ReadonlyArray<PeerName> | undefined
  /** Verdicts over several cases; `spread` gives `undefined` for what was not measured. */
  readonly across?:
    | ((
      spread: (label: string, peer: PeerName, figure: string) => Spread | undefined,
      scale: Scale
    ) => ReadonlyArray<Across>)
    | undefined
}
