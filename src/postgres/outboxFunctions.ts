/**
 * The database's side of outboxes: functions in PL/pgSQL, so that a batch is one round trip and one commit.
 *
 * Batches all work in the same way: lock the rows, in the order of their names; read them into
 * arrays; go through the requests in order, in memory; write everything that came of it with one statement a table.
 *
 * Patience. A row may be locked for long, by a transaction of the application that sends. A batch waits for a lock as
 * long as it is told (`patience`, a number of ms, 0 for ever), which is shorter than PostgreSQL waits before it looks
 * for deadlocks: so it is never a batch that breaks somebody's transaction. With `skip`, what is locked is left out
 * instead, and comes back as {@link PENDING}.
 */

/** Results of a batch that have to be asked for again. */
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

/** The others that functions here return. */
export const DONE = 1
export const FENCED = 3
export const CONFLICT = 4

/** SQLSTATE of a batch that is older than the writer's newest. */
export const STALE_BATCH = "RW001"

/**
 * For functions that join arrays with tables: the rows are found by their keys, whatever the statistics say (of a table
 * that was empty when they were made), and there is no planning at each call.
 */
export const byKeys = `
  SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
  SET jit = off SET plan_cache_mode = force_generic_plan`

/** For functions that read a few of many rows in the order of an index, and must not read and sort all. */
export const inOrder = `${byKeys} SET enable_sort = off`

/** For functions that call `set_config` with their patience: it holds until they return. */
export const patient = "SET lock_timeout = 0"

const impatience = "PERFORM set_config('lock_timeout', p_patience, true);"

/** Statements that make the functions in `schema` (quoted). */
export const outboxFunctions = (schema: string): ReadonlyArray<string> => [
  `CREATE FUNCTION ${schema}.open_outbox(
    p_session text, p_generation double precision, p_node text, p_epoch text
  ) RETURNS SETOF ${schema}.outboxes LANGUAGE plpgsql AS $body$
  BEGIN
    RETURN QUERY
      INSERT INTO ${schema}.outboxes AS o (session, generation, epoch, revision, node)
      VALUES (p_session, p_generation, p_epoch, 1, p_node)
      ON CONFLICT (session) DO UPDATE
        SET generation = excluded.generation, node = excluded.node, revision = o.revision + 1
        WHERE o.generation <= excluded.generation
      RETURNING *;
    IF NOT FOUND THEN
      RETURN QUERY SELECT * FROM ${schema}.outboxes o WHERE o.session = p_session;
    END IF;
  END $body$`,

  // The channel on which a node hears of its nudges.
  `CREATE FUNCTION ${schema}.channel_of(p_node text) RETURNS text LANGUAGE sql IMMUTABLE AS $body$
    SELECT 'rws_' || left(encode(sha256(convert_to('${schema}/' || p_node, 'UTF8')), 'hex'), 40)
  $body$`,

  // A row that is there already is locked but not written: whoever takes nudges leaves it for after our commit. Only
  // for new ones is the node notified, since a commit that notifies has to wait for all others that do.
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
  END $body$`,

  append(schema),
  ack(schema),
  giveUp(schema),

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
    p_session text, p_generation double precision, p_last double precision
  ) RETURNS SETOF ${schema}.outboxes LANGUAGE plpgsql AS $body$
  BEGIN
    UPDATE ${schema}.outboxes o
    SET last = p_last, messages = o.messages + p_last::bigint - o.last, revision = o.revision + 1
    WHERE o.session = p_session AND o.generation <= p_generation AND o.last < p_last;
    RETURN QUERY SELECT * FROM ${schema}.outboxes o WHERE o.session = p_session;
  END $body$`,

  `CREATE FUNCTION ${schema}.remove_outbox(p_session text, p_last double precision) RETURNS boolean
  LANGUAGE plpgsql ${byKeys} AS $body$
  DECLARE
    o ${schema}.outboxes;
  BEGIN
    SELECT * INTO o FROM ${schema}.outboxes x WHERE x.session = p_session FOR UPDATE;
    IF NOT FOUND THEN RETURN true; END IF;
    IF o.last > p_last THEN RETURN false; END IF;
    DELETE FROM ${schema}.outboxes x WHERE x.session = p_session;
    DELETE FROM ${schema}.chunks x WHERE x.outbox = o.id;
    DELETE FROM ${schema}.gaps x WHERE x.outbox = o.id;
    DELETE FROM ${schema}.fates x WHERE x.outbox = o.id;
    RETURN true;
  END $body$`,

  // One snapshot (STABLE): the state, its chunks and its gaps are of the same moment. A row says what it is: 0 is the
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
      ARRAY[o.generation, o.acked, o.last, o.messages, o.bytes, o.sent, o.revision, o.expires_at]::float8[],
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
  END $body$`,

  `CREATE FUNCTION ${schema}.sweep_fates(p_before double precision, p_limit double precision) RETURNS integer
  LANGUAGE plpgsql ${inOrder} AS $body$
  DECLARE
    v_count integer;
  BEGIN
    DELETE FROM ${schema}.fates f USING (
      SELECT x.outbox, x.first FROM ${schema}.fates x WHERE x.at < p_before ORDER BY x.at
      LIMIT p_limit::bigint FOR UPDATE SKIP LOCKED
    ) AS d WHERE f.outbox = d.outbox AND f.first = d.first;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
  END $body$`
]

/**
 * Which sessions each request is about is told by `p_index`, into `p_sessions`, which has each of them once. Returns a
 * code for each request (0: to be asked for again), and for it: the epoch and first offset of what was appended; of a
 * receipt the epoch, offset, time and message id; the messages and bytes of a full outbox; when a claim ends.
 */
const append = (schema: string): string =>
  `CREATE FUNCTION ${schema}.append(
    p_patience text, p_skip boolean, p_writer text, p_sequence double precision, p_node text,
    p_sessions text[], p_index integer[], p_counts double precision[], p_bytes double precision[],
    p_enqueued double precision[], p_expires double precision[], p_bodies text[],
    p_max_messages double precision[], p_max_bytes double precision[],
    p_scopes text[], p_keys text[], p_fingerprints text[], p_forgotten double precision[],
    p_max_keys double precision[],
    OUT codes integer[], OUT epochs text[], OUT firsts double precision[], OUT seconds double precision[],
    OUT ids text[]
  ) LANGUAGE plpgsql ${patient} ${byKeys} AS $body$
  DECLARE
    n integer := cardinality(p_index);
    m integer := cardinality(p_sessions);
    i integer;
    s integer;
    r record;
    k record;
    v_sessions text[] := p_sessions;
    v_outboxes bigint[] := array_fill(NULL::bigint, ARRAY[m]);
    v_epochs text[] := array_fill(NULL::text, ARRAY[m]);
    v_nodes text[] := array_fill(NULL::text, ARRAY[m]);
    v_last float8[] := array_fill(0::float8, ARRAY[m]);
    v_messages float8[] := v_last;
    v_bytes float8[] := v_last;
    v_expires float8[] := v_last;
    v_touched boolean[] := array_fill(false, ARRAY[m]);
    v_new boolean[] := array_fill(false, ARRAY[n]);
    v_nudged text[] := array_fill(NULL::text, ARRAY[m]);
    v_code integer;
    v_keys bigint := 0;
    v_any boolean := false;
    v_nudges boolean := false;
  BEGIN
    ${impatience}
    IF p_writer IS NOT NULL THEN
      SELECT * INTO r FROM ${schema}.writers w WHERE w.writer = p_writer FOR UPDATE;
      IF NOT FOUND THEN
        INSERT INTO ${schema}.writers (writer) VALUES (p_writer) ON CONFLICT DO NOTHING;
        SELECT * INTO r FROM ${schema}.writers w WHERE w.writer = p_writer FOR UPDATE;
      END IF;
      IF r.sequence > p_sequence THEN
        RAISE EXCEPTION 'batch % of % comes after %', p_sequence, p_writer, r.sequence USING ERRCODE = '${STALE_BATCH}';
      END IF;
      IF r.sequence = p_sequence THEN
        codes := r.codes; epochs := r.epochs; firsts := r.firsts; seconds := r.seconds; ids := r.ids;
        IF array_position(codes, ${PENDING}) IS NULL THEN RETURN; END IF;
      END IF;
    END IF;
    IF codes IS NULL THEN
      codes := array_fill(${PENDING}, ARRAY[n]);
      epochs := array_fill(NULL::text, ARRAY[n]);
      firsts := array_fill(NULL::float8, ARRAY[n]);
      seconds := firsts;
      ids := epochs;
    END IF;

    IF p_skip THEN
      WITH free AS (
        SELECT o.session FROM unnest(p_sessions) AS t(session) JOIN ${schema}.outboxes o ON o.session = t.session
        ORDER BY o.session FOR UPDATE OF o SKIP LOCKED
      ) SELECT array_agg(free.session ORDER BY t.ord) INTO v_sessions
        FROM unnest(p_sessions) WITH ORDINALITY AS t(session, ord) LEFT JOIN free ON free.session = t.session;
    END IF;
    FOR r IN
      SELECT o.*, t.ord::integer FROM unnest(v_sessions) WITH ORDINALITY AS t(session, ord)
      JOIN ${schema}.outboxes o ON o.session = t.session ORDER BY o.session FOR UPDATE OF o
    LOOP
      s := r.ord;
      v_outboxes[s] := r.id;
      v_epochs[s] := r.epoch;
      v_nodes[s] := r.node;
      v_last[s] := r.last;
      v_messages[s] := r.messages;
      v_bytes[s] := r.bytes;
      v_expires[s] := r.expires_at;
    END LOOP;

    FOR i IN 1..n LOOP
      CONTINUE WHEN codes[i] <> ${PENDING};
      s := p_index[i];
      IF v_outboxes[s] IS NULL THEN
        IF NOT p_skip OR NOT EXISTS (SELECT FROM ${schema}.outboxes o WHERE o.session = p_sessions[s]) THEN
          codes[i] := ${MISSING};
        END IF;
        CONTINUE;
      END IF;
      v_code := CASE
        WHEN v_messages[s] + p_counts[i] > p_max_messages[i] THEN ${FULL_MESSAGES}
        WHEN v_bytes[s] + p_bytes[i] > p_max_bytes[i] THEN ${FULL_BYTES}
        ELSE ${APPENDED} END;
      IF p_keys[i] IS NOT NULL THEN
        -- Locks of keys have no order among batches, so when these wait for each other, both give up and skip.
        IF p_skip THEN
          BEGIN
            SELECT * INTO k FROM ${schema}.publish(p_scopes[i], p_keys[i], p_fingerprints[i], p_forgotten[i],
              p_max_keys[i] - v_keys, p_enqueued[i], v_epochs[s], v_last[s] + 1, v_code);
          EXCEPTION WHEN lock_not_available THEN
            CONTINUE;
          END;
        ELSE
          SELECT * INTO k FROM ${schema}.publish(p_scopes[i], p_keys[i], p_fingerprints[i], p_forgotten[i],
            p_max_keys[i] - v_keys, p_enqueued[i], v_epochs[s], v_last[s] + 1, v_code);
        END IF;
        v_code := k.code;
        v_keys := v_keys + k.added;
      END IF;
      codes[i] := v_code;
      CASE v_code
        WHEN ${APPENDED} THEN
          epochs[i] := v_epochs[s];
          firsts[i] := v_last[s] + 1;
          v_last[s] := v_last[s] + p_counts[i];
          v_messages[s] := v_messages[s] + p_counts[i];
          v_bytes[s] := v_bytes[s] + p_bytes[i];
          IF p_expires[i] < v_expires[s] THEN v_expires[s] := p_expires[i]; END IF;
          v_new[i] := true;
          v_any := true;
          v_touched[s] := true;
          IF v_nodes[s] <> p_node THEN
            v_nudged[s] := v_nodes[s];
            v_nudges := true;
          END IF;
        WHEN ${FULL_MESSAGES}, ${FULL_BYTES} THEN
          firsts[i] := v_messages[s];
          seconds[i] := v_bytes[s];
        WHEN ${DUPLICATE} THEN
          epochs[i] := k.epoch;
          firsts[i] := k.first;
          seconds[i] := k.at;
          ids[i] := k.message_id;
        WHEN ${IN_FLIGHT} THEN
          firsts[i] := k.until;
        ELSE
      END CASE;
    END LOOP;

    IF v_any THEN
      INSERT INTO ${schema}.chunks (outbox, first, last, bytes, enqueued_at, expires_at, body)
      SELECT v_outboxes[t.s], t.first, t.first + t.count - 1, t.bytes, t.enqueued, t.expires, t.body
      FROM unnest(v_new, p_index, firsts, p_counts, p_bytes, p_enqueued, p_expires, p_bodies)
        AS t(new, s, first, count, bytes, enqueued, expires, body)
      WHERE t.new;
      UPDATE ${schema}.outboxes o
      SET last = t.last, messages = t.messages, bytes = t.bytes, expires_at = t.expires
      FROM unnest(p_sessions, v_touched, v_last, v_messages, v_bytes, v_expires)
        AS t(session, touched, last, messages, bytes, expires)
      WHERE t.touched AND o.session = t.session;
    END IF;
    IF v_nudges THEN PERFORM ${schema}.add_nudges(v_nudged, p_sessions); END IF;
    IF v_keys <> 0 THEN PERFORM ${schema}.count_keys(v_keys); END IF;
    IF p_writer IS NOT NULL THEN
      UPDATE ${schema}.writers w
      SET sequence = p_sequence, codes = append.codes, epochs = append.epochs, firsts = append.firsts,
        seconds = append.seconds, ids = append.ids
      WHERE w.writer = p_writer;
    END IF;
  END $body$`

/** Fates come one by one, with the number of the request that they are of. */
const ack = (schema: string): string =>
  `CREATE FUNCTION ${schema}.ack(
    p_patience text, p_skip boolean, p_sessions text[], p_index integer[], p_generations double precision[],
    p_up_to double precision[], p_fate_requests integer[], p_fate_firsts double precision[],
    p_fate_ends double precision[], p_fate_reasons text[], p_fate_handled boolean[], p_fate_ats double precision[],
    OUT codes integer[], OUT released double precision[]
  ) LANGUAGE plpgsql ${patient} ${byKeys} AS $body$
  DECLARE
    n integer := cardinality(p_index);
    m integer := cardinality(p_sessions);
    i integer;
    s integer;
    r record;
    v_sessions text[] := p_sessions;
    v_outboxes bigint[] := array_fill(NULL::bigint, ARRAY[m]);
    v_generations bigint[] := array_fill(NULL::bigint, ARRAY[m]);
    v_last bigint[] := array_fill(0::bigint, ARRAY[m]);
    v_before bigint[] := v_last;
    v_acked bigint[] := v_last;
    v_messages bigint[] := v_last;
    v_bytes bigint[] := v_last;
    v_to bigint;
    v_gone bigint;
    v_any boolean := false;
  BEGIN
    ${impatience}
    codes := array_fill(${PENDING}, ARRAY[n]);
    released := array_fill(NULL::float8, ARRAY[n]);
    IF p_skip THEN
      WITH free AS (
        SELECT o.session FROM unnest(p_sessions) AS t(session) JOIN ${schema}.outboxes o ON o.session = t.session
        ORDER BY o.session FOR UPDATE OF o SKIP LOCKED
      ) SELECT array_agg(free.session ORDER BY t.ord) INTO v_sessions
        FROM unnest(p_sessions) WITH ORDINALITY AS t(session, ord) LEFT JOIN free ON free.session = t.session;
    END IF;
    FOR r IN
      SELECT o.*, t.ord::integer FROM unnest(v_sessions) WITH ORDINALITY AS t(session, ord)
      JOIN ${schema}.outboxes o ON o.session = t.session ORDER BY o.session FOR UPDATE OF o
    LOOP
      s := r.ord;
      v_outboxes[s] := r.id;
      v_generations[s] := r.generation;
      v_last[s] := r.last;
      v_before[s] := r.acked;
      v_acked[s] := r.acked;
      v_messages[s] := r.messages;
      v_bytes[s] := r.bytes;
    END LOOP;

    FOR i IN 1..n LOOP
      s := p_index[i];
      IF v_outboxes[s] IS NULL THEN
        IF NOT p_skip OR NOT EXISTS (SELECT FROM ${schema}.outboxes o WHERE o.session = p_sessions[s]) THEN
          codes[i] := ${MISSING};
        END IF;
        CONTINUE;
      END IF;
      IF v_generations[s] > p_generations[i] THEN
        codes[i] := ${FENCED};
        CONTINUE;
      END IF;
      codes[i] := ${DONE};
      released[i] := 0;
      v_to := least(p_up_to[i], v_last[s]);
      CONTINUE WHEN v_to <= v_acked[s];
      v_gone := v_to - v_acked[s];
      -- Without gaps, which is nearly always, every offset beyond \`acked\` is a message.
      IF v_messages[s] < v_last[s] - v_acked[s] THEN
        v_gone := v_gone - (
          SELECT coalesce(sum(least(g."end", v_to) - greatest(g.first, v_acked[s] + 1) + 1), 0)
          FROM ${schema}.gaps g WHERE g.outbox = v_outboxes[s] AND g.first <= v_to AND g."end" > v_acked[s]);
        DELETE FROM ${schema}.gaps g WHERE g.outbox = v_outboxes[s] AND g.first <= v_to AND g."end" <= v_to;
        UPDATE ${schema}.gaps g SET first = v_to + 1 WHERE g.outbox = v_outboxes[s] AND g.first <= v_to;
      END IF;
      v_acked[s] := v_to;
      v_messages[s] := v_messages[s] - v_gone;
      released[i] := v_gone;
      v_any := true;
    END LOOP;

    IF v_any THEN
      -- From the old position on: the rows before it are gone, but the index may not have forgotten them yet.
      FOR r IN
        WITH gone AS (
          DELETE FROM ${schema}.chunks c
          USING unnest(v_outboxes, v_before, v_acked) WITH ORDINALITY AS t(outbox, before, acked, ord)
          WHERE t.acked > t.before AND c.outbox = t.outbox AND c.last > t.before AND c.last <= t.acked
          RETURNING t.ord::integer, c.bytes
        ) SELECT gone.ord, sum(gone.bytes)::bigint AS bytes FROM gone GROUP BY gone.ord
      LOOP
        v_bytes[r.ord] := v_bytes[r.ord] - r.bytes;
      END LOOP;
      UPDATE ${schema}.outboxes o SET acked = t.acked, messages = t.messages, bytes = t.bytes
      FROM unnest(p_sessions, v_before, v_acked, v_messages, v_bytes) AS t(session, before, acked, messages, bytes)
      WHERE t.acked > t.before AND o.session = t.session;
    END IF;
    IF cardinality(p_fate_requests) > 0 THEN
      PERFORM ${schema}.note_fates(
        (SELECT array_agg(CASE WHEN codes[t.r] = ${DONE} THEN v_outboxes[p_index[t.r]] END ORDER BY t.ord)
          FROM unnest(p_fate_requests) WITH ORDINALITY AS t(r, ord)),
        p_fate_firsts, p_fate_ends, p_fate_reasons, p_fate_handled, p_fate_ats);
    END IF;
  END $body$`

const giveUp = (schema: string): string =>
  `CREATE FUNCTION ${schema}.give_up(
    p_session text, p_revision double precision, p_generation double precision,
    p_remove_gaps double precision[], p_gap_firsts double precision[], p_gap_ends double precision[],
    p_gap_reasons text[], p_remove_chunks double precision[], p_expires double precision,
    p_fate_firsts double precision[], p_fate_ends double precision[], p_fate_reasons text[],
    p_fate_handled boolean[], p_fate_ats double precision[],
    OUT code integer, OUT revision double precision
  ) LANGUAGE plpgsql ${byKeys} AS $body$
  DECLARE
    o ${schema}.outboxes;
    v_bytes bigint;
    v_messages bigint;
    v_count bigint;
  BEGIN
    SELECT * INTO o FROM ${schema}.outboxes x WHERE x.session = p_session FOR UPDATE;
    IF NOT FOUND THEN code := ${MISSING}; RETURN; END IF;
    IF o.generation > p_generation THEN code := ${FENCED}; RETURN; END IF;
    IF o.revision <> p_revision THEN code := ${CONFLICT}; RETURN; END IF;

    WITH gone AS (
      DELETE FROM ${schema}.chunks c USING unnest(p_remove_chunks) AS t(last)
      WHERE c.outbox = o.id AND c.last = t.last::bigint RETURNING c.bytes
    ) SELECT o.bytes - coalesce(sum(gone.bytes), 0) INTO v_bytes FROM gone;

    WITH gone AS (
      DELETE FROM ${schema}.gaps g USING unnest(p_remove_gaps) AS t(first)
      WHERE g.outbox = o.id AND g.first = t.first::bigint RETURNING g.first, g."end"
    ) SELECT o.messages + coalesce(sum(gone."end" - gone.first + 1), 0) INTO v_messages FROM gone;
    -- Acks may have come since the caller read: they cut gaps, which then begin elsewhere.
    WITH gone AS (
      DELETE FROM ${schema}.gaps g USING unnest(p_gap_firsts, p_gap_ends) AS t(first, "end")
      WHERE g.outbox = o.id AND g.first >= t.first::bigint AND g.first <= t."end"::bigint AND g."end" <= t."end"
      RETURNING g.first, g."end"
    ) SELECT coalesce(sum(gone."end" - gone.first + 1), 0) INTO v_count FROM gone;
    v_messages := v_messages + v_count;
    WITH added AS (
      INSERT INTO ${schema}.gaps AS g (outbox, first, "end", reason)
      SELECT o.id, greatest(t.first, o.acked + 1), t."end", t.reason
      FROM unnest(p_gap_firsts, p_gap_ends, p_gap_reasons) AS t(first, "end", reason) WHERE t."end" > o.acked
      RETURNING g.first, g."end"
    ) SELECT coalesce(sum(added."end" - added.first + 1), 0) INTO v_count FROM added;
    v_messages := v_messages - v_count;

    UPDATE ${schema}.outboxes x
    SET messages = v_messages, bytes = v_bytes, revision = x.revision + 1,
      expires_at = coalesce(p_expires, x.expires_at)
    WHERE x.session = p_session;
    PERFORM ${schema}.note_fates(
      array_fill(o.id, ARRAY[cardinality(p_fate_firsts)]),
      p_fate_firsts, p_fate_ends, p_fate_reasons, p_fate_handled, p_fate_ats);
    code := ${DONE};
    revision := o.revision + 1;
  END $body$`

/** A fate that is noted again replaces itself. Those without an outbox are left out. */
export const noteFates = (schema: string): string =>
  `CREATE FUNCTION ${schema}.note_fates(
    p_outboxes bigint[], p_firsts double precision[], p_ends double precision[], p_reasons text[],
    p_handled boolean[], p_ats double precision[]
  ) RETURNS void LANGUAGE plpgsql AS $body$
  BEGIN
    INSERT INTO ${schema}.fates (outbox, first, "end", reason, maybe_handled, at)
    SELECT * FROM unnest(p_outboxes, p_firsts, p_ends, p_reasons, p_handled, p_ats)
      AS t(outbox, first, "end", reason, handled, at)
    WHERE t.outbox IS NOT NULL
    ON CONFLICT (outbox, first) DO UPDATE
      SET "end" = excluded."end", reason = excluded.reason, maybe_handled = excluded.maybe_handled, at = excluded.at;
  END $body$`
