/** Nodes, nudges and the clock in Redis: the arguments and replies of nodeScripts.ts. */
import { Effect, Result } from "effect"
import type { StoreDriver, StoreError } from "../internal/store/driver.ts"
import type { Connection } from "./connection.ts"
import * as Scripts from "./nodeScripts.ts"
import type { Partition, Partitions } from "./partitions.ts"
import { count, list, number, rowsOf, text } from "./replies.ts"

type NodeOperations = Pick<
  StoreDriver,
  "clock" | "history" | "touchNode" | "nodes" | "forgetNode" | "nudge" | "takeNudges" | "watch"
>

/** How many writers one script forgets. */
const writersAtOnce = 1_000

export const makeNodes = (connection: Connection, partitions: Partitions): NodeOperations => ({
  ...nodes(connection, partitions),
  ...nudges(connection, partitions)
})

const nodes = (
  connection: Connection,
  partitions: Partitions
): Pick<NodeOperations, "clock" | "history" | "touchNode" | "nodes" | "forgetNode"> => {
  const { call } = connection
  const nodesKey = `${partitions.first.tag}:nodes`

  const forgetIn = (node: string) => (partition: Partition): Effect.Effect<void, StoreError> =>
    call({
      operation: "forgetNode",
      script: Scripts.forgetNode,
      keys: [nudgesKey(partition, node), partition.writers, partition.totals],
      args: [partition.tag, node, number(writersAtOnce)],
      decode: (reply) => text(reply) === "1"
    }).pipe(Effect.flatMap((more) => more ? forgetIn(node)(partition) : Effect.void))

  return {
    clock: call({
      operation: "clock",
      script: Scripts.readClock,
      keys: [partitions.first.totals],
      args: [],
      decode: (reply) => {
        const [seconds, micros] = list(reply)
        return count(seconds) * 1000 + Math.floor(count(micros) / 1000)
      }
    }),

    history: Effect.forEach(partitions.all, (partition) =>
      call({
        operation: "history",
        script: Scripts.readHistory,
        keys: [partition.totals],
        args: [],
        decode: text
      }), { concurrency: "unbounded" }).pipe(Effect.map((all) => [...new Set(all)].join(" "))),

    touchNode: (node, at) =>
      call({
        operation: "touchNode",
        script: Scripts.touchNode,
        keys: [nodesKey, partitions.first.totals],
        args: [node, number(at)],
        decode: () => undefined
      }),

    nodes: call({
      operation: "nodes",
      script: Scripts.readNodes,
      keys: [nodesKey],
      args: [],
      decode: (reply) => rowsOf(reply, 2).map(([node, seenAt]) => ({ node: text(node), seenAt: count(seenAt) }))
    }),

    // The node itself is removed last, so that it is found again after an interruption.
    forgetNode: (node) =>
      Effect.forEach(partitions.all, forgetIn(node), { concurrency: "unbounded", discard: true }).pipe(
        Effect.andThen(call({
          operation: "forgetNode",
          script: Scripts.dropNode,
          keys: [nodesKey, partitions.first.totals],
          args: [node],
          decode: () => undefined
        }))
      )
  }
}

const nudges = (
  connection: Connection,
  partitions: Partitions
): Pick<NodeOperations, "nudge" | "takeNudges" | "watch"> => {
  const { call } = connection
  /** Where the next `takeNudges` begins, so that all partitions have their turn. */
  let turn = 0

  const take = (partition: Partition, node: string, limit: number) =>
    call({
      operation: "takeNudges",
      script: Scripts.takeNudges,
      keys: [nudgesKey(partition, node)],
      args: [number(limit)],
      decode: (reply) => list(reply).map(text)
    })

  /**
   * Asks all partitions at once for an even share; then asks those that had a full share for the rest of the limit. An
   * error would lose what was taken: when some partitions fail, the result is what the others gave.
   */
  const takeNudges = Effect.fnUntraced(function*(node: string, limit: number) {
    const taken: Array<string> = []
    turn = (turn + 1) % partitions.all.length
    let candidates = [...partitions.all.slice(turn), ...partitions.all.slice(0, turn)]
    while (taken.length < limit && candidates.length > 0) {
      const left = limit - taken.length
      const share = Math.ceil(left / candidates.length)
      const asked = candidates.slice(0, Math.floor(left / share))
      const shares = yield* Effect.forEach(
        asked,
        (partition) => Effect.result(take(partition, node, share)),
        { concurrency: "unbounded" }
      )
      const [failure] = shares.filter(Result.isFailure)
      taken.push(...shares.filter(Result.isSuccess).flatMap(({ success }) => success))
      if (failure !== undefined) {
        if (taken.length === 0) return yield* Effect.fail(failure.failure)
        break
      }
      candidates = [
        ...candidates.slice(asked.length),
        ...asked.filter((_, i) => {
          const given = shares[i]
          return given !== undefined && Result.isSuccess(given) && given.success.length === share
        })
      ]
    }
    return taken
  })

  return {
    nudge: (node, session) => {
      const partition = partitions.of(session)
      return call({
        operation: "nudge",
        script: Scripts.addNudge,
        keys: [partition.totals],
        args: [partition.tag, partitions.channel(""), node, session],
        decode: () => undefined
      })
    },

    takeNudges,

    watch: (node, listener) => connection.listen(partitions.channel(node), listener)
  }
}

const nudgesKey = ({ tag }: Partition, node: string): string => `${tag}:u:${node}`
