/** The demo's command line: flags, their ranges and defaults, and what `--help` says of them. */
import { Effect, Option, Random } from "effect"
import { Command, Flag } from "effect/cli"
import type { DurableKind } from "./Ipc.ts"

/** What the user asked for; every number is within its range. */
export interface Options {
  readonly clients: number
  /** Messages in each direction, over all clients together; see {@link messagesOf}. */
  readonly messages: number
  /** Faults of all kinds a minute, on average. */
  readonly cutsPerMinute: number
  readonly seed: number
  readonly store: "memory" | DurableKind
  /** Undefined: a store of the demo's own. */
  readonly storeUrl: string | undefined
  /** Server processes. With `memory` the only server is in the demo's own process. */
  readonly servers: number
  /** Servers killed a minute, on average. */
  readonly killsPerMinute: number
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
    Flag.optional,
    Flag.withDescription("Clients that connect through the fault proxy, 1 to 1000 (default: 4; 8 with a durable store)")
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
  store: Flag.Literals("store", ["memory", "sqlite", "postgres", "redis"]).pipe(
    Flag.withDefault("memory"),
    Flag.withDescription(
      "Where the servers keep sessions and messages; all but memory survive a killed server. With sqlite and postgres a " +
        "handler commits its work and its position in one transaction; with redis it must recognize a message that it is " +
        "given again (default: memory)"
    )
  ),
  storeUrl: Flag.String("store-url").pipe(
    Flag.optional,
    Flag.withDescription(
      "URL of a postgres or redis to use, where the demo keeps everything under a name of its own and removes it (default: " +
        "one that the demo starts, from PATH)"
    )
  ),
  servers: whole("servers", { min: 1, max: 16 }).pipe(
    Flag.withDefault(1),
    Flag.withDescription("Servers that share the store, each a process of its own, 1 to 16; memory: 1 (default: 1)")
  ),
  killsPerMinute: whole("kills-per-minute", { min: 0, max: 600 }).pipe(
    Flag.withDefault(0),
    Flag.withDescription(
      "Servers killed with SIGKILL, and started again, a minute on average, 0 to 600; memory: 0 (default: 0)"
    )
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

/** Why these options don't go together, in a sentence; undefined if they do. */
export const contradiction = (options: Options): string | undefined => {
  const { killsPerMinute, servers, store, storeUrl } = options
  if (storeUrl !== undefined && (store === "memory" || store === "sqlite")) {
    return `--store-url is for postgres and redis, not for ${store}`
  }
  if (store !== "memory") return undefined
  const durable = "choose sqlite, postgres or redis"
  if (killsPerMinute > 0) return `--kills-per-minute: a store in memory dies with its server; ${durable}`
  if (servers > 1) return `--servers: a store in memory can't be shared between processes; ${durable}`
  return undefined
}

/** The command, with what it is to do. Run it with `Command.run` or, given the arguments, `Command.runWith`. */
export const command = <E, R>(handler: (options: Options) => Effect.Effect<void, E, R>) =>
  Command.make(
    "resilient-websocket-demo",
    flags,
    ({ clients, file, storeUrl, ...rest }) =>
      handler({
        ...rest,
        clients: Option.getOrElse(clients, () => rest.store === "memory" ? 4 : 8),
        file: Option.getOrUndefined(file),
        storeUrl: Option.getOrUndefined(storeUrl)
      })
  ).pipe(
    Command.withDescription(
      "Sends lines both ways between servers and clients while a proxy breaks their connections, and checks " +
        "that each was handled exactly once and in order. Exits with 0 only if so."
    ),
    Command.withExamples([
      { command: "npm start", description: "20,000 messages each way, through 300 faults a minute" },
      {
        command: "npm start -- --clients 2 --messages 100000 --cuts-per-minute 600 --seed 7",
        description: "A long run"
      },
      {
        command: "npm start -- --store sqlite --servers 2 --kills-per-minute 60",
        description: "Two servers that share a file, and are killed once a second"
      },
      { command: "npm start -- --file notes.txt --json", description: "Lines of a file, the result as JSON" }
    ])
  )
