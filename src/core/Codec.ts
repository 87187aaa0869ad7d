/**
 * Frames to JSON text and back, with all checks: the only file that knows the wire format.
 *
 * Encoding a batch splices payloads that were serialized when they were accepted; decoding parses a whole frame
 * once and checks it in place.
 */
import type { Failure, Frame, InboxPosition, MessageMeta, OutboxPosition } from "./Frame.ts"
import { payloadFault } from "./Payload.ts"
import { maxWireMillis, type Window } from "./Protocol.ts"
import { isAuth, isEndpoint, isId, isRejection } from "./Text.ts"
import { Violation } from "./Violation.ts"

const volatileStart = `{"t":"volatile"`

/**
 * Control frames and handshakes: rare, so JSON.stringify writes them, after the decoder's own checks. Throws on a frame
 * that no peer would take: that is a bug here, as input is checked where it comes in.
 */
export const encode = (frame: Frame): string => {
  const result = check(frame)
  if (result instanceof Violation) throw new TypeError(`no frame to send: ${result.detail}`)
  return JSON.stringify(frame)
}

/** A batch frame from payloads joined by commas, the members of its meta object, and the fields of an ack. */
export const encodeBatch = (first: number, payloads: string, meta: string, ack: string): string =>
  `{"t":"batch","o":${first},"m":[${payloads}]${meta === "" ? "" : `,"x":{${meta}}`}${ack}}`

/** One member of a batch's meta object. */
export const encodeMeta = (index: number, id: string | undefined, trace: string | undefined): string =>
  // JSON.stringify omits undefined fields.
  `"${index}":${JSON.stringify({ id, trace })}`

/** The fields of an ack, to be spliced into a batch. */
export const encodeAckFields = (received: number, handled: number): string => `,"a":[${received},${handled}]`

/** An ack frame of its own, with the failures that the sender has not seen. */
export const encodeAck = (received: number, handled: number, failed: ReadonlyArray<Failure>): string =>
  `{"t":"ack","a":[${received},${handled}]${failed.length === 0 ? "" : `,"f":${JSON.stringify(failed)}`}}`

/** A pong frame: it acknowledges like an ack. */
export const encodePong = (received: number, handled: number): string => `{"t":"pong","a":[${received},${handled}]}`

export const pingFrame = `{"t":"ping"}`

export const endFrame = `{"t":"end"}`

/** A frame of volatile messages from serialized payloads, and the members of its meta object. */
export const encodeVolatile = (payloads: ReadonlyArray<string>, meta: ReadonlyArray<string> = []): string =>
  `${volatileStart},"m":[${payloads.join(",")}]${meta.length === 0 ? "" : `,"x":{${meta.join(",")}}`}}`

/** Whether `encodeVolatile` wrote a text, so that it can be dropped without parsing. */
export const isVolatileText = (text: string): boolean => text.startsWith(volatileStart)

/** Parses and checks one frame. Never throws. */
export const decode = (text: string): Frame | Violation => {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return malformed("not JSON")
  }
  return check(value)
}

/** Whether a value is a frame: the same check on the way in and on the way out. */
const check = (value: unknown): Frame | Violation => {
  if (!isObject(value)) return malformed("not an object, or one with the key __proto__")
  switch (value["t"]) {
    case "batch":
      return checkBatch(value)
    case "ack":
      return isAck(value["a"]) && isFailures(value["f"]) ? frame(value) : malformed("ack")
    case "pong":
      return isAck(value["a"]) ? frame(value) : malformed("pong")
    case "ping":
    case "end":
      return frame(value)
    case "seen":
      return isOffset(value["o"]) ? frame(value) : malformed("seen")
    case "gap":
      return isOffset(value["o"]) && isOffset(value["e"]) && value["e"] >= value["o"] && isGapReason(value["reason"])
        ? frame(value)
        : malformed("gap")
    case "volatile":
      return checkVolatile(value)
    case "hello":
      return isHello(value) ? frame(value) : malformed("hello")
    case "welcome":
      return isWelcome(value) ? frame(value) : malformed("welcome")
    case "drain":
      return isDuration(value["deadline"]) && isDuration(value["window"]) && isOptional(value["endpoint"], isEndpoint)
        ? frame(value)
        : malformed("drain")
    case "reject":
      return typeof value["code"] === "string" && typeof value["detail"] === "string" &&
          isOptional(value["violation"], isId)
        ? frame(value)
        : malformed("reject")
    case "auth":
      return isAuth(value["auth"]) ? frame(value) : malformed("auth")
    default:
      return malformed("unknown frame type")
  }
}

type Fields = { readonly [key: string]: unknown }

/** The codec's one cast: every caller has just checked the fields of that frame's type. */
const frame = (value: Fields): Frame => value as unknown as Frame

const malformed = (detail: string) => new Violation("malformed", detail)

const checkBatch = (value: Fields): Frame | Violation => {
  const messages = value["m"]
  const first = value["o"]
  if (!isOffset(first) || !Array.isArray(messages) || messages.length === 0) return malformed("batch")
  if (!isOffset(first + messages.length)) return malformed("batch offset")
  if (value["a"] !== undefined && !isAck(value["a"])) return malformed("batch ack")
  if (value["x"] !== undefined && !isMeta(value["x"], messages.length)) return malformed("batch meta")
  return checkPayloads(messages) ?? frame(value)
}

const checkVolatile = (value: Fields): Frame | Violation => {
  const messages = value["m"]
  if (!Array.isArray(messages) || messages.length === 0) return malformed("volatile")
  if (value["x"] !== undefined && !isMeta(value["x"], messages.length)) return malformed("volatile meta")
  return checkPayloads(messages) ?? frame(value)
}

const checkPayloads = (messages: ReadonlyArray<unknown>): Violation | undefined => {
  for (let i = 0; i < messages.length; i++) {
    const fault = payloadFault(messages[i])
    if (fault !== undefined) return new Violation(fault.code, fault.detail)
  }
  return undefined
}

/** An object that a careless copy can't turn into something else: see Payload.ts. */
const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !Object.hasOwn(value, "__proto__")

/** Positions and counts: safe integers from zero. JSON has no NaN, but `1e999` is Infinity. */
const isPosition = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

const isOffset = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 1

/** No sum of times overflows a timer or loses precision. */
const isDuration = (value: unknown): value is number => isPosition(value) && value <= maxWireMillis

const isOptional = (value: unknown, is: (value: unknown) => boolean): boolean => value === undefined || is(value)

const isAck = (value: unknown): boolean =>
  Array.isArray(value) && value.length === 2 && isPosition(value[0]) && isPosition(value[1]) && value[1] <= value[0]

const isFailureReason = (value: unknown): boolean => value === "failed" || value === "undecodable" || isRejection(value)

const isFailures = (value: unknown): boolean =>
  value === undefined ||
  (Array.isArray(value) && value.every((failure: unknown) =>
    Array.isArray(failure) && failure.length === 2 && isOffset(failure[0]) && isFailureReason(failure[1])
  ))

const isGapReason = (value: unknown): boolean =>
  value === "expired" || value === "overflow" || value === "fresh" || value === "sessionEnded"

const isMeta = (value: unknown, count: number): boolean =>
  isObject(value) &&
  Object.entries(value).every(([index, meta]) => isIndex(index, count) && isObject(meta) && isMetaFields(meta))

const isIndex = (text: string, count: number): boolean => {
  const index = Number(text)
  return Number.isInteger(index) && index >= 0 && index < count && String(index) === text
}

const isMetaFields = (meta: Fields & MessageMeta): boolean => isOptional(meta.id, isId) && isOptional(meta.trace, isId)

const isWindow = (value: unknown): value is Window =>
  isObject(value) && isOffset(value["messages"]) && isOffset(value["bytes"])

const isOutbox = (value: unknown): value is OutboxPosition & Fields =>
  isObject(value) && isId(value["epoch"]) && isPosition(value["acked"]) && isPosition(value["last"]) &&
  value["acked"] <= value["last"]

const isInbox = (value: unknown): value is InboxPosition & Fields =>
  isObject(value) && (value["epoch"] === null || isId(value["epoch"])) && isPosition(value["received"]) &&
  isPosition(value["handled"]) && value["handled"] <= value["received"] && Array.isArray(value["failed"]) &&
  isFailures(value["failed"]) && isPending(value["pending"])

const isPending = (value: unknown): boolean =>
  isObject(value) && isPosition(value["messages"]) && isPosition(value["bytes"])

const isHello = (value: Fields): boolean =>
  isPosition(value["version"]) && isId(value["instance"]) && isOptional(value["attempt"], isOffset) &&
  isOptional(value["session"], isId) && isOptional(value["token"], isId) && isOptional(value["auth"], isAuth) &&
  isOptional(value["contract"], isContract) &&
  isOutbox(value["out"]) && isInbox(value["in"]) && isWindow(value["window"]) && isOffset(value["maxPayload"])

const isContract = (value: unknown): boolean =>
  isObject(value) && isId(value["id"]) && isOptional(value["version"], isId)

const isWelcome = (value: Fields): boolean =>
  (value["result"] === "resumed" || value["result"] === "fresh") && isOptional(value["reason"], isId) &&
  isId(value["session"]) && isId(value["token"]) && isPosition(value["generation"]) && isOutbox(value["out"]) &&
  isInbox(value["in"]) && isContinued(value["continued"]) && isWindow(value["window"]) &&
  isOffset(value["maxPayload"]) && isDuration(value["heartbeat"]) && isDuration(value["retention"]) &&
  isDuration(value["jitter"])

const isContinued = (value: unknown): boolean =>
  isObject(value) && typeof value["in"] === "boolean" && typeof value["out"] === "boolean"
