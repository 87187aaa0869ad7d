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

export const makeHandshakes = (options: HandshakesOptions) => {
  const { engine, rare, recorder } = options
  const late = new ConnectionTimeoutError({ phase: "handshake", afterMillis: options.handshakeTimeoutMillis })
  const tooMany = new HandshakeError({
    reason: "overloaded",
    detail: `${options.maxHandshakes} handshakes at once already`,
    retryable: true,
    bound: options.maxHandshakes
  })
  /** Connections whose handshake is not done, the longest first. */
  const pending = new Map<Connection, Pending>()
  /** The same, by share. */
  const crowd = new Crowd<Pending>(() => "first")

  /** Turned away already: for its time, say, and now its hook fails too. */
  const refused = new WeakSet<Connection>()

  /** Registered connections that speak the protocol, until their handshake has ended: for whom they are, and who waits. */
  const registering = new WeakMap<Connection, Registration>()

  const settle = (connection: Connection, exit: Exit.Exit<string, WebSocketError>): void => {
    registering.get(connection)?.settle(exit)
    registering.delete(connection)
  }

  /** Registered ones of which nothing has been heard. */
  const unheard = new WeakSet<Connection>()

  /** Their silence has a likely cause. */
  const tellOfSilence = (connection: Connection): void => {
    if (!unheard.delete(connection)) return
    options.rare.warn("silence", `a registered socket said no hello. ${whenMissed}`)
  }

  const refuse = (connection: Connection, error: WebSocketError): void => {
    if (error === late) tellOfSilence(connection)
    settle(connection, Exit.fail(error))
    if (refused.has(connection)) return
    refused.add(connection)
    recorder.count("connectionsFailed")
    const { code, reject } = rejection(error)
    if (reject.code === "internal" || reject.code === "overloaded") tellOperator(reject.code, error)
    if (connection.protocol === subprotocol) connection.send(encode(reject))
    connection.close(code, reject.detail)
  }

  /** It is not the peer's fault: nobody but this side can do anything about it. */
  const tellOperator = (code: "internal" | "overloaded", error: WebSocketError): void => {
    // That it was late, or had gone, may well be the peer's.
    if (error._tag === "ConnectionTimeoutError" || error === goneEarly) return
    if (code === "internal") recorder.count("internalErrors")
    rare.warn(`refused ${code}`, `handshakes are refused (${code}): ${wordsOf(error)}`)
  }

  /** Runs a handshake step; its failure turns the connection away. */
  const step = (connection: Connection, effect: Effect.Effect<unknown, AcceptError>): void => {
    engine.run(
      Effect.catchCause(effect, (cause) => {
        isDone(connection)
        const failure = cause.reasons.find((reason) => reason._tag === "Fail")
        if (failure !== undefined) {
          return Effect.andThen(
            Effect.sync(() => refuse(connection, failure.error)),
            Effect.logDebug(`a handshake failed: ${wordsOf(failure.error)}`)
          )
        }
        const error = new TransportError({ operation: "receive", detail: "the handshake broke off" })
        return Effect.andThen(
          Effect.sync(() => {
            refuse(connection, error)
            rare.error("handshake defect", `a handshake failed by a defect: ${inWords(cause)}`)
          }),
          Effect.logDebug("a handshake failed by a defect", cause)
        )
      }).pipe(Effect.asVoid)
    )
  }

  const expect = (connection: Connection, share: string): void => {
    // The peer's time began with its first byte, and not when it was a WebSocket.
    const until = engine.now() + options.handshakeTimeoutMillis - (connection.upgradeMillis ?? 0)
    const handshake: Pending = { connection, until, share, spare: undefined }
    pending.set(connection, handshake)
    crowd.add(handshake, share)
  }

  /** Its handshake is over, in one way or another. False when it was before. */
  const isDone = (connection: Connection): boolean => {
    const handshake = pending.get(connection)
    if (handshake === undefined) return false
    crowd.delete(handshake)
    return pending.delete(connection)
  }

  /**
   * For a newcomer of a share that has few, the share that has most gives way: with its longest, since who means well is
   * done soon.
   */
  const giveWay = (share: string): boolean => {
    const handshake = crowd.givesWay(share)
    if (handshake === undefined) return false
    isDone(handshake.connection)
    refuse(handshake.connection, tooMany)
    return true
  }

  /** Whether there is room for one more of this share. */
  const hasRoom = (share: string): boolean => pending.size < options.maxHandshakes || giveWay(share)

  const tick = (now: number): void => {
    for (const { connection, until } of pending.values()) {
      if (until > now) continue
      isDone(connection)
      recorder.count("connectionsTimedOut")
      refuse(connection, late)
    }
  }

  /** Turns away whoever's handshake is not done. */
  const close = (): void => {
    for (const connection of pending.keys()) {
      isDone(connection)
      refuse(connection, closing)
    }
  }

  return {
    late,
    tooMany,
    registering,
    expect,
    hasRoom,
    isPending: (connection: Connection): boolean => pending.has(connection),
    isRefused: (connection: Connection): boolean => refused.has(connection),
    isDone,
    refuse,
    settle,
    step,
    /** Whether it was heard from at all is told where it was registered. */
    awaitsHello: (connection: Connection): void => {
      if (registering.has(connection)) unheard.add(connection)
    },
    heard: (connection: Connection): void => void unheard.delete(connection),
    tellOfSilence,
    tick,
    close
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
