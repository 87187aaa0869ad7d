/**
 * One log: the messages that this side accepted and the other has not handled, in order, with gaps (PROTOCOL.md §6,
 * §7).
 *
 * Offsets run 1, 2, 3 … without holes: a message that is dropped leaves a gap, a tombstone in its slot. The log has
 * two regions: `sent`, whose messages the peer may have (their fate is not known, so they can't expire or be dropped),
 * and `waiting`, which never left. It knows no bound, no policy and no clock: callers check and pass `now`.
 */
import { Deque, emptyDeque } from "./Deque.ts"
import type { Failure, OutboxPosition } from "./Frame.ts"
import type { FailureReason, GapReason } from "./Protocol.ts"

/** What a caller offers: a payload already serialized, with its size in bytes and its times in ms since the epoch. */
export interface Draft {
  readonly payload: string
  readonly bytes: number
  readonly id: string | undefined
  readonly trace: string | undefined
  readonly enqueuedAt: number
  /** `Infinity` when it never expires. */
  readonly expiresAt: number
}

export interface OutboxMessage extends Draft {
  readonly kind: "message"
  readonly offset: number
}

/** Offsets `offset..end` will never come. */
export interface OutboxGap {
  readonly kind: "gap"
  readonly offset: number
  readonly end: number
  readonly reason: GapReason
}

export type Slot = OutboxMessage | OutboxGap

export interface ReadLimit {
  readonly maxMessages: number
  /** Payload bytes; the first message is returned whatever its size. */
  readonly maxBytes: number
  /** The peer can't take a larger message, so it becomes a gap. Default: none is. */
  readonly maxMessageBytes?: number | undefined
}

export interface ReadResult {
  readonly slots: ReadonlyArray<Slot>
  /** Messages found expired on the way: now gaps among `slots`. */
  readonly expired: ReadonlyArray<OutboxMessage>
  /** Messages that are too large for the peer: now gaps among `slots`, with reason `overflow`. */
  readonly oversized: ReadonlyArray<OutboxMessage>
  /** Whether the limit ended the read before the log did. */
  readonly more: boolean
}

export interface AckResult {
  readonly released: number
  /** When the newest released message was enqueued; for latency. */
  readonly newestEnqueuedAt: number | undefined
  readonly failed: ReadonlyArray<{ readonly message: OutboxMessage; readonly reason: FailureReason }>
}

const nothing: ReadonlyArray<never> = []
const nothingToRead: ReadResult = { slots: nothing, expired: nothing, oversized: nothing, more: false }

/** Beyond this, gaps with different reasons are merged, so that they can't pile up while nobody reads. */
const maxHeadGaps = 64
/** What a message takes in memory besides its text, in bytes: the objects around it. */
const messageBytes = 160

const endOf = (slot: Slot): number => slot.kind === "gap" ? slot.end : slot.offset

/**
 * The most memory that a payload takes, in bytes: one character beyond Latin-1 makes all of them take two. Any
 * character beyond ASCII counts as one, as telling Latin-1 apart would take a search.
 */
const memoryOfText = ({ bytes, payload }: { readonly payload: string; readonly bytes: number }): number =>
  bytes === payload.length ? bytes : Math.max(bytes, 2 * payload.length)

/** What a message takes in memory, in bytes. */
export const memoryOfMessage = (message: { readonly payload: string; readonly bytes: number }): number =>
  messageBytes + memoryOfText(message)

const extraOf = (message: OutboxMessage): number => memoryOfText(message) - message.bytes

export class Outbox {
  readonly epoch: string
  /** The peer handled everything up to here. */
  acked: number
  /** The newest offset given out. */
  last: number
  /** Live messages and their payload bytes. */
  messages = 0
  bytes = 0
  /** Those of them that never left, and so can be dropped. */
  waitingMessages = 0
  waitingBytes = 0
  /** What payloads take in memory beyond their bytes: all, and those that wait. */
  private extra = 0
  private waitingExtra = 0
  /** Whether any does. If not, no payload is read again, which would mean fetching it from memory. */
  private hasExtra = false
  /** No waiting message expires before this: a lower bound, exact after `expire`. */
  earliestExpiry = Infinity

  // In order: sent, then gaps (dropped from the front of waiting), then waiting.
  private sent: Deque<Slot> = emptyDeque
  private gaps: Deque<OutboxGap> = emptyDeque
  private waiting: Deque<Slot> = emptyDeque
  // Whether expiry times in waiting may be out of order, so that the expired are not a prefix.
  private mixedExpiry = false
  private newestExpiry = 0

  constructor(epoch: string, acked = 0) {
    this.epoch = epoch
    this.acked = acked
    this.last = acked
  }

  get position(): OutboxPosition {
    return { epoch: this.epoch, acked: this.acked, last: this.last }
  }

  /** What all messages take in memory, in bytes. */
  get memory(): number {
    return this.messages * messageBytes + this.bytes + this.extra
  }

  /** The same, of those that can be dropped. */
  get waitingMemory(): number {
    return this.waitingMessages * messageBytes + this.waitingBytes + this.waitingExtra
  }

  append(draft: Draft): OutboxMessage {
    const message: OutboxMessage = {
      kind: "message",
      offset: ++this.last,
      payload: draft.payload,
      bytes: draft.bytes,
      id: draft.id,
      trace: draft.trace,
      enqueuedAt: draft.enqueuedAt,
      expiresAt: draft.expiresAt
    }
    this.toWaiting().pushBack(message)
    if (this.messages === 0) this.hasExtra = false
    this.messages++
    this.bytes += message.bytes
    if (message.bytes !== message.payload.length) this.hasExtra = true
    if (this.hasExtra) this.extra += extraOf(message)
    this.countWaiting(message, 1)
    if (draft.expiresAt < this.newestExpiry) this.mixedExpiry = true
    else this.newestExpiry = draft.expiresAt
    if (draft.expiresAt < this.earliestExpiry) this.earliestExpiry = draft.expiresAt
    return message
  }

  /**
   * What comes after `after`, which must be what the peer received: anything read beyond it did not arrive, and is read
   * again. What is returned counts as sent from now on, at most `maxSent` live messages.
   */
  read(after: number, limit: ReadLimit, now: number, maxSent = Infinity): ReadResult {
    this.rewind(after)
    if (this.gaps.size === 0 && this.waiting.size === 0) return nothingToRead
    const slots: Array<Slot> = []
    const expired: Array<OutboxMessage> = []
    const oversized: Array<OutboxMessage> = []
    const { maxBytes, maxMessageBytes = Infinity } = limit
    const maxMessages = Math.min(limit.maxMessages, maxSent - (this.messages - this.waitingMessages))
    let messages = 0
    let bytes = 0
    let more = false
    while (true) {
      const slot = this.gaps.front() ?? this.waiting.front()
      if (slot === undefined) break
      if (slot.kind === "gap") {
        this.popUnsent()
        this.pushSlot(slots, slot)
      } else if (slot.expiresAt <= now || slot.bytes > maxMessageBytes) {
        const reason = slot.expiresAt <= now ? "expired" : "overflow"
        this.popUnsent()
        this.forget(slot)
        this.countWaiting(slot, -1)
        this.pushSlot(slots, { kind: "gap", offset: slot.offset, end: slot.offset, reason })
        const list = reason === "expired" ? expired : oversized
        list.push(slot)
      } else {
        more = messages >= maxMessages || (messages > 0 && bytes + slot.bytes > maxBytes)
        if (more) break
        this.popUnsent()
        this.countWaiting(slot, -1)
        messages++
        bytes += slot.bytes
        slots.push(slot)
      }
    }
    const sent = this.toSent()
    for (let i = 0; i < slots.length; i++) sent.pushBack(slots[i] as Slot) // in bounds
    return { slots, expired, oversized, more }
  }

  /** The peer handled everything up to `upTo`, save the `failed`. Idempotent; lower values than before do nothing. */
  ack(upTo: number, failed: ReadonlyArray<Failure> = nothing): AckResult {
    let released = 0
    let newestEnqueuedAt: number | undefined
    let failures: Array<{ message: OutboxMessage; reason: FailureReason }> | undefined
    while (true) {
      const region = this.firstRegion()
      const slot = region.front()
      if (slot === undefined || slot.offset > upTo) break
      region.popFront()
      if (slot.kind === "gap") {
        // The rest of a gap stays in its region: in the other it would come after its successors.
        if (slot.end > upTo) region.pushFront({ ...slot, offset: upTo + 1 })
        continue
      }
      if (region !== this.sent) this.countWaiting(slot, -1)
      this.forget(slot)
      released++
      newestEnqueuedAt = slot.enqueuedAt
      const failure = failed.length === 0 ? undefined : failed.find(([offset]) => offset === slot.offset)
      if (failure !== undefined) {
        if (failures === undefined) failures = []
        failures.push({ message: slot, reason: failure[1] })
      }
    }
    this.acked = Math.max(this.acked, Math.min(upTo, this.last))
    return { released, newestEnqueuedAt, failed: failures ?? nothing }
  }

  /** Drops the oldest message that never left, leaving a gap; undefined when all have been sent. */
  dropOldest(reason: GapReason): OutboxMessage | undefined {
    while (true) {
      const slot = this.waiting.popFront()
      if (slot === undefined) return undefined
      if (slot.kind === "gap") {
        this.pushHeadGap(slot)
      } else {
        this.forget(slot)
        this.countWaiting(slot, -1)
        this.pushHeadGap({ kind: "gap", offset: slot.offset, end: slot.offset, reason })
        return slot
      }
    }
  }

  /** Turns waiting messages whose time is up into gaps. With one TTL they are a prefix: O(expired). */
  expire(now: number): ReadonlyArray<OutboxMessage> {
    if (this.earliestExpiry > now) return nothing
    const expired: Array<OutboxMessage> = []
    while (true) {
      const slot = this.waiting.front()
      if (slot === undefined || (slot.kind === "message" && slot.expiresAt > now)) break
      if (slot.kind === "gap") {
        this.waiting.popFront()
        this.pushHeadGap(slot)
      } else {
        const message = this.dropOldest("expired")
        if (message !== undefined) expired.push(message)
      }
    }
    if (this.mixedExpiry) this.expireScattered(now, expired)
    else this.earliestExpiry = this.frontExpiry()
    return expired
  }

  /** Gives back what the peer may or may not have handled, after it lost its state; leaves one gap for it. */
  giveBackSent(reason: GapReason): ReadonlyArray<OutboxMessage> {
    const last = this.sent.back()
    if (last === undefined) return nothing
    const given: Array<OutboxMessage> = []
    while (true) {
      const slot = this.sent.popFront()
      if (slot === undefined) break
      if (slot.kind === "gap") continue
      this.forget(slot)
      given.push(slot)
    }
    this.returnGaps()
    this.toWaiting().pushFront({ kind: "gap", offset: this.acked + 1, end: endOf(last), reason })
    return given
  }

  /** Ends the log: all live messages, and how many of them (the first ones) the peer may have. */
  clear(): { readonly messages: ReadonlyArray<OutboxMessage>; readonly maybeHandled: number } {
    const messages: Array<OutboxMessage> = []
    let maybeHandled = 0
    this.sent.forEach((slot) => {
      if (slot.kind === "message") messages.push(slot)
    })
    maybeHandled = messages.length
    this.waiting.forEach((slot) => {
      if (slot.kind === "message") messages.push(slot)
    })
    this.sent = emptyDeque
    this.gaps = emptyDeque
    this.waiting = emptyDeque
    this.messages = 0
    this.bytes = 0
    this.extra = 0
    this.waitingMessages = 0
    this.waitingBytes = 0
    this.waitingExtra = 0
    this.earliestExpiry = Infinity
    return { messages, maybeHandled }
  }

  /** The live message with this id, by the publisher's id or the default one. O(live messages). */
  find(id: string): { readonly message: OutboxMessage; readonly sent: boolean } | undefined {
    for (const [region, sent] of [[this.sent, true], [this.waiting, false]] as const) {
      for (let i = 0; i < region.size; i++) {
        const slot = region.at(i)
        if (slot?.kind === "message" && (slot.id ?? defaultMessageId(this.epoch, slot.offset)) === id) {
          return { message: slot, sent }
        }
      }
    }
    return undefined
  }

  /**
   * The peer has up to `last`, and the log was shorter: those offsets are taken, and all that the log holds is at the
   * peer.
   */
  recover(last: number): void {
    if (last <= this.last) return
    this.last = last
    while (true) {
      const slot = this.gaps.front() ?? this.waiting.front()
      if (slot === undefined) return
      this.popUnsent()
      this.toSent().pushBack(slot)
      if (slot.kind === "message") this.countWaiting(slot, -1)
    }
  }

  private rewind(after: number): void {
    let back = this.sent.back()
    if (back === undefined || endOf(back) <= after) return
    this.returnGaps()
    while (back !== undefined && endOf(back) > after) {
      this.sent.popBack()
      this.toWaiting().pushFront(back)
      if (back.kind === "message") this.countWaiting(back, 1)
      if (back.kind === "message" && back.expiresAt < this.earliestExpiry) this.earliestExpiry = back.expiresAt
      back = this.sent.back()
    }
  }

  private returnGaps(): void {
    while (true) {
      const gap = this.gaps.popBack()
      if (gap === undefined) return
      this.toWaiting().pushFront(gap)
    }
  }

  private toSent(): Deque<Slot> {
    if (this.sent === emptyDeque) this.sent = new Deque()
    return this.sent
  }

  private toWaiting(): Deque<Slot> {
    if (this.waiting === emptyDeque) this.waiting = new Deque()
    return this.waiting
  }

  private popUnsent(): void {
    if (this.gaps.popFront() === undefined) this.waiting.popFront()
  }

  private firstRegion(): Deque<Slot> | Deque<OutboxGap> {
    if (this.sent.size > 0) return this.sent
    return this.gaps.size > 0 ? this.gaps : this.waiting
  }

  private forget(message: OutboxMessage): void {
    this.messages--
    this.bytes -= message.bytes
    if (this.hasExtra) this.extra -= extraOf(message)
  }

  private countWaiting(message: OutboxMessage, sign: 1 | -1): void {
    this.waitingMessages += sign
    this.waitingBytes += sign * message.bytes
    if (this.hasExtra) this.waitingExtra += sign * extraOf(message)
  }

  private pushHeadGap(gap: OutboxGap): void {
    if (this.gaps === emptyDeque) this.gaps = new Deque()
    const back = this.gaps.back()
    if (back !== undefined && (back.reason === gap.reason || this.gaps.size >= maxHeadGaps)) {
      this.gaps.popBack()
      this.gaps.pushBack({ ...gap, offset: back.offset })
    } else {
      this.gaps.pushBack(gap)
    }
  }

  private pushSlot(slots: Array<Slot>, gap: OutboxGap): void {
    const previous = slots[slots.length - 1]
    if (previous?.kind === "gap" && previous.reason === gap.reason) {
      slots[slots.length - 1] = { ...gap, offset: previous.offset }
    } else {
      slots.push(gap)
    }
  }

  private frontExpiry(): number {
    const slot = this.waiting.front()
    return slot?.kind === "message" ? slot.expiresAt : Infinity
  }

  /** Rebuilds `waiting` without the expired, merging gaps, so that tombstones can't pile up in its middle. */
  private expireScattered(now: number, expired: Array<OutboxMessage>): void {
    const slots: Array<Slot> = []
    this.earliestExpiry = Infinity
    // What was sent may come back in front of what waits, and live longer.
    this.mixedExpiry = this.sent.size > 0
    this.newestExpiry = 0
    while (true) {
      const slot = this.waiting.popFront()
      if (slot === undefined) break
      if (slot.kind === "gap") {
        this.pushSlot(slots, slot)
      } else if (slot.expiresAt <= now) {
        this.forget(slot)
        this.countWaiting(slot, -1)
        expired.push(slot)
        this.pushSlot(slots, { kind: "gap", offset: slot.offset, end: slot.offset, reason: "expired" })
      } else {
        slots.push(slot)
        if (slot.expiresAt < this.newestExpiry) this.mixedExpiry = true
        else this.newestExpiry = slot.expiresAt
        if (slot.expiresAt < this.earliestExpiry) this.earliestExpiry = slot.expiresAt
      }
    }
    for (const slot of slots) this.toWaiting().pushBack(slot)
  }
}

/** The id of a message whose publisher gave none: unique by the log's epoch. */
export const defaultMessageId = (epoch: string, offset: number): string => `${epoch}-${offset}`
