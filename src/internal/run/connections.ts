/** Connections of sessions: how one is attached, detached or closed, and what its end says about the peer. */
import type { CircuitBreaker } from "../../CircuitBreaker.ts"
import { mishapOf } from "../../core/Headway.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection, ConnectionSink } from "../../Transport.ts"
import { type AcceptError, ConnectionTimeoutError } from "../../WebSocketError.ts"
import type { Intake } from "../handle/intake.ts"
import type { Signal } from "../kit/signal.ts"
import type { SilenceTimes } from "../session/dialects.ts"
import { type Agreement, Link } from "../session/link.ts"
import type { Peer } from "../session/peer.ts"
import type { Peers } from "../session/peers.ts"
import type { Background } from "./background.ts"
import type { Silence } from "./heartbeat.ts"

/** Why a connection ended. */
export interface Ending {
  readonly code: number
  readonly reason: string
  readonly error: AcceptError | undefined
}

export interface ConnectionsOptions {
  readonly breaker: CircuitBreaker["Service"]
  readonly recorder: Recorder
  readonly intake: Intake
  /** Something may wait for the peer's handler. */
  readonly startHandling: (peer: Peer) => void
  /** The sink that a connection of the peer reports to. */
  readonly sinkOf: (peer: Peer, link: Link) => ConnectionSink
  readonly peers: Peers
  /** Peers with a connection; only this file adds and removes them. */
  readonly connected: Set<Peer>
  readonly times: SilenceTimes
  readonly tickMillis: number
  readonly now: () => number
  readonly run: Background["run"]
  readonly pulse: Signal
  readonly markDirty: (peer: Peer) => void
  /** Stores what is handled. */
  readonly storeHandled: (peer: Peer) => void
  /** The peer has no connection any more. */
  readonly onDetached: (peer: Peer, ending: Ending) => void
}

const timeoutCodes: Record<Silence, number> = {
  heartbeat: CloseCode.heartbeatTimeout,
  ack: CloseCode.ackTimeout,
  flush: CloseCode.flushTimeout,
  idle: CloseCode.idle
}

export class Connections {
  /** Peers without a connection whose handler is not done: their positions are still stored. */
  readonly lingering = new Set<Peer>()
  /** Attached connections whose socket is not gone, even if replaced or closed. */
  readonly open = new Set<Connection>()
  private readonly options: ConnectionsOptions

  constructor(options: ConnectionsOptions) {
    this.options = options
  }

  /** Takes a connection whose handshake is done. Returns the sink that it must report to. */
  readonly attach = (peer: Peer, connection: Connection, agreement: Agreement): ConnectionSink => {
    const { breaker, connected, intake, peers, recorder, times } = this.options
    const at = this.options.now()
    this.open.add(connection)
    peer.peerMaxPayload = agreement.maxPayload
    peer.dialect.open(peer.core, peer.outgoing, agreement, at)
    const isTroubled = breaker.stateUnsafe(peer.circuit)._tag !== "Closed"
    const link = new Link({
      connection,
      flow: peer.core.flow,
      liveness: peer.dialect.livenessFrom(times, at),
      plainSent: agreement.position.handled,
      isTroubled,
      now: at
    })
    peer.link = link
    peer.own.connected()
    if (isTroubled) this.options.run(breaker.probe(peer.circuit))
    connected.add(peer)
    peers.place(peer)
    recorder.gauge("connectionsActive", connected.size)
    intake.attached(peer)
    this.options.startHandling(peer)
    this.options.markDirty(peer)
    return this.options.sinkOf(peer, link)
  }

  readonly detach = (peer: Peer, ending: Ending): void => {
    const { connected, intake, recorder } = this.options
    const { link } = peer
    if (link === undefined) return
    const lost = link.flow?.idle === false
    intake.detached(peer)
    this.noteMishap(peer, link, ending.code)
    peer.link = undefined
    peer.own.disconnected()
    peer.heardAt = link.liveness.heardAt
    peer.core.close()
    recorder.count("messagesVolatileSkipped", link.volatileCount)
    connected.delete(peer)
    recorder.gauge("connectionsActive", connected.size)
    this.options.storeHandled(peer)
    if (peer.incoming.isHandling) this.lingering.add(peer)
    // A break with messages in flight is a soft failure; silence and the like were reported as hard ones.
    if (lost && ending.error === undefined && ending.code !== CloseCode.normal) this.suspect(peer, false)
    this.options.onDetached(peer, ending)
  }

  /** Ends the peer's connection from this side. */
  readonly close = (peer: Peer, code: number, reason: string, error?: AcceptError): void => {
    const { connection } = peer
    if (connection === undefined) return
    this.detach(peer, { code, reason, error })
    connection.close(code, reason)
  }

  /** Gives the connection to somebody else, still open. */
  readonly unregister = (peer: Peer): void => {
    const { connection } = peer
    if (connection !== undefined) this.open.delete(connection)
    this.detach(peer, { code: CloseCode.normal, reason: "unregistered", error: undefined })
  }

  readonly closeSilent = (peer: Peer, phase: Silence, afterMillis: number): void => {
    this.options.recorder.count("connectionsTimedOut")
    this.suspect(peer, true)
    const error = new ConnectionTimeoutError({ phase, afterMillis, session: peer.session })
    this.close(peer, timeoutCodes[phase], error.message, error)
  }

  /** A connection's socket is gone. */
  closed(peer: Peer, link: Link, code: number, reason: string): void {
    this.open.delete(link.connection)
    this.options.pulse.notify()
    if (peer.link === link) this.detach(peer, { code, reason, error: undefined })
  }

  /** The way to the peer works. */
  acquit(peer: Peer): void {
    if (!peer.suspect) return
    peer.suspect = false
    this.options.run(this.options.breaker.report(peer.circuit, { _tag: "Success" }))
  }

  private suspect(peer: Peer, trip: boolean): void {
    peer.suspect = true
    const { breaker, run } = this.options
    run(breaker.report(peer.circuit, trip ? { _tag: "Failure", trip } : { _tag: "Failure" }))
  }

  /** Remembers at which message a connection ended, as that may be the reason. */
  private noteMishap(peer: Peer, link: Link, code: number): void {
    const mishap = mishapOf(code)
    if (mishap === undefined) return
    const head = link.flow?.head
    if (head === undefined) peer.outgoing.cutIdle(this.options.now(), this.options.tickMillis)
    else peer.outgoing.cutAt(head, mishap)
  }
}
