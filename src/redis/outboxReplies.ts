/** Requests to appendScript.ts and outboxScripts.ts, and their replies. These throw on nonsense; see `Call.decode`. */
import type {
  AckOutcome,
  AppendRequest,
  AppendResult,
  Chunk,
  Conditional,
  Fate,
  Gap,
  OutboxState,
  ReadPage
} from "../internal/store/outboxes.ts"
import { keyId, receiptOf } from "./publishKeys.ts"
import { count, list, number, optional, rowsOf, text } from "./replies.ts"

export const pushAppend = (args: Array<string>, request: AppendRequest): void => {
  const { generation = 0, known, publish, unsettled = "refuse" } = request
  args.push(
    request.session,
    number(request.count),
    number(request.bytes),
    number(request.enqueuedAt),
    number(request.expiresAt),
    number(request.maxMessages),
    number(request.maxBytes),
    request.body,
    publish === undefined ? "" : keyId(publish),
    publish === undefined ? "" : publish.key,
    optional(publish?.fingerprint),
    publish === undefined ? "" : number(publish.forgottenBefore),
    publish === undefined ? "" : number(publish.maxKeys),
    known === undefined ? "" : known.epoch,
    known === undefined ? "" : number(known.last),
    unsettled,
    number(generation)
  )
}

/** The results, or the writer's newest sequence if it is newer. */
export const appendedOf = (reply: unknown): ReadonlyArray<AppendResult> | { readonly newest: number } => {
  const [kind, ...results] = list(reply)
  return text(kind) === "S" ? { newest: count(results[0]) } : results.map(appendResultOf)
}

const appendResultOf = (reply: unknown): AppendResult => {
  const [kind, ...fields] = list(reply)
  switch (text(kind)) {
    case "A":
      return { _tag: "Appended", epoch: text(fields[0]), first: count(fields[1]), ...lostOf(fields[2]) }
    case "U":
      return { _tag: "Unsettled", node: text(fields[0]) }
    case "M":
      return { _tag: "Missing" }
    case "F": {
      const limit = text(fields[0]) === "messages" ? "messages" : "bytes"
      return { _tag: "Full", limit, messages: count(fields[1]), bytes: count(fields[2]) }
    }
    case "D":
      return { _tag: "Duplicate", receipt: receiptOf(fields) }
    case "X":
      return { _tag: "Mismatch" }
    case "I":
      return { _tag: "InFlight", until: count(fields[0]) }
    case "K":
      return { _tag: "KeysFull" }
  }
  throw new TypeError(`Redis answered an append with ${text(kind)}`)
}

const lostOf = (reply: unknown): { readonly lost?: number } => {
  const lost = count(reply)
  return lost === 0 ? {} : { lost }
}

export const stateOf = (session: string, reply: unknown): OutboxState => {
  const [generation, epoch, acked, last, messages, bytes, sent, revision, expiresAt, node, history, from, now] = list(
    reply
  )
  return {
    session,
    generation: count(generation),
    epoch: text(epoch),
    acked: count(acked),
    last: count(last),
    messages: count(messages),
    bytes: count(bytes),
    sent: count(sent),
    revision: count(revision),
    expiresAt: count(expiresAt),
    node: text(node),
    settled: history === now,
    unsettledFrom: from === undefined || from === null ? undefined : count(from)
  }
}

export const maybeStateOf = (session: string, reply: unknown): OutboxState | undefined =>
  list(reply).length === 0 ? undefined : stateOf(session, reply)

export const pageOf = (session: string, reply: unknown): ReadPage | undefined => {
  const [state, chunks, gaps, more] = list(reply)
  if (state === undefined) return undefined
  return {
    state: stateOf(session, state),
    chunks: rowsOf(chunks, 6).map(chunkOf),
    gaps: list(gaps).map(gapOf),
    more: text(more) === "1"
  }
}

const chunkOf = ([last, first, bytes, enqueuedAt, expiresAt, body]: ReadonlyArray<unknown>): Chunk => ({
  first: count(first),
  last: count(last),
  bytes: count(bytes),
  enqueuedAt: count(enqueuedAt),
  expiresAt: count(expiresAt),
  body: text(body)
})

const gapOf = (reply: unknown): Gap => {
  const [first, end, reason] = text(reply).split(":")
  // Only takeLost, dropAfter and giveUp write gaps, and with no other reasons.
  return { first: count(first), end: count(end), reason: reason as Gap["reason"] }
}

export const fateArgs = ({ at, end, first, maybeHandled, reason }: Fate): ReadonlyArray<string> => [
  number(first),
  number(end),
  encodeURIComponent(reason), // the words of a rejection may have any character
  maybeHandled ? "1" : "0",
  number(at)
]

export const fateOf = (reply: unknown): Fate => {
  const [first, end, reason, maybeHandled, at] = text(reply).split(":")
  return {
    first: count(first),
    end: count(end),
    // Only ack, giveUp, takeLost and sweepFates write fates, and with no other reasons.
    reason: decodeURIComponent(reason ?? "") as Fate["reason"],
    maybeHandled: maybeHandled === "1",
    at: count(at)
  }
}

export const ackOf = (reply: unknown): AckOutcome => {
  const [outcome, lost] = list(reply)
  switch (text(outcome)) {
    case "M":
      return { _tag: "Missing" }
    case "F":
      return { _tag: "Fenced" }
    case "U":
      return { _tag: "Unsettled" }
  }
  return { _tag: "Acked", released: count(outcome), ...lostOf(lost) }
}

export const conditionalOf = (reply: unknown): Conditional => {
  const [kind, revision] = list(reply)
  switch (text(kind)) {
    case "D":
      return { _tag: "Done", revision: count(revision) }
    case "C":
      return { _tag: "Conflict" }
    case "F":
      return { _tag: "Fenced" }
    case "M":
      return { _tag: "Missing" }
  }
  throw new TypeError(`Redis answered a conditional write with ${text(kind)}`)
}
