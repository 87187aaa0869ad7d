/**
 * Asks the store, after a long pause, whether a session is still this server's before any of its messages is handled.
 * A server that stood still, or could not reach the store, for longer than the lease may have lost its sessions. Until
 * the store confirms one, none of its messages is handled, and nothing that its handler sends is accepted.
 */
import { Effect, type Fiber } from "effect"
import type { Confirm, SessionRegistry } from "../../SessionRegistry.ts"
import { MessageQueueError, type SessionRegistryError } from "../../WebSocketError.ts"
import type { Peer } from "../session/peer.ts"
import { isStoreFailure, storeRetry } from "../session/storeRetry.ts"
import { CurrentWork, type Work } from "../session/work.ts"

export interface ConfirmingOptions {
  readonly registry: SessionRegistry["Service"]
  readonly run: (effect: Effect.Effect<void>) => void
  readonly onRefused: (peer: Peer, error: SessionRegistryError) => Effect.Effect<void>
}

/** How long to wait for a lost session to be let go, or to turn out to be this server's after all, in ms. */
const againMillis = 1_000
/** How soon to ask again while this server attaches the session itself, in ms. */
const attachingMillis = 50
/** How long a handler's sends may wait for the store, in ms. */
const sendMillis = 10_000

export type Confirming = ReturnType<typeof makeConfirming>

export const makeConfirming = ({ onRefused, registry, run }: ConfirmingOptions) => {
  const { confirm } = registry

  /** Whether nobody else can have a session of this server's. */
  const isSure = (): boolean => confirm === undefined || confirm.isSure()

  /** Succeeds if the store says that this session is still ours. Asks until the store answers. */
  const ask = (peer: Peer, confirm: Confirm): Effect.Effect<void, SessionRegistryError> =>
    Effect.suspend(() => {
      const { generation } = peer.own
      return Effect.retry(confirm.session(peer.key, generation), { schedule: storeRetry, while: isStoreFailure }).pipe(
        Effect.catch((error) => {
          // The newer owner may be this server itself, by a new connection.
          const isOurs = peer.own.refused("registry", generation) !== "ask"
          return isOurs ? Effect.delay(ask(peer, confirm), attachingMillis) : Effect.fail(error)
        })
      )
    })

  /** For a handler: ends when the session is confirmed. If it is lost, letting it go interrupts the handler. */
  const confirmed = (peer: Peer): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (confirm === undefined) return Effect.void
      const { tenure } = peer.own
      return Effect.catch(ask(peer, confirm), (error) => {
        run(onRefused(peer, error)) // in another fiber, as it ends this one
        return Effect.andThen(
          Effect.sleep(againMillis),
          Effect.suspend(() => peer.own.tenure === tenure ? confirmed(peer) : Effect.never)
        )
      })
    })

  const lost = ({ peer }: Work) =>
    new MessageQueueError({ session: peer.session, operation: "append", reason: "fenced" })

  const stillHas = (work: Work): Effect.Effect<void, MessageQueueError> =>
    Effect.suspend(() => {
      const may = work.peer.own.mayWork(work.tenure, isSure())
      if (may === "no") return Effect.fail(lost(work))
      if (may === "yes" || confirm === undefined) return Effect.void
      return Effect.timeoutOrElse(Effect.mapError(ask(work.peer, confirm), () => lost(work)), {
        duration: sendMillis,
        orElse: () =>
          Effect.fail(new MessageQueueError({ session: work.peer.session, operation: "append", reason: "store" }))
      })
    })

  /** What a send from this fiber must wait for first; undefined if nothing. */
  const beforeSending = (fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<void, MessageQueueError> | undefined => {
    const work = confirm === undefined ? undefined : fiber.getRef(CurrentWork)
    if (work === undefined || work.isOver || work.peer.own.mayWork(work.tenure, isSure()) === "yes") return undefined
    return stillHas(work)
  }

  /** What a handler must wait for before it starts; undefined if nothing. */
  const beforeHandling = (peer: Peer): Effect.Effect<void> | undefined =>
    peer.own.mayWork(peer.own.tenure, isSure()) === "yes" ? undefined : confirmed(peer)

  return { beforeHandling, beforeSending }
}
