/** Outboxes in PostgreSQL: the calls of appendFunction.ts, ackFunctions.ts and outboxFunctions.ts. */
import { Effect } from "effect"
import type { StoreDriver } from "../internal/store/driver.ts"
import type {
  AckOutcome,
  AckRequest,
  AppendRequest,
  AppendResult,
  Fate,
  Locked,
  Stamp
} from "../internal/store/outboxes.ts"
import { allDone, distinct, ownersParameters, type Patience, unlessLocked, unlimited } from "./batches.ts"
import type { Database, Statement } from "./connection.ts"
import { appendResult, lostOf, toConditional, toFate, toPage, toState } from "./outboxRows.ts"
import * as Codes from "./plpgsql.ts"
import * as Values from "./values.ts"

type Outboxes = Pick<
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

const locked: Locked = { _tag: "Locked" }

export const makeOutboxes = (database: Database): Outboxes => ({
  ...appending(database),
  ...owning(database),
  ...reading(database),
  ...removing(database)
})

const appending = (database: Database): Pick<Outboxes, "append"> => {
  const { schema } = database

  return {
    append: (requests, stamp, node) => {
      if (requests.length === 0) return Effect.succeed([])
      const batch = unlessLocked(
        database,
        "append",
        requests.length,
        locked,
        (patience) => database.queryWithin("append", appendStatement(schema, requests, patience, stamp, node))
      )
      if (stamp !== undefined) return batch
      return Effect.flatMap(database.isInTransaction, (isInside) =>
        isInside
          ? Effect.map(
            database.queryInside("append", appendStatement(schema, requests, unlimited, undefined, node)),
            allDone
          )
          : batch)
    }
  }
}

const owning = (database: Database): Pick<Outboxes, "openOutbox" | "ack" | "giveUp" | "markSent" | "advance"> => {
  const { schema } = database

  return {
    openOutbox: ({ generation, isPutBack, newEpoch, node, session }) =>
      database.query("openOutbox", {
        sql: `SELECT ${stateColumns(schema)} FROM ${schema}.open_outbox(${Values.places(5)})`,
        parameters: () => [
          Values.text(session),
          Values.number(generation),
          Values.text(node),
          Values.text(newEpoch),
          Values.boolean(isPutBack === true)
        ],
        decode: (rows) => toState(Values.onlyRow(rows))
      }),

    ack: (requests) =>
      requests.length === 0 ?
        Effect.succeed([]) :
        unlessLocked(database, "ack", requests.length, locked, (patience) =>
          database.queryWithin("ack", ackStatement(schema, requests, patience))),

    giveUp: ({ addGaps, expiresAt, fates, generation, removeChunks, removeGaps, revision, session }) =>
      database.query("giveUp", {
        sql: `SELECT * FROM ${schema}.give_up(${Values.places(14)})`,
        parameters: () => [
          Values.text(session),
          Values.number(revision),
          Values.number(generation),
          Values.numbers(removeGaps),
          Values.numbers(addGaps.map(({ first }) => first)),
          Values.numbers(addGaps.map(({ end }) => end)),
          Values.texts(addGaps.map(({ reason }) => reason)),
          Values.numbers(removeChunks),
          Values.number(expiresAt),
          ...fateColumns(newestFates([{ session, fates }]).map(({ fate }) => fate))
        ],
        decode: toConditional
      }),

    markSent: ({ generation, revision, sent, session }) =>
      database.query("markSent", {
        sql: `SELECT * FROM ${schema}.mark_sent(${Values.places(4)})`,
        parameters: () => [
          Values.text(session),
          Values.number(generation),
          Values.number(revision),
          Values.number(sent)
        ],
        decode: toConditional
      }),

    advance: ({ at, generation, isMoved, last, session, settledIn }) =>
      Effect.flatMap(
        database.query("advance", {
          sql: `SELECT ${schema}.advance(${Values.places(6)})`,
          parameters: () => [
            Values.text(session),
            Values.number(generation),
            Values.number(last),
            Values.number(at),
            Values.boolean(isMoved === true),
            Values.text(settledIn)
          ],
          decode: (rows) => Values.toNumber(Values.onlyRow(rows)[0])
        }),
        (lost) => Effect.map(statesOf(database, [session]), ([state]) => state && { state, lost })
      )
  }
}

const reading = (database: Database): Pick<Outboxes, "read" | "outboxes" | "fates" | "totals"> => {
  const { schema } = database

  return {
    read: ({ after, maxBytes, maxChunks, session }) =>
      database.query("read", {
        sql: `SELECT * FROM ${schema}.read_outbox(${Values.places(4)})`,
        parameters: () => [
          Values.text(session),
          Values.number(after),
          Values.number(maxChunks),
          Values.number(maxBytes)
        ],
        decode: (rows) => toPage(session, rows)
      }),

    outboxes: (sessions) => statesOf(database, sessions),

    fates: (session, first, end) =>
      database.query("fates", {
        sql: `SELECT first::float8, "end"::float8, reason, maybe_handled, at FROM ${schema}.fates_of(${
          Values.places(3)
        })`,
        parameters: () => [Values.text(session), Values.number(first), Values.number(end)],
        decode: (rows) => rows.map(toFate)
      }),

    totals: database.query("totals", {
      sql: `SELECT count(*)::float8, coalesce(sum(messages), 0)::float8, coalesce(sum(bytes), 0)::float8
        FROM ${schema}.outboxes`,
      parameters: () => [],
      decode: (rows) => {
        const [sessions, messages, bytes] = Values.onlyRow(rows).map(Values.toNumber)
        return { sessions: sessions ?? 0, messages: messages ?? 0, bytes: bytes ?? 0 }
      }
    })
  }
}

const removing = (database: Database): Pick<Outboxes, "removeOutbox" | "sweepFates"> => {
  const { schema } = database

  return {
    removeOutbox: (session, last, revision) =>
      database.query("removeOutbox", {
        sql: `SELECT ${schema}.remove_outbox(${Values.places(3)})`,
        parameters: () => [Values.text(session), Values.number(last), Values.number(revision)],
        decode: (rows) => Values.toBoolean(Values.onlyRow(rows)[0])
      }),

    sweepFates: (before, limit) =>
      database.query("sweepFates", {
        sql: `SELECT ${schema}.sweep_fates(${Values.places(2)})`,
        parameters: () => [Values.number(before), Values.number(limit)],
        decode: (rows) => Values.toNumber(Values.onlyRow(rows)[0])
      })
  }
}

const appendStatement = (
  schema: string,
  requests: ReadonlyArray<AppendRequest>,
  patience: Patience,
  stamp: Stamp | undefined,
  node: string
): Statement<ReadonlyArray<AppendResult | undefined>> => ({
  sql: `SELECT * FROM ${schema}.append(${Values.places(23)})`,
  parameters: () => {
    const { index, sessions } = distinct(requests)
    const publishes = requests.some(({ publish }) => publish !== undefined)
    const ofKeys = <A>(of: (request: AppendRequest) => A): ReadonlyArray<A> => publishes ? requests.map(of) : []
    return [
      Values.text(String(patience.millis)),
      Values.boolean(patience.skip),
      Values.text(stamp?.writer),
      Values.number(stamp?.sequence),
      Values.text(node),
      Values.texts(sessions),
      Values.integers(index),
      Values.numbers(requests.map(({ count }) => count)),
      Values.numbers(requests.map(({ bytes }) => bytes)),
      Values.numbers(requests.map(({ enqueuedAt }) => enqueuedAt)),
      Values.numbers(requests.map(({ expiresAt }) => expiresAt)),
      Values.texts(requests.map(({ body }) => body)),
      Values.numbers(requests.map(({ maxMessages }) => maxMessages)),
      Values.numbers(requests.map(({ maxBytes }) => maxBytes)),
      Values.texts(ofKeys(({ publish }) => publish?.scope)),
      Values.texts(ofKeys(({ publish }) => publish?.key)),
      Values.texts(ofKeys(({ publish }) => publish?.fingerprint)),
      Values.numbers(ofKeys(({ publish }) => publish?.forgottenBefore ?? 0)),
      Values.numbers(ofKeys(({ publish }) => publish?.maxKeys ?? 0)),
      Values.texts(requests.map(({ known }) => known?.epoch)),
      Values.numbers(requests.map(({ known }) => known?.last ?? 0)),
      Values.texts(requests.map(({ unsettled = "refuse" }) => unsettled)),
      Values.numbers(requests.map(({ generation = 0 }) => generation))
    ]
  },
  decode: (rows) => {
    const [codes, epochs, firsts, seconds, ids] = Values.onlyRow(rows).map(Values.toArray)
    return (codes ?? []).map((code, at) =>
      appendResult(code, {
        epoch: () => Values.toText(epochs?.[at]),
        first: () => Values.toNumber(firsts?.[at]),
        second: () => Values.toNumber(seconds?.[at]),
        id: () => Values.toText(ids?.[at]),
        node: () => Values.toOptionalText(ids?.[at])
      })
    )
  }
})

const ackStatement = (
  schema: string,
  requests: ReadonlyArray<AckRequest>,
  patience: Patience
): Statement<ReadonlyArray<AckOutcome | undefined>> => ({
  sql: `SELECT * FROM ${schema}.ack(${Values.places(12)})`,
  parameters: () => {
    const fates = newestFates(requests)
    return [
      ...ownersParameters(requests, patience),
      Values.numbers(requests.map(({ upTo }) => upTo)),
      Values.integers(fates.map(({ request }) => request)),
      ...fateColumns(fates.map(({ fate }) => fate))
    ]
  },
  decode: (rows) => {
    const [codes, released, losts] = Values.onlyRow(rows).map(Values.toArray)
    return (codes ?? []).map((code, at): AckOutcome | undefined => {
      switch (code) {
        case Codes.PENDING:
          return undefined
        case Codes.DONE:
          return {
            _tag: "Acked",
            released: Values.toNumber(released?.[at]),
            ...lostOf(Values.toNumber(losts?.[at] ?? 0))
          }
        case Codes.UNSETTLED:
          return { _tag: "Unsettled" }
        case Codes.FENCED:
          return { _tag: "Fenced" }
        case Codes.MISSING:
          return { _tag: "Missing" }
        default:
          throw new Values.Nonsense(`ack: ${String(code)}`)
      }
    })
  }
})

const stateColumns = (schema: string): string =>
  "session, generation::float8, epoch, acked::float8, last::float8, messages::float8, " +
  "bytes::float8, sent::float8, revision::float8, expires_at, node, " +
  `coalesce(history = ${schema}.history(), false), unsettled_from::float8`

const statesOf = (database: Database, sessions: ReadonlyArray<string>) =>
  database.query("outboxes", {
    sql: `SELECT ${stateColumns(database.schema)} FROM ${database.schema}.outboxes_of(${Values.places(1)})`,
    parameters: () => [Values.texts(sessions)],
    decode: (rows) => rows.map(toState)
  })

/**
 * The fates of a batch, each with the number (from 1) of its request. Of several at the same offset, only the newest.
 */
const newestFates = (requests: ReadonlyArray<{ readonly session: string; readonly fates: ReadonlyArray<Fate> }>) => {
  const byPlace = new Map<string, { readonly request: number; readonly fate: Fate }>()
  requests.forEach(({ fates, session }, at) => {
    for (const fate of fates) byPlace.set(`${fate.first} ${session}`, { request: at + 1, fate })
  })
  return [...byPlace.values()]
}

const fateColumns = (fates: ReadonlyArray<Fate>) => [
  Values.numbers(fates.map(({ first }) => first)),
  Values.numbers(fates.map(({ end }) => end)),
  Values.texts(fates.map(({ reason }) => reason)),
  Values.booleans(fates.map(({ maybeHandled }) => maybeHandled)),
  Values.numbers(fates.map(({ at }) => at))
]
