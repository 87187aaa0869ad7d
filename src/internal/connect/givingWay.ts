/**
 * Sessions that end before their retention is over. Those of silent strangers end soon after their connection is lost;
 * those of the share that has the most, when there is room for no more.
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
  /** The session is over: nothing of it stays. */
  readonly ended: (session: string) => Effect.Effect<void, MessageQueueError | SessionRegistryError>
}

/** How many end in one sweep at most. */
const atOnce = 1_024

/** How long a full registry counts as full, in ms: until then a newcomer needs somebody to give way. */
const fullMillis = 1_000

export type GivingWay = ReturnType<typeof makeGivingWay>

export const makeGivingWay = ({ ended, engine, registry, retentionMillis }: GivingWayOptions) => {
  const { peers } = engine
  /** Silent strangers in the order in which they lost their connection. */
  const strangers = new Map<Peer, number>()
  let fullUntil = -Infinity

  /** Ends the session, unless it has a connection by now, here or elsewhere. Whether it is over. */
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
        peers.place(peer) // at the end of the line, if it is still there
      })))
    })

  return {
    /** The peer's connection is lost, and the registry knows. */
    isAway: (peer: Peer): void => {
      peer.away = true
      peers.place(peer)
      if (!peer.isSilentStranger || retentionMillis >= registry.retentionMillis) return
      strangers.delete(peer)
      strangers.set(peer, engine.now())
    },

    /** Whether a new session of this share is refused at once: there was no room just now, and nobody would give way. */
    isCrowded: (share: string): boolean => engine.now() < fullUntil && peers.givesWay(share) === undefined,

    /** Without room for a new session of this share: ends another one for it. Whether there was one to end. */
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

    /** Ends sessions of strangers who are away and have never said anything. */
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
        // If the store fails, its retention goes on.
        Effect.ignore(end(peer)), { concurrency: 16, discard: true })
    })
  }
}

const crowdedOut = new HandshakeError({
  reason: "overloaded",
  detail: "there are too many sessions, and this one was never used",
  retryable: true
})
