/** The part of the driver that keeps publish keys; the work is done by keyFunctions.ts. */
import type { Receipt } from "../Deduplicator.ts"
import type { ClaimKeyResult, StoreDriver } from "../internal/store/driver.ts"
import type { Database } from "./connection.ts"
import { places } from "./outboxes.ts"
import * as Codes from "./outboxFunctions.ts"
import * as Values from "./values.ts"

type Keys = Pick<
  StoreDriver,
  "claimKey" | "renewKey" | "commitKey" | "releaseKey" | "lookupKey" | "sweepKeys" | "countKeys"
>

export const makeKeys = (database: Database): Keys => {
  const { schema } = database
  const mine = "scope = $1 AND key = $2 AND token = $3"

  return {
    claimKey: ({ fingerprint, forgottenBefore, key, maxKeys, now, scope, token, until }) =>
      database.query("claimKey", {
        sql: `SELECT code, message_id, epoch, first, at, until FROM ${schema}.claim_key(${places(8)})`,
        parameters: () => [
          Values.text(scope),
          Values.text(key),
          Values.text(fingerprint),
          Values.number(forgottenBefore),
          Values.number(maxKeys),
          Values.number(now),
          Values.text(token),
          Values.number(until)
        ],
        decode: (rows) => toClaim(Values.onlyRow(rows))
      }),

    renewKey: ({ key, now, scope, token, until }) =>
      database.query("renewKey", {
        sql:
          `UPDATE ${schema}.keys SET until = $4 WHERE ${mine} AND committed_at IS NULL AND until > $5 RETURNING true`,
        parameters: () => [
          Values.text(scope),
          Values.text(key),
          Values.text(token),
          Values.number(until),
          Values.number(now)
        ],
        decode: (rows) => rows.length > 0
      }),

    // The same again succeeds again: the token stays with the key.
    commitKey: ({ key, now, receipt, scope, token }) =>
      database.query("commitKey", {
        sql: `WITH done AS (
            UPDATE ${schema}.keys SET committed_at = $4, message_id = $5, epoch = $6, first = $7, at = $8
            WHERE ${mine} AND committed_at IS NULL AND until > $4 RETURNING true
          ) SELECT EXISTS (SELECT FROM done)
            OR EXISTS (SELECT FROM ${schema}.keys WHERE ${mine} AND committed_at IS NOT NULL)`,
        parameters: () => [
          Values.text(scope),
          Values.text(key),
          Values.text(token),
          Values.number(now),
          Values.text(receipt.messageId),
          Values.text(receipt.epoch),
          Values.number(receipt.offset),
          Values.number(receipt.atMillis)
        ],
        decode: (rows) => Values.toBoolean(Values.onlyRow(rows)[0])
      }),

    releaseKey: ({ key, scope, token }) =>
      database.query("releaseKey", {
        sql: `WITH gone AS (DELETE FROM ${schema}.keys WHERE ${mine} AND committed_at IS NULL RETURNING true)
          SELECT ${schema}.count_keys(-1) FROM gone`,
        parameters: () => [Values.text(scope), Values.text(key), Values.text(token)],
        decode: () => undefined
      }),

    lookupKey: ({ key, scope }, forgottenBefore) =>
      database.query("lookupKey", {
        sql: `SELECT message_id, epoch, first, at FROM ${schema}.keys
          WHERE scope = $1 AND key = $2 AND committed_at >= $3`,
        parameters: () => [Values.text(scope), Values.text(key), Values.number(forgottenBefore)],
        decode: ([row]) => row === undefined ? undefined : toReceipt(row)
      }),

    sweepKeys: (forgottenBefore, now, limit) =>
      database.query("sweepKeys", {
        sql: `SELECT ${schema}.sweep_keys(${places(3)})`,
        parameters: () => [Values.number(forgottenBefore), Values.number(now), Values.number(limit)],
        decode: (rows) => Values.toNumber(Values.onlyRow(rows)[0])
      }),

    countKeys: (forgottenBefore, now) =>
      database.query("countKeys", {
        sql: `SELECT
            (SELECT count(*) FROM ${schema}.keys WHERE committed_at >= $1)::float8,
            (SELECT count(*) FROM ${schema}.keys WHERE committed_at IS NULL AND until > $2)::float8`,
        parameters: () => [Values.number(forgottenBefore), Values.number(now)],
        decode: (rows) => {
          const [keys, inFlight] = Values.onlyRow(rows)
          return { keys: Values.toNumber(keys), inFlight: Values.toNumber(inFlight) }
        }
      })
  }
}

const toReceipt = ([messageId, epoch, offset, atMillis]: Values.Row): Receipt => ({
  messageId: Values.toText(messageId),
  epoch: Values.toText(epoch),
  offset: Values.toNumber(offset),
  atMillis: Values.toNumber(atMillis)
})

const toClaim = ([code, ...receipt]: Values.Row): ClaimKeyResult => {
  switch (code) {
    case Codes.APPENDED:
      return { _tag: "Claimed" }
    case Codes.DUPLICATE:
      return { _tag: "Duplicate", receipt: toReceipt(receipt) }
    case Codes.MISMATCH:
      return { _tag: "Mismatch", receipt: receipt[0] === null ? undefined : toReceipt(receipt) }
    case Codes.IN_FLIGHT:
      return { _tag: "InFlight", until: Values.toNumber(receipt[4]) }
    case Codes.KEYS_FULL:
      return { _tag: "Full" }
    default:
      throw new Values.Nonsense(`claimKey: ${String(code)}`)
  }
}
