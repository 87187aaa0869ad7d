/** PL/pgSQL of sessions, nodes and nudges; see plpgsql.ts on how batches work. */
import { byKeys, DONE, FENCED, impatience, inOrder, lockFree, MISSING, patient, PENDING } from "./plpgsql.ts"

/** One more result of storing a position. */
export const BEHIND = 5

/** Statements that make the functions in `schema` (quoted). */
export const sessionFunctions = (schema: string): ReadonlyArray<string> => [
  ...saving(schema),
  ...endings(schema),
  ...nodes(schema)
]

const saving = (schema: string): ReadonlyArray<string> => [
  `CREATE FUNCTION ${schema}.save_positions(
    p_patience text, p_skip boolean, p_sessions text[], p_index integer[], p_generations double precision[],
    p_positions text[], p_epochs text[], p_handled double precision[], p_strict boolean[],
    OUT codes integer[]
  ) LANGUAGE plpgsql ${patient} ${byKeys} AS $body$
  DECLARE
    n integer := cardinality(p_index);
    m integer := cardinality(p_sessions);
    i integer;
    s integer;
    r record;
    v_sessions text[] := p_sessions;
    v_generations bigint[] := array_fill(NULL::bigint, ARRAY[m]);
    v_positions text[] := array_fill(NULL::text, ARRAY[m]);
    v_epochs text[] := v_positions;
    v_handled float8[] := array_fill(NULL::float8, ARRAY[m]);
    v_touched boolean[] := array_fill(false, ARRAY[m]);
  BEGIN
    ${impatience}
    codes := array_fill(${PENDING}, ARRAY[n]);
    ${lockFree(schema, "sessions", "id")}
    FOR r IN
      SELECT o.generation, o.position, o.position_epoch, o.handled, t.ord::integer
      FROM unnest(v_sessions) WITH ORDINALITY AS t(id, ord)
      JOIN ${schema}.sessions o ON o.id = t.id ORDER BY o.id FOR UPDATE OF o
    LOOP
      s := r.ord;
      v_generations[s] := r.generation;
      v_positions[s] := r.position;
      v_epochs[s] := r.position_epoch;
      v_handled[s] := r.handled;
    END LOOP;

    FOR i IN 1..n LOOP
      s := p_index[i];
      IF v_generations[s] IS NULL THEN
        IF NOT p_skip OR NOT EXISTS (SELECT FROM ${schema}.sessions o WHERE o.id = p_sessions[s]) THEN
          codes[i] := ${MISSING};
        END IF;
        CONTINUE;
      END IF;
      IF v_generations[s] > p_generations[i] THEN
        codes[i] := ${FENCED};
      ELSIF v_epochs[s] = p_epochs[i] AND
        (v_handled[s] > p_handled[i] OR (p_strict[i] AND v_handled[s] = p_handled[i])) THEN
        codes[i] := ${BEHIND};
      ELSE
        codes[i] := ${DONE};
        v_positions[s] := p_positions[i];
        v_epochs[s] := p_epochs[i];
        v_handled[s] := p_handled[i];
        v_touched[s] := true;
      END IF;
    END LOOP;

    UPDATE ${schema}.sessions o SET position = t.position, position_epoch = t.epoch, handled = t.handled
    FROM unnest(p_sessions, v_touched, v_positions, v_epochs, v_handled) AS t(id, touched, position, epoch, handled)
    WHERE t.touched AND o.id = t.id;
  END $body$`
]

const endings = (schema: string): ReadonlyArray<string> => [
  // Leaves the tombstone and removes two old ones, so that tombstones stay as few as the sessions ended within one
  // tombstone's time.
  `CREATE FUNCTION ${schema}.delete_session(p_id text, p_at double precision, p_until double precision)
  RETURNS boolean LANGUAGE plpgsql ${byKeys} AS $body$
  DECLARE
    v_found boolean;
  BEGIN
    DELETE FROM ${schema}.sessions s WHERE s.id = p_id;
    v_found := FOUND;
    IF p_until IS NOT NULL THEN
      INSERT INTO ${schema}.ended_sessions (id, until) VALUES (p_id, p_until)
        ON CONFLICT (id) DO UPDATE SET until = excluded.until;
      -- Materialized: see sweep_keys.
      WITH d AS MATERIALIZED (
        SELECT x.id FROM ${schema}.ended_sessions x WHERE x.until <= p_at AND x.id <> p_id
        ORDER BY x.until LIMIT 2 FOR UPDATE SKIP LOCKED
      ) DELETE FROM ${schema}.ended_sessions e USING d WHERE e.id = d.id;
    END IF;
    RETURN v_found;
  END $body$`,

  // Finds rows by their indexes, even if the statistics are from when the table was small.
  `CREATE FUNCTION ${schema}.detached_before(p_at double precision, p_limit double precision)
  RETURNS SETOF ${schema}.sessions LANGUAGE plpgsql STABLE ${inOrder} AS $body$
  BEGIN
    RETURN QUERY SELECT * FROM ${schema}.sessions s WHERE s.detached_at <= p_at
      ORDER BY s.detached_at LIMIT p_limit::bigint;
  END $body$`
]

const nodes = (schema: string): ReadonlyArray<string> => [
  `CREATE FUNCTION ${schema}.sessions_of(p_node text, p_limit double precision)
  RETURNS SETOF ${schema}.sessions LANGUAGE plpgsql STABLE ${inOrder} AS $body$
  BEGIN
    RETURN QUERY SELECT * FROM ${schema}.sessions s WHERE s.node = p_node ORDER BY s.id LIMIT p_limit::bigint;
  END $body$`,

  `CREATE FUNCTION ${schema}.forget_node(p_node text) RETURNS void LANGUAGE plpgsql ${byKeys} AS $body$
  BEGIN
    DELETE FROM ${schema}.nodes x WHERE x.node = p_node;
    DELETE FROM ${schema}.nudges x WHERE x.node = p_node;
    DELETE FROM ${schema}.writers x WHERE x.writer = p_node;
    -- As bytes, "0" comes right after "/".
    DELETE FROM ${schema}.writers x WHERE x.writer > p_node || '/' AND x.writer < p_node || '0';
  END $body$`,

  // Takes the oldest first. Nudges that a transaction is adding again are left until its commit; \`more\` says that
  // there are such nudges, or others beyond the limit.
  `CREATE FUNCTION ${schema}.take_nudges(p_node text, p_limit double precision, OUT taken text[], OUT more boolean)
  LANGUAGE plpgsql ${inOrder} AS $body$
  BEGIN
    -- Materialized: see sweep_keys.
    WITH d AS MATERIALIZED (
      SELECT y.session FROM ${schema}.nudges y WHERE y.node = p_node ORDER BY y.id
      LIMIT p_limit::bigint FOR UPDATE SKIP LOCKED
    ), gone AS (
      DELETE FROM ${schema}.nudges x USING d WHERE x.node = p_node AND x.session = d.session
      RETURNING x.id, x.session
    ) SELECT coalesce(array_agg(gone.session ORDER BY gone.id), '{}') INTO taken FROM gone;
    more := EXISTS (SELECT FROM ${schema}.nudges x WHERE x.node = p_node);
  END $body$`
]
