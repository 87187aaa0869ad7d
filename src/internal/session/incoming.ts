/**
 * What comes in from one session: what waits, the handler that runs, what is handled and not stored yet. Outlives
 * connections. `handle/` works with it; others ask, and write nothing.
 */
import type { Fiber } from "effect"
import { Deque, emptyDeque } from "../../core/Deque.ts"
import type { GapReason } from "../../core/Protocol.ts"
import type { Connection } from "../../Transport.ts"

/** Something received that waits for its handler. */
export type Delivery =
  & {
    /** Of the last part of a frame: the memory that is free when it is handled, see `hold` of the intake. */
    weight: number
  }
  & (
    | {
      readonly kind: "message"
      readonly epoch: string
      readonly offset: number
      /** Perhaps packed, see packing.ts. */
      value: unknown
      readonly id: string | undefined
      readonly trace: string | undefined
    }
    | {
      readonly kind: "gap"
      readonly epoch: string
      readonly first: number
      readonly offset: number
      readonly reason: GapReason
    }
    /** Without a position: a volatile message, or one of a plain peer. */
    | {
      readonly kind: "loose"
      value: unknown
      readonly volatile: boolean
      readonly from: Connection | undefined
    }
  )

/** A delivery with a position in a log. */
export type Positioned = Exclude<Delivery, { kind: "loose" }>

/** Handled messages whose position is to be stored: of one log, up to an offset, 0 for none. */
export interface Uncommitted {
  epoch: string
  offset: number
  messages: number
}

/** A delivery whose position the store refused to its handler, asked in the name of this generation. */
export interface Refusal {
  readonly delivery: Delivery
  readonly generation: number
}

// What most sessions have nothing of costs nothing: one for all, never written to.
const nothing: Uncommitted = { epoch: "", offset: 0, messages: 0 }
const none: ReadonlyArray<never> = Object.freeze([])

export class Incoming {
  /** Made with the first delivery. */
  private queue: Deque<Delivery> = emptyDeque
  private wasLoose = false
  private isRunning = false
  /** The fiber that handles, if it has to wait for something. */
  private fiber: Fiber.Fiber<void, unknown> | undefined = undefined
  private isLeft = false
  /** How many positions are being stored. */
  private saving = 0
  /** The delivery whose handler stores the position itself, in a transaction perhaps, and is not done. */
  private committing: Delivery | undefined = undefined
  private refusal: Refusal | undefined = undefined
  /** Handled and not stored. */
  private uncommitted: Uncommitted = nothing
  /** The same, of what is being stored. */
  private saves: ReadonlyArray<Uncommitted> = none

  /** It has said something that is not in the inbox's position: volatile, or as a plain peer. */
  get hasSpoken(): boolean {
    return this.wasLoose
  }

  get isHandling(): boolean {
    return this.isRunning
  }

  /** The message at the front failed during a shutdown: it is not given up, but left to be handled again. */
  get isHeld(): boolean {
    return this.isLeft
  }

  /** A position is being stored. */
  get isSaving(): boolean {
    return this.saving > 0
  }

  /** Nothing was received that is not handled and stored. */
  get isIdle(): boolean {
    return !this.isRunning && this.saving === 0 && this.queue.size === 0 && this.uncommitted.offset === 0
  }

  // --- what waits

  /** How many deliveries wait, with the one that is being handled. */
  get size(): number {
    return this.queue.size
  }

  front(): Delivery | undefined {
    return this.queue.front()
  }

  back(): Delivery | undefined {
    return this.queue.back()
  }

  at(index: number): Delivery | undefined {
    return this.queue.at(index)
  }

  received(delivery: Delivery): void {
    if (this.queue === emptyDeque) this.queue = new Deque()
    this.queue.pushBack(delivery)
  }

  /** The same without a position: nothing else will tell that it came. */
  receivedLoose(delivery: Delivery): void {
    this.wasLoose = true
    this.received(delivery)
  }

  /** The session goes on in this, as its peer is of another kind by now; what waited there does not. */
  inherit({ wasLoose }: Incoming): void {
    this.wasLoose = wasLoose
  }

  /** The delivery is done with. Whether it was still there: not if the session got another owner meanwhile. */
  took(delivery: Delivery): boolean {
    if (this.queue.front() !== delivery) return false
    this.queue.popFront()
    return true
  }

  /** What waits is not handled here. */
  drop(): void {
    this.queue = emptyDeque
  }

  // --- the handler

  handlingBegan(): void {
    this.isRunning = true
  }

  handlingEnded(): void {
    this.isRunning = false
    this.isLeft = false
  }

  /** The handler waits, in this fiber; undefined once that has ended. */
  runsIn(fiber: Fiber.Fiber<void, unknown> | undefined): void {
    this.fiber = fiber
  }

  /** The message at the front is left to be handled again, after this process. */
  held(): void {
    this.isLeft = true
  }

  /** What was received here is given up: nothing of it is to be stored, and what waits is not handled. */
  forfeited(): void {
    this.saves = none
    this.uncommitted = nothing
  }

  interrupt(): void {
    this.fiber?.interruptUnsafe()
  }

  // --- positions that handlers store

  /** The handler stores its position itself. */
  commitBegan(delivery: Delivery): void {
    this.committing = delivery
  }

  commitRefused(delivery: Delivery, generation: number): void {
    this.refusal = { delivery, generation }
  }

  /** The handler's attempt is over, and so its transaction. */
  attemptEnded(): void {
    this.committing = undefined
  }

  /** The delivery is handled, or given up. */
  deliveryEnded(): void {
    if (this.committing !== undefined) this.committing = undefined
    if (this.refusal !== undefined) this.refusal = undefined
  }

  isRefused(delivery: Delivery): boolean {
    return this.refusal !== undefined && this.refusal.delivery === delivery
  }

  takeRefusal(): Refusal | undefined {
    const { refusal } = this
    this.refusal = undefined
    return refusal
  }

  // --- positions that are stored for them

  /** How many messages are handled and not stored. */
  get unsaved(): number {
    return this.uncommitted.messages
  }

  get hasUnsaved(): boolean {
    return this.uncommitted.offset > 0
  }

  /**
   * There is a position to store, and nothing against doing so now: a handler's own transaction may hold what that would
   * wait for, with the positions of others.
   */
  get maySave(): boolean {
    return this.uncommitted.offset > 0 && this.committing === undefined
  }

  /** Whether what is handled has to be stored before this is: as nothing else waits, or it is of another log. */
  mustSaveBefore(next: Delivery | undefined): boolean {
    const { epoch, offset } = this.uncommitted
    return offset > 0 && (next === undefined || (next.kind !== "loose" && next.epoch !== epoch))
  }

  handled({ epoch, kind, offset }: Positioned): void {
    const messages = kind === "message" ? 1 : 0
    const { uncommitted } = this
    if (uncommitted === nothing) {
      this.uncommitted = { epoch, offset, messages }
      return
    }
    uncommitted.epoch = epoch
    uncommitted.offset = offset
    uncommitted.messages += messages
  }

  /** What is handled is being stored. What is handled meanwhile is for the next save. */
  saveBegan(): Uncommitted {
    const save = this.uncommitted
    this.uncommitted = nothing
    this.saves = [...this.saves, save]
    this.saving++
    return save
  }

  /** The store has answered, or will not. */
  saveEnded(): void {
    this.saving--
  }

  /** How many messages are stored with this position: a later one may be stored before an earlier one, and for both. */
  saved(save: Uncommitted): number | undefined {
    if (!this.saves.includes(save)) return undefined
    let messages = 0
    this.saves = this.saves.filter((other) => {
      if (other.epoch !== save.epoch || other.offset > save.offset) return true
      messages += other.messages
      return false
    })
    return messages
  }

  /** It is not stored, and has to be. Not so if a later save has stored it as well. */
  saveFailed(save: Uncommitted): boolean {
    if (!this.saves.includes(save)) return false
    this.saves = this.saves.filter((other) => other !== save)
    const later = this.uncommitted
    if (later.offset === 0) this.uncommitted = { epoch: save.epoch, offset: save.offset, messages: save.messages }
    else if (later.epoch === save.epoch) later.messages += save.messages
    return true
  }
}
