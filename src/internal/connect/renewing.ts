/**
 * Renewed tokens (PROTOCOL.md §4.5): each session's are checked one at a time, and only a few a minute. Of those that
 * have to wait the newest counts, so that the last thing a client said is always heard.
 */
import { Effect } from "effect"
import type { Engine } from "../run/engine.ts"
import type { Peer } from "../session/peer.ts"

/** So many at once, … */
const burst = 3
/** … and one more each so many ms. */
const everyMillis = 10_000

interface Renewal {
  /** When the tokens that were checked would have come at the limited rate. */
  until: number
  token: string | undefined
}

export const makeRenewing = (options: {
  readonly engine: Pick<Engine, "run" | "now">
  readonly reauthenticate: (peer: Peer, token: string) => Effect.Effect<void>
}) => {
  const { now, run } = options.engine
  /** Sessions of which a token is being checked, or was lately. */
  const renewals = new WeakMap<Peer, Renewal>()
  const running = new Set<Peer>()

  const loop = (peer: Peer, renewal: Renewal): Effect.Effect<void> =>
    Effect.suspend(() => {
      const { token } = renewal
      // Without a connection, the next handshake renews the token.
      if (token === undefined || !peer.connected) return Effect.void
      const early = renewal.until - now() - (burst - 1) * everyMillis
      if (early > 0) return Effect.andThen(Effect.sleep(early), loop(peer, renewal))
      renewal.until = Math.max(renewal.until, now()) + everyMillis
      renewal.token = undefined
      return Effect.andThen(options.reauthenticate(peer, token), loop(peer, renewal))
    })

  return (peer: Peer, token: string): void => {
    const renewal = renewals.get(peer) ?? { until: 0, token: undefined }
    renewals.set(peer, renewal)
    renewal.token = token
    if (running.has(peer)) return
    running.add(peer)
    run(Effect.ensuring(
      loop(peer, renewal),
      Effect.sync(() => {
        running.delete(peer)
        renewal.token = undefined
      })
    ))
  }
}
