/**
 * Sessions that another server has, or none right now. Their outboxes still take messages, and their stats can be read.
 */
import { Effect } from "effect"
import { type CircuitBreaker, session as sessionCircuit } from "../../CircuitBreaker.ts"
import { isId } from "../../core/Text.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { SessionRegistry } from "../../SessionRegistry.ts"
import { MessageQueueError, SessionNotFoundError, type SessionRegistryError } from "../../WebSocketError.ts"
import { onWall } from "../kit/time.ts"
import { circuitStats, statsOf } from "./inspect.ts"
import type { SessionStats } from "./models.ts"
import type { Peer } from "./peer.ts"
import { type Receipts, Tracked } from "./receipts.ts"
import type { RemoteProgress } from "./remoteProgress.ts"

/** A session to send messages to: one that is here, or one that is elsewhere. */
export type Target = Peer | RemoteSession

export interface RemoteOptions {
  readonly queue: MessageQueue["Service"]
  readonly registry: SessionRegistry["Service"]
  readonly breaker: CircuitBreaker["Service"]
  readonly peers: ReadonlyMap<string, Peer>
  /** Undefined where no other server can have a session. */
  readonly remoteProgress: RemoteProgress | undefined
}

export type Remote = ReturnType<typeof makeRemote>

export const makeRemote = (options: RemoteOptions) => {
  const { breaker, peers, queue, registry, remoteProgress } = options

  /** What this side knows of a session that is here, or the stores of one that is not. */
  const stats = Effect.fnUntraced(function*(
    session: string
  ): Effect.fn.Return<SessionStats, SessionNotFoundError | SessionRegistryError> {
    if (!isId(session)) return yield* new SessionNotFoundError({ session })
    const { bytes, messages } = yield* Effect.orElseSucceed(queue.size(session), () => ({ messages: 0, bytes: 0 }))
    const peer = peers.get(session)
    if (peer !== undefined) return statsOf(peer, messages, bytes, breaker, yield* onWall)
    const info = remoteProgress === undefined ? undefined : yield* registry.find(session)
    if (info === undefined) return yield* new SessionNotFoundError({ session })
    return {
      session,
      principal: info.principal,
      connected: false,
      plain: false,
      generation: info.generation,
      queuedMessages: messages,
      queuedBytes: bytes,
      pendingMessages: 0,
      heardAtMillis: undefined,
      ...circuitStats(breaker.stateUnsafe(sessionCircuit(session)))
    }
  })

  return {
    stats,
    /** The session, here or elsewhere; undefined if it could only be here and is not. */
    targetOf: (session: string): Target | undefined =>
      // No session has an invalid id, so the store need not be asked.
      peers.get(session) ??
        (remoteProgress && isId(session) ? new RemoteSession(session, "", remoteProgress) : undefined),
    /** Who has the session's outbox of this epoch by now. */
    ownerOf: remoteProgress && ((session: string, epoch: string): Target => {
      const peer = peers.get(session)
      return peer?.epoch === epoch ? peer : new RemoteSession(session, epoch, remoteProgress)
    }),
    /** A missing outbox means "no such session", but only for a session that is not here. */
    sendingTo: <A, E extends { readonly _tag: string }>(target: Target, effect: Effect.Effect<A, E>) =>
      target instanceof RemoteSession ? Effect.mapError(effect, notFoundIn) : effect
  }
}

/** For a session that is not here, an outbox that the queue does not know means that there is no such session. */
export const notFoundIn = <E extends { readonly _tag: string }>(
  error: E | MessageQueueError
): E | MessageQueueError | SessionNotFoundError =>
  error instanceof MessageQueueError && error.reason === "unknownSession"
    ? new SessionNotFoundError({ session: error.session })
    : error

/** A session that is not here, as a target for messages. */
export class RemoteSession {
  readonly key: string
  readonly session: string
  readonly epoch: string
  readonly link = undefined
  readonly peerMaxPayload = Infinity
  private readonly remoteProgress: RemoteProgress

  constructor(session: string, epoch: string, remoteProgress: RemoteProgress) {
    this.key = session
    this.session = session
    this.epoch = epoch
    this.remoteProgress = remoteProgress
  }

  get receipts(): Pick<Receipts, "add" | "find"> {
    const add = (tracked: Tracked) => tracked.leaveTo(this.remoteProgress.of(this.session, this.epoch))
    return {
      add,
      find: (offset) => {
        const tracked = new Tracked(offset)
        add(tracked)
        return tracked
      }
    }
  }
}
