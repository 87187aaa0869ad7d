/**
 * What the PL/pgSQL functions have in common: how they work on batches, what they return, and settings. They are the
 * driver's half in the database, so that a batch is one round trip and one commit.
 *
 * Batches all work the same way: lock the rows, in the order of their names; read them into arrays; go through the
 * requests in order, in memory; write all results with one statement per table.
 *
 * Patience. A transaction of the application that sends may lock a row for long. A batch waits for a lock as long as it
 * is told (`patience`, in ms, 0 for ever). That is shorter than PostgreSQL waits before it looks for deadlocks, so a
 * batch never breaks somebody's transaction. With `skip`, locked rows are left out instead, and their requests come
 * back as {@link PENDING}.
 */

/** The result of a request that must be asked again. */
export const PENDING = 0

/** What `append` returns for a request, in `codes`. */
export const APPENDED = 1
export const MISSING = 2
export const FULL_MESSAGES = 3
export const FULL_BYTES = 4
export const DUPLICATE = 5
export const MISMATCH = 6
export const IN_FLIGHT = 7
export const KEYS_FULL = 8
export const UNSETTLED = 9

/** Other codes that these functions return. */
export const DONE = 1
export const FENCED = 3
export const CONFLICT = 4

/** SQLSTATE for a batch that is older than the writer's newest. */
export const STALE_BATCH = "RW001"

/**
 * For functions that join arrays with tables. Rows are found by their keys, whatever the statistics say (they may be
 * from when the table was empty), and calls need no planning.
 */
export const byKeys = `
  SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
  SET jit = off SET plan_cache_mode = force_generic_plan`

/** For functions that read a few of many rows in the order of an index, and must not read and sort all of them. */
export const inOrder = `${byKeys} SET enable_sort = off`

/** For functions that call `set_config` with their patience: the setting lasts until they return. */
export const patient = "SET lock_timeout = 0"

export const impatience = "PERFORM set_config('lock_timeout', p_patience, true);"

/** With `skip`, locks those of `p_sessions` that are free; `v_sessions` has null in place of the others. */
export const lockFree = (schema: string, table: "outboxes" | "sessions", key: "session" | "id"): string =>
  `IF p_skip THEN
      WITH free AS (
        SELECT o.${key} FROM unnest(p_sessions) AS t(${key}) JOIN ${schema}.${table} o ON o.${key} = t.${key}
        ORDER BY o.${key} FOR UPDATE OF o SKIP LOCKED
      ) SELECT array_agg(free.${key} ORDER BY t.ord) INTO v_sessions
        FROM unnest(p_sessions) WITH ORDINALITY AS t(${key}, ord) LEFT JOIN free ON free.${key} = t.${key};
    END IF;`
