/** Publish keys in PostgreSQL: the calls of keyFunctions.ts. */
import type { Receipt } from "../Deduplicator.ts"
import type { StoreDriver } from "../internal/store/driver.ts"
import type { ClaimKeyResult } from "../internal/store/publishKeys.ts"
import type { Database } from "./connection.ts"
import * as Codes from "./plpgsql.ts"
import * as Values from "./values.ts"

type Keys = Pick<
  StoreDriver,
  "claimKey" | "renewKey" | "commitKey" | "releaseKey" | "lookupKey" | "sweepKeys" | "countKeys"
>

export const makeKeys = (database: Database): Keys => {
  const { schema } = database

  return {
    claimKey: ({ fingerprint, forgottenBefore, key, maxKeys, now, scope, token, until }) =>
      database.query("claimKey", {
        sql: `SELECT code, message_id, epoch, first, at, until FROM ${schema}.claim_key(${Values.places(8)})`,
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
        sql: `SELECT ${schema}.renew_key(${Values.places(5)})`,
        parameters: () => [
          Values.text(scope),
          Values.text(key),
          Values.text(token),
          Values.number(now),
          Values.number(until)
        ],
        decode: (rows) => Values.toBoolean(Values.onlyRow(rows)[0])
      }),

    commitKey: ({ key, now, receipt, scope, token }) =>
      database.query("commitKey", {
        sql: `SELECT ${schema}.commit_key(${Values.places(8)})`,
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
        sql: `SELECT ${schema}.release_key(${Values.places(3)})`,
        parameters: () => [Values.text(scope), Values.text(key), Values.text(token)],
        decode: () => undefined
      }),

    lookupKey: ({ key, scope }, forgottenBefore) =>
      database.query("lookupKey", {
        sql: `SELECT committed_at, message_id, epoch, first, at FROM ${schema}.keys WHERE scope = $1 AND key = $2`,
        parameters: () => [Values.text(scope), Values.text(key)],
        decode: ([row]) => {
          if (row === undefined) return undefined
          const [committedAt, ...receipt] = row
          return committedAt !== null && Values.toNumber(committedAt) >= forgottenBefore
            ? toReceipt(receipt)
            : undefined
        }
      }),

    sweepKeys: (forgottenBefore, now, limit) =>
      database.query("sweepKeys", {
        sql: `SELECT ${schema}.sweep_keys(${Values.places(3)})`,
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
