/** PL/pgSQL of `append`; see plpgsql.ts on how batches work. */
import {
  APPENDED,
  byKeys,
  DUPLICATE,
  FULL_BYTES,
  FULL_MESSAGES,
  impatience,
  IN_FLIGHT,
  lockFree,
  MISSING,
  patient,
  PENDING,
  STALE_BATCH,
  UNSETTLED
} from "./plpgsql.ts"

/**
 * `p_index` gives each request's session as a place in `p_sessions`, which has each session once. Returns a code for
 * each request (0: ask again) and, depending on the code: the epoch and first offset of what was appended, and how many
 * offsets were lost before it (in `seconds`); the node of an outbox that is not settled (in `ids`); a receipt's epoch,
 * offset, time and message id; the messages and bytes of a full outbox; when a claim ends.
 */
export const appendFunction = (schema: string): string =>
  `CREATE FUNCTION ${schema}.append(
    p_patience text, p_skip boolean, p_writer text, p_sequence double precision, p_node text,
    p_sessions text[], p_index integer[], p_counts double precision[], p_bytes double precision[],
    p_enqueued double precision[], p_expires double precision[], p_bodies text[],
    p_max_messages double precision[], p_max_bytes double precision[],
    p_scopes text[], p_keys text[], p_fingerprints text[], p_forgotten double precision[],
    p_max_keys double precision[], p_known_epochs text[], p_known_lasts double precision[], p_unsettled text[],
    p_generations double precision[],
    OUT codes integer[], OUT epochs text[], OUT firsts double precision[], OUT seconds double precision[],
    OUT ids text[]
  ) LANGUAGE plpgsql ${patient} ${byKeys} AS $body$${declarations(schema)}
  BEGIN
    ${impatience}${resume(schema)}

    ${lockFree(schema, "outboxes", "session")}${lockOutboxes(schema)}

    FOR i IN 1..n LOOP
      CONTINUE WHEN codes[i] <> ${PENDING};
      s := p_index[i];
      IF v_outboxes[s] IS NULL THEN
        IF NOT p_skip OR NOT EXISTS (SELECT FROM ${schema}.outboxes o WHERE o.session = p_sessions[s]) THEN
          codes[i] := ${MISSING};
        END IF;
        CONTINUE;
      END IF;${settle(schema)}
      v_code := CASE
        WHEN v_messages[s] + p_counts[i] > p_max_messages[i] THEN ${FULL_MESSAGES}
        WHEN v_bytes[s] + p_bytes[i] > p_max_bytes[i] THEN ${FULL_BYTES}
        ELSE ${APPENDED} END;${publish(schema)}
      codes[i] := v_code;${note(schema)}
    END LOOP;
${store(schema)}
  END $body$`

/** Variables: what it knows of each outbox and of each request. */
const declarations = (schema: string): string => `
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
    v_history text := ${schema}.history();
    v_settled boolean[] := v_touched;
    v_generations float8[] := v_last;
    v_settles boolean;
    v_from float8[] := array_fill(NULL::float8, ARRAY[m]);
    v_settled_at float8[] := v_from;
    v_acked float8[] := v_last;
    v_fits boolean;
    v_known float8;
    v_first float8;
    v_lost float8;
    v_code integer;
    v_keys bigint := 0;
    v_any boolean := false;
    v_nudges boolean := false;`

/** Restores the batch's results so far, if it was tried before. */
const resume = (schema: string): string => `
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
    END IF;`

/** Locks the outboxes and reads each one. */
const lockOutboxes = (schema: string): string => `
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
      v_settled[s] := coalesce(r.history = v_history, false);
      v_from[s] := r.unsettled_from;
      v_settled_at[s] := r.settled_at;
      v_generations[s] := r.generation;
      v_acked[s] := r.acked;
    END LOOP;`

/** Whether the outbox is settled, or this request settles it. What is moved replaces what was appended before. */
const settle = (schema: string): string => `
      v_fits := v_settled[s] AND coalesce(p_generations[i], 0) <= v_generations[s];
      v_known := CASE WHEN p_known_epochs[i] = v_epochs[s] THEN p_known_lasts[i] ELSE 0 END;
      -- What was appended in this history, and perhaps has to be moved, comes after this.
      v_first := CASE WHEN v_settled[s] THEN v_settled_at[s] ELSE v_from[s] END;
      v_first := CASE WHEN v_first IS NOT NULL THEN greatest(v_first, v_acked[s]) END;
      v_settles := NOT v_fits AND coalesce(p_generations[i] = v_generations[s], false) AND CASE p_unsettled[i]
        WHEN 'moved' THEN v_last[s] <= v_known
        WHEN 'settle' THEN v_first IS NULL
        ELSE false END;
      IF NOT v_fits AND NOT v_settles AND p_unsettled[i] <> 'allow' THEN
        codes[i] := ${UNSETTLED};
        ids[i] := v_nodes[s];
        CONTINUE;
      END IF;
      IF v_settles AND p_unsettled[i] = 'moved' AND v_first < v_known THEN
        SELECT * INTO k FROM ${schema}.drop_after(p_sessions[s], v_outboxes[s], v_first, v_last[s], v_known);
        v_messages[s] := v_messages[s] - k.messages;
        v_bytes[s] := v_bytes[s] - k.bytes;
        v_last[s] := v_known;
      END IF;
      v_lost := greatest(0, v_known - v_last[s]);`

/** Commits the publish key in the same step. */
const publish = (schema: string): string => `
      IF p_keys[i] IS NOT NULL THEN
        -- Locks of keys have no order among batches, so when these wait for each other, both give up and skip.
        IF p_skip THEN
          BEGIN
            SELECT * INTO k FROM ${schema}.publish(p_scopes[i], p_keys[i], p_fingerprints[i], p_forgotten[i],
              p_max_keys[i] - v_keys, p_enqueued[i], v_epochs[s], v_last[s] + v_lost + 1, v_code);
          EXCEPTION WHEN lock_not_available THEN
            CONTINUE;
          END;
        ELSE
          SELECT * INTO k FROM ${schema}.publish(p_scopes[i], p_keys[i], p_fingerprints[i], p_forgotten[i],
            p_max_keys[i] - v_keys, p_enqueued[i], v_epochs[s], v_last[s] + v_lost + 1, v_code);
        END IF;
        v_code := k.code;
        v_keys := v_keys + k.added;
      END IF;`

/** Notes what came of the request, and how it changes the outbox. */
const note = (schema: string): string => `
      CASE v_code
        WHEN ${APPENDED} THEN
          epochs[i] := v_epochs[s];
          IF v_settles THEN
            v_settled[s] := true;
            v_from[s] := NULL;
            v_settled_at[s] := CASE WHEN p_unsettled[i] = 'moved' THEN v_last[s] + v_lost
              ELSE least(v_first, v_last[s] + v_lost) END;
          ELSIF NOT v_settled[s] THEN
            v_from[s] := coalesce(v_from[s], v_last[s]);
          END IF;
          IF v_lost > 0 THEN
            PERFORM ${schema}.take_lost(v_outboxes[s], v_last[s] + 1, v_last[s] + v_lost, p_enqueued[i]);
          END IF;
          v_last[s] := v_last[s] + v_lost;
          firsts[i] := v_last[s] + 1;
          seconds[i] := v_lost;
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
      END CASE;`

/** Stores everything at once: messages, outboxes, nudges, keys, and that the batch is done. */
const store = (schema: string): string => `
    IF v_any THEN
      INSERT INTO ${schema}.chunks (outbox, first, last, bytes, enqueued_at, expires_at, body)
      SELECT v_outboxes[t.s], t.first, t.first + t.count - 1, t.bytes, t.enqueued, t.expires, t.body
      FROM unnest(v_new, p_index, firsts, p_counts, p_bytes, p_enqueued, p_expires, p_bodies)
        AS t(new, s, first, count, bytes, enqueued, expires, body)
      WHERE t.new;
      UPDATE ${schema}.outboxes o
      SET last = t.last, messages = t.messages, bytes = t.bytes, expires_at = t.expires,
        history = CASE WHEN t.settled THEN v_history ELSE o.history END, unsettled_from = t.start,
        unsettled_in = CASE WHEN NOT t.settled THEN v_history END, settled_at = t.settled_at
      FROM unnest(p_sessions, v_touched, v_last, v_messages, v_bytes, v_expires, v_settled, v_from, v_settled_at)
        AS t(session, touched, last, messages, bytes, expires, settled, start, settled_at)
      WHERE t.touched AND o.session = t.session;
    END IF;
    IF v_nudges THEN PERFORM ${schema}.add_nudges(v_nudged, p_sessions); END IF;
    IF v_keys <> 0 THEN PERFORM ${schema}.count_keys(v_keys); END IF;
    IF p_writer IS NOT NULL THEN
      UPDATE ${schema}.writers w
      SET sequence = p_sequence, codes = append.codes, epochs = append.epochs, firsts = append.firsts,
        seconds = append.seconds, ids = append.ids
      WHERE w.writer = p_writer;
    END IF;`
