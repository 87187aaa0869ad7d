/**
 * How a session leaves this server: released, wanted by another, taken, handed over, or ended. A session of which
 * nothing waits here to be handled is released, so that any server may have it at once.
 */
import { Effect, Exit } from "effect"
import { endFrame } from "../../core/Codec.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { SessionInfo, SessionRegistry } from "../../SessionRegistry.ts"
import { type MessageQueueError, SessionRegistryError, type WebSocketError } from "../../WebSocketError.ts"
import type { Engine } from "../run/engine.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Peer } from "../session/peer.ts"
import { isStoreFailure, storeRetry } from "../session/storeRetry.ts"

export interface DepartureOptions {
  readonly engine: Engine
  readonly queue: MessageQueue["Service"]
  readonly registry: SessionRegistry["Service"]
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly onEnded: (session: string) => void
  /** A peer is without a connection, and the registry knows. */
  readonly onAway: (peer: Peer) => void
}

/** How long it is looked for the server that wanted a session to be its owner, in ms: longer than that one waits. */
const ownerMillis = 3_000
const ownerLookMillis = 200

/** How long after its retention a session is expected to be gone, in ms; and how many are looked at in a round. */
const overdueMillis = 15_000
const overdueAtOnce = 64

/** How long a session that is away is taken for this server's, while somebody awaits a receipt of it, in ms. */
const awaitedMillis = 30_000

/** How long the last positions may take to be stored, and the last sessions to be released, in ms. */
const handOverMillis = 2_000

export const makeDeparture = (options: DepartureOptions) => {
  const { engine, queue, registry } = options
  /** Detachments and releases under way. */
  let departing = 0
  /** Peers without a connection, by when they lost it: another server may be the one that ends their sessions. */
  const away = new Map<Peer, number>()

  /** A store that fails is asked again for as long as it matters: until the session has a newer owner. */
  const insist = (peer: Peer, generation: number, effect: Effect.Effect<void, SessionRegistryError>) =>
    Effect.suspend(() => {
      departing++
      return Effect.retry(effect, {
        schedule: storeRetry,
        while: (error) => isStoreFailure(error) && peer.generation === generation
      })
    }).pipe(
      Effect.catch((error) => Effect.logDebug(`session ${peer.session} has left in another way`, error)),
      Effect.onExit(() => {
        departing--
        engine.notify()
        return Effect.void
      })
    )

  const release = (peer: Peer): Effect.Effect<void> =>
    Effect.suspend(() => {
      const { departed, generation } = peer
      if (departed !== generation || peer.connection !== undefined || !peer.incoming.isIdle) return Effect.void
      peer.departed = 0
      return insist(peer, generation, registry.release(peer.key, generation))
    })

  /** The connection of this generation is gone: retention begins. */
  const depart = (peer: Peer, generation: number): Effect.Effect<void> =>
    Effect.flatMap(insist(peer, generation, registry.detach(peer.key, generation)), () => {
      if (peer.generation !== generation || peer.connection !== undefined) return Effect.void
      peer.departed = generation
      options.onAway(peer)
      if (registry.durable && registry.retentionMillis < Infinity) {
        away.delete(peer)
        away.set(peer, engine.now())
      }
      return release(peer)
    })

  const forget = (peer: Peer): void => {
    away.delete(peer)
    engine.forget(peer)
  }

  /** A session that was attached for nothing begins its retention again. */
  const abandon = (session: string, generation: number): Effect.Effect<void> =>
    Effect.suspend(() => {
      const peer = engine.peers.get(session)
      if (peer !== undefined && (peer.generation !== generation || peer.connection !== undefined)) return Effect.void
      const left = peer === undefined ? Effect.ignore(registry.detach(session, generation)) : depart(peer, generation)
      return registry.durable ? Effect.andThen(left, Effect.ignore(removeOrphan(session))) : left
    })

  /** A session that ended while it was being attached has no use for the outbox that was opened for it. */
  const removeOrphan = Effect.fnUntraced(function*(session: string) {
    if ((yield* registry.find(session)) !== undefined) return
    const peer = engine.peers.get(session)
    if (peer !== undefined) forget(peer)
    yield* removeQueue(session)
  })

  /**
   * The store failed to attach the session, and may have done it all the same: then it is this server's, in a generation
   * that no connection has.
   */
  const settleDoubt = Effect.fnUntraced(function*(session: string, isAttaching: () => boolean) {
    const info = yield* Effect.retry(registry.find(session), { schedule: storeRetry, while: isStoreFailure })
    const peer = engine.peers.get(session)
    // The next attachment will tell, or the registry can't.
    if ((peer !== undefined && peer.attaching > 0) || (info !== undefined && info.here === undefined)) return
    const isOurs = info?.here === true && info.generation > (peer?.generation ?? 0)
    if (peer === undefined) {
      if (!isOurs || isAttaching()) return
      yield* registry.detach(session, info.generation)
      return yield* registry.release(session, info.generation)
    }
    peer.inDoubt = false
    if (!isOurs) return
    peer.generation = info.generation
    if (peer.connection === undefined) return yield* depart(peer, info.generation)
    engine.close(peer, CloseCode.moved, "a newer connection was lost")
  })

  /** The one who owns the session after us, if there is one soon. */
  const nextOwner = Effect.fnUntraced(function*(
    { key }: Peer,
    generation: number
  ): Effect.fn.Return<SessionInfo | undefined, SessionRegistryError> {
    for (let waited = 0;; waited += ownerLookMillis) {
      const owner = yield* registry.find(key)
      if (owner === undefined || owner.generation !== generation || waited >= ownerMillis) return owner
      yield* Effect.sleep(ownerLookMillis)
    }
  })

  /**
   * Another server wants the session. The handler that runs may end, and if that takes too long the other one takes
   * the session all the same. What the client is told depends on who comes, so its connection is closed after that.
   */
  const makeRoom = Effect.fnUntraced(function*(peer: Peer): Effect.fn.Return<void, SessionRegistryError> {
    const { connection, generation, instance, session } = peer
    engine.leave(peer)
    engine.storeHandled(peer)
    if (connection === undefined) yield* release(peer)
    else {
      const error = new SessionRegistryError({ session, operation: "attach", reason: "fenced" })
      engine.detach(peer, { code: CloseCode.moved, reason: wanted, error })
    }
    if (connection === undefined && peer.incoming.isIdle) return
    const owner = yield* Effect.orElseSucceed(nextOwner(peer, generation), () => undefined)
    connection?.close(codeOfOwner(owner, instance), wanted)
    const isTaken = owner !== undefined && owner.generation !== generation && peer.generation === generation
    if (isTaken && !peer.inDoubt) engine.forfeit(peer)
  })

  /** A session that is over leaves nothing. If the store fails half-way, whoever asks next is given it again. */
  const ended = Effect.fnUntraced(function*(
    session: string
  ): Effect.fn.Return<void, MessageQueueError | SessionRegistryError> {
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

  const removeQueue = (session: string) =>
    Effect.flatMap(
      queue.remove(session),
      ({ epoch, maybeHandled, messages }) =>
        options.deadLetters.outgoing(session, undefined, epoch, messages, "sessionEnded", maybeHandled)
    )

  /** Forgets a session that another server has, or nobody, as soon as the store says so. */
  const forgetLost = Effect.fnUntraced(function*(peer: Peer) {
    const { generation } = peer
    const owner = yield* Effect.retry(registry.find(peer.key), {
      schedule: storeRetry,
      while: (error) => isStoreFailure(error) && peer.generation === generation
    })
    if (peer.generation === generation && owner?.generation !== generation && peer.connection === undefined) {
      forget(peer)
    }
  })

  const closeEnded = (peer: Peer): void => {
    away.delete(peer)
    peer.connection?.send(endFrame)
    engine.close(peer, CloseCode.sessionEnded, "the session ended")
  }

  /** The session has a newer owner: what was received here is for that one. */
  const letGo = Effect.fnUntraced(function*(peer: Peer, error: WebSocketError) {
    const { connection, generation, instance } = peer
    const found = yield* Effect.exit(registry.find(peer.key))
    if (peer.generation !== generation) return
    const owner = Exit.isSuccess(found) ? found.value : undefined
    // The queue also refuses who has attached and not opened its outbox yet. And an attachment of our own may have
    // succeeded without saying so: the next one tells.
    const isLost = error._tag === "SessionRegistryError" || (Exit.isSuccess(found) && owner?.generation !== generation)
    if (isLost && !peer.inDoubt) engine.forfeit(peer)
    if (connection !== undefined && peer.connection === connection) {
      if (Exit.isSuccess(found) && owner === undefined) closeEnded(peer)
      else engine.close(peer, codeOfOwner(owner, instance), "the session has another owner", error)
    }
    // What the registry refuses may be for an attachment of our own that is still under way, which needs the peer.
    if (error._tag !== "MessageQueueError") return
    if (isLost) forget(peer)
    else if (Exit.isFailure(found)) engine.run(Effect.ignore(forgetLost(peer)))
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

  /** Forgets sessions that ended by another server's doing, or are at another one, and nobody has told. */
  const forgetEnded = Effect.gen(function*() {
    const now = engine.now()
    const overdue: Array<Peer> = []
    for (const [peer, at] of away) {
      if (at + registry.retentionMillis + overdueMillis > now || overdue.length >= overdueAtOnce) break
      overdue.push(peer)
    }
    yield* Effect.forEach([...overdue, ...awaited(now)], (peer) =>
      Effect.gen(function*() {
        const owner = yield* registry.find(peer.key)
        if (engine.peers.get(peer.key) !== peer || peer.connection !== undefined) return void away.delete(peer)
        if (owner !== undefined && owner.generation > peer.generation) return forget(peer)
        if (owner !== undefined && !overdue.includes(peer)) return
        away.delete(peer)
        if (owner !== undefined) return void away.set(peer, now)
        engine.peers.delete(peer.key)
        engine.forfeit(peer)
        peer.receipts.ended()
        options.onEnded(peer.session)
      }), { concurrency: 16, discard: true })
  })

  const busy = (): ReadonlyArray<Peer> => [...engine.peers.values()].filter((peer) => !peer.incoming.isIdle)

  /** Leaves the sessions to other servers: what is handled is stored, handlers that are not done are interrupted. */
  const handOver = Effect.suspend(() => {
    const until = engine.now() + handOverMillis
    const peers = busy()
    for (const peer of peers) engine.leave(peer)
    return Effect.gen(function*() {
      for (const peer of peers) engine.storeHandled(peer)
      yield* engine.settled(Effect.sync(() => peers.every((peer) => !peer.incoming.isSaving)), until)
      for (const peer of peers) if (peer.incoming.isHandling) engine.forfeit(peer)
      yield* engine.settled(Effect.sync(() => departing === 0 && busy().length === 0), until)
    })
  })

  return {
    abandon,
    depart: (peer: Peer) => engine.run(depart(peer, peer.generation)),
    /** Nothing waits any more for a handler or for its position to be stored. */
    idle: (peer: Peer) => {
      if (peer.departed === peer.generation) engine.run(release(peer))
    },
    wanted: (session: string) => {
      const peer = engine.peers.get(session)
      // One that is just attaching here will be told who has it.
      if (peer !== undefined && peer.attaching === 0) engine.run(makeRoom(peer))
    },
    inDoubt: (session: string, isAttaching: () => boolean) =>
      engine.run(Effect.ignore(settleDoubt(session, isAttaching))),
    ended,
    forgetEnded,
    closeEnded,
    letGo,
    handOver
  }
}

const wanted = "the session goes to another server"

/**
 * A client that was overtaken by an older attempt of its own must come back; one that was replaced by another instance,
 * such as a second tab, must not, or the two would replace each other for ever.
 */
const codeOfOwner = (owner: SessionInfo | undefined, instance: string): number =>
  owner === undefined || owner.instance === instance ? CloseCode.moved : CloseCode.replaced
