/** What senders append, put together into the requests of one batch. Pure. */
import type { NewMessage } from "../../MessageQueue.ts"
import { encodeBody } from "./chunk.ts"
import type { AppendRequest, Known } from "./outboxes.ts"

/** A chunk takes at most this much, so that a page of a few chunks makes one frame. */
const maxChunkMessages = 256
const maxChunkBytes = 64 * 1024

export interface PublishOnce {
  readonly id: string
  readonly fingerprint: string
}

/** What one sender appends, all or none. */
export interface Draft {
  readonly session: string
  readonly messages: ReadonlyArray<NewMessage>
  readonly bytes: number
  readonly publish: PublishOnce | undefined
  /** Whether it was refused together with others, and is now tried by itself. */
  alone: boolean
  /** Whether it waited for room and its turn has come: nobody else of its session is tried while somebody waits. */
  isCalled: boolean
  /** How often it waited for the owner of an unsettled outbox; `Infinity`: it is appended all the same. */
  waits: number
  /** Whether it was tried, with an outcome not yet known. */
  inDoubt: boolean
}

/** Drafts of one session that make one sequence of messages. */
export interface Unit {
  readonly drafts: Array<number>
  readonly messages: Array<NewMessage>
  bytes: number
  readonly first: Draft
}

export interface KnownHere {
  readonly known: Known | undefined
  /** The owner's generation, if this server is the owner. */
  readonly generation: number | undefined
  /**
   * Whether an append may settle the outbox: only the owner's may, as the owner knows all that the peer can have seen.
   */
  readonly settles: boolean
}

export interface DraftOptions {
  readonly ttlMillis: number
  readonly bounds: { readonly maxMessages: number; readonly maxBytes: number }
  readonly keys: { readonly windowMillis: () => number; readonly maxKeys: number }
  /** What this server knows of an outbox. */
  readonly known: (session: string) => KnownHere
}

export type Drafts = ReturnType<typeof makeDrafts>

export const makeDrafts = (options: DraftOptions) => {
  const { bounds } = options

  const ttlOf = (message: NewMessage): number => message.ttlMillis ?? options.ttlMillis

  const unite = (drafts: ReadonlyArray<Draft>): ReadonlyArray<Unit> => {
    const units: Array<Unit> = []
    const open = new Map<string, Unit>()
    drafts.forEach((draft, index) => {
      const unit = open.get(draft.session)
      const joins = unit !== undefined && draft.publish === undefined && !draft.alone &&
        unit.messages.length + draft.messages.length <= maxChunkMessages && unit.bytes + draft.bytes <= maxChunkBytes
      if (joins) {
        unit.drafts.push(index)
        for (const message of draft.messages) unit.messages.push(message)
        unit.bytes += draft.bytes
        return
      }
      const next: Unit = { drafts: [index], messages: [...draft.messages], bytes: draft.bytes, first: draft }
      units.push(next)
      if (draft.publish === undefined && !draft.alone) open.set(draft.session, next)
      else open.delete(draft.session) // nothing may overtake it
    })
    return units
  }

  /** The chunks of a unit: the first has room only if all of them have. */
  const requestsOf = (unit: Unit, at: number): ReadonlyArray<AppendRequest> => {
    const { first: { publish, session }, messages } = unit
    const requests: Array<AppendRequest> = []
    const { generation, known, settles } = options.known(session)
    const others = unit.first.waits === Infinity ? "allow" : "refuse"
    let start = 0
    let restCount = messages.length
    let restBytes = unit.bytes
    while (start < messages.length) {
      const ttl = ttlOf(messages[start] as NewMessage) // in bounds
      let bytes = 0
      let end = start
      while (end < messages.length && end - start < maxChunkMessages) {
        const message = messages[end] as NewMessage // in bounds
        if (end > start && (bytes + message.bytes > maxChunkBytes || ttlOf(message) !== ttl)) break
        bytes += message.bytes
        end++
      }
      const part = messages.slice(start, end)
      restCount -= part.length
      restBytes -= bytes
      requests.push({
        session,
        count: part.length,
        bytes,
        enqueuedAt: at,
        expiresAt: at + ttl,
        body: encodeBody(part),
        maxMessages: bounds.maxMessages - restCount,
        maxBytes: bounds.maxBytes - restBytes,
        known,
        // An owner waits until it has settled the outbox itself.
        unsettled: settles ? "settle" : generation === undefined ? others : "refuse",
        ...(generation === undefined ? {} : { generation }),
        publish: publish === undefined ? undefined : {
          scope: session,
          key: publish.id,
          fingerprint: publish.fingerprint,
          forgottenBefore: at - options.keys.windowMillis(),
          maxKeys: options.keys.maxKeys
        }
      })
      start = end
    }
    return requests
  }

  return { unite, requestsOf, ttlOf }
}
