/**
 * From the queue to the wire, for one session at a time. First the queue is told of acks; then come control frames,
 * volatile messages, and as many reliable ones as the peer's window, the socket and the circuit allow.
 */
import { Effect } from "effect"
import type { CircuitBreaker } from "../../CircuitBreaker.ts"
import type { Flow } from "../../core/Flow.ts"
import type { Headway } from "../../core/Headway.ts"
import type { OutboxGap, OutboxMessage, ReadResult, Slot } from "../../core/Outbox.ts"
import { bulkFrameBytes, highWaterBytes } from "../../core/Protocol.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Dialect } from "../session/dialects.ts"
import { isCircuitOpen } from "../session/inspect.ts"
import type { Link, Stalled } from "../session/link.ts"
import type { Outgoing } from "../session/outgoing.ts"
import type { Peer } from "../session/peer.ts"
import type { Receipts } from "../session/receipts.ts"

export interface DeliveryOptions {
  readonly queue: MessageQueue["Service"]
  readonly breaker: CircuitBreaker["Service"]
  readonly recorder: Recorder
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly now: () => number
  readonly markDirty: (peer: Peer) => void
  /** Tells the queue what the peer handled. */
  readonly tellAcks: (peer: Peer) => Effect.fn.Return<void>
  /** How often the heartbeat looks at the clock, in ms. */
  readonly tickMillis: number
}

export class Delivering {
  private readonly options: DeliveryOptions
  private readonly queue: MessageQueue["Service"]
  private readonly recorder: Recorder
  private readonly now: () => number

  constructor(options: DeliveryOptions) {
    this.options = options
    this.queue = options.queue
    this.recorder = options.recorder
    this.now = options.now
  }

  private writeControl(dialect: Dialect, link: Link): void {
    const { connection } = link
    const seen = link.takeSeen()
    if (seen !== undefined) connection.send(seen)
    const volatiles = link.takeVolatiles()
    if (volatiles === undefined) return
    this.recorder.count("messagesSent", volatiles.payloads.length)
    dialect.sendVolatiles(connection, volatiles)
  }

  /** Dead letters for what a read gave up: too old, or too large for the peer or, as it seems, for the way there. */
  private bury(peer: Peer, { expired, oversized }: ReadResult): Effect.Effect<void> {
    const give = (messages: ReadonlyArray<OutboxMessage>, reason: "expired" | "tooLarge") =>
      this.options.deadLetters.outgoing(peer.session, peer, peer.epoch, messages, reason, 0)
    return Effect.andThen(give(expired, "expired"), give(oversized, "tooLarge"))
  }

  /** Reads and writes until something stops it. Returns what did. */
  private *deliver(
    peer: Peer,
    link: Link
  ): Effect.fn.Return<Stalled | undefined, MessageQueueError> {
    const { connection, flow } = link
    if (flow === undefined) return undefined
    while (true) {
      const room = link.roomOf(flow)
      if (room <= 0 || flow.roomBytes <= 0) return "window" as const
      // A window that was full is used again once a quarter of it is free. Otherwise each ack of one message would let
      // one message go, in a frame of its own, for ever (the silly window of RFC 1122).
      if (link.stalled === "window" && room * 4 < link.windowOf(flow)) return "window" as const
      if (link.stalled === "window" && flow.roomBytes * 4 < flow.window.bytes) return "window" as const
      if (connection.buffered() >= highWaterBytes) return "backlog" as const
      const before = flow.sent
      const { headway } = peer.outgoing
      if (headway !== undefined && this.mustWait(headway, flow)) return "backlog" as const
      const limit = {
        maxMessages: room,
        maxBytes: Math.min(headway?.frameBytes ?? bulkFrameBytes, flow.roomBytes),
        maxMessageBytes: peer.peerMaxPayload
      }
      let read = this.queue.read.unsafe?.(peer.key, peer.own.generation, before, limit) ??
        (yield* this.queue.read(peer.key, peer.own.generation, before, limit))
      const hopeless = headway && hopelessOf(headway, read.slots)
      // The second read has a limit below its size: it counts as too large, as does what follows and is no smaller.
      if (hopeless !== undefined) read = yield* this.giveUp(peer, hopeless, before)
      if (read.expired.length > 0 || read.oversized.length > 0) yield* this.bury(peer, read)
      const { more, slots } = read
      // What was read but not sent will be read again: reads start from what the peer received.
      if (peer.link !== link) return undefined
      // A queue that bounds what is out unacknowledged has more once it is told of an ack.
      if (slots.length === 0) return more ? "window" as const : undefined
      if (flow.idle) link.progressAt = this.now()
      const frames = peer.core.compose(slots, flow)
      if (frames.length === 0) return "window" as const
      for (const frame of frames) connection.send(frame)
      this.countSent(peer.outgoing, slots, flow.sent)
      if (headway?.isCautious === true) return "backlog" as const
      if (!more && flow.sent > before && lastOf(slots) === flow.sent) return undefined
    }
  }

  /** After messages did not get through, frames go one at a time, perhaps after a pause. */
  private mustWait(headway: Headway, flow: Flow): boolean {
    return headway.isCautious && (!flow.idle || headway.mustWait(this.now(), this.options.tickMillis))
  }

  private *giveUp(
    peer: Peer,
    { bytes, offset }: OutboxMessage,
    before: number
  ): Effect.fn.Return<ReadResult, MessageQueueError> {
    const limit = { maxMessages: 1, maxBytes: 1, maxMessageBytes: Math.min(peer.peerMaxPayload, bytes - 1) }
    const read = yield* this.queue.read(peer.key, peer.own.generation, before, limit)
    yield* Effect.logWarning(
      `a message of ${bytes} bytes to session ${peer.session} is given up: connections end at it, again and again`
    )
    peer.outgoing.arrived(offset)
    return read
  }

  /** Settles receipts of messages that were given up, perhaps by another server: their gap shows it. */
  private tellGap(receipts: Receipts, { end, offset, reason }: OutboxGap): void {
    return receipts.lost(offset, end, { reason, maybeHandled: reason === "fresh" || reason === "sessionEnded" })
  }

  private countSent(outgoing: Outgoing, slots: ReadonlyArray<Slot>, sent: number): void {
    let first = 0
    let again = 0
    let enqueuedAt: number | undefined
    for (const slot of slots) {
      if (slot.kind === "gap") {
        if (this.queue.durable) this.tellGap(outgoing.receipts, slot)
        continue
      }
      if (slot.offset > sent) continue
      if (outgoing.wasSent(slot.offset)) again++
      else {
        first++
        enqueuedAt = slot.enqueuedAt
      }
    }
    outgoing.sent(sent)
    this.recorder.count("messagesSent", first)
    this.recorder.count("messagesRedelivered", again)
    if (enqueuedAt !== undefined) this.recorder.sentAfter(this.now() - enqueuedAt)
  }

  /** For a peer without our protocol, a message counts as handled when the socket has taken it. */
  private *deliverPlain(
    peer: Peer,
    link: Link
  ): Effect.fn.Return<Stalled | undefined, MessageQueueError> {
    const { connection } = link
    while (true) {
      if (connection.buffered() >= highWaterBytes) return "backlog" as const
      const limit = { maxMessages: 256, maxBytes: bulkFrameBytes }
      const read = yield* this.queue.read(peer.key, peer.own.generation, link.plainSent, limit)
      if (read.expired.length > 0 || read.oversized.length > 0) yield* this.bury(peer, read)
      const { slots } = read
      if (peer.link !== link || slots.length === 0) return undefined
      for (const slot of slots) {
        if (slot.kind === "gap") {
          link.plainSent = slot.end
          continue
        }
        const { offset } = slot
        link.plainSent = offset
        connection.send(slot.payload, (ok) => {
          if (!ok || peer.link !== link) return
          peer.outgoing.acknowledged(offset, [])
          this.options.markDirty(peer)
        })
      }
      this.countSent(peer.outgoing, slots, link.plainSent)
    }
  }

  /** A generator, not an effect: with a queue in memory it runs through without yielding. */
  *flush(peer: Peer): Effect.fn.Return<void, MessageQueueError> {
    // Acks come first, since they make room in the queue.
    if (peer.outgoing.hasAck) yield* this.options.tellAcks(peer)
    const { link } = peer
    if (link === undefined) return
    this.writeControl(peer.dialect, link)
    const { connection, flow } = link
    if (link.isDrained) link.stalled = "backlog"
    else if (isCircuitOpen(this.options.breaker, peer)) link.stalled = "circuitOpen"
    else if (peer.dialect.name === "protocol") link.stalled = yield* this.deliver(peer, link)
    else link.stalled = yield* this.deliverPlain(peer, link)
    if (peer.link !== link || flow === undefined) return
    // No ack to a peer that reads nothing: it stays due until the socket has drained.
    if (connection.buffered() >= highWaterBytes) return
    const ack = peer.core.composeAck()
    if (ack !== undefined) connection.send(ack)
  }
}

/** The first message, if it never gets through. */
const hopelessOf = (headway: Headway, slots: ReadonlyArray<Slot>): OutboxMessage | undefined => {
  const first = slots.find((slot) => slot.kind === "message")
  return first?.kind === "message" && headway.isHopeless(first.offset, first.bytes) ? first : undefined
}

const lastOf = (slots: ReadonlyArray<Slot>): number => {
  const last = slots[slots.length - 1]
  return last === undefined ? 0 : last.kind === "gap" ? last.end : last.offset
}
