/** How sessions end: by their client, by the application, by their retention, or on another server. */
import { Effect } from "effect"
import { CloseCode } from "../../core/Protocol.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { SessionRegistry } from "../../SessionRegistry.ts"
import { type MessageQueueError, SessionNotFoundError, type SessionRegistryError } from "../../WebSocketError.ts"
import type { Engine } from "../run/engine.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Peer } from "../session/peer.ts"
import { foundOf } from "./owning.ts"

export interface EndingOptions {
  readonly engine: Engine
  readonly queue: MessageQueue["Service"]
  readonly registry: SessionRegistry["Service"]
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly sayEnded: (peer: Peer) => void
  readonly onEnded: (session: string) => void
}

type EndError = MessageQueueError | SessionRegistryError

/** How long after its retention a session should be gone, in ms; and how many are checked in a round. */
const overdueMillis = 15_000
const overdueAtOnce = 64
/** How long an absent session with an awaited receipt is assumed to be ours; and how often these are checked, in ms. */
const awaitedMillis = 30_000

export class Ending {
  private readonly engine: Engine
  private readonly queue: MessageQueue["Service"]
  private readonly registry: SessionRegistry["Service"]
  private readonly options: Pick<EndingOptions, "deadLetters" | "sayEnded" | "onEnded">
  /** Peers without a connection, by when they lost it: another server may end their sessions. */
  private readonly away = new Map<Peer, number>()
  private awaitedAt = 0

  constructor({ engine, queue, registry, ...options }: EndingOptions) {
    this.engine = engine
    this.queue = queue
    this.registry = registry
    this.options = options
  }

  /** The registry knows that the peer has no connection. */
  left(peer: Peer): void {
    if (!this.registry.durable || this.registry.retentionMillis === Infinity) return
    this.away.delete(peer)
    this.away.set(peer, this.engine.now())
  }

  /** The session has another owner, or none: its runtime here goes. */
  forget(peer: Peer): void {
    this.away.delete(peer)
    this.engine.forget(peer)
  }

  /** The client, or the application, ends a session of this server's. */
  readonly end = Effect.fnUntraced(function*(this: Ending, peer: Peer): Effect.fn.Return<void, EndError> {
    const { engine, options, registry } = this
    // This comes first, so that a failing store leaves the session as it was.
    yield* registry.end(peer.key)
    engine.peers.delete(peer.key)
    this.away.delete(peer)
    options.sayEnded(peer)
    yield* engine.remove(peer, "sessionEnded")
    yield* registry.remove(peer.key)
    options.onEnded(peer.session)
  })

  /** The session's owner learns of its end from the store. */
  readonly endRemote = Effect.fnUntraced(
    function*(this: Ending, session: string): Effect.fn.Return<void, EndError | SessionNotFoundError> {
      const isKnown = this.queue.durable && (yield* this.registry.end(session))
      if (!isKnown) return yield* new SessionNotFoundError({ session })
      yield* this.ended(session)
    }
  )

  /** Removes all of an ended session. If the store fails half-way, the registry lists it again. */
  readonly ended = Effect.fnUntraced(function*(this: Ending, session: string): Effect.fn.Return<void, EndError> {
    const { engine, options, registry } = this
    const peer = engine.peers.get(session)
    if (peer !== undefined) {
      engine.forfeit(peer)
      this.away.delete(peer)
    }
    yield* Effect.catchIf(
      peer === undefined ? this.removeQueue(session) : engine.remove(peer, "sessionEnded"),
      ({ reason }) => reason === "unknownSession",
      () => Effect.void
    )
    if (peer !== undefined) engine.close(peer, CloseCode.sessionEnded, "the session ended")
    peer?.receipts.ended()
    yield* registry.remove(session)
    options.onEnded(session)
  })

  /** Removes the outbox that was opened for a session which ended while it was being attached. */
  removeOrphan(session: string): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      if ((yield* this.registry.find(session)) !== undefined) return
      const peer = this.engine.peers.get(session)
      if (peer !== undefined) this.forget(peer)
      yield* this.removeQueue(session)
    }).pipe(Effect.ignore)
  }

  /** Looks for sessions that ended or moved elsewhere without this server's hearing of it. */
  readonly sweepAway = Effect.suspend(() => {
    const now = this.engine.now()
    const late = this.overdue(now)
    return Effect.forEach([...late, ...this.awaited(now)], (peer) => this.look(peer, late.includes(peer)), {
      concurrency: 16,
      discard: true
    })
  })

  private look(peer: Peer, isLate: boolean): Effect.Effect<void, SessionRegistryError> {
    const { away, engine, options } = this
    return Effect.map(this.registry.find(peer.key), (info) => {
      if (engine.peers.get(peer.key) !== peer || peer.connected) return void away.delete(peer)
      switch (peer.own.away(foundOf(info))) {
        case "forget":
          return this.forget(peer)
        case "keep":
          return isLate ? this.left(peer) : undefined
        case "ended":
          away.delete(peer)
          engine.peers.delete(peer.key)
          engine.forfeit(peer)
          peer.receipts.ended()
          options.onEnded(peer.session)
      }
    })
  }

  /** Peers whose session should be gone by now. */
  private overdue(now: number): ReadonlyArray<Peer> {
    const peers: Array<Peer> = []
    for (const [peer, at] of this.away) {
      if (at + this.registry.retentionMillis + overdueMillis > now || peers.length >= overdueAtOnce) break
      peers.push(peer)
    }
    return peers
  }

  /**
   * Now and then, peers of which somebody awaits a receipt. The news that another server has the session may be lost
   * with a store's answer, and only the new owner can settle the receipt.
   */
  private awaited(now: number): ReadonlyArray<Peer> {
    if (now - this.awaitedAt < awaitedMillis) return []
    this.awaitedAt = now
    const peers: Array<Peer> = []
    for (const [peer, at] of this.away) {
      if (peers.length >= overdueAtOnce) break
      if (now - at >= awaitedMillis && peer.receipts.isAwaited) peers.push(peer)
    }
    return peers
  }

  private removeQueue(session: string) {
    return Effect.flatMap(
      this.queue.remove(session),
      ({ epoch, maybeHandled, messages }) =>
        this.options.deadLetters.outgoing(session, undefined, epoch, messages, "sessionEnded", maybeHandled)
    )
  }
}
