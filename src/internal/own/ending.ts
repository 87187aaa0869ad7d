/** How sessions end: by their client, by the application, when their retention is over, or by another server's doing. */
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

export const makeEnding = (options: EndingOptions) => {
  const { engine, queue, registry } = options
  /** Peers without a connection, by when they lost it: another server may be the one that ends their sessions. */
  const away = new Map<Peer, number>()

  /** The registry knows that the peer has no connection. */
  const left = (peer: Peer): void => {
    if (!registry.durable || registry.retentionMillis === Infinity) return
    away.delete(peer)
    away.set(peer, engine.now())
  }

  const forget = (peer: Peer): void => {
    away.delete(peer)
    engine.forget(peer)
  }

  const removeQueue = (session: string) =>
    Effect.flatMap(
      queue.remove(session),
      ({ epoch, maybeHandled, messages }) =>
        options.deadLetters.outgoing(session, undefined, epoch, messages, "sessionEnded", maybeHandled)
    )

  /** A session that ended while it was being attached has no use for the outbox that was opened for it. */
  const removeOrphan = (session: string): Effect.Effect<void> =>
    Effect.gen(function*() {
      if ((yield* registry.find(session)) !== undefined) return
      const peer = engine.peers.get(session)
      if (peer !== undefined) forget(peer)
      yield* removeQueue(session)
    }).pipe(Effect.ignore)

  /** The client, or the application, ends a session of this server's. */
  const end = Effect.fnUntraced(function*(peer: Peer): Effect.fn.Return<void, EndError> {
    // First, so that a store that fails leaves the session as it was; what comes after it is done by whoever can.
    yield* registry.end(peer.key)
    engine.peers.delete(peer.key)
    away.delete(peer)
    options.sayEnded(peer)
    yield* engine.remove(peer, "sessionEnded")
    yield* registry.remove(peer.key)
    options.onEnded(peer.session)
  })

  /** Whoever has the session learns of its end from the store. */
  const endElsewhere = Effect.fnUntraced(function*(
    session: string
  ): Effect.fn.Return<void, EndError | SessionNotFoundError> {
    const isKnown = queue.durable && (yield* registry.end(session))
    if (!isKnown) return yield* new SessionNotFoundError({ session })
    yield* ended(session)
  })

  /** A session that is over leaves nothing. If the store fails half-way, whoever asks next is given it again. */
  const ended = Effect.fnUntraced(function*(session: string): Effect.fn.Return<void, EndError> {
    const peer = engine.peers.get(session)
    if (peer !== undefined) {
      engine.forfeit(peer)
      away.delete(peer)
    }
    yield* Effect.catchIf(
      peer === undefined ? removeQueue(session) : engine.remove(peer, "sessionEnded"),
      ({ reason }) => reason === "unknownSession",
      () => Effect.void
    )
    if (peer !== undefined) engine.close(peer, CloseCode.sessionEnded, "the session ended")
    peer?.receipts.ended()
    yield* registry.remove(session)
    options.onEnded(session)
  })

  let awaitedAt = 0
  /**
   * Those of which somebody awaits a receipt, now and then: the news that another server has the session may be lost with
   * the answer of a store, and only their owner can tell.
   */
  const awaited = (now: number): ReadonlyArray<Peer> => {
    if (now - awaitedAt < awaitedMillis) return []
    awaitedAt = now
    const peers: Array<Peer> = []
    for (const [peer, at] of away) {
      if (peers.length >= overdueAtOnce) break
      if (now - at >= awaitedMillis && peer.receipts.isAwaited) peers.push(peer)
    }
    return peers
  }

  const overdue = (now: number): ReadonlyArray<Peer> => {
    const peers: Array<Peer> = []
    for (const [peer, at] of away) {
      if (at + registry.retentionMillis + overdueMillis > now || peers.length >= overdueAtOnce) break
      peers.push(peer)
    }
    return peers
  }

  /** Ends here what ended by another server's doing, and forgets what is at another one, where nobody has told. */
  const sweepAway = Effect.suspend(() => {
    const now = engine.now()
    const late = overdue(now)
    const look = Effect.fnUntraced(function*(peer: Peer) {
      const found = foundOf(yield* registry.find(peer.key))
      if (engine.peers.get(peer.key) !== peer || peer.connected) return void away.delete(peer)
      switch (peer.own.away(found)) {
        case "forget":
          return forget(peer)
        case "keep":
          return late.includes(peer) ? left(peer) : undefined
        case "ended":
          away.delete(peer)
          engine.peers.delete(peer.key)
          engine.forfeit(peer)
          peer.receipts.ended()
          options.onEnded(peer.session)
      }
    })
    return Effect.forEach([...late, ...awaited(now)], look, { concurrency: 16, discard: true })
  })

  return { end, ended, endElsewhere, forget, left, removeOrphan, sweepAway }
}

/** How long after its retention a session is expected to be gone, in ms; and how many are looked at in a round. */
const overdueMillis = 15_000
const overdueAtOnce = 64

/** How long a session that is away is taken for this server's, while somebody awaits a receipt of it, in ms. */
const awaitedMillis = 30_000
