/** Outboxes in Redis: the arguments and replies of outboxScripts.ts. */
import { Effect } from "effect"
import type {
  AckOutcome,
  AppendRequest,
  AppendResult,
  Chunk,
  Conditional,
  Fate,
  Gap,
  OutboxState,
  ReadPage,
  Stamp,
  StoreDriver
} from "../internal/store/driver.ts"
import { StoreError } from "../internal/store/driver.ts"
import type { Connection } from "./connection.ts"
import * as Scripts from "./outboxScripts.ts"
import { type Partition, type Partitions } from "./partitions.ts"
import { keyId, receiptOf } from "./publishKeys.ts"
import { count, list, number, optional, optionalNumber, rowsOf, text } from "./replies.ts"
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

export const makeOutboxes = (connection: Connection, partitions: Partitions): OutboxOperations => {
  const { call } = connection
  const isOlder = makeOrder()

  const appendTo = (
    partition: Partition,
    requests: ReadonlyArray<AppendRequest>,
    stamp: Stamp | undefined,
    node: string
  ) => {
    const { committed, claimed, keys, tag, totals, writers } = partition
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
      script: Scripts.append,
      keys: [totals, keys, committed, claimed, writers, batch],
      args,
      decode: (reply) => decodeAppend(reply)
    }).pipe(
      Effect.flatMap((results) => results instanceof StoreError ? Effect.fail(results) : Effect.succeed(results))
    )
  }

  return {
    openOutbox: ({ generation, newEpoch, node, session }) => {
      const partition = partitions.of(session)
      return call({
        operation: "openOutbox",
        script: Scripts.openOutbox,
        keys: [outboxKey(partition, session), partition.totals],
        args: [number(generation), node, newEpoch],
        decode: (reply) => stateOf(session, reply)
      })
    },

    append: (requests, stamp, node) => {
      const astray = requests.find(({ publish, session }) =>
        publish !== undefined && partitions.of(publish.scope) !== partitions.of(session)
      )
      if (astray !== undefined) {
        const cause = new TypeError(`the publish key of an append has its session as its scope, not ${astray.session}`)
        return Effect.fail(new StoreError("append", cause))
      }
      if (stamp !== undefined && isOlder(stamp)) return Effect.fail(olderBatch(stamp.sequence))
      return scatter(
        requests,
        ({ session }) => partitions.of(session),
        (partition, own) => appendTo(partition, own, stamp, node)
      )
    },

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

    advance: ({ generation, last, session }) => {
      const partition = partitions.of(session)
      return call({
        operation: "advance",
        script: Scripts.advance,
        keys: [outboxKey(partition, session), partition.totals],
        args: [number(generation), number(last)],
        decode: (reply) => maybeStateOf(session, reply)
      })
    },

    removeOutbox: (session, last) => {
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
        args: [session, number(last)],
        decode: (reply) => text(reply) === "1"
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

    // One partition after the other, as the limit is one for all.
    sweepFates: (before, limit) =>
      Effect.reduce(partitions.all, () => 0, (swept, partition) =>
        swept >= limit ? Effect.succeed(swept) : call({
          operation: "sweepFates",
          script: Scripts.sweepFates,
          keys: [partition.fates, partition.totals],
          args: [partition.tag, number(before), number(limit - swept)],
          decode: (reply) => swept + count(reply)
        })),

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

const outboxKey = ({ tag }: Partition, session: string): string => `${tag}:o:${session}`
const chunksKey = ({ tag }: Partition, session: string): string => `${tag}:c:${session}`
const gapsKey = ({ tag }: Partition, session: string): string => `${tag}:g:${session}`
const fatesKey = ({ tag }: Partition, session: string): string => `${tag}:f:${session}`

/** How many writers this process remembers: it has one or a few. */
const maxWriters = 1_000

/**
 * Whether a newer batch of the writer went out from here. The database compares within a partition only, and the
 * older batch may have no partition in common with the newer one.
 */
const makeOrder = () => {
  const newest = new Map<string, number>()
  return ({ sequence, writer }: Stamp): boolean => {
    const known = newest.get(writer)
    if (known !== undefined && known > sequence) return true
    newest.delete(writer)
    newest.set(writer, sequence)
    if (newest.size > maxWriters) {
      for (const [oldest] of newest) {
        newest.delete(oldest)
        break
      }
    }
    return false
  }
}

const olderBatch = (sequence: number) =>
  new StoreError("append", new Error(`batch ${sequence} comes after a newer one of the same writer`))

const pushAppend = (args: Array<string>, request: AppendRequest): void => {
  const { publish } = request
  args.push(
    request.session,
    number(request.count),
    number(request.bytes),
    number(request.enqueuedAt),
    number(request.expiresAt),
    number(request.maxMessages),
    number(request.maxBytes),
    request.body,
    publish === undefined ? "" : keyId(publish),
    publish === undefined ? "" : publish.key,
    optional(publish?.fingerprint),
    publish === undefined ? "" : number(publish.forgottenBefore),
    publish === undefined ? "" : number(publish.maxKeys)
  )
}

const decodeAppend = (reply: unknown): ReadonlyArray<AppendResult> | StoreError => {
  const [kind, ...results] = list(reply)
  return text(kind) === "S" ? olderBatch(count(results[0])) : results.map(appendResultOf)
}

const appendResultOf = (reply: unknown): AppendResult => {
  const [kind, ...fields] = list(reply)
  switch (text(kind)) {
    case "A":
      return { _tag: "Appended", epoch: text(fields[0]), first: count(fields[1]) }
    case "M":
      return { _tag: "Missing" }
    case "F": {
      const limit = text(fields[0]) === "messages" ? "messages" : "bytes"
      return { _tag: "Full", limit, messages: count(fields[1]), bytes: count(fields[2]) }
    }
    case "D":
      return { _tag: "Duplicate", receipt: receiptOf(fields) }
    case "X":
      return { _tag: "Mismatch" }
    case "I":
      return { _tag: "InFlight", until: count(fields[0]) }
    case "K":
      return { _tag: "KeysFull" }
  }
  throw new TypeError(`Redis answered an append with ${text(kind)}`)
}

const stateOf = (session: string, reply: unknown): OutboxState => {
  const [generation, epoch, acked, last, messages, bytes, sent, revision, expiresAt, node] = list(reply)
  return {
    session,
    generation: count(generation),
    epoch: text(epoch),
    acked: count(acked),
    last: count(last),
    messages: count(messages),
    bytes: count(bytes),
    sent: count(sent),
    revision: count(revision),
    expiresAt: count(expiresAt),
    node: text(node)
  }
}

const maybeStateOf = (session: string, reply: unknown): OutboxState | undefined =>
  list(reply).length === 0 ? undefined : stateOf(session, reply)

const pageOf = (session: string, reply: unknown): ReadPage | undefined => {
  const [state, chunks, gaps, more] = list(reply)
  if (state === undefined) return undefined
  return {
    state: stateOf(session, state),
    chunks: rowsOf(chunks, 6).map(chunkOf),
    gaps: list(gaps).map(gapOf),
    more: text(more) === "1"
  }
}

const chunkOf = ([last, first, bytes, enqueuedAt, expiresAt, body]: ReadonlyArray<unknown>): Chunk => ({
  first: count(first),
  last: count(last),
  bytes: count(bytes),
  enqueuedAt: count(enqueuedAt),
  expiresAt: count(expiresAt),
  body: text(body)
})

const gapOf = (reply: unknown): Gap => {
  const [first, end, reason] = text(reply).split(":")
  // Written by giveUp, whose reasons are no others.
  return { first: count(first), end: count(end), reason: reason as Gap["reason"] }
}

const fateArgs = ({ at, end, first, maybeHandled, reason }: Fate): ReadonlyArray<string> => [
  number(first),
  number(end),
  reason,
  maybeHandled ? "1" : "0",
  number(at)
]

const fateOf = (reply: unknown): Fate => {
  const [first, end, reason, maybeHandled, at] = text(reply).split(":")
  return {
    first: count(first),
    end: count(end),
    // Written by ack and giveUp, whose reasons are no others.
    reason: reason as Fate["reason"],
    maybeHandled: maybeHandled === "1",
    at: count(at)
  }
}

const ackOf = (reply: unknown): AckOutcome => {
  const outcome = text(reply)
  if (outcome === "M") return { _tag: "Missing" }
  if (outcome === "F") return { _tag: "Fenced" }
  return { _tag: "Acked", released: count(outcome) }
}

const conditionalOf = (reply: unknown): Conditional => {
  const [kind, revision] = list(reply)
  switch (text(kind)) {
    case "D":
      return { _tag: "Done", revision: count(revision) }
    case "C":
      return { _tag: "Conflict" }
    case "F":
      return { _tag: "Fenced" }
    case "M":
      return { _tag: "Missing" }
  }
  throw new TypeError(`Redis answered a conditional write with ${text(kind)}`)
}
