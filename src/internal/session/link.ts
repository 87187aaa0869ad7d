/**
 * What dies with a connection: what is in flight, whether the other side is alive, and what holds delivery back. Made
 * when a session gets a connection, dropped when the connection is lost.
 */
import type { Flow } from "../../core/Flow.ts"
import type { InboxPosition } from "../../core/Frame.ts"
import type { Liveness } from "../../core/Liveness.ts"
import type { Window } from "../../core/Protocol.ts"
import type { Connection } from "../../Transport.ts"

/** What the two sides agreed on in a handshake. */
export interface Agreement {
  readonly window: Window
  readonly position: InboxPosition
  /** The handled position that our side of the handshake announced. */
  readonly announced: number
  readonly maxPayload: number
}

/** Why a delivery stopped before the outbox was empty. */
export type Stalled = "window" | "backlog" | "circuitOpen"

/** Messages that may go before the first ack after trouble; doubles with each ack. */
const slowStartMessages = 16

/** Serialized volatile messages, and the `traceparent` of those that have one, by their place. */
export interface Volatiles {
  readonly payloads: ReadonlyArray<string>
  readonly traces: ReadonlyMap<number, string> | undefined
}

export class Link {
  readonly connection: Connection
  /** What is in flight; undefined for a plain peer, which has no window. */
  readonly flow: Flow | undefined
  readonly liveness: Liveness
  /** When the other side last received something new, or had nothing to receive. */
  progressAt: number
  /** Plain peers only: the newest offset written to the socket. */
  plainSent: number
  /** Why the last delivery stopped. */
  stalled: Stalled | undefined = undefined
  /** The other side asked for no new messages. */
  isDrained = false
  /** Its frames are ignored: another server has the session. */
  isUnheeded = false
  /** How many messages may be in flight after trouble; undefined once all is well. */
  private slowStart: number | undefined
  private seen: string | undefined = undefined
  /** Made with the first volatile message, and again after each write. */
  private volatiles: Array<string> | undefined = undefined
  /** The `traceparent` of those that have one, by their place. */
  private volatileTraces: Map<number, string> | undefined = undefined

  constructor(options: {
    readonly connection: Connection
    readonly flow: Flow | undefined
    readonly liveness: Liveness
    /** The newest offset sent to a plain peer. */
    readonly plainSent: number
    /** The session's circuit is not closed. */
    readonly isTroubled: boolean
    readonly now: number
  }) {
    this.connection = options.connection
    this.flow = options.flow
    this.liveness = options.liveness
    this.progressAt = options.now
    this.plainSent = options.plainSent
    this.slowStart = options.isTroubled ? slowStartMessages : undefined
  }

  /** How many more messages may be in flight. */
  roomOf(flow: Flow): number {
    return this.slowStart === undefined
      ? flow.roomMessages
      : Math.min(flow.roomMessages, this.slowStart - (flow.sent - flow.handled))
  }

  /** How many messages may be in flight in all. */
  windowOf({ window }: Flow): number {
    return this.slowStart === undefined ? window.messages : Math.min(window.messages, this.slowStart)
  }

  get volatileCount(): number {
    return this.volatiles === undefined ? 0 : this.volatiles.length
  }

  /** The other side asked for no new messages. */
  drained(): void {
    this.isDrained = true
    this.stalled = "backlog"
  }

  /** The other side handled something: the limit doubles, and is lifted once it reaches `enough` messages. */
  acked(enough: number): void {
    if (this.slowStart === undefined) return
    const next = this.slowStart * 2
    this.slowStart = next >= enough ? undefined : next
  }

  addVolatile(payload: string, trace: string | undefined): void {
    this.volatiles ??= []
    if (trace !== undefined) (this.volatileTraces ??= new Map()).set(this.volatiles.length, trace)
    this.volatiles.push(payload)
  }

  takeVolatiles(): Volatiles | undefined {
    const { volatileTraces: traces, volatiles: payloads } = this
    this.volatiles = undefined
    this.volatileTraces = undefined
    return payloads && { payloads, traces }
  }

  /** A frame to send before everything else. It is cumulative: the newest replaces any that is not yet sent. */
  setSeen(frame: string | undefined): void {
    this.seen = frame
  }

  get hasSeen(): boolean {
    return this.seen !== undefined
  }

  takeSeen(): string | undefined {
    const { seen } = this
    this.seen = undefined
    return seen
  }
}
