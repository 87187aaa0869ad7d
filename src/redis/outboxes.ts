/** Outboxes in Redis: the calls of appendScript.ts and outboxScripts.ts. */
import { Effect } from "effect"
import { type StoreDriver, StoreError } from "../internal/store/driver.ts"
import type { AppendRequest, Stamp } from "../internal/store/outboxes.ts"
import { append } from "./appendScript.ts"
import type { Connection } from "./connection.ts"
import {
  ackOf,
  appendedOf,
  conditionalOf,
  fateArgs,
  fateOf,
  maybeStateOf,
  pageOf,
  pushAppend,
  stateOf
} from "./outboxReplies.ts"
import * as Scripts from "./outboxScripts.ts"
import type { Partition, Partitions } from "./partitions.ts"
import { count, list, number, optional, optionalNumber, text } from "./replies.ts"
import { scatter } from "./scatter.ts"

type OutboxOperations = Pick<
  StoreDriver,
  | "openOutbox"
  | "append"
  | "read"
  | "ack"
  | "giveUp"
  | "markSent"
  | "advance"
  | "removeOutbox"
  | "outboxes"
  | "fates"
  | "sweepFates"
  | "totals"
>

/** How many writers this process remembers: it has only a few. */
const maxWriters = 1_000

export const makeOutboxes = (connection: Connection, partitions: Partitions): OutboxOperations => ({
  ...appending(connection, partitions),
  ...owning(connection, partitions),
  ...reading(connection, partitions),
  ...lives(connection, partitions)
})

const appending = (connection: Connection, partitions: Partitions): Pick<OutboxOperations, "append"> => {
  const { call } = connection
  const newerThan = makeOrder()

  const appendTo = (
    partition: Partition,
    requests: ReadonlyArray<AppendRequest>,
    stamp: Stamp | undefined,
    node: string
  ) => {
    const { claimed, committed, fates, keys, tag, totals, writers } = partition
    const batch = stamp === undefined ? totals : `${tag}:w:${stamp.writer}`
    const args = [
      tag,
      partitions.channel(""),
      node,
      optional(stamp?.writer),
      stamp === undefined ? "" : number(stamp.sequence)
    ]
    for (const request of requests) pushAppend(args, request)
    return call({
      operation: "append",
      script: append,
      keys: [totals, keys, committed, claimed, writers, batch, fates],
      args,
      decode: appendedOf
    }).pipe(
      Effect.flatMap((done) => "newest" in done ? Effect.fail(olderThan(done.newest)) : Effect.succeed(done))
    )
  }

  return {
    append: (requests, stamp, node) => {
      const astray = requests.find(({ publish, session }) =>
        publish !== undefined && partitions.of(publish.scope) !== partitions.of(session)
      )
      if (astray !== undefined) {
        const cause = new TypeError(`the publish key of an append has its session as its scope, not ${astray.session}`)
        return Effect.fail(new StoreError("append", cause))
      }
      const newest = stamp === undefined ? undefined : newerThan(stamp)
      if (newest !== undefined) return Effect.fail(olderThan(newest))
      return scatter(
        requests,
        ({ session }) => partitions.of(session),
        (partition, own) => appendTo(partition, own, stamp, node)
      )
    }
  }
}

const owning = (
  connection: Connection,
  partitions: Partitions
): Pick<OutboxOperations, "ack" | "giveUp" | "markSent" | "advance"> => {
  const { call } = connection

  return {
    ack: (requests) =>
      scatter(requests, ({ session }) => partitions.of(session), (partition, own) =>
        call({
          operation: "ack",
          script: Scripts.ack,
          keys: [partition.totals, partition.fates],
          args: [
            partition.tag,
            ...own.flatMap(({ fates, generation, session, upTo }) => [
              session,
              number(generation),
              number(upTo),
              number(fates.length),
              ...fates.flatMap(fateArgs)
            ])
          ],
          decode: (reply) => list(reply).map(ackOf)
        })),

    giveUp: (request) => {
      const { addGaps, expiresAt, fates, generation, removeChunks, removeGaps, revision, session } = request
      const partition = partitions.of(session)
      return call({
        operation: "giveUp",
        script: Scripts.giveUp,
        keys: [
          outboxKey(partition, session),
          chunksKey(partition, session),
          gapsKey(partition, session),
          partition.totals,
          partition.fates
        ],
        args: [
          partition.tag,
          session,
          optionalNumber(generation),
          number(revision),
          optionalNumber(expiresAt),
          number(removeGaps.length),
          number(addGaps.length),
          number(removeChunks.length),
          number(fates.length),
          ...removeGaps.map(number),
          ...addGaps.flatMap(({ end, first, reason }) => [number(first), number(end), reason]),
          ...removeChunks.map(number),
          ...fates.flatMap(fateArgs)
        ],
        decode: conditionalOf
      })
    },

    markSent: ({ generation, revision, sent, session }) => {
      const partition = partitions.of(session)
      return call({
        operation: "markSent",
        script: Scripts.markSent,
        keys: [outboxKey(partition, session), partition.totals],
        args: [optionalNumber(generation), number(revision), number(sent)],
        decode: conditionalOf
      })
    },

    advance: ({ at, generation, isMoved, last, session, settledIn }) => {
      const partition = partitions.of(session)
      return call({
        operation: "advance",
        script: Scripts.advance,
        keys: [outboxKey(partition, session), partition.totals, partition.fates],
        args: [
          partition.tag,
          session,
          number(generation),
          number(last),
          number(at),
          isMoved === true ? "1" : "0",
          settledIn ?? ""
        ],
        decode: (reply) => {
          const [lost, state] = list(reply)
          return state === undefined ? undefined : { state: stateOf(session, state), lost: count(lost) }
        }
      })
    }
  }
}

const reading = (
  connection: Connection,
  partitions: Partitions
): Pick<OutboxOperations, "read" | "outboxes" | "fates" | "totals"> => {
  const { call } = connection

  return {
    read: ({ after, maxBytes, maxChunks, session }) => {
      const partition = partitions.of(session)
      return call({
        operation: "read",
        script: Scripts.readOutbox,
        keys: [outboxKey(partition, session), chunksKey(partition, session), gapsKey(partition, session)],
        args: [number(after), number(maxChunks), number(maxBytes)],
        decode: (reply) => pageOf(session, reply)
      })
    },

    outboxes: (sessions) =>
      scatter(sessions, partitions.of, (partition, own) =>
        call({
          operation: "outboxes",
          script: Scripts.outboxStates,
          keys: own.map((session) => outboxKey(partition, session)),
          args: [],
          decode: (reply) => list(reply).map((state, i) => maybeStateOf(own[i] ?? "", state))
        })).pipe(Effect.map((states) => states.filter((state) => state !== undefined))),

    fates: (session, first, end) => {
      const partition = partitions.of(session)
      return call({
        operation: "fates",
        script: Scripts.fatesOf,
        keys: [outboxKey(partition, session), fatesKey(partition, session)],
        args: [number(first), number(end)],
        decode: (reply) => list(reply).map(fateOf)
      })
    },

    totals: Effect.forEach(partitions.all, (partition) =>
      call({
        operation: "totals",
        script: Scripts.readTotals,
        keys: [partition.totals],
        args: [],
        decode: (reply) => list(reply).map(count)
      }), { concurrency: "unbounded" }).pipe(
        Effect.map((all) => {
          const sum = (column: number) => all.reduce((total, row) => total + (row[column] ?? 0), 0)
          return { sessions: sum(0), messages: sum(1), bytes: sum(2) }
        })
      )
  }
}

const lives = (
  connection: Connection,
  partitions: Partitions
): Pick<OutboxOperations, "openOutbox" | "removeOutbox" | "sweepFates"> => {
  const { call } = connection

  return {
    openOutbox: ({ generation, isPutBack, newEpoch, node, session }) => {
      const partition = partitions.of(session)
      return call({
        operation: "openOutbox",
        script: Scripts.openOutbox,
        keys: [outboxKey(partition, session), partition.totals],
        args: [number(generation), node, newEpoch, isPutBack === true ? "1" : "0"],
        decode: (reply) => stateOf(session, reply)
      })
    },

    removeOutbox: (session, last, revision) => {
      const partition = partitions.of(session)
      return call({
        operation: "removeOutbox",
        script: Scripts.removeOutbox,
        keys: [
          outboxKey(partition, session),
          chunksKey(partition, session),
          gapsKey(partition, session),
          fatesKey(partition, session),
          partition.totals,
          partition.fates
        ],
        args: [session, number(last), revision === undefined ? "" : number(revision)],
        decode: (reply) => text(reply) === "1"
      })
    },

    // One partition after another, as they share the limit.
    sweepFates: (before, limit) =>
      Effect.reduce(partitions.all, () => 0, (swept, partition) =>
        swept >= limit ? Effect.succeed(swept) : call({
          operation: "sweepFates",
          script: Scripts.sweepFates,
          keys: [partition.fates, partition.totals],
          args: [partition.tag, number(before), number(limit - swept)],
          decode: (reply) => swept + count(reply)
        }))
  }
}

const outboxKey = ({ tag }: Partition, session: string): string => `${tag}:o:${session}`
const chunksKey = ({ tag }: Partition, session: string): string => `${tag}:c:${session}`
const gapsKey = ({ tag }: Partition, session: string): string => `${tag}:g:${session}`
const fatesKey = ({ tag }: Partition, session: string): string => `${tag}:f:${session}`

/**
 * The sequence of a newer batch that this process sent for the writer. The database compares only within a partition,
 * and an older batch may share no partition with a newer one.
 */
const makeOrder = () => {
  const newest = new Map<string, number>()
  return ({ sequence, writer }: Stamp): number | undefined => {
    const known = newest.get(writer)
    if (known !== undefined && known > sequence) return known
    newest.delete(writer)
    newest.set(writer, sequence)
    const [oldest] = newest.keys()
    if (newest.size > maxWriters && oldest !== undefined) newest.delete(oldest)
    return undefined
  }
}

const olderThan = (newest: number) =>
  new StoreError("append", new Error(`batch ${newest} of the same writer came before`))
