/** Handshakes under way: which connections the server waits for, until when, and how it turns them away. */
import { Effect, Exit } from "effect"
import { encode } from "../../core/Codec.ts"
import { subprotocol } from "../../core/Protocol.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection } from "../../Transport.ts"
import { type AcceptError, ConnectionTimeoutError, HandshakeError, TransportError } from "../../WebSocketError.ts"
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

/** A connection that was registered: its session, and who waits for its handshake. */
interface Registration {
  readonly session: Wanted
  readonly settle: (exit: Exit.Exit<string, AcceptError>) => void
}

/** A connection whose handshake is not done; `until` is when its time is up. */
interface Pending {
  readonly connection: Connection
  readonly until: number
  share: string
  spare: Spare
}

export class Handshakes {
  readonly late: ConnectionTimeoutError
  readonly tooMany: HandshakeError
  private readonly options: HandshakesOptions
  /** Connections whose handshake is not done, the oldest first. */
  private readonly pending = new Map<Connection, Pending>()
  /** The same connections, by share. */
  private readonly crowd = new Crowd<Pending>(() => "first")
  /** Connections already turned away: a second failure, such as a hook's after the timeout, changes nothing. */
  private readonly refused = new WeakSet<Connection>()
  /** Registered connections that speak the protocol, until their handshake has ended. */
  private readonly registering = new WeakMap<Connection, Registration>()
  /** Registered connections that have not said anything. */
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

  settle(connection: Connection, exit: Exit.Exit<string, AcceptError>): void {
    this.registering.get(connection)?.settle(exit)
    this.registering.delete(connection)
  }

  /** Warns of a registered connection that never said hello: it was probably registered too late. */
  tellOfSilence(connection: Connection): void {
    if (!this.unheard.delete(connection)) return
    this.options.rare.warn("silence", `a registered socket said no hello. ${whenMissed}`)
  }

  refuse(connection: Connection, error: AcceptError): void {
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

  /** Logs failures of this side, which only its operator can fix. */
  private tellOperator(code: "internal" | "overloaded", error: AcceptError): void {
    // Being late, or gone early, may well be the peer's fault.
    if (error._tag === "resilient-websocket/ConnectionTimeoutError" || error === goneEarly) return
    if (code === "internal") this.options.recorder.count("internalErrors")
    this.options.rare.warn(`refused ${code}`, `handshakes are refused (${code}): ${wordsOf(error)}`)
  }

  /** Runs a handshake step. If it fails, the connection is turned away. */
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
    // The peer's time began with its first byte, not when it became a WebSocket.
    const until = this.options.engine.now() + this.options.handshakeTimeoutMillis - (connection.upgradeMillis ?? 0)
    const handshake: Pending = { connection, until, share, spare: undefined }
    this.pending.set(connection, handshake)
    this.crowd.add(handshake, share)
  }

  /** Marks the handshake as over, however it ended. False if it already was. */
  isDone(connection: Connection): boolean {
    const handshake = this.pending.get(connection)
    if (handshake === undefined) return false
    this.crowd.delete(handshake)
    return this.pending.delete(connection)
  }

  /**
   * For a newcomer of a share that has few, the share that has the most loses its oldest handshake: an honest peer's is
   * done soon.
   */
  private giveWay(share: string): boolean {
    const handshake = this.crowd.givesWay(share)
    if (handshake === undefined) return false
    this.isDone(handshake.connection)
    this.refuse(handshake.connection, this.tooMany)
    return true
  }

  /** Whether there is room for one more of this share; another may give way for it. */
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

  /** Turns away connections whose handshake is not done. */
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

  /** Remembers that the connection was registered, until its handshake has ended. */
  registered(connection: Connection, registration: Registration): void {
    this.registering.set(connection, registration)
  }

  /** Called when nobody waits for the handshake any more. */
  unregistered(connection: Connection): void {
    this.registering.delete(connection)
  }

  /** The session that the connection was registered for. */
  sessionOf(connection: Connection): Wanted {
    return this.registering.get(connection)?.session
  }

  /** Watches whether a registered connection says anything at all. */
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
