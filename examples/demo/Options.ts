/** The demo's command line: flags, their ranges and defaults, and what `--help` says of them. */
import { Effect, Option, Random } from "effect"
import { Command, Flag } from "effect/cli"

/** What the user asked for; every number is within its range. */
export interface Options {
  readonly clients: number
  /** Messages in each direction, over all clients together; see {@link messagesOf}. */
  readonly messages: number
  /** Faults of all kinds a minute, on average. */
  readonly cutsPerMinute: number
  readonly seed: number
  /** An absolute path. */
  readonly file: string | undefined
  readonly json: boolean
}

/** Client number `client`'s share (from 0) of the messages in one direction: equal, the first ones get the rest. */
export const messagesOf = (options: Pick<Options, "clients" | "messages">, client: number): number =>
  Math.floor(options.messages / options.clients) + (client < options.messages % options.clients ? 1 : 0)

const maxSeed = 2 ** 32 - 1

const whole = (name: string, range: { readonly min: number; readonly max: number }): Flag.Flag<number> =>
  Flag.Int(name).pipe(
    Flag.filter(
      (value) => value >= range.min && value <= range.max,
      () => `a whole number from ${range.min} to ${range.max}`
    ),
    Flag.withMetavar("n")
  )

const flags = {
  clients: whole("clients", { min: 1, max: 1000 }).pipe(
    Flag.withDefault(4),
    Flag.withDescription("Clients that connect through the fault proxy, 1 to 1000 (default: 4)")
  ),
  messages: whole("messages", { min: 1, max: 10_000_000 }).pipe(
    Flag.withDefault(20_000),
    Flag.withDescription("Messages each way, over all clients together, 1 to 10000000 (default: 20000)")
  ),
  cutsPerMinute: whole("cuts-per-minute", { min: 0, max: 60_000 }).pipe(
    Flag.withDefault(300),
    Flag.withDescription(
      "Faults a minute on average: of 100, 70 cuts, 15 stalls, 5 half-opens, 10 refusals of dials; 0 for none (default: 300)"
    )
  ),
  seed: whole("seed", { min: 0, max: maxSeed }).pipe(
    Flag.withDefault(Random.nextIntBetween(0, maxSeed)),
    Flag.withDescription(`Makes the same faults again, 0 to ${maxSeed} (default: random; printed)`)
  ),
  file: Flag.Path("file").pipe(
    Flag.optional,
    Flag.withDescription(
      "UTF-8 text whose lines are sent, at most 64 MiB (default: standard input if piped, else this repository's files)"
    )
  ),
  json: Flag.Boolean("json").pipe(
    Flag.withDefault(false),
    Flag.withDescription("Print one JSON document on standard output, and progress on standard error (default: off)")
  )
}

/** The command, with what it is to do. Run it with `Command.run` or, given the arguments, `Command.runWith`. */
export const command = <E, R>(handler: (options: Options) => Effect.Effect<void, E, R>) =>
  Command.make(
    "resilient-websocket-demo",
    flags,
    ({ file, ...rest }) => handler({ ...rest, file: Option.getOrUndefined(file) })
  ).pipe(
    Command.withDescription(
      "Sends lines both ways between a server and its clients while a proxy breaks their connections, and checks " +
        "that each was handled exactly once and in order. Exits with 0 only if so."
    ),
    Command.withExamples([
      { command: "npm start", description: "20,000 messages each way, through 300 faults a minute" },
      {
        command: "npm start -- --clients 2 --messages 100000 --cuts-per-minute 600 --seed 7",
        description: "A long run"
      },
      { command: "npm start -- --file notes.txt --json", description: "Lines of a file, the result as JSON" }
    ])
  )
