/** Sessions and nodes in PostgreSQL: the calls of sessionFunctions.ts. */
import { Effect } from "effect"
import type { StoreDriver } from "../internal/store/driver.ts"
import type { PositionOutcome, PositionRequest, PutOutcome, SessionRow } from "../internal/store/sessions.ts"
import { allDone, ownersParameters, type Patience, unlessLocked, unlimited } from "./batches.ts"
import type { Database, Statement } from "./connection.ts"
import * as Codes from "./plpgsql.ts"
import { BEHIND } from "./sessionFunctions.ts"
import * as Values from "./values.ts"

type Sessions = Pick<
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
  | "touchNode"
  | "nodes"
  | "forgetNode"
>

const columns = "id, principal, token_hash, previous_token_hash, generation, instance, attempt, node, detached_at, " +
  "wanted_by, ending, revision"

const selected = columns.replace("generation", "generation::float8").replace("attempt", "attempt::float8")
  .replace("revision", "revision::float8")

export const makeSessions = (database: Database): Sessions => ({
  ...rows(database),
  ...lists(database),
  ...nodes(database)
})

const rows = (
  database: Database
): Pick<Sessions, "findSession" | "putSession" | "savePositions" | "deleteSession" | "wasEnded"> => {
  const { schema } = database

  return {
    findSession: (id) =>
      database.query("findSession", {
        sql: `SELECT ${selected} FROM ${schema}.sessions WHERE id = $1`,
        parameters: () => [Values.text(id)],
        decode: ([row]) => row === undefined ? undefined : toSession(row)
      }),

    putSession: (row) =>
      database.query("putSession", {
        sql: row.revision === 1
          ? `WITH new AS (DELETE FROM ${schema}.ended_sessions WHERE id = $1)
            INSERT INTO ${schema}.sessions (${columns}) VALUES (${
            Values.places(12)
          }) ON CONFLICT DO NOTHING RETURNING position`
          : `UPDATE ${schema}.sessions SET (${columns}) = (${Values.places(12)}) WHERE id = $1 AND revision = $12 - 1
            RETURNING position`,
        parameters: () => [
          Values.text(row.id),
          Values.text(row.principal),
          Values.text(row.tokenHash),
          Values.text(row.previousTokenHash),
          Values.number(row.generation),
          Values.text(row.instance),
          Values.number(row.attempt),
          Values.text(row.node),
          Values.number(row.detachedAt),
          Values.text(row.wantedBy),
          Values.boolean(row.ending),
          Values.number(row.revision)
        ],
        decode: ([stored]): PutOutcome =>
          stored === undefined
            ? { _tag: "Conflict" }
            : { _tag: "Stored", position: Values.toOptionalText(stored[0]) }
      }),

    savePositions: (requests) => {
      if (requests.length === 0) return Effect.succeed([])
      return Effect.flatMap(database.isInTransaction, (isInside) =>
        isInside
          ? Effect.map(database.queryInside("savePositions", saveStatement(schema, requests, unlimited)), allDone)
          : unlessLocked(database, "savePositions", requests.length, "Locked" as const, (patience) =>
            database.queryWithin("savePositions", saveStatement(schema, requests, patience))))
    },

    deleteSession: (id, tombstone) =>
      database.query("deleteSession", {
        sql: `SELECT ${schema}.delete_session(${Values.places(3)})`,
        parameters: () => [Values.text(id), Values.number(tombstone?.at), Values.number(tombstone?.until)],
        decode: (rows) => Values.toBoolean(Values.onlyRow(rows)[0])
      }),

    wasEnded: (id, at) =>
      database.query("wasEnded", {
        sql: `SELECT EXISTS (SELECT FROM ${schema}.ended_sessions WHERE id = $1 AND until > $2)`,
        parameters: () => [Values.text(id), Values.number(at)],
        decode: (rows) => Values.toBoolean(Values.onlyRow(rows)[0])
      })
  }
}

const lists = (
  database: Database
): Pick<Sessions, "detachedBefore" | "sessionsOf" | "sessionsOfPrincipal" | "countSessions"> => {
  const { schema } = database

  return {
    detachedBefore: (at, limit) =>
      database.query("detachedBefore", {
        sql: `SELECT ${selected} FROM ${schema}.detached_before(${Values.places(2)})`,
        parameters: () => [Values.number(at), Values.number(limit)],
        decode: (rows) => rows.map(toSession)
      }),

    sessionsOf: (node, limit) =>
      database.query("sessionsOf", {
        sql: `SELECT ${selected} FROM ${schema}.sessions_of(${Values.places(2)})`,
        parameters: () => [Values.text(node), Values.number(limit)],
        decode: (rows) => rows.map(toSession)
      }),

    sessionsOfPrincipal: (principal, limit) =>
      database.query("sessionsOfPrincipal", {
        sql: `SELECT ${selected} FROM ${schema}.sessions_of_principal(${Values.places(2)})`,
        parameters: () => [Values.text(principal), Values.number(limit)],
        decode: (rows) => rows.slice(0, limit).map(toSession)
      }),

    countSessions: database.query("countSessions", {
      sql: `SELECT count(*)::float8, count(*) FILTER (WHERE detached_at IS NULL)::float8 FROM ${schema}.sessions`,
      parameters: () => [],
      decode: (rows) => {
        const [sessions, attached] = Values.onlyRow(rows)
        return { sessions: Values.toNumber(sessions), attached: Values.toNumber(attached) }
      }
    })
  }
}

const nodes = (database: Database): Pick<Sessions, "touchNode" | "nodes" | "forgetNode"> => {
  const { schema } = database

  return {
    touchNode: (node, at) =>
      database.query("touchNode", {
        sql: `INSERT INTO ${schema}.nodes (node, seen_at) VALUES ($1, $2)
          ON CONFLICT (node) DO UPDATE SET seen_at = excluded.seen_at`,
        parameters: () => [Values.text(node), Values.number(at)],
        decode: () => undefined
      }),

    nodes: database.query("nodes", {
      sql: `SELECT node, seen_at FROM ${schema}.nodes`,
      parameters: () => [],
      decode: (rows) => rows.map(([node, seenAt]) => ({ node: Values.toText(node), seenAt: Values.toNumber(seenAt) }))
    }),

    forgetNode: (node) =>
      database.query("forgetNode", {
        sql: `SELECT ${schema}.forget_node($1)`,
        parameters: () => [Values.text(node)],
        decode: () => undefined
      })
  }
}

const saveStatement = (
  schema: string,
  requests: ReadonlyArray<PositionRequest>,
  patience: Patience
): Statement<ReadonlyArray<PositionOutcome | undefined>> => ({
  sql: `SELECT ${schema}.save_positions(${Values.places(9)})`,
  parameters: () => [
    ...ownersParameters(requests, patience),
    Values.texts(requests.map(({ position }) => position)),
    Values.texts(requests.map(({ epoch }) => epoch)),
    Values.numbers(requests.map(({ handled }) => handled)),
    Values.booleans(requests.map(({ strict }) => strict))
  ],
  decode: (rows) => Values.toArray(Values.onlyRow(rows)[0]).map(toPositionOutcome)
})

const toSession = ([
  id,
  principal,
  tokenHash,
  previousTokenHash,
  generation,
  instance,
  attempt,
  node,
  detachedAt,
  wantedBy,
  ending,
  revision
]: Values.Row): SessionRow => ({
  id: Values.toText(id),
  principal: Values.toOptionalText(principal),
  tokenHash: Values.toText(tokenHash),
  previousTokenHash: Values.toOptionalText(previousTokenHash),
  generation: Values.toNumber(generation),
  instance: Values.toText(instance),
  attempt: Values.toNumber(attempt),
  node: Values.toOptionalText(node),
  detachedAt: Values.toOptionalNumber(detachedAt),
  wantedBy: Values.toOptionalText(wantedBy),
  ending: Values.toBoolean(ending),
  revision: Values.toNumber(revision)
})

const toPositionOutcome = (code: unknown): PositionOutcome | undefined => {
  switch (code) {
    case Codes.PENDING:
      return undefined
    case Codes.DONE:
      return "Saved"
    case Codes.MISSING:
      return "Missing"
    case Codes.FENCED:
      return "Fenced"
    case BEHIND:
      return "Behind"
    default:
      throw new Values.Nonsense(`savePositions: ${String(code)}`)
  }
}
