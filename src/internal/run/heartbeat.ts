/** Watches the clock for all sessions: which peers are silent or take nothing, and what the queue holds. */
import { Effect } from "effect"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import { type Intake, isHeldUp } from "../handle/intake.ts"
import type { Link } from "../session/link.ts"
import type { Peer } from "../session/peer.ts"

/** The deadline that a peer missed. */
export type Silence = "heartbeat" | "ack" | "flush" | "idle"

export interface HeartbeatOptions {
  readonly queue: MessageQueue["Service"]
  readonly recorder: Recorder
  readonly intake: Intake
  readonly connected: ReadonlySet<Peer>
  /** Peers without a connection whose handler is not done. */
  readonly lingering: Set<Peer>
  readonly now: () => number
  readonly ackTimeoutMillis: number
  readonly markDirty: (peer: Peer) => void
  /** Stores what was handled before the current message. */
  readonly storeHandled: (peer: Peer) => void
  readonly closeSilent: (peer: Peer, silence: Silence, afterMillis: number) => void
  readonly onTick: (now: number) => void
}

export const makeHeartbeat = Effect.fnUntraced(function*(options: HeartbeatOptions) {
  const { ackTimeoutMillis, closeSilent, connected, intake, lingering, markDirty, now, queue, recorder, storeHandled } =
    options

  const tickLink = (peer: Peer, link: Link, at: number): void => {
    const { connection, flow, liveness } = link
    const isUnheard = isHeldUp(peer)
    if (isUnheard && peer.dialect.excuse(peer.core, link, at)) intake.sip(peer, at)
    const verdict = liveness.tick(at)
    if (verdict === "dead" && !isUnheard) {
      return closeSilent(peer, peer.dialect.silence, liveness.interval + liveness.timeout)
    }
    if (verdict !== "alive") {
      peer.dialect.probe(connection)
      // Its answer can't be seen, but TCP will find out by the ping whether the socket is gone.
      if (isUnheard) liveness.heard(at)
    }
    if (flow !== undefined && !flow.idle && at - link.progressAt > ackTimeoutMillis) {
      return closeSilent(peer, connection.buffered() > 0 ? "flush" : "ack", ackTimeoutMillis)
    }
    if (link.stalled === "circuitOpen" || peer.outgoing.isCautious) markDirty(peer)
    storeHandled(peer)
  }

  const tickLingering = (): void => {
    for (const peer of lingering) {
      if (peer.incoming.isHandling && !peer.connected) storeHandled(peer)
      else lingering.delete(peer)
    }
  }

  let letters = 0
  // A store that can't answer now is no reason not to begin.
  let lostSoFar = yield* Effect.catchCause(
    Effect.map(queue.stats, ({ lost = 0 }) => lost),
    () => Effect.succeed(0)
  )
  return Effect.gen(function*() {
    const at = now()
    for (const peer of connected) if (peer.link !== undefined) tickLink(peer, peer.link, at)
    tickLingering()
    const lettersNow = recorder.totals.deadLetters
    if (lettersNow > letters) yield* Effect.logWarning(`${lettersNow - letters} messages became dead letters`)
    letters = lettersNow
    const { bytes, lost = 0, messages } = yield* queue.stats
    recorder.count("messagesLost", lost - lostSoFar)
    lostSoFar = lost
    recorder.gauge("queueMessages", messages)
    recorder.gauge("queueBytes", bytes)
    recorder.gauge("unhandledBytes", intake.total())
    options.onTick(at)
  })
})
