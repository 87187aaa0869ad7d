/** The command line of the benchmarks: flags, their defaults, and what `--help` says of them. */
import { Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { type PeerName, peerNames } from "./peers/index.ts"
import { workloads } from "./workloads/index.ts"

/** What the user asked for. */
export interface Options {
  /** An absolute path. */
  readonly json: string | undefined
  readonly markdown: boolean
  readonly quick: boolean
  readonly rounds: number | undefined
  /** Names of workloads, and {@link micro}. */
  readonly only: ReadonlySet<string>
  /** `ws` among them, as the baseline of all. */
  readonly peers: ReadonlySet<PeerName>
}

/** The name of all micro-benchmarks together. */
export const micro = "micro"

const names = [...workloads.map(({ name }) => name), micro]

const listed = (text: string): ReadonlyArray<string> => text.split(",").map((part) => part.trim())

/** `W8` means all of its parts. */
const workloadsOf = (text: string): ReadonlySet<string> | undefined => {
  const chosen = new Set<string>()
  for (const name of listed(text).map((name) => name.toLowerCase())) {
    const meant = names.filter((known) =>
      known.toLowerCase() === name || known.toLowerCase().replace(/[a-c]$/, "") === name
    )
    if (meant.length === 0) return undefined
    for (const known of meant) chosen.add(known)
  }
  return chosen
}

const peersOf = (text: string): ReadonlySet<PeerName> | undefined => {
  const chosen = new Set<PeerName>(["ws"])
  for (const name of listed(text)) {
    const peer = peerNames.find((peer) => peer === name)
    if (peer === undefined) return undefined
    chosen.add(peer)
  }
  return chosen
}

const flags = {
  only: Flag.String("only").pipe(
    Flag.filterMap((text) => Option.fromUndefinedOr(workloadsOf(text)), () => `some of ${names.join(", ")}`),
    Flag.optional,
    Flag.withMetavar("W1,W5"),
    Flag.withDescription(`Only these workloads, of ${names.join(", ")}; W8 means all its parts (default: all)`)
  ),
  peers: Flag.String("peers").pipe(
    Flag.filterMap(
      (text) => Option.fromUndefinedOr(peersOf(text)),
      () => `some of ${peerNames.join(", ")}`
    ),
    Flag.optional,
    Flag.withMetavar("ws,resilient"),
    Flag.withDescription(
      `Only these, of ${peerNames.join(", ")}; ws is always measured, as the baseline (default: all)`
    )
  ),
  rounds: Flag.Int("reps").pipe(
    Flag.filter((value) => value >= 1 && value <= 1_000, () => "a whole number from 1 to 1000"),
    Flag.optional,
    Flag.withMetavar("n"),
    Flag.withDescription("Repetitions of each measurement (default: 5, quick: 1)")
  ),
  quick: Flag.Boolean("quick").pipe(
    Flag.withDefault(false),
    Flag.withDescription(
      "Less of everything, in a few minutes: to see that it works, not how fast (default: off)"
    )
  ),
  json: Flag.Path("json").pipe(
    Flag.optional,
    Flag.withMetavar("file"),
    Flag.withDescription("Write every figure of every repetition to this file (default: none)")
  ),
  markdown: Flag.Boolean("markdown").pipe(
    Flag.withDefault(false),
    Flag.withDescription("Print the summary as a Markdown table too (default: off)")
  )
}

/** The command, with what it is to do. */
export const command = <E, R>(handler: (options: Options) => Effect.Effect<void, E, R>) =>
  Command.make("resilient-websocket-bench", flags, ({ json, only, peers, rounds, ...rest }) =>
    handler({
      ...rest,
      json: Option.getOrUndefined(json),
      rounds: Option.getOrUndefined(rounds),
      only: Option.getOrElse(only, (): ReadonlySet<string> => new Set(names)),
      peers: Option.getOrElse(peers, (): ReadonlySet<PeerName> => new Set(peerNames))
    })).pipe(
      Command.withDescription(
        "Measures resilient-websocket against bare ws and others, server and client in processes of their own, and " +
          "holds it against its goals. A missed goal is a result; the exit code is other than 0 only if a measurement failed."
      ),
      Command.withExamples([
        { command: "npm run bench", description: "Everything, in well over an hour" },
        { command: "npm run bench -- --quick", description: "A look, in a few minutes" },
        {
          command: "npm run bench -- --only W1,W3 --peers resilient --reps 9 --json figures.json",
          description: "A part"
        }
      ])
    )
