/**
 * The sender's side of one connection (PROTOCOL.md §6): what is in flight, and how much more the peer's window allows.
 * It counts what was sent, received and handled on it.
 *
 * Both sides count the window alike: a frame's messages count until each is handled, its bytes until all of them are.
 */
import { Deque, emptyDeque } from "./Deque.ts"
import type { InboxPosition } from "./Frame.ts"
import type { Head } from "./Headway.ts"
import { defaultWindow, type Window } from "./Protocol.ts"
import { Violation } from "./Violation.ts"

interface InFlight {
  readonly first: number
  readonly end: number
  readonly bytes: number
}

export class Flow {
  readonly window: Window
  sent: number
  received: number
  handled: number
  private inFlight: Deque<InFlight> = emptyDeque
  private messages = 0
  private bytes = 0

  /** `position` is the peer's at the handshake: where it takes up this side's log. */
  constructor(window: Window, position: Pick<InboxPosition, "received" | "handled" | "pending">) {
    this.window = isDefault(window) ? defaultWindow : window
    this.sent = position.received
    this.received = position.received
    this.handled = position.handled
    // What the peer received earlier and has not handled still fills its window. Which of those offsets are gaps is
    // unknown here; taking the last ones for the messages never frees the window too early.
    const { bytes, messages } = position.pending
    if (position.received > position.handled) {
      this.push(
        position.received - Math.min(messages, position.received - position.handled) + 1,
        position.received,
        bytes
      )
    }
  }

  /** How many more messages may go, and how many bytes of frames. */
  get roomMessages(): number {
    return this.window.messages - this.messages
  }

  get roomBytes(): number {
    return this.bytes === 0 ? Infinity : this.window.bytes - this.bytes
  }

  get idle(): boolean {
    return this.received >= this.sent
  }

  /** The first frame that has not fully arrived; undefined if only gaps are missing. */
  get head(): Head | undefined {
    const { inFlight, received, sent } = this
    for (let i = 0; i < inFlight.size; i++) {
      const frame = inFlight.at(i)
      if (frame === undefined || frame.end <= received) continue
      const offset = Math.max(frame.first, received + 1)
      return { offset, messages: frame.end - offset + 1, bytes: frame.bytes, isAlone: frame.end === sent }
    }
    return undefined
  }

  sentBatch(first: number, end: number, bytes: number): void {
    this.sent = end
    this.push(first, end, bytes)
  }

  sentGap(end: number): void {
    this.sent = end
  }

  /** Whether an ack is possible: it may repeat or raise what is known, and not exceed what was sent. */
  check(received: number, handled: number): Violation | undefined {
    if (received > this.sent) return new Violation("future", `ack of ${received}, sent were ${this.sent}`)
    if (received < this.received || handled < this.handled) {
      return new Violation("regress", `ack ${received}/${handled} after ${this.received}/${this.handled}`)
    }
    return undefined
  }

  /** Takes a checked ack. Returns whether anything new was handled. */
  ack(received: number, handled: number): boolean {
    this.received = received
    if (handled === this.handled) return false
    const before = this.handled
    this.handled = handled
    while (true) {
      const frame = this.inFlight.front()
      // A frame without messages (from a position with only pending bytes) has its end before its first offset.
      if (frame === undefined || Math.min(frame.first, frame.end) > handled) return true
      this.messages -= Math.min(frame.end, handled) - Math.max(frame.first - 1, before)
      if (frame.end > handled) return true
      this.bytes -= frame.bytes
      this.inFlight.popFront()
    }
  }

  private push(first: number, end: number, bytes: number): void {
    if (this.inFlight === emptyDeque) this.inFlight = new Deque()
    this.inFlight.pushBack({ first, end, bytes })
    this.messages += end - first + 1
    this.bytes += bytes
  }
}

/** One object for all peers that grant the default, instead of one for each handshake. */
const isDefault = ({ bytes, messages }: Window): boolean =>
  messages === defaultWindow.messages && bytes === defaultWindow.bytes
