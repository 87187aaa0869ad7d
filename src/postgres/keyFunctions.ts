/**
 * PL/pgSQL of publish keys.
 *
 * A key is live while its claim lasts, or from its commit until it is forgotten; any other row counts as absent. Rows
 * are counted in shards, since one counter that every claim changes would let only one transaction claim at a time.
 * Concurrent claims don't see each other's counts, so `maxKeys` can be exceeded by as many as run at once.
 */
import { APPENDED, DUPLICATE, IN_FLIGHT, inOrder, KEYS_FULL, MISMATCH } from "./plpgsql.ts"

/** How many old keys, not yet swept, a full table sweeps at once to make room. */
const roomAtOnce = 1000

const isLive = "(CASE WHEN k.committed_at IS NULL THEN k.until > p_now ELSE k.committed_at >= p_forgotten END)"

/** The answers for a live key that somebody else has. */
const refuse = `
        code := CASE
          WHEN k.fingerprint <> p_fingerprint THEN ${MISMATCH}
          WHEN k.committed_at IS NOT NULL THEN ${DUPLICATE}
          ELSE ${IN_FLIGHT} END;
        epoch := k.epoch; first := k.first; at := k.at; message_id := k.message_id; until := k.until;
        RETURN;`

const lockKey = (schema: string): string =>
  `SELECT * INTO k FROM ${schema}.keys x WHERE x.scope = p_scope AND x.key = p_key FOR UPDATE;`

/** Statements that make the functions in `schema` (quoted). */
export const keyFunctions = (schema: string): ReadonlyArray<string> => [
  ...counting(schema),
  ...publishing(schema),
  ...claiming(schema)
]

const counting = (schema: string): ReadonlyArray<string> => [
  `CREATE FUNCTION ${schema}.count_keys(p_more bigint) RETURNS void LANGUAGE plpgsql AS $body$
  BEGIN
    UPDATE ${schema}.key_counts c SET kept = c.kept + p_more
    WHERE c.shard = (SELECT f.shard FROM ${schema}.key_counts f LIMIT 1 FOR UPDATE SKIP LOCKED);
    IF NOT FOUND THEN
      INSERT INTO ${schema}.key_counts (kept) VALUES (p_more);
    END IF;
  END $body$`,

  `CREATE FUNCTION ${schema}.sweep_keys(p_forgotten double precision, p_now double precision, p_limit double precision)
  RETURNS integer LANGUAGE plpgsql ${inOrder} AS $body$
  DECLARE
    v_committed bigint;
    v_claimed bigint;
  BEGIN
    -- Materialized, as a plan may read a subquery anew for each row, and would take more each time.
    WITH d AS MATERIALIZED (
      SELECT x.scope, x.key FROM ${schema}.keys x WHERE x.committed_at < p_forgotten
      ORDER BY x.committed_at LIMIT p_limit::bigint FOR UPDATE SKIP LOCKED
    ) DELETE FROM ${schema}.keys k USING d WHERE k.scope = d.scope AND k.key = d.key;
    GET DIAGNOSTICS v_committed = ROW_COUNT;
    WITH d AS MATERIALIZED (
      SELECT x.scope, x.key FROM ${schema}.keys x WHERE x.committed_at IS NULL AND x.until <= p_now
      ORDER BY x.until LIMIT p_limit::bigint - v_committed FOR UPDATE SKIP LOCKED
    ) DELETE FROM ${schema}.keys k USING d WHERE k.scope = d.scope AND k.key = d.key;
    GET DIAGNOSTICS v_claimed = ROW_COUNT;
    IF v_committed + v_claimed > 0 THEN
      PERFORM ${schema}.count_keys(-(v_committed + v_claimed));
    END IF;
    RETURN v_committed + v_claimed;
  END $body$`,

  // Whether one more key may be kept, not counting \`p_own\` rows.
  `CREATE FUNCTION ${schema}.has_room(
    p_own integer, p_max double precision, p_forgotten double precision, p_now double precision
  ) RETURNS boolean LANGUAGE plpgsql AS $body$
  DECLARE
    v_kept bigint;
  BEGIN
    SELECT coalesce(sum(c.kept), 0) - p_own INTO v_kept FROM ${schema}.key_counts c;
    RETURN v_kept < p_max OR v_kept - ${schema}.sweep_keys(p_forgotten, p_now, ${roomAtOnce}) < p_max;
  END $body$`
]

const publishing = (schema: string): ReadonlyArray<string> => [
  // Commits a key together with its append if \`p_room\` says that there is room; otherwise says why not. \`added\` is
  // how many rows to count.
  `CREATE FUNCTION ${schema}.publish(
    p_scope text, p_key text, p_fingerprint text, p_forgotten double precision, p_max double precision,
    p_now double precision, p_epoch text, p_first double precision, p_room integer,
    OUT code integer, OUT added integer, OUT epoch text, OUT first double precision, OUT at double precision,
    OUT message_id text, OUT until double precision
  ) LANGUAGE plpgsql AS $body$
  DECLARE
    k ${schema}.keys;
    v_found boolean;
  BEGIN
    added := 0;
    LOOP
      ${lockKey(schema)}
      v_found := FOUND;
      IF v_found AND ${isLive} THEN ${refuse}
      END IF;
      IF p_room <> ${APPENDED} THEN code := p_room; RETURN; END IF;
      IF v_found THEN
        DELETE FROM ${schema}.keys x WHERE x.scope = p_scope AND x.key = p_key;
        added := added - 1;
      END IF;
      IF NOT ${schema}.has_room(-added, p_max, p_forgotten, p_now) THEN code := ${KEYS_FULL}; RETURN; END IF;
      INSERT INTO ${schema}.keys (scope, key, fingerprint, until, committed_at, message_id, epoch, first, at)
      VALUES (p_scope, p_key, p_fingerprint, p_now, p_now, p_key, p_epoch, p_first, p_now)
      ON CONFLICT DO NOTHING;
      -- Somebody else may have been first, since we looked.
      CONTINUE WHEN NOT FOUND;
      added := added + 1;
      code := ${APPENDED};
      RETURN;
    END LOOP;
  END $body$`
]

const claiming = (schema: string): ReadonlyArray<string> => [
  `CREATE FUNCTION ${schema}.claim_key(
    p_scope text, p_key text, p_fingerprint text, p_forgotten double precision, p_max double precision,
    p_now double precision, p_token text, p_until double precision,
    OUT code integer, OUT epoch text, OUT first double precision, OUT at double precision,
    OUT message_id text, OUT until double precision
  ) LANGUAGE plpgsql AS $body$
  DECLARE
    k ${schema}.keys;
    v_added integer := 0;
    v_again boolean := false;
  BEGIN
    LOOP
      ${lockKey(schema)}
      IF FOUND THEN
        v_again := k.committed_at IS NULL AND k.token = p_token AND k.until > p_now;
        IF ${isLive} AND NOT v_again THEN ${refuse}
        END IF;
        DELETE FROM ${schema}.keys x WHERE x.scope = p_scope AND x.key = p_key;
        v_added := v_added - 1;
      END IF;
      IF NOT v_again AND NOT ${schema}.has_room(-v_added, p_max, p_forgotten, p_now) THEN code := ${KEYS_FULL}; EXIT; END IF;
      INSERT INTO ${schema}.keys (scope, key, fingerprint, token, until)
      VALUES (p_scope, p_key, p_fingerprint, p_token, p_until)
      ON CONFLICT DO NOTHING;
      CONTINUE WHEN NOT FOUND;
      v_added := v_added + 1;
      code := ${APPENDED};
      EXIT;
    END LOOP;
    IF v_added <> 0 THEN PERFORM ${schema}.count_keys(v_added); END IF;
  END $body$`,

  // These functions look the row up by its key first and check the claim afterwards, so that the planner can't choose
  // another index.
  `CREATE FUNCTION ${schema}.renew_key(
    p_scope text, p_key text, p_token text, p_now double precision, p_until double precision
  ) RETURNS boolean LANGUAGE plpgsql AS $body$
  DECLARE
    k ${schema}.keys;
  BEGIN
    ${lockKey(schema)}
    IF k.token = p_token AND k.committed_at IS NULL AND k.until > p_now THEN
      UPDATE ${schema}.keys x SET until = p_until WHERE x.scope = p_scope AND x.key = p_key;
      RETURN true;
    END IF;
    RETURN false;
  END $body$`,

  // Repeating a commit succeeds: the token stays with the key.
  `CREATE FUNCTION ${schema}.commit_key(
    p_scope text, p_key text, p_token text, p_now double precision,
    p_message_id text, p_epoch text, p_first double precision, p_at double precision
  ) RETURNS boolean LANGUAGE plpgsql AS $body$
  DECLARE
    k ${schema}.keys;
  BEGIN
    ${lockKey(schema)}
    IF k.token = p_token AND k.committed_at IS NULL AND k.until > p_now THEN
      UPDATE ${schema}.keys x
      SET committed_at = p_now, message_id = p_message_id, epoch = p_epoch, first = p_first, at = p_at
      WHERE x.scope = p_scope AND x.key = p_key;
      RETURN true;
    END IF;
    RETURN coalesce(k.token = p_token AND k.committed_at IS NOT NULL, false);
  END $body$`,

  `CREATE FUNCTION ${schema}.release_key(p_scope text, p_key text, p_token text) RETURNS void
  LANGUAGE plpgsql AS $body$
  DECLARE
    k ${schema}.keys;
  BEGIN
    ${lockKey(schema)}
    IF k.token = p_token AND k.committed_at IS NULL THEN
      DELETE FROM ${schema}.keys x WHERE x.scope = p_scope AND x.key = p_key;
      PERFORM ${schema}.count_keys(-1);
    END IF;
  END $body$`
]
