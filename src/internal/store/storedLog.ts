/**
 * What a server remembers of one stored outbox that it owns: where it stands, and some of its messages. What was just
 * appended or read need not be read again. Pure. The store is the truth: this may lag behind it but is never ahead, and
 * the store refuses a write that rests on an old state as fenced or conflicting.
 */
import type { Semaphore } from "effect"
import { Deque } from "../../core/Deque.ts"
import type { OutboxGap, OutboxMessage, ReadLimit, Slot } from "../../core/Outbox.ts"
import type { ShareOrName } from "../bounds/shares.ts"
import type { Fate, Gap, OutboxState } from "./outboxes.ts"

const maxFates = 256

const endOf = (slot: Slot): number => slot.kind === "gap" ? slot.end : slot.offset

/** A chunk in the store: its offsets, and its bytes for the bounds. */
export interface Extent {
  readonly first: number
  readonly last: number
  readonly bytes: number
}

/** Messages that failed at the peer, by offset, and when their failure was first to be stored. */
export type Failing = Map<number, { readonly message: OutboxMessage; readonly at: number }>

/** What a read from the cache found. */
export interface Served {
  readonly slots: Array<Slot>
  readonly expired: Array<OutboxMessage>
  readonly oversized: Array<OutboxMessage>
  readonly more: boolean
  /** When the cache ended and there is more in the store: the offset after which to read on. */
  readonly next: number | undefined
}

export class StoredLog {
  readonly session: string
  generation: number
  epoch: string
  acked: number
  last: number
  revision: number
  /**
   * Everything up to here may be at the peer, so it can't expire. For messages older than this opening of the log that
   * is known only once a read has said where the peer is.
   */
  sent: number
  bytes: number
  /** A lower bound of the earliest expiry. */
  expiresAt: number
  /** When the sweep next looks at this log. */
  scheduledAt = Infinity
  /** Whose share of all outboxes it counts for, and how much of it is counted there. */
  share: ShareOrName | undefined
  readonly counted = { messages: 0, bytes: 0 }
  /**
   * What the peer may have seen, by this server's own knowledge: what it appended, and what was there when the outbox
   * was settled. What a store shows after it may have lost its newest part does not count.
   */
  reach: number
  /** Whether `reach` is all that the peer may have seen, even if the store has lost its newest part. */
  isCertain: boolean
  /** The history of the store in which this server last settled the outbox. */
  settledIn: string | undefined
  /** When this server opened it, by the steady clock. */
  openedAt = -Infinity
  /** Lets one caller at a time settle the outbox. Made when it is first settled. */
  settling: Semaphore.Semaphore | undefined
  /** Offsets after `acked` that are in gaps. */
  private gapped: number
  private readonly slots = new Deque<Slot>()
  private readonly extents = new Deque<Extent>()
  cachedBytes = 0
  /** The newest fates of its messages, in case the store loses them. */
  fates: ReadonlyArray<Fate> | undefined
  /** Messages that the peer could not handle, until that is stored. */
  failing: Failing | undefined

  constructor(state: OutboxState) {
    this.session = state.session
    this.generation = state.generation
    this.epoch = state.epoch
    this.acked = state.acked
    this.last = state.last
    this.revision = state.revision
    this.bytes = state.bytes
    this.expiresAt = state.expiresAt
    this.gapped = state.last - state.acked - state.messages
    this.sent = state.messages === 0 ? state.last : Infinity
    this.isCertain = state.settled
    this.reach = state.settled ? state.last : 0
  }

  get messages(): number {
    return Math.max(0, this.last - this.acked - this.gapped)
  }

  /** This server has opened the outbox again. */
  reopened(state: OutboxState): void {
    // Nobody else had it in between: the cache is still right, and `sent` still known.
    if (state.epoch === this.epoch && state.revision === this.revision + 1) this.revision = state.revision
    else this.sent = state.messages === 0 ? state.last : Infinity
    this.generation = state.generation
    this.refresh(state)
    this.isCertain = state.settled
  }

  /**
   * The store knows how far the peer may be, and knows no less than this log. What others appended may have moved. This
   * server's own cached messages are where they were, and may be only here.
   */
  settled(state: OutboxState): void {
    if (state.epoch === this.epoch) {
      this.forgetBeyond(this.reach)
      this.revision = state.revision
    }
    this.refresh(state)
    this.isCertain = true
  }

  private forgetBeyond(offset: number): void {
    for (let slot = this.slots.back(); slot !== undefined && endOf(slot) > offset; slot = this.slots.back()) {
      this.slots.popBack()
      if (slot.kind === "message") this.cachedBytes -= slotBytes(slot)
    }
    for (let extent = this.extents.back(); extent !== undefined && extent.last > offset; extent = this.extents.back()) {
      this.extents.popBack()
    }
  }

  /** Takes over the store's state. Returns whether it has anything new for the peer to read. */
  refresh(state: OutboxState): boolean {
    if (state.epoch !== this.epoch) {
      this.forget()
      this.epoch = state.epoch
      this.acked = 0
      this.last = 0
      this.reach = 0
      this.sent = Infinity
      this.fates = undefined
    }
    const isNews = state.last > this.last || state.revision !== this.revision
    if (state.revision !== this.revision) this.forget()
    this.revision = state.revision
    // A state with less was read before an append or ack of this server was known to be done: it is out of date.
    if (state.last >= this.last && state.acked >= this.acked) {
      this.gapped = state.last - state.acked - state.messages
      this.bytes = state.bytes
    }
    this.last = Math.max(this.last, state.last)
    if (state.settled && state.generation === this.generation) this.reach = Math.max(this.reach, state.last)
    this.advance(state.acked)
    this.expiresAt = Math.min(this.expiresAt, state.expiresAt)
    return isNews
  }

  /** Forgets the cached messages, not the position. */
  forget(): void {
    this.slots.clear()
    this.extents.clear()
    this.cachedBytes = 0
  }

  /** Whether the cache has what comes after this, or nothing comes after it. */
  covers(after: number): boolean {
    if (after >= this.last) return true
    const front = this.slots.front()
    const back = this.slots.back()
    if (front === undefined || back === undefined) return false
    return front.offset <= after + 1 && endOf(back) > after
  }

  /** Whether `first` comes directly after what is cached. */
  private continues(first: number): boolean {
    const back = this.slots.back()
    return back === undefined ? true : endOf(back) === first - 1
  }

  /** Adds messages that were just appended. */
  appended(messages: ReadonlyArray<OutboxMessage>, extents: ReadonlyArray<Extent>, expiresAt: number): void {
    const first = messages[0]?.offset ?? 0
    const end = messages[messages.length - 1]?.offset ?? 0
    this.reach = Math.max(this.reach, end)
    if (end <= this.last) return // a state read meanwhile already had it
    // Caches only what continues the cache, and nothing of a long log that nobody reads.
    const isRead = this.slots.size > 0 || this.acked >= first - 1 || this.sent === first - 1
    if (first === this.last + 1 && isRead && this.continues(first)) {
      for (const message of messages) this.push(message)
      for (const extent of extents) this.extents.pushBack(extent)
    }
    this.last = end
    for (const { bytes } of extents) this.bytes += bytes
    this.expiresAt = Math.min(this.expiresAt, expiresAt)
  }

  /** Adds a page that was just read. It replaces the cache unless it continues it. */
  loaded(slots: ReadonlyArray<Slot>, extents: ReadonlyArray<Extent>): void {
    const first = slots[0]
    if (first === undefined) return
    if (this.slots.size > 0 && !this.continues(first.offset)) this.forget()
    for (const slot of slots) this.push(slot)
    for (const extent of extents) this.extents.pushBack(extent)
  }

  private push(slot: Slot): void {
    if (endOf(slot) <= this.acked) return
    this.slots.pushBack(slot)
    if (slot.kind === "message") this.cachedBytes += slotBytes(slot)
  }

  /** Everything up to `upTo` is done with. Returns the newest removed message, if it was cached. */
  advance(upTo: number): OutboxMessage | undefined {
    let newest: OutboxMessage | undefined
    while (true) {
      const slot = this.slots.front()
      if (slot === undefined || slot.offset > upTo) break
      this.slots.popFront()
      if (slot.kind === "gap") {
        if (slot.end > upTo) this.slots.pushFront({ ...slot, offset: upTo + 1 })
        if (slot.end > upTo) break
        continue
      }
      newest = slot
      this.cachedBytes -= slotBytes(slot)
    }
    while (true) {
      const extent = this.extents.front()
      if (extent === undefined || extent.last > upTo) break
      this.extents.popFront()
      this.bytes = Math.max(0, this.bytes - extent.bytes)
    }
    if (upTo > this.acked) this.acked = upTo
    return newest
  }

  /** An ack is stored, and has removed `released` messages. */
  acknowledged(upTo: number, released: number): OutboxMessage | undefined {
    this.reach = Math.max(this.reach, upTo)
    const to = Math.min(upTo, this.last)
    if (to > this.acked) this.gapped = Math.max(0, this.gapped - (to - this.acked - released))
    const newest = this.advance(to)
    if (this.messages === 0) this.bytes = 0
    return newest
  }

  /** These fates are stored. */
  noted(fates: ReadonlyArray<Fate>): void {
    if (fates.length > 0) this.fates = [...this.fates ?? [], ...fates].slice(-maxFates)
  }

  /** Fates after this offset that the store lacks. */
  fatesBeside(epoch: string, after: number, stored: ReadonlyArray<Fate>): ReadonlyArray<Fate> {
    if (this.fates === undefined || epoch !== this.epoch) return []
    return this.fates.filter(({ end, first }) => end > after && !stored.some((fate) => fate.first === first))
  }

  /** These messages are gaps in the store now. */
  gaveUp(messages: ReadonlyArray<OutboxMessage>): void {
    for (const { bytes } of messages) this.bytes = Math.max(0, this.bytes - bytes)
    this.gapped += messages.length
  }

  /** The cached message at this offset. */
  messageAt(offset: number): OutboxMessage | undefined {
    const slot = this.slots.at(this.indexOf(offset))
    return slot?.kind === "message" && slot.offset === offset ? slot : undefined
  }

  /** Cached slots after `after`. Messages that are too old or too large are set apart, and must be given up. */
  serve(after: number, limit: ReadLimit, now: number, maxSent: number): Served {
    const slots: Array<Slot> = []
    const expired: Array<OutboxMessage> = []
    const oversized: Array<OutboxMessage> = []
    const { maxBytes, maxMessageBytes = Infinity } = limit
    const maxMessages = Math.min(limit.maxMessages, maxSent)
    let messages = 0
    let bytes = 0
    let more = false
    for (let i = this.indexOf(after + 1); i < this.slots.size; i++) {
      const slot = this.slots.at(i) as Slot // in bounds
      if (slot.kind === "gap") {
        slots.push(slot.offset > after ? slot : { ...slot, offset: after + 1 })
      } else if (slot.expiresAt <= now) expired.push(slot)
      else if (slot.bytes > maxMessageBytes) oversized.push(slot)
      else {
        more = messages >= maxMessages || (messages > 0 && bytes + slot.bytes > maxBytes)
        if (more) break
        messages++
        bytes += slot.bytes
        slots.push(slot)
      }
    }
    const back = this.slots.back()
    const end = back === undefined ? after : Math.max(after, endOf(back))
    const next = !more && end < this.last ? end : undefined
    return { slots, expired, oversized, more: more || next !== undefined, next }
  }

  /** The index of the slot that contains `offset`, or of the first one after it. */
  private indexOf(offset: number): number {
    let low = 0
    let high = this.slots.size
    while (low < high) {
      const middle = (low + high) >> 1
      if (endOf(this.slots.at(middle) as Slot) < offset) low = middle + 1 // in bounds
      else high = middle
    }
    return low
  }
}

/** About what a message costs in memory; strings that are not Latin-1 take two bytes a unit. */
const slotBytes = (message: OutboxMessage): number => message.payload.length + 120

/** Decoded messages with the gaps laid over them, as slots within `after + 1..end`. */
export const overlay = (
  messages: ReadonlyArray<OutboxMessage>,
  gaps: ReadonlyArray<Gap>,
  after: number,
  end: number
): ReadonlyArray<Slot> => {
  const slots: Array<Slot> = []
  let g = 0
  const pushGap = (gap: Gap): void => {
    const offset = Math.max(gap.first, after + 1)
    const last = Math.min(gap.end, end)
    if (offset <= last) slots.push({ kind: "gap", offset, end: last, reason: gap.reason } satisfies OutboxGap)
  }
  for (const message of messages) {
    if (message.offset <= after) continue
    while (g < gaps.length && (gaps[g] as Gap).end < message.offset) pushGap(gaps[g++] as Gap) // in bounds
    const gap = gaps[g]
    if (gap !== undefined && gap.first <= message.offset) continue
    slots.push(message)
  }
  for (; g < gaps.length; g++) pushGap(gaps[g] as Gap) // in bounds
  return slots
}
