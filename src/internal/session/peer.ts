/**
 * One session at this side: who it is, who owns it, and its parts, each written by one wing. Its connection is the
 * {@link Link}, what comes in is {@link Incoming}, what goes out {@link Outgoing}.
 */
import { session as sessionCircuit } from "../../CircuitBreaker.ts"
import type { StoredPosition } from "../../core/Inbox.ts"
import { Ownership } from "../../core/Ownership.ts"
import type { Session } from "../../core/Session.ts"
import type { Connection } from "../../Transport.ts"
import type { Spare } from "../bounds/crowd.ts"
import type { Dialect } from "./dialects.ts"
import { Incoming } from "./incoming.ts"
import type { Link } from "./link.ts"
import { Outgoing } from "./outgoing.ts"
import { Reading } from "./reading.ts"
import type { Receipts } from "./receipts.ts"

export class Peer {
  /** Names the outbox in the queue. */
  readonly key: string
  /** Names the circuit. */
  readonly circuit: string
  session: string
  principal: string | undefined
  readonly core: Session
  readonly dialect: Dialect
  /** The client instance that is attached, or was last. */
  instance = ""
  /** The number of the connection that attached this session last: the server numbers them as they come. */
  arrival = 0
  /** What the hook handed on for handlers. */
  data: unknown = undefined
  /** Nobody knows who it is: the hook named neither a principal nor the session. */
  isStranger = false
  /** It was registered under its session's name, so no hook is asked who it is. */
  isNamed = false

  /** Sessions of one share count together where room is short; "" if unknown. Only {@link Peers} writes it. */
  share: string
  /** Only its crowd writes it. */
  spare: Spare = undefined
  /** Its connection is lost, and the registry knows. */
  away = false
  /** Its session is being ended. */
  ending = false

  /** Who has the session, as far as this side knows. */
  readonly own = new Ownership()

  /** Undefined while there is no connection. */
  link: Link | undefined = undefined
  readonly incoming = new Incoming()
  readonly outgoing = new Outgoing()
  /** What this process has taken in from it. */
  readonly reading = new Reading()
  /** When its previous connection was last heard. */
  heardAt: number | undefined = undefined
  /** Largest payload the other side takes, as it last said; also the limit for messages sent while it is away. */
  peerMaxPayload = Infinity
  /** The circuit has failures on record, which the next ack should clear. */
  suspect = false

  constructor(options: {
    readonly key: string
    readonly session: string
    readonly principal: string | undefined
    readonly core: Session
    readonly dialect: Dialect
    readonly share?: string | undefined
  }) {
    this.key = options.key
    this.circuit = sessionCircuit(options.key)
    this.session = options.session
    this.principal = options.principal
    this.core = options.core
    this.dialect = options.dialect
    this.share = options.share ?? ""
  }

  /** Takes over from a peer of the other kind: the outbox and its receipts stay the same. */
  inherit({ incoming, outgoing }: Peer): void {
    this.incoming.inherit(incoming)
    this.outgoing.inherit(outgoing)
  }

  /** Where a restarted process may continue: what this one received and did not handle is lost with it. */
  storedPosition(epoch: string, offset: number): StoredPosition {
    const { newcomer, position: { failed }, told } = this.core.inbox
    const pending = { messages: 0, bytes: 0 }
    return { epoch, received: offset, handled: offset, failed, pending, ...(told ? {} : { told, newcomer }) }
  }

  /** A stranger that never said anything and was never sent anything: nothing is lost with it. */
  get isSilentStranger(): boolean {
    return this.isStranger && !this.incoming.hasSpoken && !this.outgoing.wasAddressed && this.core.inbox.received === 0
  }

  /** The epoch of our outbox. */
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

  /** Sends a frame of the protocol, if there is a connection that knows it. */
  say(frame: string): void {
    if (this.link !== undefined) this.dialect.say(this.link.connection, frame)
  }
}
