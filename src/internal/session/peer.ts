/**
 * One session's runtime state at this side: its protocol core, the connection it has now, what waits to be handled,
 * and who waits for what. Plain data with a few synchronous helpers; the engine does the work.
 */
import type { Fiber } from "effect"
import { session as sessionCircuit } from "../../CircuitBreaker.ts"
import { Deque } from "../../core/Deque.ts"
import type { StoredPosition } from "../../core/Inbox.ts"
import type { GapReason } from "../../core/Protocol.ts"
import type { Session } from "../../core/Session.ts"
import type { Connection } from "../../Transport.ts"
import type { Spare } from "../bounds/crowd.ts"
import type { Link } from "./link.ts"
import { Outgoing } from "./outgoing.ts"
import { Reading } from "./reading.ts"
import type { Receipts } from "./receipts.ts"

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

/** Handled messages whose position is to be stored: of one log, up to an offset. */
export interface Uncommitted {
  epoch: string
  offset: number
  messages: number
}

/** What most peers have nothing of costs nothing: one for all, never written to. */
export const nothing: Uncommitted = { epoch: "", offset: 0, messages: 0 }
export const none: ReadonlyArray<never> = Object.freeze([])

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
  readonly outgoing = new Outgoing()

  /** Undefined while there is no connection. */
  link: Link | undefined = undefined
  /** When the last connection was heard last. */
  heardAt: number | undefined = undefined
  /** Largest payload the other side takes, as it said last: what is sent while it is away is held to it, too. */
  peerMaxPayload = Infinity

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

  /** Whether the circuit has failures on record that the next ack should clear. */
  suspect = false

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
  }

  /** Takes over from a peer of the other kind: the outbox is the same, and so are those who wait for it. */
  inherit({ hasSpoken, outgoing }: Peer): void {
    this.hasSpoken = hasSpoken
    this.outgoing.inherit(outgoing)
  }

  /** What a restarted process may go on from: everything received and not handled is gone with this one. */
  storedPosition(epoch: string, offset: number): StoredPosition {
    const { newcomer, position: { failed }, told } = this.core.inbox
    const pending = { messages: 0, bytes: 0 }
    return { epoch, received: offset, handled: offset, failed, pending, ...(told ? {} : { told, newcomer }) }
  }

  /** Nobody knows who it is, it has never said anything, and nothing was ever sent to it: nothing is lost with it. */
  get isSilentStranger(): boolean {
    return this.isStranger && !this.hasSpoken && !this.outgoing.wasAddressed && this.core.inbox.received === 0
  }

  /** Of our outbox. */
  get epoch(): string {
    return this.outgoing.epoch
  }

  get receipts(): Receipts {
    return this.outgoing.receipts
  }

  get connection(): Connection | undefined {
    return this.link === undefined ? undefined : this.link.connection
  }

  get connected(): boolean {
    return this.link !== undefined
  }
}
