/** What the functions of outboxes return, turned into the driver's results. */
import type { FateReason, GapReason, Rejection } from "../core/Protocol.ts"
import { isRejection } from "../core/Text.ts"
import type { AppendResult, Chunk, Conditional, Fate, Gap, OutboxState, ReadPage } from "../internal/store/outboxes.ts"
import * as Codes from "./plpgsql.ts"
import * as Values from "./values.ts"

interface AppendColumns {
  readonly epoch: () => string
  readonly first: () => number
  readonly second: () => number
  readonly id: () => string
  readonly node: () => string | undefined
}

export const lostOf = (lost: number): { readonly lost?: number } => lost === 0 ? {} : { lost }

export const appendResult = (code: unknown, of: AppendColumns): AppendResult | undefined => {
  switch (code) {
    case Codes.PENDING:
      return undefined
    case Codes.APPENDED:
      return { _tag: "Appended", epoch: of.epoch(), first: of.first(), ...lostOf(of.second()) }
    case Codes.UNSETTLED:
      return { _tag: "Unsettled", node: of.node() }
    case Codes.MISSING:
      return { _tag: "Missing" }
    case Codes.FULL_MESSAGES:
      return { _tag: "Full", limit: "messages", messages: of.first(), bytes: of.second() }
    case Codes.FULL_BYTES:
      return { _tag: "Full", limit: "bytes", messages: of.first(), bytes: of.second() }
    case Codes.DUPLICATE:
      return {
        _tag: "Duplicate",
        receipt: { messageId: of.id(), epoch: of.epoch(), offset: of.first(), atMillis: of.second() }
      }
    case Codes.MISMATCH:
      return { _tag: "Mismatch" }
    case Codes.IN_FLIGHT:
      return { _tag: "InFlight", until: of.first() }
    case Codes.KEYS_FULL:
      return { _tag: "KeysFull" }
    default:
      throw new Values.Nonsense(`append: ${String(code)}`)
  }
}

export const toState = (
  [session, generation, epoch, acked, last, messages, bytes, sent, revision, expiresAt, node, settled, from]: Values.Row
): OutboxState => ({
  session: Values.toText(session),
  generation: Values.toNumber(generation),
  epoch: Values.toText(epoch),
  acked: Values.toNumber(acked),
  last: Values.toNumber(last),
  messages: Values.toNumber(messages),
  bytes: Values.toNumber(bytes),
  sent: Values.toNumber(sent),
  revision: Values.toNumber(revision),
  expiresAt: Values.toNumber(expiresAt),
  node: Values.toOptionalText(node),
  settled: settled === true || settled === 1,
  unsettledFrom: from === null || from === undefined ? undefined : Values.toNumber(from)
})

/** Reads the rows of `read_outbox`, in their order: state, chunks, perhaps a row that says there are more, gaps. */
export const toPage = (session: string, [head, ...rows]: ReadonlyArray<Values.Row>): ReadPage | undefined => {
  if (head === undefined) return undefined
  const [, numbers, epoch, node] = head
  const counts = Values.toArray(numbers)
  const ofKind = (kind: number) => rows.filter(([k]) => k === kind)
  return {
    state: toState([session, counts[0], epoch, ...counts.slice(1, 8), node, ...counts.slice(8)]),
    chunks: ofKind(1).map(([, numbers, body]): Chunk => {
      const [first, last, bytes, enqueuedAt, expiresAt] = Values.toArray(numbers)
      return {
        first: Values.toNumber(first),
        last: Values.toNumber(last),
        bytes: Values.toNumber(bytes),
        enqueuedAt: Values.toNumber(enqueuedAt),
        expiresAt: Values.toNumber(expiresAt),
        body: Values.toText(body)
      }
    }),
    gaps: ofKind(2).map(([, numbers, reason]): Gap => {
      const [first, end] = Values.toArray(numbers)
      return { first: Values.toNumber(first), end: Values.toNumber(end), reason: toGapReason(reason) }
    }),
    more: ofKind(3).length > 0
  }
}

export const toFate = ([first, end, reason, maybeHandled, at]: Values.Row): Fate => ({
  first: Values.toNumber(first),
  end: Values.toNumber(end),
  reason: toFateReason(reason),
  maybeHandled: Values.toBoolean(maybeHandled),
  at: Values.toNumber(at)
})

export const toConditional = (rows: ReadonlyArray<Values.Row>): Conditional => {
  const [code, revision] = Values.onlyRow(rows)
  switch (code) {
    case Codes.DONE:
      return { _tag: "Done", revision: Values.toNumber(revision) }
    case Codes.MISSING:
      return { _tag: "Missing" }
    case Codes.FENCED:
      return { _tag: "Fenced" }
    case Codes.CONFLICT:
      return { _tag: "Conflict" }
    default:
      throw new Values.Nonsense(`a code: ${String(code)}`)
  }
}

const oneOf = <A extends string>(all: Readonly<Record<A, true>>) => {
  const isOne = (value: string): value is A => Object.hasOwn(all, value)
  return (value: unknown): A => {
    const text = Values.toText(value)
    if (!isOne(text)) throw new Values.Nonsense(`a reason: ${text}`)
    return text
  }
}

const toGapReason = oneOf<GapReason>({ expired: true, overflow: true, fresh: true, sessionEnded: true })

const toKnownReason = oneOf<Exclude<FateReason, Rejection>>({
  expired: true,
  overflow: true,
  tooLarge: true,
  failed: true,
  undecodable: true,
  sessionEnded: true,
  fresh: true,
  shutdown: true,
  skipped: true,
  volatile: true
})

const toFateReason = (value: unknown): FateReason => isRejection(value) ? value : toKnownReason(value)
