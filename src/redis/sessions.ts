/** Sessions in Redis: the arguments and replies of sessionScripts.ts. */
import { Effect } from "effect"
import type { StoreDriver } from "../internal/store/driver.ts"
import type { PositionOutcome, PutOutcome, SessionRow } from "../internal/store/sessions.ts"
import type { Connection } from "./connection.ts"
import type { Partition, Partitions } from "./partitions.ts"
import { count, list, maybe, maybeCount, number, optional, optionalNumber, rowsOf, text } from "./replies.ts"
import { scatter } from "./scatter.ts"
import * as Scripts from "./sessionScripts.ts"

type SessionOperations = Pick<
  StoreDriver,
  | "findSession"
  | "putSession"
  | "savePositions"
  | "deleteSession"
  | "wasEnded"
  | "detachedBefore"
  | "sessionsOf"
  | "sessionsOfPrincipal"
  | "countSessions"
>

export const makeSessions = (connection: Connection, partitions: Partitions): SessionOperations => ({
  ...rows(connection, partitions),
  ...lists(connection, partitions)
})

const rows = (
  connection: Connection,
  partitions: Partitions
): Pick<SessionOperations, "findSession" | "putSession" | "savePositions" | "deleteSession" | "wasEnded"> => {
  const { call } = connection
  const find = makeFind(connection, partitions)

  return {
    findSession: (id) => Effect.map(find("findSession", [id]), ([row]) => row),

    putSession: (row) => {
      const partition = partitions.of(row.id)
      return call({
        operation: "putSession",
        script: Scripts.putSession,
        keys: [
          sessionKey(partition, row.id),
          partition.totals,
          partition.detached,
          endedKey(partition, row.id)
        ],
        args: [partition.tag, row.id, ...rowArgs(row)],
        decode: (reply): PutOutcome => {
          const [kind, position] = list(reply)
          return text(kind) === "S" ? { _tag: "Stored", position: maybe(position) } : { _tag: "Conflict" }
        }
      })
    },

    savePositions: (requests) =>
      scatter(requests, ({ session }) => partitions.of(session), (partition, own) =>
        call({
          operation: "savePositions",
          script: Scripts.savePositions,
          keys: [partition.totals],
          args: [
            partition.tag,
            ...own.flatMap(({ epoch, generation, handled, position, session, strict }) => [
              session,
              number(generation),
              position,
              epoch,
              number(handled),
              strict ? "1" : "0"
            ])
          ],
          decode: (reply) => list(reply).map(positionOutcomeOf)
        })),

    deleteSession: (id, tombstone) => {
      const partition = partitions.of(id)
      const millis = tombstone === undefined ? 0 : Math.ceil(tombstone.until - tombstone.at)
      return call({
        operation: "deleteSession",
        script: Scripts.deleteSession,
        keys: [sessionKey(partition, id), partition.totals, partition.detached, endedKey(partition, id)],
        args: [partition.tag, id, number(Math.max(0, millis))],
        decode: (reply) => text(reply) === "1"
      })
    },

    // No time is needed: Redis itself expires the tombstone.
    wasEnded: (id) => {
      const partition = partitions.of(id)
      return call({
        operation: "wasEnded",
        script: Scripts.wasEnded,
        keys: [endedKey(partition, id)],
        args: [],
        decode: (reply) => text(reply) === "1"
      })
    }
  }
}

const lists = (
  connection: Connection,
  partitions: Partitions
): Pick<SessionOperations, "detachedBefore" | "sessionsOf" | "sessionsOfPrincipal" | "countSessions"> => {
  const { call } = connection
  const find = makeFind(connection, partitions)

  return {
    // First gets ids from all partitions, then the rows of the oldest among them. Leaves out a session that was
    // attached or removed in between.
    detachedBefore: Effect.fnUntraced(function*(at, limit) {
      const ids = yield* Effect.forEach(partitions.all, (partition) =>
        call({
          operation: "detachedBefore",
          script: Scripts.detachedBefore,
          keys: [partition.detached],
          args: [number(at), number(limit)],
          decode: (reply) => rowsOf(reply, 2).map(([id, since]) => ({ id: text(id), since: count(since) }))
        }), { concurrency: "unbounded" })
      const oldest = ids.flat().sort((a, b) => a.since - b.since).slice(0, limit)
      const rows = yield* find("detachedBefore", oldest.map(({ id }) => id))
      return rows.filter((row) => row !== undefined).filter(({ detachedAt }) =>
        detachedAt !== undefined && detachedAt <= at
      )
    }),

    sessionsOf: Effect.fnUntraced(function*(node, limit) {
      const ids = yield* Effect.forEach(partitions.all, (partition) =>
        call({
          operation: "sessionsOf",
          script: Scripts.sessionsOf,
          keys: [`${partition.tag}:n:${node}`],
          args: [number(limit)],
          decode: (reply) => list(reply).map(text)
        }), { concurrency: "unbounded" })
      const rows = yield* find("sessionsOf", ids.flat().slice(0, limit))
      return rows.filter((row) => row !== undefined).filter((row) => row.node === node)
    }),

    sessionsOfPrincipal: Effect.fnUntraced(function*(principal, limit) {
      const ids = yield* Effect.forEach(partitions.all, (partition) =>
        call({
          operation: "sessionsOfPrincipal",
          script: Scripts.sessionsOfPrincipal,
          keys: [`${partition.tag}:p:${principal}`],
          args: [number(limit)],
          decode: (reply) =>
            rowsOf(reply, 2).map(([id, since]) => ({
              id: text(id),
              since: text(since) === "inf" ? Infinity : Number(text(since))
            }))
        }), { concurrency: "unbounded" })
      const newest = ids.flat().sort((a, b) => a.since === b.since ? 0 : b.since - a.since).slice(0, limit)
      const rows = yield* find("sessionsOfPrincipal", newest.map(({ id }) => id))
      return rows.filter((row) => row !== undefined).filter((row) => row.principal === principal && !row.ending)
    }),

    countSessions: Effect.forEach(partitions.all, (partition) =>
      call({
        operation: "countSessions",
        script: Scripts.countSessions,
        keys: [partition.totals, partition.detached],
        args: [],
        decode: (reply) => list(reply).map(count)
      }), { concurrency: "unbounded" }).pipe(
        Effect.map((all) => {
          const sum = (column: number) => all.reduce((total, row) => total + (row[column] ?? 0), 0)
          return { sessions: sum(0), attached: sum(0) - sum(1) }
        })
      )
  }
}

const makeFind = ({ call }: Connection, partitions: Partitions) => (operation: string, ids: ReadonlyArray<string>) =>
  scatter(ids, partitions.of, (partition, own) =>
    call({
      operation,
      script: Scripts.findSessions,
      keys: own.map((id) => sessionKey(partition, id)),
      args: [],
      decode: (reply) => list(reply).map((row, i) => rowOf(own[i] ?? "", row))
    }))

const sessionKey = ({ tag }: Partition, id: string): string => `${tag}:r:${id}`
const endedKey = ({ tag }: Partition, id: string): string => `${tag}:x:${id}`

/** In the order of sessionScripts.ts. */
const rowArgs = (row: SessionRow): ReadonlyArray<string> => [
  optional(row.principal),
  row.tokenHash,
  optional(row.previousTokenHash),
  number(row.generation),
  row.instance,
  number(row.attempt),
  optional(row.node),
  optionalNumber(row.detachedAt),
  optional(row.wantedBy),
  row.ending ? "1" : "0",
  number(row.revision)
]

const rowOf = (id: string, reply: unknown): SessionRow | undefined => {
  const fields = list(reply)
  if (fields.length === 0) return undefined
  const [principal, tokenHash, previous, generation, instance, attempt, node, detachedAt, wantedBy, ending, revision] =
    fields
  return {
    id,
    principal: maybe(principal),
    tokenHash: text(tokenHash),
    previousTokenHash: maybe(previous),
    generation: count(generation),
    instance: text(instance),
    attempt: count(attempt),
    node: maybe(node),
    detachedAt: maybeCount(detachedAt),
    wantedBy: maybe(wantedBy),
    ending: text(ending) === "1",
    revision: count(revision)
  }
}

const positionOutcomeOf = (reply: unknown): PositionOutcome => {
  switch (text(reply)) {
    case "S":
      return "Saved"
    case "B":
      return "Behind"
    case "F":
      return "Fenced"
    case "M":
      return "Missing"
  }
  throw new TypeError(`Redis answered a position with ${text(reply)}`)
}
