/**
 * One session at this side: who it is, who owns it, and its parts, each with a room that writes it. Its connection is
 * the {@link Link}, what comes in {@link Incoming}, what goes out {@link Outgoing}.
 */
import { session as sessionCircuit } from "../../CircuitBreaker.ts"
import type { StoredPosition } from "../../core/Inbox.ts"
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
  /** The client instance that is, or was last, attached. */
  instance = ""
  /** Which connection of the server this session was attached by last: they are numbered as they come. */
  arrival = 0
  /** Nobody knows who it is: the hook named neither a principal nor the session. */
  isStranger = false
  /** It was registered under its session's name: nobody is asked who it is. */
  isNamed = false

  /** With whom it counts together where room is short; "" where that is not known. Written by {@link Peers} alone. */
  share: string
  /** Written by its crowd alone. */
  spare: Spare = undefined
  /** Its connection is lost, and the registry knows. */
  away = false
  /** Its session is being ended. */
  ending = false

  generation = 0
  /** Attachments of this session that are under way: a write that is refused meanwhile may be so by one of them. */
  attaching = 0
  /** Whether the last attachment failed in a way that may have raised the generation all the same. */
  inDoubt = false
  /** The generation whose connection is gone, until the session is released: 0 when there is nothing to release. */
  departed = 0
  /** Another server wants the session: no new handler starts. */
  leaving = false

  /** Undefined while there is no connection. */
  link: Link | undefined = undefined
  readonly incoming = new Incoming()
  readonly outgoing = new Outgoing()
  /** What it may make us take in. */
  readonly reading = new Reading()
  /** When the last connection was heard last. */
  heardAt: number | undefined = undefined
  /** Largest payload the other side takes, as it said last: what is sent while it is away is held to it, too. */
  peerMaxPayload = Infinity
  /** Whether the circuit has failures on record that the next ack should clear. */
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

  /** Takes over from a peer of the other kind: the outbox is the same, and so are those who wait for it. */
  inherit({ incoming, outgoing }: Peer): void {
    this.incoming.inherit(incoming)
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
    return this.isStranger && !this.incoming.hasSpoken && !this.outgoing.wasAddressed && this.core.inbox.received === 0
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

  /** Sends a frame of the protocol, if there is a connection that knows it. */
  say(frame: string): void {
    if (this.link !== undefined) this.dialect.say(this.link.connection, frame)
  }
}
