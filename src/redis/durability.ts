/** What is wrong with how a Redis server is set up, as far as a store of messages goes. */
import { Effect, Option } from "effect"
import type { StoreDriver } from "../internal/store/driver.ts"
import type { Connection } from "./connection.ts"
import { readInfo } from "./nodeScripts.ts"
import type { Partitions } from "./partitions.ts"
import { RedisClient, type Server } from "./RedisClient.ts"
import { list, text } from "./replies.ts"

/** One warning for each problem and server. On a cluster, asks all servers that hold data. */
export const makeWarnings = Effect.fnUntraced(function*(connection: Connection, partitions: Partitions) {
  const client = yield* Effect.serviceOption(RedisClient)

  /**
   * Reads INFO, which is allowed even where CONFIG is not. Goes through scripts, which reach each server that holds a
   * partition.
   */
  const ofInfo = Effect.forEach(partitions.all, (partition) =>
    connection.call({
      operation: "warnings",
      script: readInfo,
      keys: [partition.totals],
      args: [],
      decode: (reply) => list(reply).map(text).join("\n")
    }), { concurrency: "unbounded" }).pipe(
      Effect.map((infos) => {
        const servers = new Map(infos.map((info) => [field(info, "run_id"), info]))
        return [...servers.values()].flatMap(infoWarnings)
      }),
      Effect.orElseSucceed(() => [
        "it could not be checked whether Redis evicts (INFO is not allowed): its maxmemory-policy should be noeviction"
      ])
    )

  const ofConfig = (where: string, send: Connection["send"]): Effect.Effect<ReadonlyArray<string>> =>
    Effect.forEach(
      ["save", "appendonly", "appendfsync"],
      (name) => Effect.map(send("warnings", "CONFIG", "GET", name), (reply) => configured(reply, name))
    ).pipe(
      Effect.map(([save, appendonly, appendfsync]) => configWarnings(where, { save, appendonly, appendfsync })),
      Effect.orElseSucceed(() => [
        `${where}: it could not be checked how Redis persists (CONFIG GET is not allowed); ` +
        "messages that were accepted survive a crash of Redis only with appendonly yes"
      ])
    )

  const ofServer = ({ address, send }: Server) =>
    ofConfig(address, (operation, command, ...args) => connection.limit(operation, send(command, ...args)))

  const ofServers = Option.match(client, {
    onNone: () => ofConfig("Redis", connection.send),
    onSome: ({ servers }) =>
      Effect.flatMap(
        connection.limit("warnings", servers),
        (all) => Effect.map(Effect.forEach(all, ofServer), (each) => each.flat())
      )
  })

  const warnings: StoreDriver["warnings"] = Effect.map(Effect.all([ofInfo, ofServers]), (all) => all.flat())
  return warnings
})

const field = (info: string, name: string): string => new RegExp(`^${name}:(.*?)\\r?$`, "m").exec(info)?.[1] ?? ""

/** The store's keys never expire by themselves, so policies that evict only expiring keys leave them alone. */
const infoWarnings = (info: string): ReadonlyArray<string> => {
  const policy = field(info, "maxmemory_policy")
  if (!policy.startsWith("allkeys")) return []
  return [
    `Redis on port ${field(info, "tcp_port")} evicts messages and sessions when its memory is full: ` +
    `maxmemory-policy is ${policy} and should be noeviction`
  ]
}

/** The value in a reply to CONFIG GET: an array in RESP2, an object in RESP3. */
const configured = (reply: unknown, name: string): string | undefined => {
  const entries = Array.isArray(reply)
    ? [[reply[0], reply[1]]]
    : reply instanceof Map
    ? [...reply]
    : Object.entries(reply ?? {})
  const value: unknown = entries.find(([key]) => key === name)?.[1]
  return typeof value === "string" ? value : undefined
}

const configWarnings = (
  where: string,
  config: {
    readonly save?: string | undefined
    readonly appendonly?: string | undefined
    appendfsync?: string | undefined
  }
): ReadonlyArray<string> => {
  if (config.appendonly === "yes") {
    switch (config.appendfsync) {
      case "always":
        return []
      case "no":
        return [
          `${where}: appendfsync is no: a crash of the machine may lose what was accepted in the last half minute`
        ]
      default:
        return [
          `${where}: appendfsync is everysec: a crash of the machine may lose what was accepted in the last second`
        ]
    }
  }
  if (config.save === "") {
    return [`${where} keeps nothing on disk (appendonly no, save ""): all messages are lost when it restarts`]
  }
  return [`${where} writes snapshots only (appendonly no): a crash loses what was accepted since the last one`]
}
