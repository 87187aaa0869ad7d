/**
 * What comes in from one session: what waits, the handler that runs, what is handled and not yet stored. It outlives
 * connections. `handle/` writes it; `run/handlers.ts` notes the handler's fiber, and `peer.ts` moves it to a new peer.
 */
import type { Fiber } from "effect"
import { Deque, emptyDeque } from "../../core/Deque.ts"
import type { GapReason } from "../../core/Protocol.ts"
import type { Connection } from "../../Transport.ts"

/** Something received that waits for its handler. */
export type Delivery =
  & {
    /** On the last part of a frame: how much memory its handling frees, see `hold` of the intake. */
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
      readonly trace: string | undefined
      readonly from: Connection | undefined
    }
  )

/** A delivery with a position in a log. */
export type Positioned = Exclude<Delivery, { kind: "loose" }>

/** Handled messages whose position must be stored: of one log, up to an offset; 0 is none. */
export interface Uncommitted {
  epoch: string
  offset: number
  messages: number
}

/** A delivery whose position the store refused to its handler, and the generation that wrote it. */
export interface Refusal {
  readonly delivery: Delivery
  readonly generation: number
}

// Most sessions have none of these: one for all, never written to.
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
  /** The delivery whose running handler stores the position itself, perhaps in a transaction. */
  private committing: Delivery | undefined = undefined
  private refusal: Refusal | undefined = undefined
  /** Handled and not stored. */
  private uncommitted: Uncommitted = nothing
  /** Positions that are being stored. */
  private saves: ReadonlyArray<Uncommitted> = none

  /** It has sent something that the inbox's position does not show: a volatile message, or any as a plain peer. */
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

  /** All that was received is handled and stored. */
  get isIdle(): boolean {
    return !this.isRunning && this.saving === 0 && this.queue.size === 0 && this.uncommitted.offset === 0
  }

  // --- what waits

  /** How many deliveries wait, including the one being handled. */
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

  /** A delivery without a position: nothing else shows later that it came. */
  receivedLoose(delivery: Delivery): void {
    this.wasLoose = true
    this.received(delivery)
  }

  /** The session goes on here, as its peer now speaks the other dialect; what waited there is dropped. */
  inherit({ wasLoose }: Incoming): void {
    this.wasLoose = wasLoose
  }

  /** The delivery is done with. False if it was gone already, as the session got another owner meanwhile. */
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

  /** The message at the front is left for the next process to handle again. */
  held(): void {
    this.isLeft = true
  }

  /** What was handled here is given up: none of it is stored any more. `drop` gives up what waits. */
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

  // --- positions in the store

  /** How many messages are handled and not stored. */
  get unsaved(): number {
    return this.uncommitted.messages
  }

  get hasUnsaved(): boolean {
    return this.uncommitted.offset > 0
  }

  /**
   * There is a position to store, and no handler's own transaction is open: it may hold locks that the store, and the
   * positions of others, would wait for.
   */
  get maySave(): boolean {
    return this.uncommitted.offset > 0 && this.committing === undefined
  }

  /** Whether what is handled must be stored before `next` starts: it is of another log, or there is none. */
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

  /** How many messages are stored with this position. A later position may be stored first, and covers the earlier ones. */
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

  /** The save failed and must be repeated; false if a later save has stored its position too. */
  saveFailed(save: Uncommitted): boolean {
    if (!this.saves.includes(save)) return false
    this.saves = this.saves.filter((other) => other !== save)
    const later = this.uncommitted
    if (later.offset === 0) this.uncommitted = { epoch: save.epoch, offset: save.offset, messages: save.messages }
    else if (later.epoch === save.epoch) later.messages += save.messages
    return true
  }
}
