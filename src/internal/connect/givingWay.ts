/**
 * Ends sessions before their retention is over. Those of silent strangers end soon after their connection is lost;
 * those of the share that has the most end when a newcomer finds no room.
 */
import { Effect } from "effect"
import { encode } from "../../core/Codec.ts"
import type { SessionRegistry } from "../../SessionRegistry.ts"
import { HandshakeError, type MessageQueueError, type SessionRegistryError } from "../../WebSocketError.ts"
import type { Engine } from "../run/engine.ts"
import type { Peer } from "../session/peer.ts"
import { rejection } from "./rejection.ts"

export interface GivingWayOptions {
  readonly engine: Engine
  readonly registry: SessionRegistry["Service"]
  /** How long a silent stranger's session is kept. */
  readonly retentionMillis: number
  /** Removes everything of a session that is over. */
  readonly ended: (session: string) => Effect.Effect<void, MessageQueueError | SessionRegistryError>
}

/** The most sessions that one sweep ends. */
const atOnce = 1_024

/** How long a registry counts as full, in ms: until then a new session is let in only if another can give way. */
const fullMillis = 1_000

export type GivingWay = ReturnType<typeof makeGivingWay>

export const makeGivingWay = ({ ended, engine, registry, retentionMillis }: GivingWayOptions) => {
  const { peers } = engine
  /** When each silent stranger lost its connection, the longest away first. */
  const strangers = new Map<Peer, number>()
  let fullUntil = -Infinity

  /** Ends the session. False if another attachment has it by now, here or elsewhere. */
  const end = (peer: Peer): Effect.Effect<boolean, MessageQueueError | SessionRegistryError> =>
    Effect.suspend(() => {
      const { connection, key, own: { generation } } = peer
      peer.ending = true
      return Effect.gen(function*() {
        if (!(yield* registry.expireNow(key, generation))) return false
        if (connection !== undefined && peer.connection === connection) {
          const { code, reject } = rejection(crowdedOut)
          peer.say(encode(reject))
          engine.close(peer, code, reject.detail, crowdedOut)
        }
        yield* ended(key)
        return true
      }).pipe(Effect.ensuring(Effect.sync(() => {
        peer.ending = false
        peers.place(peer) // at the end of the line, if the session still exists
      })))
    })

  return {
    /** Called once the peer's connection is lost and the registry knows. */
    isAway: (peer: Peer): void => {
      peer.away = true
      peers.place(peer)
      if (!peer.isSilentStranger || retentionMillis >= registry.retentionMillis) return
      strangers.delete(peer)
      strangers.set(peer, engine.now())
    },

    /** Whether to refuse a new session of this share at once: the registry was just full, and nobody can give way. */
    isCrowded: (share: string): boolean => engine.now() < fullUntil && peers.givesWay(share) === undefined,

    /** Ends a session to make room for a new one of this share; says whether it did. */
    giveWay: (share: string): Effect.Effect<boolean> =>
      Effect.suspend(() => {
        fullUntil = engine.now() + fullMillis
        const peer = peers.givesWay(share)
        return peer === undefined ?
          Effect.succeed(false) :
          Effect.catch(
            end(peer),
            (error) => Effect.as(Effect.logDebug(`session ${peer.session} could not give way`, error), false)
          )
      }),

    /** Ends the sessions of silent strangers that have been away for `retentionMillis`. */
    sweep: Effect.suspend(() => {
      const due: Array<Peer> = []
      const before = engine.now() - retentionMillis
      for (const [peer, since] of strangers) {
        if (since > before || due.length >= atOnce) break
        strangers.delete(peer)
        if (peers.get(peer.key) !== peer || peer.connection !== undefined) continue
        if (peer.away && !peer.own.isAttaching && peer.isSilentStranger) due.push(peer)
      }
      return Effect.forEach(due, (peer) =>
        // If the store fails, the session ends with its retention.
        Effect.ignore(end(peer)), { concurrency: 16, discard: true })
    })
  }
}

const crowdedOut = new HandshakeError({
  reason: "overloaded",
  detail: "there are too many sessions, and this one was never used",
  retryable: true
})
