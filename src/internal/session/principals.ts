/** The sessions of a principal at all servers, and which of them a message to the principal goes to. */
import { Effect } from "effect"
import type { SessionRegistry } from "../../SessionRegistry.ts"
import type { SessionRegistryError } from "../../WebSocketError.ts"
import type { PrincipalSession } from "./models.ts"
import type { Peer } from "./peer.ts"

export interface PrincipalsOptions {
  readonly registry: SessionRegistry["Service"]
  readonly peers: ReadonlyMap<string, Peer>
}

/** At most this many sessions of one principal are looked at. */
const most = 1_000

export const makePrincipals = ({ peers, registry }: PrincipalsOptions) => {
  const sessionsOf = (principal: string): Effect.Effect<ReadonlyArray<PrincipalSession>, SessionRegistryError> =>
    Effect.map(
      registry.sessionsOf(principal, most),
      (sessions) =>
        sessions.map(({ attached, endsAtMillis, here, session }) => ({
          session,
          // This server knows best about its own sessions.
          connected: attached && (here === false || peers.get(session)?.connected !== false),
          endsAtMillis
        }))
    )

  /** The connected sessions; if there are none, the one that was connected last. */
  const reach = (principal: string): Effect.Effect<ReadonlyArray<string>, SessionRegistryError> =>
    Effect.map(sessionsOf(principal), (sessions) => {
      const connected = sessions.filter(({ connected }) => connected)
      return (connected.length > 0 ? connected : sessions.slice(0, 1)).map(({ session }) => session)
    })

  return { sessionsOf, reach }
}
