/** Handshakes under way: whom the server waits for, until when, and how it turns one away. */
import { Effect, Exit } from "effect"
import { encode } from "../../core/Codec.ts"
import { subprotocol } from "../../core/Protocol.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection } from "../../Transport.ts"
import {
  ConnectionTimeoutError,
  HandshakeError,
  type MessageQueueError,
  type ProtocolError,
  type SessionRegistryError,
  TransportError,
  type WebSocketError
} from "../../WebSocketError.ts"
import { Crowd, type Spare } from "../bounds/crowd.ts"
import { inWords, type RareLog, wordsOf } from "../kit/rareLog.ts"
import type { Engine } from "../run/engine.ts"
import type { Wanted } from "./authenticating.ts"
import { rejection } from "./rejection.ts"

export interface HandshakesOptions {
  readonly engine: Engine
  readonly recorder: Recorder
  readonly rare: RareLog
  readonly handshakeTimeoutMillis: number
  readonly maxHandshakes: number
}

/** What is known of a connection that somebody else accepted. */
interface Registration {
  readonly session: Wanted
  readonly settle: (exit: Exit.Exit<string, WebSocketError>) => void
}

/** A connection whose handshake is not done, and when its time is up. */
interface Pending {
  readonly connection: Connection
  readonly until: number
  share: string
  spare: Spare
}

export type AcceptError =
  | HandshakeError
  | ConnectionTimeoutError
  | ProtocolError
  | MessageQueueError
  | SessionRegistryError
  | TransportError

export class Handshakes {
  readonly late: ConnectionTimeoutError
  readonly tooMany: HandshakeError
  private readonly options: HandshakesOptions
  /** Connections whose handshake is not done, the longest first. */
  private readonly pending = new Map<Connection, Pending>()
  /** They, by share. */
  private readonly crowd = new Crowd<Pending>(() => "first")
  /** Turned away already, for example when its time was up, before its hook failed too. */
  private readonly refused = new WeakSet<Connection>()
  /** Registered connections whose handshake is not over: the session they are for, and who waits for them. */
  private readonly registering = new WeakMap<Connection, Registration>()
  /** Registered connections that have sent nothing yet. */
  private readonly unheard = new WeakSet<Connection>()

  constructor(options: HandshakesOptions) {
    this.options = options
    this.late = new ConnectionTimeoutError({ phase: "handshake", afterMillis: options.handshakeTimeoutMillis })
    this.tooMany = new HandshakeError({
      reason: "overloaded",
      detail: `${options.maxHandshakes} handshakes at once already`,
      retryable: true,
      bound: options.maxHandshakes
    })
  }

  settle(connection: Connection, exit: Exit.Exit<string, WebSocketError>): void {
    this.registering.get(connection)?.settle(exit)
    this.registering.delete(connection)
  }

  /** Their silence has a likely cause. */
  tellOfSilence(connection: Connection): void {
    if (!this.unheard.delete(connection)) return
    this.options.rare.warn("silence", `a registered socket said no hello. ${whenMissed}`)
  }

  refuse(connection: Connection, error: WebSocketError): void {
    if (error === this.late) this.tellOfSilence(connection)
    this.settle(connection, Exit.fail(error))
    if (this.refused.has(connection)) return
    this.refused.add(connection)
    this.options.recorder.count("connectionsFailed")
    const { code, reject } = rejection(error)
    if (reject.code === "internal" || reject.code === "overloaded") this.tellOperator(reject.code, error)
    if (connection.protocol === subprotocol) connection.send(encode(reject))
    connection.close(code, reject.detail)
  }

  /** Not the peer's fault: only this side can mend it. */
  private tellOperator(code: "internal" | "overloaded", error: WebSocketError): void {
    // Being late, or gone, may well be the peer's fault.
    if (error._tag === "ConnectionTimeoutError" || error === goneEarly) return
    if (code === "internal") this.options.recorder.count("internalErrors")
    this.options.rare.warn(`refused ${code}`, `handshakes are refused (${code}): ${wordsOf(error)}`)
  }

  /** Runs a handshake step; its failure turns the connection away. */
  step(connection: Connection, effect: Effect.Effect<unknown, AcceptError>): void {
    this.options.engine.run(
      Effect.catchCause(effect, (cause) => {
        this.isDone(connection)
        const failure = cause.reasons.find((reason) => reason._tag === "Fail")
        if (failure !== undefined) {
          return Effect.andThen(
            Effect.sync(() => this.refuse(connection, failure.error)),
            Effect.logDebug(`a handshake failed: ${wordsOf(failure.error)}`)
          )
        }
        const error = new TransportError({ operation: "receive", detail: "the handshake broke off" })
        return Effect.andThen(
          Effect.sync(() => {
            this.refuse(connection, error)
            this.options.rare.error("handshake defect", `a handshake failed by a defect: ${inWords(cause)}`)
          }),
          Effect.logDebug("a handshake failed by a defect", cause)
        )
      }).pipe(Effect.asVoid)
    )
  }

  expect(connection: Connection, share: string): void {
    // The peer's time began with its first byte, before it was a WebSocket.
    const until = this.options.engine.now() + this.options.handshakeTimeoutMillis - (connection.upgradeMillis ?? 0)
    const handshake: Pending = { connection, until, share, spare: undefined }
    this.pending.set(connection, handshake)
    this.crowd.add(handshake, share)
  }

  /** Its handshake is over, in one way or another. False when it was before. */
  isDone(connection: Connection): boolean {
    const handshake = this.pending.get(connection)
    if (handshake === undefined) return false
    this.crowd.delete(handshake)
    return this.pending.delete(connection)
  }

  /**
   * For a newcomer of a share that has few, the share that has most gives way with its longest handshake, as honest peers
   * are done soon.
   */
  private giveWay(share: string): boolean {
    const handshake = this.crowd.givesWay(share)
    if (handshake === undefined) return false
    this.isDone(handshake.connection)
    this.refuse(handshake.connection, this.tooMany)
    return true
  }

  /** Whether there is room for one more of this share. */
  hasRoom(share: string): boolean {
    return this.pending.size < this.options.maxHandshakes || this.giveWay(share)
  }

  tick(now: number): void {
    for (const { connection, until } of this.pending.values()) {
      if (until > now) continue
      this.isDone(connection)
      this.options.recorder.count("connectionsTimedOut")
      this.refuse(connection, this.late)
    }
  }

  /** Turns away whoever's handshake is not done. */
  close(): void {
    for (const connection of this.pending.keys()) {
      this.isDone(connection)
      this.refuse(connection, closing)
    }
  }

  isPending(connection: Connection): boolean {
    return this.pending.has(connection)
  }

  isRefused(connection: Connection): boolean {
    return this.refused.has(connection)
  }

  /** A connection is registered for a session, and its caller learns how the handshake ends. */
  registered(connection: Connection, registration: Registration): void {
    this.registering.set(connection, registration)
  }

  /** Nobody waits for its handshake any more. */
  unregistered(connection: Connection): void {
    this.registering.delete(connection)
  }

  /** The session that it was registered for. */
  sessionOf(connection: Connection): Wanted {
    return this.registering.get(connection)?.session
  }

  /** Whether anything came from it is reported where it was registered. */
  awaitsHello(connection: Connection): void {
    if (this.registering.has(connection)) this.unheard.add(connection)
  }

  heard(connection: Connection): void {
    this.unheard.delete(connection)
  }
}

export const closing = new HandshakeError({ reason: "draining", detail: "the server is closing", retryable: true })

export const whenMissed =
  "It was registered too late if anything was awaited before: register it in its `connection` event itself, and give " +
  "what has to be awaited as its session, or pause the socket meanwhile."

export const goneEarly = new TransportError({
  operation: "register",
  detail: "the connection was gone before its handshake was done"
})
