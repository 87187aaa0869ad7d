/**
 * What a valid frame is, written down a second time and apart from the codec, as schemas: to generate valid frames, and
 * to judge what the codec lets through.
 */
import { Schema } from "effect"
import { int } from "./coreArbitraries.ts"

/** Of UTF-16 units; and as a bound of UTF-8 for what is generated. */
const text = (maximum: number) =>
  Schema.String.check(
    Schema.isBetweenLength(1, maximum),
    Schema.makeFilter((text) => text.isWellFormed() && !text.includes("\0"))
  )
const auth = text(8192).check(Schema.makeFilter((token) => new TextEncoder().encode(token).length <= 8192))
const id = text(256)
const meta = Schema.Struct({ id: Schema.optionalKey(id), trace: Schema.optionalKey(id) })

/** What today's peers send. */
const sent = {
  payload: Schema.Union([
    Schema.Null,
    Schema.Boolean,
    Schema.Finite,
    Schema.String,
    Schema.Array(Schema.Union([Schema.Finite, Schema.Struct({ a: Schema.Array(Schema.String) })]))
  ]),
  metas: Schema.Struct({ 0: Schema.optionalKey(meta) }),
  fresh: Schema.Literals(["new", "unknownSession", "unknownEpoch", "peerStateLost", "positionLost"]),
  code: Schema.Literals([
    "protocol",
    "version",
    "unauthorized",
    "forbidden",
    "overloaded",
    "draining",
    "replaced",
    "internal"
  ])
}

/** What is taken: also reasons and codes of a later version. */
const taken = {
  payload: Schema.Unknown,
  metas: Schema.Record(Schema.String, meta),
  fresh: id,
  code: Schema.String
}

/** With numbers up to `max`: small ones to be near a session's state, large ones for the borders. */
const frames = <
  P extends Schema.Constraint,
  M extends Schema.Constraint,
  F extends Schema.Constraint,
  C extends Schema.Constraint
>(
  max: number,
  { code, fresh, metas, payload }: { payload: P; metas: M; fresh: F; code: C }
) => {
  const position = int(0, max)
  const offset = int(1, max)
  const ack = Schema.Tuple([position, position]).check(
    Schema.makeFilter(([received, handled]) => handled <= received)
  )
  const failures = Schema.Array(Schema.Tuple([offset, Schema.Literals(["failed", "undecodable"])]))
  const duration = int(0, Math.min(max, 10 * 365 * 86_400_000))
  const window = Schema.Struct({ messages: offset, bytes: offset })
  const out = Schema.Struct({ epoch: id, acked: position, last: position }).check(
    Schema.makeFilter(({ acked, last }) => acked <= last)
  )
  const inbox = Schema.Struct({
    epoch: Schema.NullOr(id),
    received: position,
    handled: position,
    failed: failures,
    pending: Schema.Struct({ messages: position, bytes: position })
  }).check(Schema.makeFilter(({ handled, received }) => handled <= received))
  const handshake = { out, in: inbox, window, maxPayload: offset }

  return Schema.Union([
    Schema.Struct({
      t: Schema.Literal("batch"),
      o: offset,
      m: Schema.NonEmptyArray(payload),
      x: Schema.optionalKey(metas),
      a: Schema.optionalKey(ack)
    }),
    Schema.Struct({ t: Schema.Literal("ack"), a: ack, f: Schema.optionalKey(failures) }),
    Schema.Struct({ t: Schema.Literal("pong"), a: ack }),
    Schema.Struct({ t: Schema.Literal("ping") }),
    Schema.Struct({ t: Schema.Literal("end") }),
    Schema.Struct({ t: Schema.Literal("seen"), o: offset }),
    Schema.Struct({
      t: Schema.Literal("gap"),
      o: offset,
      e: offset,
      reason: Schema.Literals(["expired", "overflow", "fresh", "sessionEnded"])
    }).check(Schema.makeFilter(({ e, o }) => o <= e)),
    Schema.Struct({ t: Schema.Literal("volatile"), m: Schema.NonEmptyArray(payload) }),
    Schema.Struct({
      t: Schema.Literal("hello"),
      version: position,
      instance: id,
      attempt: Schema.optionalKey(offset),
      session: Schema.optionalKey(id),
      token: Schema.optionalKey(id),
      auth: Schema.optionalKey(auth),
      ...handshake
    }),
    Schema.Struct({
      t: Schema.Literal("welcome"),
      result: Schema.Literals(["resumed", "fresh"]),
      reason: Schema.optionalKey(fresh),
      session: id,
      token: id,
      generation: position,
      continued: Schema.Struct({ in: Schema.Boolean, out: Schema.Boolean }),
      heartbeat: duration,
      retention: duration,
      jitter: duration,
      ...handshake
    }),
    Schema.Struct({
      t: Schema.Literal("drain"),
      deadline: duration,
      window: duration,
      endpoint: Schema.optionalKey(text(2048))
    }),
    Schema.Struct({
      t: Schema.Literal("reject"),
      code,
      detail: Schema.String
    }),
    Schema.Struct({ t: Schema.Literal("auth"), auth: auth })
  ])
}

/** Far from the largest integer only so that a batch can't end beyond it. */
export const AnyFrame = frames(Number.MAX_SAFE_INTEGER - 1000, sent)

/** Offsets and counts as they come in a session that has just begun. */
export const NearFrame = frames(12, sent)

const isTaken = Schema.is(frames(Number.MAX_SAFE_INTEGER, taken))

/** Whether a frame may be let through. */
export const isValidFrame = (value: unknown): boolean =>
  isTaken(value) && (value.t !== "batch" || Number.isSafeInteger(value.o + value.m.length))
