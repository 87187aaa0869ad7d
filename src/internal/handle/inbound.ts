/** From the wire to a session's line: frames go into the protocol core, and this does what the core says. */
import { isVolatileText } from "../../core/Codec.ts"
import type { Auth, Drain, End, Reject } from "../../core/Frame.ts"
import { payloadFault } from "../../core/Payload.ts"
import { highWaterBytes } from "../../core/Protocol.ts"
import type { Action } from "../../core/Session.ts"
import { Violation } from "../../core/Violation.ts"
import type { Recorder } from "../../Metrics.ts"
import type { ConnectionSink } from "../../Transport.ts"
import type { Link } from "../session/link.ts"
import type { Peer } from "../session/peer.ts"
import type { Intake } from "./intake.ts"
import { isWorthPacking, packText, parsePlain } from "./packing.ts"

export interface InboundOptions {
  readonly recorder: Recorder
  readonly intake: Intake
  readonly now: () => number
  readonly markDirty: (peer: Peer) => void
  readonly markAckDue: (peer: Peer) => void
  /** Something waits for the peer's handler. */
  readonly startHandling: (peer: Peer) => void
  readonly onAcked: (peer: Peer, link: Link) => void
  readonly onControl: (peer: Peer, frame: Drain | Reject | Auth | End) => void
  readonly onViolation: (peer: Peer, violation: Violation) => void
  readonly onClosed: (peer: Peer, link: Link, code: number, reason: string) => void
}

export class Inbound {
  private readonly options: InboundOptions
  private readonly intake: Intake
  private readonly recorder: Recorder
  private readonly now: () => number
  private readonly markDirty: (peer: Peer) => void

  constructor(options: InboundOptions) {
    this.options = options
    this.intake = options.intake
    this.recorder = options.recorder
    this.now = options.now
    this.markDirty = options.markDirty
  }

  private perform(peer: Peer, action: Action, link: Link): void {
    switch (action.t) {
      case "deliver": {
        const { epoch, first, messages, meta } = action
        for (let i = 0; i < messages.length; i++) {
          const facts = meta?.[i]
          peer.incoming.received({
            weight: 0,
            kind: "message",
            epoch,
            offset: first + i,
            value: messages[i],
            id: facts?.id,
            trace: facts?.trace
          })
        }
        this.recorder.count("messagesReceived", messages.length)
        return
      }
      case "gap":
        peer.incoming.received({
          weight: 0,
          kind: "gap",
          epoch: action.epoch,
          first: action.first,
          offset: action.end,
          reason: action.reason
        })
        return
      case "volatile":
        action.messages.forEach((value, index) => this.receiveLoose(peer, value, true, action.meta?.[index]?.trace))
        return
      case "acked":
        peer.outgoing.acknowledged(action.handled, action.failed)
        this.options.onAcked(peer, link)
        return
      case "reply":
        // No replies to a peer that reads nothing: they would pile up here.
        if (link.connection.buffered() < highWaterBytes) link.connection.send(action.frame)
        return
      default:
        this.options.onControl(peer, action)
    }
  }

  private isDropped(peer: Peer): boolean {
    return peer.incoming.size >= 2 * peer.core.options.window.messages || this.intake.isScarce(peer)
  }

  /** A large volatile frame that would be dropped is not parsed: parsing blocks everybody, for up to 50 ms. */
  private isDroppedUnread(peer: Peer, data: string, bytes: number): boolean {
    return isWorthPacking(bytes) && isVolatileText(data) && this.isDropped(peer)
  }

  /** Volatile messages wait within the same bounds as reliable ones, and are dropped beyond them. */
  private receiveLoose(peer: Peer, value: unknown, isVolatile: boolean, trace?: string): void {
    if (isVolatile && this.isDropped(peer)) {
      this.recorder.count("messagesVolatileSkipped")
      return
    }
    this.recorder.count("messagesReceived")
    peer.incoming.receivedLoose({ weight: 0, kind: "loose", value, volatile: isVolatile, trace, from: peer.connection })
  }

  /** Handles what a frame brought, and weighs what has to wait. `before` is how many deliveries waited before. */
  private handleFrame(peer: Peer, before: number): void {
    const brought = peer.incoming.size - before
    if (brought > 0 && this.intake.isTight()) this.intake.hold(peer, brought)
    this.options.startHandling(peer)
    const last = peer.incoming.back()
    if (brought > 0 && last !== undefined && last.weight === 0) {
      this.intake.hold(peer, Math.min(brought, peer.incoming.size))
    }
  }

  private receive(peer: Peer, link: Link, data: string, bytes: number): void {
    if (this.isDroppedUnread(peer, data, bytes)) return this.recorder.count("messagesVolatileSkipped")
    const receivedBefore = link.flow?.received ?? 0
    const result = peer.core.receive(data, bytes)
    if (result instanceof Violation) return this.options.onViolation(peer, result)
    const received = link.flow?.received ?? 0
    if (received > receivedBefore) {
      link.progressAt = this.now()
      if (peer.outgoing.headway !== undefined) {
        peer.outgoing.arrived(received)
        this.markDirty(peer) // delivery may have waited for this frame to arrive
      }
    }
    const before = peer.incoming.size
    for (let i = 0; i < result.length; i++) this.perform(peer, result[i] as Action, link) // in bounds
    this.handleFrame(peer, before)
    if (peer.outgoing.hasAck) this.markDirty(peer)
    else if (peer.core.ackDue) this.options.markAckDue(peer)
  }

  private receivePlain(peer: Peer, data: string, bytes: number): void {
    const isLeft = isWorthPacking(bytes) && this.intake.isTight()
    const value = isLeft ? packText(data) : parsePlain(data)
    const fault = isLeft ? undefined : payloadFault(value)
    if (fault !== undefined) return this.options.onViolation(peer, new Violation(fault.code, fault.detail))
    const before = peer.incoming.size
    this.receiveLoose(peer, value, false)
    this.handleFrame(peer, before)
  }

  /** Handles a frame of the connection that the peer has. */
  take(peer: Peer, data: string, bytes: number): void {
    const { link } = peer
    if (link === undefined || link.isUnheeded) return
    if (peer.dialect.name === "protocol") this.receive(peer, link, data, bytes)
    else this.receivePlain(peer, data, bytes)
  }

  // --- what connections report

  sinkOf(peer: Peer, link: Link): ConnectionSink {
    return new PeerSink(this, peer, link)
  }

  frame(peer: Peer, link: Link, data: string | Uint8Array, bytes: number): void {
    if (peer.link !== link) return
    link.liveness.heard(this.now())
    if (typeof data !== "string") this.options.onViolation(peer, new Violation("malformed", "a binary frame"))
    else if (!this.intake.keep(peer, data, bytes)) {
      this.intake.took(peer, bytes)
      this.take(peer, data, bytes)
    }
  }

  incoming(peer: Peer, link: Link, bytes: number): void {
    if (peer.link === link) this.intake.coming(peer, bytes)
  }

  drained(peer: Peer, link: Link): void {
    link.progressAt = this.now()
    this.markDirty(peer)
  }

  alive(peer: Peer, link: Link): void {
    if (peer.link !== link) return
    peer.dialect.ponged(link.liveness, this.now())
    this.intake.took(peer, 0)
  }

  closed(peer: Peer, link: Link, code: number, reason: string): void {
    const { kept } = peer.reading
    if (peer.link === link && kept !== undefined) this.take(peer, kept.data, kept.bytes)
    this.options.onClosed(peer, link, code, reason)
  }
}

/** A class, since one is made for each connection: closures would take 400 bytes. */
class PeerSink implements ConnectionSink {
  private readonly inbound: Inbound
  private readonly peer: Peer
  private readonly link: Link

  constructor(inbound: Inbound, peer: Peer, link: Link) {
    this.inbound = inbound
    this.peer = peer
    this.link = link
  }

  frame(data: string | Uint8Array, bytes: number): void {
    this.inbound.frame(this.peer, this.link, data, bytes)
  }

  incoming(bytes: number): void {
    this.inbound.incoming(this.peer, this.link, bytes)
  }

  drained(): void {
    this.inbound.drained(this.peer, this.link)
  }

  alive(): void {
    this.inbound.alive(this.peer, this.link)
  }

  closed(code: number, reason: string): void {
    this.inbound.closed(this.peer, this.link, code, reason)
  }
}
