/**
 * The tables, as statements of the first migration.
 *
 * - Names are compared as bytes (`COLLATE "C"`): faster, and the same on every server whatever its locale.
 * - Counts and offsets are `bigint`; times are `double precision`, whose infinity means "never".
 * - Rows of an outbox have its short `id` instead of its name. So indexes stay small, and a new outbox can't find what
 *   is left of an old one of its name.
 * - No foreign keys: the functions remove what belongs together, and checks would cost every append one more lock.
 */

import { inOrder } from "./plpgsql.ts"

/** Leaves room on the page for a row's next version, which then needs no index entries. */
const updatedOften = "fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0"

/**
 * For rows that are inserted and deleted in bulk: vacuuming soon, with statistics after it, keeps the indexes short.
 */
const passingThrough = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, " +
  "autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0"

/** Statements that make the tables in `schema` (quoted). */
export const tables = (schema: string): ReadonlyArray<string> => [
  ...outboxes(schema),
  ...writers(schema),
  ...sessions(schema),
  ...keys(schema),
  ...nodes(schema)
]

const outboxes = (schema: string): ReadonlyArray<string> => [
  `CREATE TABLE ${schema}.outboxes (
    session text COLLATE "C" PRIMARY KEY,
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    generation bigint NOT NULL,
    epoch text NOT NULL,
    acked bigint NOT NULL DEFAULT 0,
    last bigint NOT NULL DEFAULT 0,
    messages bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    sent bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL,
    expires_at double precision NOT NULL DEFAULT 'Infinity',
    node text COLLATE "C"
  ) WITH (${updatedOften})`,

  // Bodies of up to nearly a page stay in the row, uncompressed: moving or compressing them would double the work for
  // what is written once, read once and deleted. Larger ones go out of line, uncompressed too.
  `CREATE TABLE ${schema}.chunks (
    outbox bigint NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    bytes bigint NOT NULL,
    enqueued_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (outbox, last)
  ) WITH (toast_tuple_target = 8160, toast.autovacuum_vacuum_cost_delay = 0, ${passingThrough})`,
  `ALTER TABLE ${schema}.chunks ALTER COLUMN body SET STORAGE EXTERNAL`,

  `CREATE TABLE ${schema}.gaps (
    outbox bigint NOT NULL,
    first bigint NOT NULL,
    "end" bigint NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (outbox, first)
  ) WITH (${passingThrough})`,

  `CREATE TABLE ${schema}.fates (
    outbox bigint NOT NULL,
    first bigint NOT NULL,
    "end" bigint NOT NULL,
    reason text NOT NULL,
    maybe_handled boolean NOT NULL,
    at double precision NOT NULL,
    PRIMARY KEY (outbox, first)
  ) WITH (${passingThrough})`,
  `CREATE INDEX fates_at ON ${schema}.fates (at)`
]

const writers = (schema: string): ReadonlyArray<string> => [
  // The newest batch of each writer, and its results as \`append\` returns them.
  `CREATE TABLE ${schema}.writers (
    writer text COLLATE "C" PRIMARY KEY,
    sequence double precision,
    codes integer[],
    epochs text[],
    firsts double precision[],
    seconds double precision[],
    ids text[]
  ) WITH (${updatedOften})`
]

const sessions = (schema: string): ReadonlyArray<string> => [
  `CREATE TABLE ${schema}.sessions (
    id text COLLATE "C" PRIMARY KEY,
    principal text,
    token_hash text NOT NULL,
    previous_token_hash text,
    generation bigint NOT NULL,
    instance text NOT NULL,
    attempt bigint NOT NULL,
    node text COLLATE "C",
    detached_at double precision,
    wanted_by text,
    ending boolean NOT NULL,
    revision bigint NOT NULL,
    position text,
    position_epoch text,
    handled bigint
  ) WITH (${updatedOften})`,
  `CREATE INDEX sessions_detached ON ${schema}.sessions (detached_at) WHERE detached_at IS NOT NULL`,
  `CREATE INDEX sessions_node ON ${schema}.sessions (node, id) WHERE node IS NOT NULL`
]

const keys = (schema: string): ReadonlyArray<string> => [
  // A key is claimed while \`committed_at\` is null.
  `CREATE TABLE ${schema}.keys (
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint text,
    token text,
    until double precision NOT NULL,
    committed_at double precision,
    message_id text,
    epoch text,
    first double precision,
    at double precision,
    PRIMARY KEY (scope, key)
  ) WITH (${passingThrough})`,
  `CREATE INDEX keys_committed ON ${schema}.keys (committed_at) WHERE committed_at IS NOT NULL`,
  `CREATE INDEX keys_claimed ON ${schema}.keys (until) WHERE committed_at IS NULL`,

  // The sum of these is how many rows \`keys\` has: each transaction changes a shard that no other is changing.
  `CREATE TABLE ${schema}.key_counts (
    shard bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    kept bigint NOT NULL
  ) WITH (${updatedOften})`
]

const nodes = (schema: string): ReadonlyArray<string> => [
  `CREATE TABLE ${schema}.nodes (
    node text COLLATE "C" PRIMARY KEY,
    seen_at double precision NOT NULL
  ) WITH (${updatedOften})`,

  `CREATE TABLE ${schema}.nudges (
    node text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (node, session)
  ) WITH (${passingThrough})`,
  `CREATE INDEX nudges_oldest ON ${schema}.nudges (node, id)`
]

/** Statements of the second migration: sessions by principal. */
export const principals = (schema: string): ReadonlyArray<string> => [
  `CREATE INDEX sessions_principal ON ${schema}.sessions (principal, detached_at) WHERE principal IS NOT NULL`,

  `CREATE FUNCTION ${schema}.sessions_of_principal(p_principal text, p_limit double precision)
  RETURNS SETOF ${schema}.sessions LANGUAGE plpgsql STABLE ${inOrder} AS $body$
  BEGIN
    RETURN QUERY SELECT * FROM ${schema}.sessions s
      WHERE s.principal = p_principal AND s.detached_at IS NULL AND NOT s.ending LIMIT p_limit::bigint;
    RETURN QUERY SELECT * FROM ${schema}.sessions s
      WHERE s.principal = p_principal AND s.detached_at IS NOT NULL AND NOT s.ending
      ORDER BY s.detached_at DESC LIMIT p_limit::bigint;
  END $body$`
]

/** Statements of the fifth migration: tombstones of sessions that were ended on purpose. */
export const endedSessions = (schema: string): ReadonlyArray<string> => [
  `CREATE TABLE ${schema}.ended_sessions (
    id text COLLATE "C" PRIMARY KEY,
    until double precision NOT NULL
  ) WITH (${passingThrough})`,
  `CREATE INDEX ended_sessions_until ON ${schema}.ended_sessions (until)`
]
