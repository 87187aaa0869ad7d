/**
 * Publish keys in Redis: the arguments and replies of keyScripts.ts. All keys of a scope are in one partition, and
 * `maxKeys` holds for each partition by itself.
 */
import { Effect } from "effect"
import type { Receipt } from "../Deduplicator.ts"
import type { StoreDriver } from "../internal/store/driver.ts"
import type { ClaimKeyResult, KeyTarget } from "../internal/store/publishKeys.ts"
import type { Call, Connection } from "./connection.ts"
import * as Scripts from "./keyScripts.ts"
import type { Partition, Partitions } from "./partitions.ts"
import { count, list, number, optional, text } from "./replies.ts"

type KeyOperations = Pick<
  StoreDriver,
  "claimKey" | "renewKey" | "commitKey" | "releaseKey" | "lookupKey" | "sweepKeys" | "countKeys"
>

export const makePublishKeys = (connection: Connection, partitions: Partitions): KeyOperations => {
  const on = <A>(partition: Partition, call: Omit<Call<A>, "keys">) =>
    connection.call({
      ...call,
      keys: [partition.keys, partition.committed, partition.claimed, partition.totals]
    })

  return {
    claimKey: (request) =>
      on(partitions.of(request.scope), {
        operation: "claimKey",
        script: Scripts.claimKey,
        args: [
          keyId(request),
          request.token,
          optional(request.fingerprint),
          number(request.now),
          number(request.until),
          number(request.forgottenBefore),
          number(request.maxKeys)
        ],
        decode: claimOf
      }),

    renewKey: (claim) =>
      on(partitions.of(claim.scope), {
        operation: "renewKey",
        script: Scripts.renewKey,
        args: [keyId(claim), claim.token, number(claim.now), number(claim.until)],
        decode: isYes
      }),

    commitKey: (claim) =>
      on(partitions.of(claim.scope), {
        operation: "commitKey",
        script: Scripts.commitKey,
        args: [
          keyId(claim),
          claim.token,
          number(claim.now),
          claim.receipt.messageId,
          claim.receipt.epoch,
          number(claim.receipt.offset),
          number(claim.receipt.atMillis)
        ],
        decode: isYes
      }),

    releaseKey: (claim) =>
      on(partitions.of(claim.scope), {
        operation: "releaseKey",
        script: Scripts.releaseKey,
        args: [keyId(claim), claim.token],
        decode: () => undefined
      }),

    lookupKey: (target, forgottenBefore) =>
      on(partitions.of(target.scope), {
        operation: "lookupKey",
        script: Scripts.lookupKey,
        args: [keyId(target), number(forgottenBefore)],
        decode: (reply) => {
          const receipt = list(reply)
          return receipt.length === 0 ? undefined : receiptOf(receipt)
        }
      }),

    // One partition after another, as they share the limit.
    sweepKeys: (forgottenBefore, now, limit) =>
      Effect.reduce(
        partitions.all,
        () => 0,
        (swept, partition) =>
          swept >= limit ? Effect.succeed(swept) : on(partition, {
            operation: "sweepKeys",
            script: Scripts.sweepKeys,
            args: ["", number(forgottenBefore), number(now), number(limit - swept)],
            decode: (reply) => swept + count(reply)
          })
      ),

    countKeys: (forgottenBefore, now) =>
      Effect.forEach(partitions.all, (partition) =>
        on(partition, {
          operation: "countKeys",
          script: Scripts.countKeys,
          args: ["", number(forgottenBefore), number(now)],
          decode: (reply) => list(reply).map(count)
        }), { concurrency: "unbounded" }).pipe(
          Effect.map((all) => {
            const sum = (column: number) => all.reduce((total, row) => total + (row[column] ?? 0), 0)
            return { keys: sum(0), inFlight: sum(1) }
          })
        )
  }
}

/** The length says where the scope ends, so that ("a:b", "c") and ("a", "b:c") differ. */
export const keyId = ({ key, scope }: KeyTarget): string => `${scope.length}:${scope}${key}`

export const receiptOf = ([messageId, epoch, offset, atMillis]: ReadonlyArray<unknown>): Receipt => ({
  messageId: text(messageId),
  epoch: text(epoch),
  offset: count(offset),
  atMillis: count(atMillis)
})

const isYes = (reply: unknown): boolean => text(reply) === "1"

const claimOf = (reply: unknown): ClaimKeyResult => {
  const [kind, ...fields] = list(reply)
  switch (text(kind)) {
    case "C":
      return { _tag: "Claimed" }
    case "D":
      return { _tag: "Duplicate", receipt: receiptOf(fields) }
    case "X":
      return { _tag: "Mismatch", receipt: fields.length === 0 ? undefined : receiptOf(fields) }
    case "I":
      return { _tag: "InFlight", until: count(fields[0]) }
    case "K":
      return { _tag: "Full" }
  }
  throw new TypeError(`Redis answered a claim with ${text(kind)}`)
}
