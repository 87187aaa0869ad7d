/**
 * Checks renewed tokens (PROTOCOL.md §4.5): one at a time for each session, and only a few a minute. If several wait,
 * only the newest is checked, so a client's last token always counts.
 */
import { Effect } from "effect"
import type { Engine } from "../run/engine.ts"
import type { Peer } from "../session/peer.ts"

/** How many tokens of a session may be checked right after one another. */
const burst = 3
/** After the burst, one more is checked in this time, in ms. */
const everyMillis = 10_000

interface Renewal {
  /** The time by which the tokens checked so far would be due, at one each `everyMillis`. */
  until: number
  token: string | undefined
}

export const makeRenewing = (options: {
  readonly engine: Pick<Engine, "run" | "now">
  readonly reauthenticate: (peer: Peer, token: string) => Effect.Effect<void>
}) => {
  const { now, run } = options.engine
  const renewals = new WeakMap<Peer, Renewal>()
  const running = new Set<Peer>()

  const loop = (peer: Peer, renewal: Renewal): Effect.Effect<void> =>
    Effect.suspend(() => {
      const { token } = renewal
      // Without a connection, the next handshake brings the token.
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
