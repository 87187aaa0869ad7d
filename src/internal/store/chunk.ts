/**
 * Messages as the body of a chunk, and back. A line of JSON gives each payload's length and what travels with it. The
 * payloads follow unchanged, so that none is parsed or written anew.
 */
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { NewMessage } from "../../MessageQueue.ts"
import { StoreError } from "./driver.ts"
import type { Chunk } from "./outboxes.ts"

/** The first line. Lengths are in UTF-16 units; bytes are left out where they are the same. */
interface Head {
  readonly l: ReadonlyArray<number>
  readonly b?: ReadonlyArray<number>
  /** By index: publisher's id and traceparent. */
  readonly x?: Readonly<Record<string, { readonly i?: string; readonly t?: string }>>
}

export const encodeBody = (messages: ReadonlyArray<NewMessage>): string => {
  const lengths: Array<number> = []
  const bytes: Array<number> = []
  let isAscii = true
  let facts: Record<string, { i?: string; t?: string }> | undefined
  let payloads = ""
  for (let i = 0; i < messages.length; i++) {
    const { bytes: size, id, payload, trace } = messages[i] as NewMessage // in bounds
    lengths.push(payload.length)
    bytes.push(size)
    isAscii &&= size === payload.length
    payloads += payload
    if (id === undefined && trace === undefined) continue
    facts ??= {}
    facts[i] = { ...(id === undefined ? {} : { i: id }), ...(trace === undefined ? {} : { t: trace }) }
  }
  const head: Head = {
    l: lengths,
    ...(isAscii ? {} : { b: bytes }),
    ...(facts === undefined ? {} : { x: facts })
  }
  return `${JSON.stringify(head)}\n${payloads}`
}

/** The messages of a chunk, or an error if its body was not written by this file. */
export const decodeChunk = (chunk: Chunk): ReadonlyArray<OutboxMessage> | StoreError => {
  const { body, enqueuedAt, expiresAt, first, last } = chunk
  const end = body.indexOf("\n")
  const head = end < 0 ? undefined : parseHead(body.slice(0, end))
  if (head === undefined || head.l.length !== last - first + 1) return damaged(chunk)
  const messages: Array<OutboxMessage> = []
  let at = end + 1
  for (let i = 0; i < head.l.length; i++) {
    const length = head.l[i] as number // in bounds
    const facts = head.x?.[i]
    messages.push({
      kind: "message",
      offset: first + i,
      payload: body.slice(at, at + length),
      bytes: head.b?.[i] ?? length,
      id: facts?.i,
      trace: facts?.t,
      enqueuedAt,
      expiresAt
    })
    at += length
  }
  return at === body.length ? messages : damaged(chunk)
}

const damaged = ({ first, last }: Chunk) =>
  new StoreError("read", new Error(`the chunk of offsets ${first} to ${last} is damaged`))

const parseHead = (line: string): Head | undefined => {
  try {
    const head: unknown = JSON.parse(line)
    return isHead(head) ? head : undefined
  } catch {
    return undefined
  }
}

const isHead = (head: unknown): head is Head =>
  typeof head === "object" && head !== null && "l" in head && Array.isArray(head.l) &&
  head.l.every((length) => Number.isSafeInteger(length) && length >= 0)
