/**
 * One session's state at this side: its core, its connection, what waits to be handled, and who waits for what. Plain
 * data with a few synchronous helpers; the engine does the work.
 */
import type { Fiber } from "effect"
import { session as sessionCircuit } from "../../CircuitBreaker.ts"
import { Deque } from "../../core/Deque.ts"
import type { Failure, OutboxPosition } from "../../core/Frame.ts"
import type { Headway } from "../../core/Headway.ts"
import type { StoredPosition } from "../../core/Inbox.ts"
import type { Liveness } from "../../core/Liveness.ts"
import type { GapReason } from "../../core/Protocol.ts"
import type { Session } from "../../core/Session.ts"
import type { Connection } from "../../Transport.ts"
import type { Spare } from "../bounds/crowd.ts"
import { Reading } from "./reading.ts"
import { type Elsewhere, Receipts } from "./receipts.ts"

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

/** What the other side has handled, and what of it it could not. */
export interface Ack {
  readonly handled: number
  readonly failed: ReadonlyArray<Failure>
}

/** Handled messages whose position is to be stored: of one log, up to an offset. */
export interface Uncommitted {
  epoch: string
  offset: number
  messages: number
}

/** What most peers have nothing of costs nothing: one for all, never written to. */
export const nothing: Uncommitted = { epoch: "", offset: 0, messages: 0 }
export const none: ReadonlyArray<never> = Object.freeze([])

/** Messages that may go before the first ack after trouble; doubles with each ack. */
export const slowStartMessages = 16

export class Peer {
  /** Names the outbox in the queue. */
  readonly key: string
  /** Names the circuit. */
  readonly circuit: string
  session: string
  principal: string | undefined
  readonly core: Session
  /** A WebSocket without our protocol: payloads as they are, kept until written. */
  readonly plain: boolean
  generation = 0
  /** With whom it counts together where room is short; "" where that is not known. Written by {@link Peers} alone. */
  share: string
  /** Written by its crowd alone. */
  spare: Spare = undefined
  /** Nobody knows who it is: the hook named neither a principal nor the session. */
  isStranger = false
  /** It has said something that is not in the inbox's position: volatile, or as a plain peer. */
  hasSpoken = false
  /** Something was, or is, in its outbox. */
  isAddressed = false
  /** Its connection is lost, and the registry knows. */
  away = false
  /** Its session is being ended. */
  ending = false
  /** It was registered under its session's name: nobody is asked who it is. */
  isNamed = false
  /** The client instance that is, or was last, attached. */
  instance = ""
  /** Which connection of the server this session was attached by last: they are numbered as they come. */
  arrival = 0
  /** Of our outbox. */
  epoch = ""
  /** For which generation it was opened last. */
  private openedFor = 0
  receipts: Receipts

  connection: Connection | undefined
  liveness: Liveness | undefined
  /** When the last connection was heard last. */
  heardAt: number | undefined
  /** Largest payload the other side takes. */
  peerMaxPayload = Infinity
  /** The other side asked for no new messages. */
  drained = false

  /** Attachments of this session that are under way: a write that is refused meanwhile may be so by one of them. */
  attaching = 0
  /** Whether the last attachment failed in a way that may have raised the generation all the same. */
  inDoubt = false
  /** The generation whose connection is gone, until the session is released: 0 when there is nothing to release. */
  departed = 0

  readonly inbound = new Deque<Delivery>()
  /** What it may make us take in. */
  readonly reading = new Reading()
  handling = false
  /** The fiber that handles, if it has to wait for something. */
  handler: Fiber.Fiber<void, unknown> | undefined
  /**
   * Raised when what was received here is given up, because another server has the session, or had it meanwhile. What
   * began before must not be stored or acknowledged any more.
   */
  tenure = 0
  /** A connection whose frames count for nothing any more, as this session is at another server. */
  unheeded: Connection | undefined
  /** Another server wants the session: no new handler starts. */
  leaving = false
  /** The message at the front failed during a shutdown: it is not given up, but left to be handled again. */
  held = false
  /** Positions being stored. */
  saving = 0
  /** The delivery whose handler stores the position itself, in a transaction perhaps, and is not done. */
  committing: Delivery | undefined
  /** The delivery whose position the store refused to its handler. */
  refused: { readonly delivery: Delivery; readonly generation: number } | undefined
  /** Handled and not stored: of which log, up to where (0 when there is nothing), how many messages. */
  uncommitted: Uncommitted = nothing
  /** The same, of what is being stored. */
  saves: ReadonlyArray<Uncommitted> = none

  /** Has something for the delivery worker to do. */
  dirty = false
  /** A flush waits for the store. */
  flushing = false
  /** How often in a row the store failed it. */
  flushFailures = 0
  /** Up to here the queue is known to have been told. */
  acked = 0
  /** Acks that the queue has not been told of. */
  pendingAck: Ack | undefined
  /** What the queue is being told, or will be again; never two at once. */
  acking: Ack | undefined
  ackFailures = 0
  /** Frames to go before everything else. */
  control: ReadonlyArray<string> = none
  /** Made with the first of them, and again after each write. */
  volatileOut: Array<string> | undefined
  /** Why the last delivery stopped before the outbox was empty. */
  stalled: "window" | "backlog" | "circuitOpen" | undefined
  /** How many messages may be in flight after trouble; Infinity once all is well. */
  slowStart = Infinity
  /** Whether the circuit has failures on record that the next ack should clear. */
  suspect = false
  /** The newest offset that was ever on the wire: at or below it is redelivery. */
  highestSent = 0
  /** When the other side last received something new, or had nothing to receive. */
  progressAt = 0
  /** What is known of messages that do not get through; nothing, mostly. */
  headway: Headway | undefined
  /** Of a plain peer: the newest offset written to the socket. */
  plainSent = 0

  constructor(options: {
    readonly key: string
    readonly session: string
    readonly principal: string | undefined
    readonly core: Session
    readonly plain: boolean
    readonly share?: string | undefined
  }) {
    this.key = options.key
    this.circuit = sessionCircuit(options.key)
    this.session = options.session
    this.principal = options.principal
    this.core = options.core
    this.plain = options.plain
    this.share = options.share ?? ""
    this.receipts = new Receipts(0)
  }

  /**
   * The outbox is open: receipts before its position are settled. Where other servers may have had it, `elsewhere` says
   * of an outbox how one learns what became of its messages: of those that were sent before now only that can tell.
   */
  opened({ acked, epoch, last }: OutboxPosition, elsewhere?: (epoch: string) => Elsewhere): void {
    const { epoch: known, openedFor } = this
    this.openedFor = this.generation
    this.acked = acked
    if (last > 0) this.isAddressed = true
    if (epoch === known && (elsewhere === undefined || this.generation <= openedFor + 1)) return
    this.epoch = epoch
    if (elsewhere !== undefined) {
      this.receipts.leaveTo(elsewhere(known === "" ? epoch : known))
      this.receipts = new Receipts(last, elsewhere(epoch))
    } else if (known === "") {
      // Somebody may have sent while the outbox was being opened, and holds a receipt.
      this.receipts.handled(acked)
      return
    } else this.receipts = new Receipts(acked)
    if (epoch === known) return
    // Offsets of another log mean nothing in this one.
    this.pendingAck = undefined
    this.highestSent = 0
    this.headway = undefined
  }

  /** Takes over from a peer of the other kind: the outbox is the same, and so are those who wait for it. */
  inherit({ acking, epoch, hasSpoken, highestSent, isAddressed, openedFor, pendingAck, receipts }: Peer): void {
    this.hasSpoken = hasSpoken
    this.isAddressed = isAddressed
    this.epoch = epoch
    this.openedFor = openedFor
    this.receipts = receipts
    this.pendingAck = merge(acking, pendingAck) // to be told twice does no harm
    this.highestSent = highestSent
  }

  /** What a restarted process may go on from: everything received and not handled is gone with this one. */
  storedPosition(epoch: string, offset: number): StoredPosition {
    const { newcomer, position: { failed }, told } = this.core.inbox
    const pending = { messages: 0, bytes: 0 }
    return { epoch, received: offset, handled: offset, failed, pending, ...(told ? {} : { told, newcomer }) }
  }

  /** Nobody knows who it is, it has never said anything, and nothing was ever sent to it: nothing is lost with it. */
  get isSilentStranger(): boolean {
    return this.isStranger && !this.hasSpoken && !this.isAddressed && this.core.inbox.received === 0
  }

  get connected(): boolean {
    return this.connection !== undefined
  }

  /** The other side has everything up to `received`. */
  noteArrival(received: number): void {
    this.headway?.arrived(received)
    if (this.headway?.isBlank === true) this.headway = undefined
  }

  /** Adds an ack to what the queue has to be told. */
  noteAck(handled: number, failed: ReadonlyArray<Failure>): void {
    this.pendingAck = merge(this.pendingAck, { handled, failed })
  }
}

/** Both together: the newest position, and each failure once. */
export const merge = <A extends Ack | undefined>(first: Ack | undefined, second: A): Ack | A => {
  if (first === undefined) return second
  if (second === undefined) return first
  const known = second.failed.length === 0 ? undefined : new Set(first.failed.map(([offset]) => offset))
  const failed = known === undefined
    ? first.failed
    : [...first.failed, ...second.failed.filter(([offset]) => !known.has(offset))]
  return { handled: Math.max(first.handled, second.handled), failed }
}
