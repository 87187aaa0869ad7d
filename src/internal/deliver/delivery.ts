/**
 * From the queue to the wire, for one session at a time. Acks into the queue come first, then control frames, volatile
 * messages, and as many reliable ones as the peer's window, the socket and the circuit allow.
 */
import { Effect } from "effect"
import type { CircuitBreaker } from "../../CircuitBreaker.ts"
import { encodeVolatile } from "../../core/Codec.ts"
import type { Flow } from "../../core/Flow.ts"
import type { Headway } from "../../core/Headway.ts"
import type { OutboxGap, OutboxMessage, ReadResult, Slot } from "../../core/Outbox.ts"
import { bulkFrameBytes, highWaterBytes } from "../../core/Protocol.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection } from "../../Transport.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import { isCircuitOpen } from "../session/inspect.ts"
import { none, type Peer } from "../session/peer.ts"

export interface DeliveryOptions {
  readonly queue: MessageQueue["Service"]
  readonly breaker: CircuitBreaker["Service"]
  readonly recorder: Recorder
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly now: () => number
  readonly markDirty: (peer: Peer) => void
  /** Tells the queue what the peer handled. */
  readonly tellAcks: (peer: Peer) => Effect.fn.Return<void>
  /** How often the clock is looked at. */
  readonly tickMillis: number
}

export const makeDelivery = (options: DeliveryOptions) => {
  const { breaker, deadLetters, markDirty, now, queue, recorder, tellAcks } = options

  const writeControl = (peer: Peer, connection: Connection): void => {
    if (peer.control.length > 0) {
      for (const frame of peer.control) connection.send(frame)
      peer.control = none
    }
    const payloads = peer.volatileOut
    if (payloads !== undefined) {
      peer.volatileOut = undefined
      recorder.count("messagesSent", payloads.length)
      if (peer.plain) { for (const payload of payloads) connection.send(payload) }
      else for (const frame of volatileFrames(payloads)) connection.send(frame)
    }
  }

  /** What a read gave up: too old, or too large for the peer, as it says, or for the way there, as it seems. */
  const bury = (peer: Peer, { expired, oversized }: ReadResult): Effect.Effect<void> => {
    const give = (messages: ReadonlyArray<OutboxMessage>, reason: "expired" | "tooLarge") =>
      deadLetters.outgoing(peer.session, peer, peer.epoch, messages, reason, 0)
    return Effect.andThen(give(expired, "expired"), give(oversized, "tooLarge"))
  }

  /** Reads and writes until something says stop, and notes what. */
  const deliver = function*(
    peer: Peer,
    connection: Connection,
    flow: Flow
  ): Effect.fn.Return<Peer["stalled"], MessageQueueError> {
    while (true) {
      const room = Math.min(flow.roomMessages, peer.slowStart - (flow.sent - flow.handled))
      if (room <= 0 || flow.roomBytes <= 0) return "window" as const
      // Once full, a window is used again when a quarter of it is free: else each ack of one message would let one
      // message go, in a frame of its own, for ever (the silly window of RFC 1122).
      if (peer.stalled === "window" && room * 4 < Math.min(flow.window.messages, peer.slowStart)) {
        return "window" as const
      }
      if (peer.stalled === "window" && flow.roomBytes * 4 < flow.window.bytes) return "window" as const
      if (connection.buffered() >= highWaterBytes) return "backlog" as const
      const before = flow.sent
      const { headway } = peer
      if (headway !== undefined && mustWait(headway, flow)) return "backlog" as const
      const limit = {
        maxMessages: room,
        maxBytes: Math.min(headway?.frameBytes ?? bulkFrameBytes, flow.roomBytes),
        maxMessageBytes: peer.peerMaxPayload
      }
      let read = queue.read.unsafe?.(peer.key, peer.generation, before, limit) ??
        (yield* queue.read(peer.key, peer.generation, before, limit))
      const hopeless = headway && hopelessOf(headway, read.slots)
      // Read again, it is too large; and so is what comes right behind it and is no smaller.
      if (hopeless !== undefined) read = yield* giveUp(peer, hopeless, before)
      if (read.expired.length > 0 || read.oversized.length > 0) yield* bury(peer, read)
      const { more, slots } = read
      // What was read and not sent is read again: the queue goes by what the peer received.
      if (peer.connection !== connection) return undefined
      // A queue that gives out only so much goes on when it is told of an ack.
      if (slots.length === 0) return more ? "window" as const : undefined
      if (flow.idle) peer.progressAt = now()
      const frames = peer.core.compose(slots, flow)
      if (frames.length === 0) return "window" as const
      for (const frame of frames) connection.send(frame)
      countSent(peer, slots, flow.sent)
      if (headway?.isCautious === true) return "backlog" as const
      if (!more && flow.sent > before && lastOf(slots) === flow.sent) return undefined
    }
  }

  /** After messages that did not get through, one frame goes after the other, and perhaps not at once. */
  const mustWait = (headway: Headway, flow: Flow): boolean =>
    headway.isCautious && (!flow.idle || headway.mustWait(now(), options.tickMillis))

  const giveUp = function*(
    peer: Peer,
    { bytes, offset }: OutboxMessage,
    before: number
  ): Effect.fn.Return<ReadResult, MessageQueueError> {
    const limit = { maxMessages: 1, maxBytes: 1, maxMessageBytes: Math.min(peer.peerMaxPayload, bytes - 1) }
    const read = yield* queue.read(peer.key, peer.generation, before, limit)
    yield* Effect.logWarning(
      `a message of ${bytes} bytes to session ${peer.session} is given up: connections end at it, again and again`
    )
    peer.noteArrival(offset)
    return read
  }

  /** Who waits for messages that were given up, perhaps by another server, learns it from their gap. */
  const tellGap = (peer: Peer, { end, offset, reason }: OutboxGap): void =>
    peer.receipts.lost(offset, end, { reason, maybeHandled: reason === "fresh" || reason === "sessionEnded" })

  const countSent = (peer: Peer, slots: ReadonlyArray<Slot>, sent: number): void => {
    let first = 0
    let again = 0
    let enqueuedAt: number | undefined
    for (const slot of slots) {
      if (slot.kind === "gap") {
        if (queue.durable) tellGap(peer, slot)
        continue
      }
      if (slot.offset > sent) continue
      if (slot.offset <= peer.highestSent) again++
      else {
        first++
        enqueuedAt = slot.enqueuedAt
      }
    }
    peer.highestSent = Math.max(peer.highestSent, sent)
    recorder.count("messagesSent", first)
    recorder.count("messagesRedelivered", again)
    if (enqueuedAt !== undefined) recorder.sentAfter(now() - enqueuedAt)
  }

  /** A peer without our protocol: a message counts as handled when the socket has taken it. */
  const deliverPlain = function*(
    peer: Peer,
    connection: Connection
  ): Effect.fn.Return<Peer["stalled"], MessageQueueError> {
    while (true) {
      if (connection.buffered() >= highWaterBytes) return "backlog" as const
      const limit = { maxMessages: 256, maxBytes: bulkFrameBytes }
      const read = yield* queue.read(peer.key, peer.generation, peer.plainSent, limit)
      if (read.expired.length > 0 || read.oversized.length > 0) yield* bury(peer, read)
      const { slots } = read
      if (peer.connection !== connection || slots.length === 0) return undefined
      for (const slot of slots) {
        if (slot.kind === "gap") {
          peer.plainSent = slot.end
          continue
        }
        const { offset } = slot
        peer.plainSent = offset
        connection.send(slot.payload, (ok) => {
          if (!ok || peer.connection !== connection) return
          peer.noteAck(offset, [])
          markDirty(peer)
        })
      }
      countSent(peer, slots, peer.plainSent)
    }
  }

  /** A generator and not an effect: with a queue in memory it does all it does without one. */
  return function*(peer: Peer): Effect.fn.Return<void, MessageQueueError> {
    // First, as it makes room in the queue.
    if (peer.pendingAck !== undefined) yield* tellAcks(peer)
    const { connection } = peer
    if (connection === undefined) return
    writeControl(peer, connection)
    const { flow } = peer.core
    if (peer.drained) peer.stalled = "backlog"
    else if (isCircuitOpen(breaker, peer)) peer.stalled = "circuitOpen"
    else if (peer.plain) peer.stalled = yield* deliverPlain(peer, connection)
    else if (flow !== undefined) peer.stalled = yield* deliver(peer, connection, flow)
    if (peer.connection !== connection || flow === undefined) return
    // Who reads nothing is told nothing: the ack stays due until the socket has drained.
    if (connection.buffered() >= highWaterBytes) return
    const ack = peer.core.composeAck()
    if (ack !== undefined) connection.send(ack)
  }
}

/** As many frames as it takes to keep each within the size of a bulk frame. */
const volatileFrames = (payloads: ReadonlyArray<string>): ReadonlyArray<string> => {
  const frames: Array<string> = []
  let part: Array<string> = []
  let size = 0
  for (const payload of payloads) {
    if (part.length > 0 && size + payload.length * 3 > bulkFrameBytes) {
      frames.push(encodeVolatile(part))
      part = []
      size = 0
    }
    part.push(payload)
    size += payload.length * 3 // UTF-8 at most
  }
  frames.push(encodeVolatile(part))
  return frames
}

/** The message at the front, if it never gets through. */
const hopelessOf = (headway: Headway, slots: ReadonlyArray<Slot>): OutboxMessage | undefined => {
  const first = slots.find((slot) => slot.kind === "message")
  return first?.kind === "message" && headway.isHopeless(first.offset, first.bytes) ? first : undefined
}

const lastOf = (slots: ReadonlyArray<Slot>): number => {
  const last = slots[slots.length - 1]
  return last === undefined ? 0 : last.kind === "gap" ? last.end : last.offset
}
