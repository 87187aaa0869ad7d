/** PL/pgSQL that removes messages from outboxes: acks, and giving up; see plpgsql.ts on how batches work. */
import {
  byKeys,
  CONFLICT,
  DONE,
  FENCED,
  impatience,
  lockFree,
  MISSING,
  patient,
  PENDING,
  UNSETTLED
} from "./plpgsql.ts"

/** Fates come in one list, each with the number of its request. */
export const ackFunction = (schema: string): string =>
  `CREATE FUNCTION ${schema}.ack(
    p_patience text, p_skip boolean, p_sessions text[], p_index integer[], p_generations double precision[],
    p_up_to double precision[], p_fate_requests integer[], p_fate_firsts double precision[],
    p_fate_ends double precision[], p_fate_reasons text[], p_fate_handled boolean[], p_fate_ats double precision[],
    OUT codes integer[], OUT released double precision[], OUT losts double precision[]
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
    v_settled boolean[] := array_fill(false, ARRAY[m]);
    v_history text := ${schema}.history();
    v_to bigint;
    v_gone bigint;
    v_any boolean := false;
  BEGIN
    ${impatience}
    codes := array_fill(${PENDING}, ARRAY[n]);
    released := array_fill(NULL::float8, ARRAY[n]);
    losts := released;
    ${lockFree(schema, "outboxes", "session")}
    FOR r IN
      SELECT o.*, t.ord::integer FROM unnest(v_sessions) WITH ORDINALITY AS t(session, ord)
      JOIN ${schema}.outboxes o ON o.session = t.session ORDER BY o.session FOR UPDATE OF o
    LOOP
      s := r.ord;
      v_outboxes[s] := r.id;
      v_generations[s] := r.generation;
      v_last[s] := r.last;
      v_settled[s] := coalesce(r.history = v_history, false);
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
      -- Nor is it for an owner whose opening the store has lost.
      IF p_up_to[i] > v_acked[s] AND NOT (v_settled[s] AND v_generations[s] = p_generations[i]) THEN
        codes[i] := ${UNSETTLED};
        CONTINUE;
      END IF;
      codes[i] := ${DONE};
      released[i] := 0;
      v_to := p_up_to[i];
      CONTINUE WHEN v_to <= v_acked[s];
      losts[i] := greatest(0, v_to - v_last[s]);
      v_gone := least(v_to, v_last[s]) - v_acked[s];
      -- Without gaps, which is nearly always, every offset beyond \`acked\` is a message.
      IF v_messages[s] < v_last[s] - v_acked[s] THEN
        v_gone := v_gone - (
          SELECT coalesce(sum(least(g."end", v_to) - greatest(g.first, v_acked[s] + 1) + 1), 0)
          FROM ${schema}.gaps g WHERE g.outbox = v_outboxes[s] AND g.first <= v_to AND g."end" > v_acked[s]);
        DELETE FROM ${schema}.gaps g WHERE g.outbox = v_outboxes[s] AND g.first <= v_to AND g."end" <= v_to;
        UPDATE ${schema}.gaps g SET first = v_to + 1 WHERE g.outbox = v_outboxes[s] AND g.first <= v_to;
      END IF;
      v_acked[s] := v_to;
      v_last[s] := greatest(v_last[s], v_to);
      v_messages[s] := v_messages[s] - v_gone;
      released[i] := v_gone;
      v_any := true;
    END LOOP;
${storeAcked(schema)}
    IF cardinality(p_fate_requests) > 0 THEN
      PERFORM ${schema}.note_fates(
        (SELECT array_agg(CASE WHEN codes[t.r] = ${DONE} THEN v_outboxes[p_index[t.r]] END ORDER BY t.ord)
          FROM unnest(p_fate_requests) WITH ORDINALITY AS t(r, ord)),
        p_fate_firsts, p_fate_ends, p_fate_reasons, p_fate_handled, p_fate_ats);
    END IF;
  END $body$`

/** Removes acked chunks and updates the outboxes. */
const storeAcked = (schema: string): string => `
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
      UPDATE ${schema}.outboxes o SET acked = t.acked, last = t.last, messages = t.messages, bytes = t.bytes
      FROM unnest(p_sessions, v_before, v_acked, v_last, v_messages, v_bytes)
        AS t(session, before, acked, last, messages, bytes)
      WHERE t.acked > t.before AND o.session = t.session;
    END IF;`

export const giveUpFunction = (schema: string): string =>
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

/** A fate that is noted again replaces itself. Fates without an outbox are left out. */
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
