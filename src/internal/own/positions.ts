/** Stores how far a session's messages are handled, and retries until that is done or the session is lost. */
import { Effect } from "effect"
import type { SessionRegistry } from "../../SessionRegistry.ts"
import type { SessionRegistryError } from "../../WebSocketError.ts"
import type { Peer } from "../session/peer.ts"
import { isStoreFailure, storeRetry } from "../session/storeRetry.ts"
import type { Owning } from "./owning.ts"

export interface PositionsOptions {
  readonly registry: SessionRegistry["Service"]
  readonly owning: () => Pick<Owning, "positionRefused">
}

/** When this server's own newer attachment may have refused a position: how soon it is stored again, in ms. */
const doubtMillis = 1_000

export const makePositions = ({ owning, registry }: PositionsOptions) => {
  /** The handling of a failure is built only when the store fails. */
  const save = (peer: Peer, epoch: string, offset: number, tenure = peer.own.tenure): Effect.Effect<void> => {
    if (epoch !== peer.core.inbox.epoch || peer.own.tenure !== tenure) return Effect.void
    const { generation } = peer.own
    const attempt = () => registry.savePosition(peer.key, generation, peer.storedPosition(epoch, offset))
    const again = Effect.suspend(() => save(peer, epoch, offset, tenure))
    return Effect.catch(attempt(), (first) => {
      let next: Effect.Effect<void, SessionRegistryError> | undefined = Effect.fail(first)
      return Effect.suspend(() => {
        const now = next ?? attempt()
        next = undefined
        return now
      }).pipe(
        Effect.retry({ schedule: storeRetry, while: (error) => isStoreFailure(error) && peer.own.tenure === tenure }),
        Effect.catch((error) =>
          peer.own.tenure === tenure ?
            Effect.flatMap(owning().positionRefused(peer, generation, error), (outcome) => {
              if (outcome === "lost") return Effect.void
              return outcome === "again" ? again : Effect.delay(again, doubtMillis)
            }) :
            Effect.void
        )
      )
    })
  }

  return { save }
}
