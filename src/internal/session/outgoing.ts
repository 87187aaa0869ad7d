/**
 * What goes out to one session: its outbox, how far it is sent and acknowledged, and who waits for receipts. It is this
 * side's knowledge, and outlives connections. `deliver/` works with it; other code only reports what happened.
 */
import type { Failure, OutboxPosition } from "../../core/Frame.ts"
import { type Head, Headway, type Mishap } from "../../core/Headway.ts"
import { Receipts, type RemoteOutbox } from "./receipts.ts"

/** How far the other side has handled, and which messages it failed to handle. */
export interface Ack {
  readonly handled: number
  readonly failed: ReadonlyArray<Failure>
}

export class Outgoing {
  /** The epoch of our outbox. */
  private log = ""
  /** The generation that the outbox was last opened for. */
  private openedFor = 0
  private followed = new Receipts(0)
  /** Something was, or is, in the outbox. */
  private isAddressed = false
  /** The delivery worker has something to do. */
  private isDirty = false
  /** A flush waits for the store. */
  private isWaiting = false
  /** Flushes in a row that the store failed. */
  private flushFailures = 0
  /** The queue has freed what is acked up to here. */
  private acked = 0
  /** Acks still to be given to the queue. */
  private pending: Ack | undefined = undefined
  /** The ack that is being given to the queue, or is to be given again; one at a time. */
  private underWay: Ack | undefined = undefined
  private ackFailures = 0
  /** The newest offset that was ever on the wire: sending at or below it is redelivery. */
  private highestSent = 0
  /** What is known about messages that do not get through; mostly undefined. */
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

  /** Messages do not get through: frames go one at a time, perhaps after a pause. */
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
   * The outbox is open for this generation: receipts up to its position are settled. Where other servers may have had
   * the session, `remote` follows an outbox in the store: only the store can tell what became of messages sent before
   * now.
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
      // Messages may have been sent while the outbox was being opened: their receipts stay.
      this.followed.handled(acked)
      return
    } else this.followed = new Receipts(acked)
    if (epoch === known) return
    // Offsets of the old log mean nothing in the new one.
    this.pending = undefined
    this.highestSent = 0
    this.trouble = undefined
  }

  /** Takes over another peer's state of the same outbox, with its receipts. */
  inherit({ followed, highestSent, isAddressed, log, openedFor, pending, underWay }: Outgoing): void {
    this.isAddressed = isAddressed
    this.log = log
    this.openedFor = openedFor
    this.followed = followed
    this.pending = merge(underWay, pending) // telling the queue twice does no harm
    this.highestSent = highestSent
  }

  /** Another server has the outbox now: this one has nothing more to tell the queue. */
  moved(): void {
    this.pending = undefined
  }

  /** Something was appended to the outbox. */
  addressed(): void {
    this.isAddressed = true
  }

  // --- the wire

  /** A handshake is done: the other side resumes our log at this position. */
  resumed(handled: number, received: number, failed: ReadonlyArray<Failure>, now: number): void {
    if (handled > this.acked || failed.length > 0) this.acknowledged(handled, failed)
    this.trouble?.attached(received, now)
  }

  /** Everything up to `offset` was written to the socket. */
  sent(offset: number): void {
    if (offset > this.highestSent) this.highestSent = offset
  }

  /** The other side has received everything up to `received`. */
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

  /** There is nothing to send, and no flush waits. */
  get isAtRest(): boolean {
    return !this.isDirty && !this.isWaiting
  }

  get isFlushing(): boolean {
    return this.isWaiting
  }

  /** There is something to do. Returns whether to line up: not if in line, or if a flush that waits will look. */
  wake(): boolean {
    if (this.isDirty) return false
    this.isDirty = true
    return !this.isWaiting
  }

  flushBegan(): void {
    this.isDirty = false
  }

  /** The flush has to wait for the store. */
  flushWaits(): void {
    this.isWaiting = true
  }

  /** Returns whether there is something to do again. */
  flushEnded(): boolean {
    this.isWaiting = false
    return this.isDirty
  }

  flushSucceeded(): void {
    this.flushFailures = 0
  }

  /** Returns how many flushes in a row the store has failed. */
  flushFailed(): number {
    return ++this.flushFailures
  }

  // --- acks to the queue

  /** Whether there is an ack to tell the queue. */
  get hasAck(): boolean {
    return this.pending !== undefined
  }

  /** The ack to tell the queue now; undefined while it is being told one. */
  get ackToTell(): Ack | undefined {
    return this.underWay === undefined ? this.pending : undefined
  }

  /** Everything that the queue may not know yet, with what it is being told: telling it twice does no harm. */
  get untold(): Ack | undefined {
    return merge(this.underWay, this.pending)
  }

  /** The waiting ack was told, or is being told. */
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

  /** Returns how many acks in a row the store has failed. */
  ackFailed(): number {
    return ++this.ackFailures
  }

  /** The queue did not take the ack: it is told again, unless the log has changed. */
  putBack(epoch: string, ack: Ack): void {
    if (this.log === epoch) this.pending = merge(ack, this.pending)
  }

  /** The queue knows that everything up to `offset` is handled. */
  settled(offset: number): void {
    if (offset > this.acked) this.acked = offset
    this.followed.handled(offset)
  }
}

/** One ack for both: the newest position, and each failure once. */
const merge = <A extends Ack | undefined>(first: Ack | undefined, second: A): Ack | A => {
  if (first === undefined) return second
  if (second === undefined) return first
  const known = second.failed.length === 0 ? undefined : new Set(first.failed.map(([offset]) => offset))
  const failed = known === undefined
    ? first.failed
    : [...first.failed, ...second.failed.filter(([offset]) => !known.has(offset))]
  return { handled: Math.max(first.handled, second.handled), failed }
}
