/**
 * Asks the store, after a long pause, whether a session is still this server's before anything of it is handled. A
 * server that stood still, or could not reach the store, for longer than others wait may have lost its sessions. Before
 * the store has confirmed that one is still its own, nothing of it is handled, and nothing that its handler sends is
 * taken.
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

/** How long until a session that is lost has been let go, or is found to be this server's all the same, in ms. */
const againMillis = 1_000
/** How soon it is asked again while an attachment of this server's own is under way, in ms. */
const attachingMillis = 50
/** How long what a handler sends may wait for the store, in ms. */
const sendMillis = 10_000

export type Confirming = ReturnType<typeof makeConfirming>

export const makeConfirming = ({ onRefused, registry, run }: ConfirmingOptions) => {
  const { confirm } = registry

  /** Whether nobody else can have a session of this server's. */
  const isSure = (): boolean => confirm === undefined || confirm.isSure()

  /** Whether the store says so of this one. Asked until it answers, or the session has another generation here. */
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

  /** For a handler: ends when the session is this server's. Else it is interrupted, as that lets go of the session. */
  const confirmed = (peer: Peer): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (confirm === undefined) return Effect.void
      const { tenure } = peer.own
      return Effect.catch(ask(peer, confirm), (error) => {
        run(onRefused(peer, error)) // not here: it ends this very fiber
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

  /** What has to be waited for before anything is sent from this fiber: undefined for nothing. */
  const beforeSending = (fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<void, MessageQueueError> | undefined => {
    const work = confirm === undefined ? undefined : fiber.getRef(CurrentWork)
    if (work === undefined || work.isOver || work.peer.own.mayWork(work.tenure, isSure()) === "yes") return undefined
    return stillHas(work)
  }

  /** What a handler has to wait for before it starts: undefined for nothing. */
  const beforeHandling = (peer: Peer): Effect.Effect<void> | undefined =>
    peer.own.mayWork(peer.own.tenure, isSure()) === "yes" ? undefined : confirmed(peer)

  return { beforeHandling, beforeSending }
}
