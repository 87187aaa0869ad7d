/**
 * Handlers that store the position of their message themselves, in one transaction with their work. Their work is then
 * done exactly once, whatever happens to the process or the session meanwhile.
 */
import { Effect } from "effect"
import type { Incoming } from "../../Message.ts"
import type { SessionRegistry } from "../../SessionRegistry.ts"
import { SessionRegistryError } from "../../WebSocketError.ts"
import type { Delivery } from "../session/incoming.ts"
import type { Peer } from "../session/peer.ts"
import { isStoreFailure, storeRetry } from "../session/storeRetry.ts"

export interface CommittingOptions {
  readonly now: () => number
  readonly registry: SessionRegistry["Service"]
  /** Waits until no attachment of the session is under way, but not beyond `until`. */
  readonly attached: (peer: Peer, until: number) => Effect.Effect<void>
  /** Gives the session up if another server owns it. */
  readonly onRefused: (peer: Peer, error: SessionRegistryError) => Effect.Effect<void>
}

/** How long a transaction waits for an attachment of the session that is under way, in ms. */
const patienceMillis = 1_000

/** How often to check whether a session in doubt is this server's, in ms. */
const doubtMillis = 1_000

export type Committing = ReturnType<typeof makeCommitting>

export const makeCommitting = ({ attached, now, onRefused, registry }: CommittingOptions) => {
  const fenced = (peer: Peer) =>
    new SessionRegistryError({ session: peer.session, operation: "commitPosition", reason: "fenced" })

  /** Stores that everything up to this delivery is handled. `tenure` is the one in which its handler began. */
  const commit = (peer: Peer, delivery: Delivery, tenure: number): Effect.Effect<void, SessionRegistryError> =>
    Effect.suspend(() => {
      if (delivery.kind === "loose" || delivery.epoch !== peer.core.inbox.epoch) return Effect.void
      const { incoming, own: { generation } } = peer
      if (peer.own.tenure !== tenure) return Effect.fail(fenced(peer))
      incoming.commitBegan(delivery)
      const position = peer.storedPosition(delivery.epoch, delivery.offset)
      return Effect.catch(registry.commitPosition(peer.key, generation, position), (error) => {
        if (error.reason !== "fenced") return Effect.fail(error)
        return Effect.flatMap(attached(peer, now() + patienceMillis), () => {
          // The newer owner is this peer itself, through a new connection.
          if (peer.own.tenure === tenure && peer.own.refused("registry", generation) === "again") {
            return commit(peer, delivery, tenure)
          }
          incoming.commitRefused(delivery, generation)
          return Effect.fail(error)
        })
      })
    })

  /**
   * What a refused commit means, asked once the handler and its transaction are over. `done`: the message was handled
   * by an earlier attempt whose transaction committed, or is the session's new owner's. Otherwise `again`.
   */
  const verdict = Effect.fnUntraced(function*(peer: Peer): Effect.fn.Return<"done" | "again"> {
    const { incoming, own } = peer
    const { tenure } = own
    const refused = incoming.takeRefusal()
    yield* attached(peer, Infinity)
    if (refused === undefined || own.tenure !== tenure) return "done"
    while (own.isCurrent(refused.generation)) {
      const owner = yield* registry.find(peer.key).pipe(
        Effect.retry({ schedule: storeRetry, while: isStoreFailure }),
        Effect.orElseSucceed(() => undefined)
      )
      if (own.tenure !== tenure) return "done"
      // A newer generation: the refusal was about the owner, not about a position that is behind.
      if (!own.isCurrent(refused.generation)) break
      if (own.isStill(owner ?? "nobody")) return "done"
      yield* onRefused(peer, fenced(peer))
      if (own.tenure !== tenure) return "done"
      yield* Effect.sleep(doubtMillis)
    }
    return "again"
  })

  return { commit, verdict }
}

type Commit = (peer: Peer, delivery: Delivery, tenure: number) => Effect.Effect<void, SessionRegistryError>

/** What a handler gets besides the message. A class, since one is made for each message. */
export class HandlerContext<In, Server> {
  readonly session: string
  readonly principal: string | undefined
  readonly data: unknown
  readonly incoming: Incoming<In>
  readonly server: Server
  private readonly commitOf: Commit
  private readonly peer: Peer
  private readonly delivery: Delivery
  private readonly tenure: number

  constructor(incoming: Incoming<In>, server: Server, commitOf: Commit, peer: Peer, delivery: Delivery) {
    this.session = incoming.session
    this.principal = peer.principal
    this.data = peer.data
    this.incoming = incoming
    this.server = server
    this.commitOf = commitOf
    this.peer = peer
    this.delivery = delivery
    this.tenure = peer.own.tenure
  }

  get commit(): Effect.Effect<void, SessionRegistryError> {
    return this.commitOf(this.peer, this.delivery, this.tenure)
  }
}
