/**
 * What an outbox means, without its structures: one entry an offset, in an array, and everything by looking at all of
 * them. Slots are compared offset by offset, because how gaps are merged is the outbox's own affair.
 */
import type { Failure } from "../../src/core/Frame.ts"
import { defaultMessageId, type Draft, type OutboxMessage, type ReadLimit, type Slot } from "../../src/core/Outbox.ts"

interface Entry {
  readonly draft: Draft
  readonly offset: number
  fate: "live" | "gap" | "gone"
}

/** An offset and what its slot says: the payload of a message, or `gap`. */
export type Cell = readonly [offset: number, content: string]

/** Slots, offset by offset. */
export const cells = (slots: ReadonlyArray<Slot>): Array<Cell> =>
  slots.flatMap((slot): Array<Cell> =>
    slot.kind === "message"
      ? [[slot.offset, slot.payload]]
      : Array.from({ length: slot.end - slot.offset + 1 }, (_, i) => [slot.offset + i, "gap"])
  )

export const offsets = (messages: ReadonlyArray<OutboxMessage>): Array<number> =>
  messages.map((message) => message.offset)

export const bytesOf = (entries: ReadonlyArray<Entry>): number =>
  entries.reduce((sum, { draft }) => sum + draft.bytes, 0)

export class OutboxModel {
  readonly epoch: string
  acked = 0
  /** Everything up to here was read, and not rewound since. */
  sentEnd = 0
  private readonly entries: Array<Entry> = []

  constructor(epoch: string) {
    this.epoch = epoch
  }

  get last(): number {
    return this.entries.length
  }

  get live(): ReadonlyArray<Entry> {
    return this.entries.filter((entry) => entry.fate === "live")
  }

  get waiting(): ReadonlyArray<Entry> {
    return this.live.filter(({ offset }) => offset > this.sentEnd)
  }

  append(draft: Draft): number {
    this.entries.push({ draft, offset: this.entries.length + 1, fate: "live" })
    return this.entries.length
  }

  read(after: number, limit: ReadLimit, now: number): { readonly cells: Array<Cell>; readonly expired: Array<number> } {
    this.sentEnd = Math.min(this.sentEnd, after)
    const cells: Array<Cell> = []
    const expired: Array<number> = []
    let messages = 0
    let bytes = 0
    for (const entry of this.entries) {
      if (entry.offset <= this.sentEnd || entry.fate === "gone") continue
      if (entry.fate === "live" && entry.draft.expiresAt <= now) {
        entry.fate = "gap"
        expired.push(entry.offset)
      }
      if (entry.fate === "live") {
        if (messages === limit.maxMessages) break
        if (messages > 0 && bytes + entry.draft.bytes > limit.maxBytes) break
        messages++
        bytes += entry.draft.bytes
      }
      cells.push([entry.offset, entry.fate === "live" ? entry.draft.payload : "gap"])
      this.sentEnd = entry.offset
    }
    return { cells, expired }
  }

  ack(upTo: number, failed: ReadonlyArray<Failure>) {
    const released = this.live.filter(({ offset }) => offset <= upTo)
    for (const entry of this.entries) if (entry.offset <= upTo) entry.fate = "gone"
    this.acked = Math.max(this.acked, Math.min(upTo, this.last))
    return {
      released: released.length,
      newestEnqueuedAt: released.at(-1)?.draft.enqueuedAt,
      failed: released.flatMap(({ offset }) => {
        const failure = failed.find(([failedOffset]) => failedOffset === offset)
        return failure === undefined ? [] : [[offset, failure[1]]]
      })
    }
  }

  dropOldest(): number | undefined {
    const entry = this.waiting[0]
    if (entry !== undefined) entry.fate = "gap"
    return entry?.offset
  }

  expire(now: number): Array<number> {
    const expired = this.waiting.filter(({ draft }) => draft.expiresAt <= now)
    for (const entry of expired) entry.fate = "gap"
    return expired.map(({ offset }) => offset)
  }

  giveBackSent(): Array<number> {
    const sent = this.live.filter(({ offset }) => offset <= this.sentEnd)
    for (const entry of sent) entry.fate = "gap"
    this.sentEnd = this.acked
    return sent.map(({ offset }) => offset)
  }

  find(id: string): { readonly offset: number; readonly sent: boolean } | undefined {
    const entry = this.live.find(({ draft, offset }) => (draft.id ?? defaultMessageId(this.epoch, offset)) === id)
    return entry === undefined ? undefined : { offset: entry.offset, sent: entry.offset <= this.sentEnd }
  }
}
