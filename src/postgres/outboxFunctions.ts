/** PL/pgSQL of outboxes, except appends and acks; see plpgsql.ts on how batches work. */
import { ackFunction, giveUpFunction, noteFates } from "./ackFunctions.ts"
import { appendFunction } from "./appendFunction.ts"
import { byKeys, CONFLICT, DONE, FENCED, inOrder, MISSING } from "./plpgsql.ts"

/** Statements that make the functions in `schema` (quoted). */
export const outboxFunctions = (schema: string): ReadonlyArray<string> => [
  ...opening(schema),
  ...nudging(schema),
  ...changing(schema),
  ...reading(schema),
  ...sweeping(schema)
]

const opening = (schema: string): ReadonlyArray<string> => [
  // Changes when a standby takes over or a backup is put in place: no two postmasters start in the same microsecond.
  `CREATE FUNCTION ${schema}.history() RETURNS text LANGUAGE sql STABLE AS $body$
    SELECT extract(epoch FROM pg_postmaster_start_time())::text
  $body$`,

  // Takes offsets that were given out and that the store no longer has.
  `CREATE FUNCTION ${schema}.take_lost(
    p_outbox bigint, p_first double precision, p_end double precision, p_at double precision
  ) RETURNS void LANGUAGE plpgsql AS $body$
  BEGIN
    INSERT INTO ${schema}.gaps (outbox, first, "end", reason) VALUES (p_outbox, p_first, p_end, 'fresh');
    PERFORM ${schema}.note_fates(ARRAY[p_outbox], ARRAY[p_first], ARRAY[p_end], ARRAY['fresh'], ARRAY[true], ARRAY[p_at]);
  END $body$`,

  // Replaces what comes after `p_from` with a gap up to `p_known`. Returns how many messages and bytes it removed.
  `CREATE FUNCTION ${schema}.drop_after(
    p_session text, p_outbox bigint, p_from double precision, p_last double precision, p_known double precision,
    OUT messages double precision, OUT bytes double precision
  ) LANGUAGE plpgsql AS $body$
  BEGIN
    SELECT p_last - p_from - coalesce(sum(g."end" - greatest(g.first, p_from + 1) + 1), 0) INTO messages
    FROM ${schema}.gaps g WHERE g.outbox = p_outbox AND g."end" > p_from;
    WITH gone AS (
      DELETE FROM ${schema}.chunks c WHERE c.outbox = p_outbox AND c.last > p_from RETURNING c.bytes
    ) SELECT coalesce(sum(gone.bytes), 0) INTO bytes FROM gone;
    DELETE FROM ${schema}.gaps g WHERE g.outbox = p_outbox AND g.first > p_from;
    UPDATE ${schema}.gaps g SET "end" = p_from WHERE g.outbox = p_outbox AND g."end" > p_from;
    INSERT INTO ${schema}.gaps (outbox, first, "end", reason) VALUES (p_outbox, p_from + 1, p_known, 'fresh');
    -- Who has read before may give nothing up by what it read.
    UPDATE ${schema}.outboxes o SET revision = o.revision + 1 WHERE o.session = p_session;
  END $body$`,

  `CREATE FUNCTION ${schema}.open_outbox(
    p_session text, p_generation double precision, p_node text, p_epoch text, p_put_back boolean
  ) RETURNS SETOF ${schema}.outboxes LANGUAGE plpgsql AS $body$
  BEGIN
    RETURN QUERY
      INSERT INTO ${schema}.outboxes AS o (session, generation, epoch, revision, node, history)
      VALUES (p_session, p_generation, p_epoch, 1, p_node, CASE WHEN NOT p_put_back THEN ${schema}.history() END)
      ON CONFLICT (session) DO UPDATE
        SET generation = excluded.generation, node = excluded.node, revision = o.revision + 1
        WHERE o.generation <= excluded.generation
      RETURNING *;
    IF NOT FOUND THEN
      RETURN QUERY SELECT * FROM ${schema}.outboxes o WHERE o.session = p_session;
    END IF;
  END $body$`
]

const nudging = (schema: string): ReadonlyArray<string> => [
  // The channel that tells a node of its nudges.
  `CREATE FUNCTION ${schema}.channel_of(p_node text) RETURNS text LANGUAGE sql IMMUTABLE AS $body$
    SELECT 'rws_' || left(encode(sha256(convert_to('${schema}/' || p_node, 'UTF8')), 'hex'), 40)
  $body$`,

  // An existing row is locked but not written, so that a taker of nudges leaves it until this transaction commits. Only
  // new rows notify the node, since commits that notify wait for each other.
  `CREATE FUNCTION ${schema}.add_nudges(p_nodes text[], p_sessions text[]) RETURNS void
  LANGUAGE plpgsql ${byKeys} AS $body$
  DECLARE
    v_node text;
  BEGIN
    FOR v_node IN
      WITH added AS (
        INSERT INTO ${schema}.nudges AS n (node, session)
        SELECT t.node, t.session FROM unnest(p_nodes, p_sessions) AS t(node, session)
        WHERE t.node IS NOT NULL ORDER BY t.node, t.session
        ON CONFLICT (node, session) DO UPDATE SET node = excluded.node WHERE false
        RETURNING n.node
      ) SELECT DISTINCT added.node FROM added
    LOOP
      PERFORM pg_notify(${schema}.channel_of(v_node), '');
    END LOOP;
  END $body$`
]

const changing = (schema: string): ReadonlyArray<string> => [
  noteFates(schema),
  appendFunction(schema),
  ackFunction(schema),
  giveUpFunction(schema),

  `CREATE FUNCTION ${schema}.mark_sent(
    p_session text, p_generation double precision, p_revision double precision,
    p_sent double precision, OUT code integer, OUT revision double precision
  ) LANGUAGE plpgsql AS $body$
  DECLARE
    o ${schema}.outboxes;
  BEGIN
    SELECT * INTO o FROM ${schema}.outboxes x WHERE x.session = p_session FOR UPDATE;
    IF NOT FOUND THEN code := ${MISSING}; RETURN; END IF;
    IF o.generation > p_generation THEN code := ${FENCED}; RETURN; END IF;
    IF o.revision <> p_revision THEN code := ${CONFLICT}; RETURN; END IF;
    UPDATE ${schema}.outboxes x SET sent = p_sent, revision = x.revision + 1 WHERE x.session = p_session;
    code := ${DONE};
    revision := o.revision + 1;
  END $body$`,

  `CREATE FUNCTION ${schema}.advance(
    p_session text, p_generation double precision, p_last double precision, p_at double precision, p_moved boolean,
    p_settled_in text
  ) RETURNS double precision LANGUAGE plpgsql AS $body$
  DECLARE
    o ${schema}.outboxes;
    v_lost bigint;
    v_settled boolean;
    v_first bigint;
    v_moved boolean;
  BEGIN
    SELECT * INTO o FROM ${schema}.outboxes x WHERE x.session = p_session FOR UPDATE;
    IF NOT FOUND OR o.generation > p_generation THEN RETURN 0; END IF;
    v_lost := greatest(0, p_last::bigint - o.last);
    IF v_lost > 0 THEN
      PERFORM ${schema}.take_lost(o.id, o.last + 1, p_last, p_at);
      UPDATE ${schema}.outboxes x SET last = o.last + v_lost WHERE x.session = p_session;
    END IF;
    IF o.unsettled_in = p_settled_in THEN o.unsettled_from := NULL; END IF;
    v_settled := coalesce(o.history = ${schema}.history(), false);
    IF v_settled AND o.generation = p_generation THEN RETURN v_lost; END IF;
    v_first := CASE WHEN v_settled THEN o.settled_at ELSE o.unsettled_from END;
    v_first := CASE WHEN v_first IS NOT NULL THEN greatest(v_first, o.acked) END;
    v_moved := p_moved AND o.last + v_lost <= p_last;
    IF v_moved OR coalesce(v_first >= p_last, true) THEN
      UPDATE ${schema}.outboxes x
      SET history = ${schema}.history(), unsettled_from = NULL, unsettled_in = NULL,
        settled_at = CASE WHEN v_moved THEN o.last + v_lost ELSE least(v_first, o.last + v_lost) END
      WHERE x.session = p_session;
    ELSE
      UPDATE ${schema}.outboxes x
      SET history = NULL, unsettled_from = v_first, unsettled_in = CASE WHEN NOT v_settled THEN x.unsettled_in END
      WHERE x.session = p_session;
    END IF;
    RETURN v_lost;
  END $body$`,

  `CREATE FUNCTION ${schema}.remove_outbox(
    p_session text, p_last double precision, p_revision double precision
  ) RETURNS boolean LANGUAGE plpgsql ${byKeys} AS $body$
  DECLARE
    o ${schema}.outboxes;
  BEGIN
    SELECT * INTO o FROM ${schema}.outboxes x WHERE x.session = p_session FOR UPDATE;
    IF NOT FOUND THEN RETURN true; END IF;
    IF o.last > p_last OR o.revision <> p_revision THEN RETURN false; END IF;
    DELETE FROM ${schema}.outboxes x WHERE x.session = p_session;
    DELETE FROM ${schema}.chunks x WHERE x.outbox = o.id;
    DELETE FROM ${schema}.gaps x WHERE x.outbox = o.id;
    DELETE FROM ${schema}.fates x WHERE x.outbox = o.id;
    RETURN true;
  END $body$`
]

const reading = (schema: string): ReadonlyArray<string> => [
  // STABLE makes it one snapshot: state, chunks and gaps are of the same moment. `kind` says what a row is: 0 the
  // state, 1 a chunk, 2 a gap, 3 that there are more chunks.
  `CREATE FUNCTION ${schema}.read_outbox(
    p_session text, p_after double precision, p_chunks double precision, p_bytes double precision
  ) RETURNS TABLE (kind integer, numbers double precision[], body text, extra text)
  LANGUAGE plpgsql STABLE ${inOrder} AS $body$
  DECLARE
    o ${schema}.outboxes;
    c ${schema}.chunks;
    v_chunks bigint := 0;
    v_bytes bigint := 0;
  BEGIN
    SELECT * INTO o FROM ${schema}.outboxes x WHERE x.session = p_session;
    IF NOT FOUND THEN RETURN; END IF;
    RETURN QUERY SELECT 0,
      ARRAY[o.generation, o.acked, o.last, o.messages, o.bytes, o.sent, o.revision, o.expires_at,
        CASE WHEN o.history = ${schema}.history() THEN 1 ELSE 0 END, o.unsettled_from]::float8[],
      o.epoch, o.node;
    FOR c IN
      SELECT * FROM ${schema}.chunks x WHERE x.outbox = o.id AND x.last > p_after::bigint ORDER BY x.last
    LOOP
      v_bytes := v_bytes + octet_length(c.body);
      IF v_chunks > 0 AND (v_chunks >= p_chunks OR v_bytes > p_bytes) THEN
        RETURN QUERY SELECT 3, NULL::float8[], NULL::text, NULL::text;
        EXIT;
      END IF;
      v_chunks := v_chunks + 1;
      RETURN QUERY SELECT 1,
        ARRAY[c.first, c.last, c.bytes, c.enqueued_at, c.expires_at]::float8[], c.body, NULL::text;
    END LOOP;
    -- Gaps don't overlap: of those that begin before, only the last can reach beyond.
    RETURN QUERY SELECT 2, ARRAY[g.first, g."end"]::float8[], g.reason, NULL::text
      FROM ${schema}.gaps g
      WHERE g.outbox = o.id AND g."end" > p_after AND g.first >= coalesce(
        (SELECT max(h.first) FROM ${schema}.gaps h WHERE h.outbox = o.id AND h.first <= p_after::bigint), 0)
      ORDER BY g.first;
  END $body$`,

  `CREATE FUNCTION ${schema}.outboxes_of(p_sessions text[]) RETURNS SETOF ${schema}.outboxes
  LANGUAGE plpgsql STABLE ${byKeys} AS $body$
  BEGIN
    RETURN QUERY SELECT o.* FROM unnest(p_sessions) WITH ORDINALITY AS t(session, ord)
      JOIN ${schema}.outboxes o ON o.session = t.session ORDER BY t.ord;
  END $body$`,

  `CREATE FUNCTION ${schema}.fates_of(p_session text, p_first double precision, p_end double precision)
  RETURNS SETOF ${schema}.fates LANGUAGE plpgsql STABLE ${byKeys} AS $body$
  BEGIN
    RETURN QUERY SELECT f.* FROM ${schema}.outboxes o JOIN ${schema}.fates f ON f.outbox = o.id
      WHERE o.session = p_session AND f.first <= p_end::bigint AND f."end" >= p_first::bigint ORDER BY f.first;
  END $body$`
]

const sweeping = (schema: string): ReadonlyArray<string> => [
  `CREATE FUNCTION ${schema}.sweep_fates(p_before double precision, p_limit double precision) RETURNS integer
  LANGUAGE plpgsql ${inOrder} AS $body$
  DECLARE
    v_count integer;
  BEGIN
    -- Materialized: see sweep_keys.
    WITH d AS MATERIALIZED (
      SELECT x.outbox, x.first FROM ${schema}.fates x WHERE x.at < p_before ORDER BY x.at
      LIMIT p_limit::bigint FOR UPDATE SKIP LOCKED
    ), swept AS (
      DELETE FROM ${schema}.fates f USING d WHERE f.outbox = d.outbox AND f.first = d.first
      RETURNING f.outbox, f."end"
    ), marked AS (
      -- See sweptFate in outboxes.ts. In order, so that two sweeps do not wait for each other.
      INSERT INTO ${schema}.fates AS m (outbox, first, "end", reason, maybe_handled, at)
      SELECT s.outbox, 0, max(s."end"), 'sessionEnded', true, 'infinity' FROM swept s GROUP BY s.outbox ORDER BY s.outbox
      ON CONFLICT (outbox, first) DO UPDATE SET "end" = greatest(m."end", excluded."end")
    )
    SELECT count(*) INTO v_count FROM swept;
    RETURN v_count;
  END $body$`
]
