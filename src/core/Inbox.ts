/**
 * The receiver's position in the peer's outbox (PROTOCOL.md §6): what makes handling exactly-once and in order. It
 * costs O(1), with no clock and no window that could be outlived.
 *
 * `received` says what need not be sent again on this or the next connection; `handled` says what the sender may
 * forget. Both only ever rise within an epoch.
 */
import type { Failure, InboxPosition } from "./Frame.ts"
import { type FailureReason, maxFailureBytes, type Window } from "./Protocol.ts"
import { detailOf } from "./Text.ts"
import { utf8Length } from "./utf8.ts"
import { Violation } from "./Violation.ts"

/** A position as a store keeps it. */
export interface StoredPosition extends InboxPosition {
  /**
   * Whether the sender has had an answer since the log was taken up, and so knows of it: see `told` of {@link Inbox}.
   * Default true.
   */
  readonly told?: boolean
  /** While `told` is false: see `newcomer` of {@link Inbox}. Default false. */
  readonly newcomer?: boolean
}

/** A received frame whose messages are not all handled: its bytes stay in the window until they are. */
interface InFlight {
  readonly end: number
  readonly bytes: number
}

export class Inbox {
  epoch: string | null = null
  /** Where the log was taken up. */
  start = 0
  received = 0
  handled = 0
  private failures: Array<Failure> = []
  private readonly inFlight: Array<InFlight> = []
  private inFlightBytes = 0
  private inFlightMessages = 0

  get position(): InboxPosition {
    return {
      epoch: this.epoch,
      received: this.received,
      handled: this.handled,
      failed: [...this.failures],
      pending: { messages: this.inFlightMessages, bytes: this.inFlightBytes }
    }
  }

  /**
   * How far the sender can be told that messages were handled: up to the failures that a frame has no room for. It is
   * told no more until it has seen those, so never less than before.
   */
  get tellable(): { readonly handled: number; readonly failed: ReadonlyArray<Failure> } {
    const failed = this.failedAfter(0)
    let bytes = 0
    for (let i = 0; i < failed.length; i++) {
      const [offset, reason] = failed[i] as Failure // in bounds
      bytes += failureBytes(reason)
      if (bytes > maxFailureBytes) return { handled: offset - 1, failed: failed.slice(0, i) }
    }
    return { handled: this.handled, failed }
  }

  /** The position, as a handshake announces it. */
  get announced(): InboxPosition {
    return { ...this.position, ...this.tellable }
  }

  /** Whether the sender has had an answer since `adopt`, and so knows of the position. */
  told = false
  /** Whether the sender had had no answer at all when the log was taken up: if it has had one since, it knows. */
  newcomer = false

  /** Starts at `position` in the log `epoch`, forgetting any other: everything after it is new. */
  adopt(epoch: string, position: number): void {
    this.epoch = epoch
    this.told = false
    this.newcomer = false
    this.start = position
    this.received = position
    this.handled = position
    this.failures = []
    this.inFlight.length = 0
    this.inFlightBytes = 0
    this.inFlightMessages = 0
  }

  /** Forgets the position: it is no longer the newest. */
  forget(): void {
    this.adopt("", 0)
    this.epoch = null
  }

  /** Restores a stored position: what was received and not handled went with the process that had it. */
  restore(position: StoredPosition): void {
    if (position.epoch === null) return
    this.adopt(position.epoch, position.handled)
    this.told = position.told ?? true
    this.newcomer = position.newcomer ?? false
    // What failed but was not settled is handled again, perhaps with success.
    this.failures = position.failed.filter(([offset]) => offset <= position.handled)
  }

  /**
   * Takes a batch of `count` messages from offset `first`, in a frame of `bytes`. Returns how many of them, from the
   * front, were received before and must be skipped; or the violation.
   */
  accept(first: number, count: number, bytes: number, window: Window): number | Violation {
    if (first > this.received + 1) return future(first, this.received)
    const end = first + count - 1
    const fresh = end - this.received
    if (fresh <= 0) return count
    if (this.inFlightMessages + fresh > window.messages) {
      return new Violation("window", `more than ${window.messages} messages in flight`)
    }
    // Only a frame alone in flight may exceed the window's bytes: otherwise a large message could never go.
    if (this.inFlightBytes > 0 && this.inFlightBytes + bytes > window.bytes) {
      return new Violation("window", `more than ${window.bytes} bytes in flight`)
    }
    this.received = end
    this.inFlight.push({ end, bytes })
    this.inFlightBytes += bytes
    this.inFlightMessages += fresh
    return count - fresh
  }

  /** Takes a gap. Returns false when all of it was received before. */
  acceptGap(first: number, end: number): boolean | Violation {
    if (first > this.received + 1) return future(first, this.received)
    if (end <= this.received) return false
    this.received = end
    return true
  }

  /** Everything up to `upTo` was handled, `messages` of it messages and the rest gaps. */
  settle(upTo: number, messages: number): void {
    this.handled = Math.max(this.handled, Math.min(upTo, this.received))
    this.inFlightMessages = Math.max(0, this.inFlightMessages - messages)
    let done = 0
    while (done < this.inFlight.length && (this.inFlight[done] as InFlight).end <= this.handled) {
      this.inFlightBytes -= (this.inFlight[done] as InFlight).bytes
      done++
    }
    if (done > 0) this.inFlight.splice(0, done)
  }

  /** What was received after `handled` was lost before it was handled: it has to come again. */
  rewind(handled: number): void {
    this.handled = Math.max(this.handled, Math.min(handled, this.received))
    this.received = this.handled
    this.inFlight.length = 0
    this.inFlightBytes = 0
    this.inFlightMessages = 0
  }

  /** The message at `offset` was given up. The sender is told until it confirms. */
  fail(offset: number, reason: FailureReason): void {
    this.failures.push([offset, reason])
  }

  /** How many failures the sender has not confirmed. */
  get unconfirmed(): number {
    return this.failures.length
  }

  /** Failures in `after + 1 .. handled`, for an ack. */
  failedAfter(after: number): ReadonlyArray<Failure> {
    return this.failures.length === 0
      ? this.failures
      : this.failures.filter(([offset]) => offset > after && offset <= this.handled)
  }

  /** The sender has seen the failures up to `offset`. */
  forgetFailures(offset: number): void {
    if (this.failures.length > 0) this.failures = this.failures.filter(([failed]) => failed > offset)
  }
}

/** As much as `[9007199254740991,"undecodable"]` with its comma; a control character in the words takes six. */
const failureBytes = (reason: FailureReason): number => {
  const detail = detailOf(reason)
  return detail === undefined ? 33 : 33 + utf8Length(JSON.stringify(detail))
}

const future = (first: number, received: number) =>
  new Violation("future", `offset ${first} after ${received}: what is between was never sent`)
