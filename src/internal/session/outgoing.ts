/**
 * What goes out to one session: its outbox, how far it is sent and acknowledged, and who waits for receipts. It is what
 * this side knows, and outlives connections. `deliver/` works with it; others say what happened, and write nothing.
 */
import type { Failure, OutboxPosition } from "../../core/Frame.ts"
import { type Head, Headway, type Mishap } from "../../core/Headway.ts"
import { Receipts, type RemoteOutbox } from "./receipts.ts"

/** What the other side has handled, and what of it it could not. */
export interface Ack {
  readonly handled: number
  readonly failed: ReadonlyArray<Failure>
}

export class Outgoing {
  /** The epoch of our outbox. */
  private log = ""
  /** For which generation it was opened last. */
  private openedFor = 0
  private followed = new Receipts(0)
  /** Something was, or is, in the outbox. */
  private isAddressed = false
  /** Has something for the delivery worker to do. */
  private isDirty = false
  /** A flush waits for the store. */
  private isWaiting = false
  /** How often in a row the store failed it. */
  private flushFailures = 0
  /** Up to here the queue is known to have been told. */
  private acked = 0
  /** Acks that the queue has not been told of. */
  private pending: Ack | undefined = undefined
  /** What the queue is being told, or will be again; never two at once. */
  private underWay: Ack | undefined = undefined
  private ackFailures = 0
  /** The newest offset that was ever on the wire: at or below it is redelivery. */
  private highestSent = 0
  /** What is known of messages that do not get through; nothing, mostly. */
  private trouble: Headway | undefined = undefined

  get epoch(): string {
    return this.log
  }

  get receipts(): Receipts {
    return this.followed
  }

  get headway(): Headway | undefined {
    return this.trouble
  }

  /** Messages do not get through: one frame goes at a time, and perhaps not at once. */
  get isCautious(): boolean {
    return this.trouble !== undefined && this.trouble.isCautious
  }

  get wasAddressed(): boolean {
    return this.isAddressed
  }

  /** Whether the offset was on the wire before. */
  wasSent(offset: number): boolean {
    return offset <= this.highestSent
  }

  // --- the outbox

  /**
   * The outbox is open for this generation: receipts before its position are settled. Where other servers may have had
   * it, `remote` says of an outbox how one learns what became of its messages: for those sent before now, only that
   * can tell.
   */
  opened(
    { acked, epoch, last }: OutboxPosition,
    generation: number,
    remote: ((epoch: string) => RemoteOutbox) | undefined
  ): void {
    const { log: known, openedFor } = this
    this.openedFor = generation
    this.acked = acked
    if (last > 0) this.isAddressed = true
    if (epoch === known && (remote === undefined || generation <= openedFor + 1)) return
    this.log = epoch
    if (remote !== undefined) {
      this.followed.leaveTo(remote(known === "" ? epoch : known))
      this.followed = new Receipts(last, remote(epoch))
    } else if (known === "") {
      // Somebody may have sent while the outbox was being opened, and holds a receipt.
      this.followed.handled(acked)
      return
    } else this.followed = new Receipts(acked)
    if (epoch === known) return
    // Offsets of another log mean nothing in this one.
    this.pending = undefined
    this.highestSent = 0
    this.trouble = undefined
  }

  /** Takes over what another peer had for the same outbox, and those who wait for it. */
  inherit({ followed, highestSent, isAddressed, log, openedFor, pending, underWay }: Outgoing): void {
    this.isAddressed = isAddressed
    this.log = log
    this.openedFor = openedFor
    this.followed = followed
    this.pending = merge(underWay, pending) // to be told twice does no harm
    this.highestSent = highestSent
  }

  /** Another server has the outbox now: of this one, the queue need not hear any more. */
  moved(): void {
    this.pending = undefined
  }

  /** Something was appended to the outbox. */
  addressed(): void {
    this.isAddressed = true
  }

  // --- the wire

  /** A handshake is done: the other side takes our log up here. */
  resumed(handled: number, received: number, failed: ReadonlyArray<Failure>, now: number): void {
    if (handled > this.acked || failed.length > 0) this.acknowledged(handled, failed)
    this.trouble?.attached(received, now)
  }

  /** Everything up to `offset` was written to the socket. */
  sent(offset: number): void {
    if (offset > this.highestSent) this.highestSent = offset
  }

  /** The other side has everything up to `received`. */
  arrived(received: number): void {
    if (this.trouble === undefined) return
    this.trouble.arrived(received)
    if (this.trouble.isBlank) this.trouble = undefined
  }

  /** The other side has handled everything up to `handled`; the queue has to be told. */
  acknowledged(handled: number, failed: ReadonlyArray<Failure>): void {
    this.pending = merge(this.pending, { handled, failed })
  }

  /** A connection ended before `head` had arrived. */
  cutAt(head: Head, mishap: Mishap): void {
    this.trouble ??= new Headway()
    this.trouble.ended(mishap, head)
  }

  /** A connection ended with nothing under way. */
  cutIdle(now: number, tickMillis: number): void {
    this.trouble?.endedIdle(now, tickMillis)
  }

  // --- flushes

  /** Nothing is to be sent, and no flush waits. */
  get isAtRest(): boolean {
    return !this.isDirty && !this.isWaiting
  }

  get isFlushing(): boolean {
    return this.isWaiting
  }

  /** There is something to do. Whether it has to stand in line for that: else it does, or a flush that waits looks. */
  wake(): boolean {
    if (this.isDirty) return false
    this.isDirty = true
    return !this.isWaiting
  }

  flushBegan(): void {
    this.isDirty = false
  }

  /** It has to wait for the store. */
  flushWaits(): void {
    this.isWaiting = true
  }

  /** Whether there is something to do again. */
  flushEnded(): boolean {
    this.isWaiting = false
    return this.isDirty
  }

  flushSucceeded(): void {
    this.flushFailures = 0
  }

  /** How often in a row the store has failed it. */
  flushFailed(): number {
    return ++this.flushFailures
  }

  // --- acks to the queue

  /** Whether the queue has to be told of an ack. */
  get hasAck(): boolean {
    return this.pending !== undefined
  }

  /** What to tell the queue now: nothing while it is being told. */
  get ackToTell(): Ack | undefined {
    return this.underWay === undefined ? this.pending : undefined
  }

  /** All that the queue is not known to have been told; what is under way does no harm twice. */
  get untold(): Ack | undefined {
    return merge(this.underWay, this.pending)
  }

  /** What was to be told is told, or being told. */
  ackTaken(): void {
    this.pending = undefined
  }

  /** The queue is being told in the background from now on. */
  ackBegan(): Ack | undefined {
    const { pending } = this
    if (pending === undefined) return undefined
    this.pending = undefined
    this.underWay = pending
    return pending
  }

  ackEnded(): void {
    this.underWay = undefined
  }

  ackSucceeded(): void {
    this.ackFailures = 0
  }

  /** How often in a row the store has failed it. */
  ackFailed(): number {
    return ++this.ackFailures
  }

  /** The queue has not taken it: it is told again, unless it is of another log. */
  putBack(epoch: string, ack: Ack): void {
    if (this.log === epoch) this.pending = merge(ack, this.pending)
  }

  /** The queue knows that everything up to `offset` is handled. */
  settled(offset: number): void {
    if (offset > this.acked) this.acked = offset
    this.followed.handled(offset)
  }
}

/** Both together: the newest position, and each failure once. */
const merge = <A extends Ack | undefined>(first: Ack | undefined, second: A): Ack | A => {
  if (first === undefined) return second
  if (second === undefined) return first
  const known = second.failed.length === 0 ? undefined : new Set(first.failed.map(([offset]) => offset))
  const failed = known === undefined
    ? first.failed
    : [...first.failed, ...second.failed.filter(([offset]) => !known.has(offset))]
  return { handled: Math.max(first.handled, second.handled), failed }
}
