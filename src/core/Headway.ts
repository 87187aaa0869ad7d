/**
 * What a sender does about a message at which connections end again and again (PROTOCOL.md §6.7). Something between the
 * peers may refuse frames of that size, and say so, or just reset.
 *
 * A session has one only after something of the kind has happened.
 */
import { bulkFrameBytes, CloseCode, isDoubtful, tooBig } from "./Protocol.ts"

/**
 * What the end of a connection says of the first message that did not arrive.
 *
 * - `tooBig`: the frame was too big, says the code
 * - `blamed`: the code blames a frame, or its sender, for something else
 * - `broken`: it says nothing; networks break by themselves
 */
export type Mishap = "tooBig" | "blamed" | "broken"

/** No code, none in time, the other side's fault, and the deadlines of silence and of acks. */
const breaks: ReadonlySet<number> = new Set([
  1005,
  1006,
  1011,
  CloseCode.heartbeatTimeout,
  CloseCode.ackTimeout,
  CloseCode.flushTimeout
])
/** How many connections in a row break at one message before it is suspected: networks break too. */
const enoughBreaks = 3
/**
 * After how many connections that ended while it was alone a message is given up: with the reason named, and without.
 */
const enoughRefusals = 2
const enoughBreakages = 4
/** If no reason is named, no smaller message counts as too large. */
const leastSuspectBytes = 16_384
/** Once something got through, batches are not kept smaller than this, whatever the path's limit seems to be. */
const leastFrameBytes = 1_024

/** Undefined for intended endings. */
export const mishapOf = (code: number): Mishap | undefined => {
  if (code === tooBig) return "tooBig"
  if (isDoubtful(code)) return "blamed"
  return breaks.has(code) ? "broken" : undefined
}

/** The first frame in flight that has not fully arrived. */
export interface Head {
  /** The first offset in it that has not arrived. */
  readonly offset: number
  readonly messages: number
  readonly bytes: number
  /** Whether nothing else was in flight. */
  readonly isAlone: boolean
}

export class Headway {
  /** Payload bytes that a batch of more than one message may have. */
  frameBytes = bulkFrameBytes
  /** A batch of this many bytes did not get through. */
  private ceiling = Infinity
  private failedBytes = Infinity
  private offset = 0
  /** How many connections in a row have ended at this offset, and how many of them while its message was alone. */
  private endings = 0
  private strikes = 0
  private mishap: Mishap = "broken"
  private attachedAt = 0
  /**
   * A connection ended while it had to prove stable: connections break by themselves here, and waiting would never end.
   */
  private isHasty = false

  /** Frames go out one at a time, so that what can get through does, and what can't is known. */
  get isCautious(): boolean {
    return this.endings >= (this.mishap === "broken" ? enoughBreaks : 1)
  }

  /** Whether there is nothing to remember. */
  get isBlank(): boolean {
    return this.endings === 0 && this.frameBytes === bulkFrameBytes
  }

  /** A connection ended before `head` had arrived. */
  ended(mishap: Mishap, head: Head): void {
    const wasCautious = this.isCautious
    if (head.offset !== this.offset) {
      this.endings = 0
      this.strikes = 0
    }
    this.offset = head.offset
    // The reason need not be named each time.
    if (this.endings === 0 || mishap !== "broken") this.mishap = mishap
    this.endings++
    if (!this.isCautious) return
    if (head.messages > 1) {
      this.failedBytes = head.bytes
      this.frameBytes = Math.max(1, Math.min(this.frameBytes, head.bytes) >> 2)
      if (mishap === "tooBig") this.ceiling = Math.min(this.ceiling, head.bytes)
    } else if (head.isAlone && (mishap === "tooBig" || (wasCautious && !this.isHasty))) this.strikes++
    this.isHasty = false
  }

  /** A connection ended, and nothing was in flight. */
  endedIdle(now: number, millis: number): void {
    if (now - this.attachedAt < millis) this.isHasty = true
  }

  /** There is a new connection, and the peer has everything up to `received`. */
  attached(received: number, now: number): void {
    this.attachedAt = now
    this.arrived(received)
  }

  /** The peer has everything up to `received`. */
  arrived(received: number): void {
    if (this.endings === 0 || received < this.offset) return
    // A smaller batch got through where larger ones failed again and again: that is the path's limit.
    if (this.isCautious) this.ceiling = Math.min(this.ceiling, this.failedBytes)
    this.endings = 0
    this.strikes = 0
    this.failedBytes = Infinity
    const wanted = this.ceiling === Infinity ? bulkFrameBytes : Math.max(leastFrameBytes, this.ceiling >> 2)
    this.frameBytes = Math.max(this.frameBytes, wanted)
  }

  /**
   * Whether the next frame should wait: if no reason is named, a connection first has to prove stable without the
   * frame. Otherwise a peer that keeps crashing would look like a message that can't pass. After a connection that was
   * not stable the next need not prove it, and its end says nothing of the message.
   */
  mustWait(now: number, millis: number): boolean {
    return this.isCautious && this.mishap === "broken" && !this.isHasty && now - this.attachedAt < millis
  }

  /** Whether to give this message up: it was alone again and again, and is large enough to be the reason. */
  isHopeless(offset: number, bytes: number): boolean {
    if (offset !== this.offset) return false
    return this.mishap === "tooBig"
      ? this.strikes >= enoughRefusals
      : this.mishap === "broken" && this.strikes >= enoughBreakages && bytes >= leastSuspectBytes
  }
}
