/**
 * Does what `core/Ownership.ts` decides about a session and its owners: asks the registry, tells it, closes connections,
 * and reports back. A session of which nothing waits here is released, so that any server may have it at once.
 */
import { Effect } from "effect"
import { endFrame } from "../../core/Codec.ts"
import type { Farewell, Found } from "../../core/Ownership.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { SessionInfo, SessionRegistry } from "../../SessionRegistry.ts"
import { SessionRegistryError, type WebSocketError } from "../../WebSocketError.ts"
import type { Engine } from "../run/engine.ts"
import type { Peer } from "../session/peer.ts"
import { isStoreFailure, storeRetry } from "../session/storeRetry.ts"

export interface OwningOptions {
  readonly engine: Engine
  readonly registry: SessionRegistry["Service"]
  /** A peer is without a connection, and the registry knows. */
  readonly onAway: (peer: Peer) => void
  /** The peer's runtime here is of no use any more. */
  readonly forget: (peer: Peer) => void
  /** Removes what was made for a session that is over, if it is. */
  readonly removeOrphan: (session: string) => Effect.Effect<void>
}

export type Owning = ReturnType<typeof makeOwning>

export const makeOwning = (options: OwningOptions) => {
  const { engine, registry } = options
  /** Detachments and releases under way. */
  let departing = 0

  const find = (peer: Peer): Effect.Effect<Found> =>
    Effect.match(registry.find(peer.key), { onFailure: (): Found => "unknown", onSuccess: foundOf })

  // --- without a connection

  /** A store that fails is asked again for as long as it matters: until the session has a newer owner. */
  const insist = (peer: Peer, generation: number, effect: Effect.Effect<void, SessionRegistryError>) =>
    Effect.suspend(() => {
      departing++
      return Effect.retry(effect, {
        schedule: storeRetry,
        while: (error) => isStoreFailure(error) && peer.own.isCurrent(generation)
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
      if (!peer.own.takeRelease(peer.incoming.isIdle)) return Effect.void
      const { generation } = peer.own
      return insist(peer, generation, registry.release(peer.key, generation))
    })

  /** The connection of this generation is gone: retention begins. */
  const detach = (peer: Peer, generation: number): Effect.Effect<void> =>
    Effect.flatMap(insist(peer, generation, registry.detach(peer.key, generation)), () => {
      if (!peer.own.detached(generation)) return Effect.void
      options.onAway(peer)
      return release(peer)
    })

  /** A session that was attached for nothing begins its retention again. */
  const abandon = (session: string, generation: number): Effect.Effect<void> =>
    Effect.suspend(() => {
      const peer = engine.peers.get(session)
      if (peer?.own.isAbandoned(generation) === false) return Effect.void
      const left = peer === undefined ? Effect.ignore(registry.detach(session, generation)) : detach(peer, generation)
      return registry.durable ? Effect.andThen(left, options.removeOrphan(session)) : left
    })

  // --- attachments

  /** Ends when no attachment of the session is under way, or it is `until`: which owner is the newest is known then. */
  const attached = (peer: Peer, until: number): Effect.Effect<void> =>
    Effect.suspend(() =>
      !peer.own.isAttaching || engine.now() >= until
        ? Effect.void
        : Effect.flatMap(Effect.sleep(attachingMillis), () => attached(peer, until))
    )

  /**
   * The store failed to attach the session, and may have done it all the same: then it is this server's, in a generation
   * that no connection has.
   */
  const settleDoubt = Effect.fnUntraced(function*(session: string, isAttaching: () => boolean) {
    const info = yield* Effect.retry(registry.find(session), { schedule: storeRetry, while: isStoreFailure })
    const peer = engine.peers.get(session)
    if (peer === undefined) {
      // The next attachment will tell.
      if (info?.here !== true || isAttaching()) return
      yield* registry.detach(session, info.generation)
      return yield* registry.release(session, info.generation)
    }
    const outcome = peer.own.doubtSettled(foundOf(info))
    if (outcome === "detach") return yield* detach(peer, peer.own.generation)
    if (outcome === "close") engine.close(peer, CloseCode.moved, "a newer connection was lost")
  })

  // --- other servers

  /** The one who owns the session after us, if there is one soon. */
  const nextOwner = Effect.fnUntraced(function*(peer: Peer, generation: number): Effect.fn.Return<Found> {
    for (let waited = 0;; waited += ownerLookMillis) {
      const owner = yield* find(peer)
      if (typeof owner !== "object" || owner.generation !== generation || waited >= ownerMillis) return owner
      yield* Effect.sleep(ownerLookMillis)
    }
  })

  /**
   * Another server is to have the session. The handler that runs may end, and if that takes too long the other one takes
   * the session all the same. What the client is told depends on who comes, so its connection is closed after that.
   */
  const makeWay = Effect.fnUntraced(function*(peer: Peer) {
    const { connection, instance, own: { generation }, session } = peer
    engine.stop(peer)
    engine.storeHandled(peer)
    if (connection === undefined) {
      yield* release(peer)
      if (peer.incoming.isIdle) return
    } else {
      const error = new SessionRegistryError({ session, operation: "attach", reason: "fenced" })
      engine.detach(peer, { code: CloseCode.moved, reason: goesElsewhere, error })
    }
    const { farewell, forfeits } = peer.own.wentTo(generation, instance, yield* nextOwner(peer, generation))
    connection?.close(farewellCodes[farewell], goesElsewhere)
    if (forfeits) engine.forfeit(peer)
  })

  /** A write of the newest generation was refused: the registry is asked who has the session, and it goes to that one. */
  const refused = Effect.fnUntraced(function*(peer: Peer, error: WebSocketError) {
    const { connection, instance, own: { generation } } = peer
    const by = error._tag === "MessageQueueError" ? "queue" : "registry"
    const found = yield* find(peer)
    const verdict = peer.own.ownerIs(by, generation, instance, found)
    if (verdict === undefined) return
    if (verdict.forfeits) engine.forfeit(peer)
    if (connection !== undefined && peer.connection === connection) {
      if (verdict.farewell === "ended") sayEnded(peer)
      else engine.close(peer, farewellCodes[verdict.farewell], "the session has another owner", error)
    }
    if (verdict.forgets === "now") options.forget(peer)
    else if (verdict.forgets === "whenKnown") engine.run(Effect.ignore(forgetLost(peer)))
  })

  /** Forgets a session that another server has, or nobody, as soon as the store says so. */
  const forgetLost = Effect.fnUntraced(function*(peer: Peer) {
    const { generation } = peer.own
    const owner = yield* Effect.retry(registry.find(peer.key), {
      schedule: storeRetry,
      while: (error) => isStoreFailure(error) && peer.own.isCurrent(generation)
    })
    if (peer.own.isLostTo(generation, foundOf(owner))) options.forget(peer)
  })

  /**
   * A position of this generation was refused. `again`: it is to be stored by a newer one. `inDoubt`: the session may be
   * this server's without its knowing, so it is tried again later. `lost`: another server has the session.
   */
  const positionRefused = (
    peer: Peer,
    generation: number,
    error: WebSocketError
  ): Effect.Effect<"again" | "inDoubt" | "lost"> =>
    Effect.suspend(() => {
      switch (peer.own.refused("registry", generation)) {
        case "again":
          return Effect.succeed("again" as const)
        case "wait":
          return Effect.delay(positionRefused(peer, generation, error), attachingMillis)
        case "ask": {
          const outcome = peer.own.isInDoubt ? "inDoubt" : "lost"
          return Effect.map(refused(peer, error), () => peer.own.isCurrent(generation) ? outcome : "again")
        }
      }
    })

  const sayEnded = (peer: Peer): void => {
    peer.say(endFrame)
    engine.close(peer, CloseCode.sessionEnded, "the session ended")
  }

  // --- shutdown

  const busy = (): ReadonlyArray<Peer> => [...engine.peers.values()].filter((peer) => !peer.incoming.isIdle)

  /** Leaves the sessions to other servers: what is handled is stored, handlers that are not done are interrupted. */
  const handOver = Effect.suspend(() => {
    const until = engine.now() + handOverMillis
    const peers = busy()
    for (const peer of peers) engine.stop(peer)
    return Effect.gen(function*() {
      for (const peer of peers) engine.storeHandled(peer)
      yield* engine.settled(Effect.sync(() => peers.every((peer) => !peer.incoming.isSaving)), until)
      for (const peer of peers) if (peer.incoming.isHandling) engine.forfeit(peer)
      yield* engine.settled(Effect.sync(() => departing === 0 && busy().length === 0), until)
    })
  })

  return {
    abandon,
    attached,
    /** The session's connection is gone. */
    detach: (peer: Peer) => engine.run(detach(peer, peer.own.generation)),
    /** Nothing waits any more for a handler or for its position to be stored. */
    idle: (peer: Peer) => {
      if (peer.own.isReleasable) engine.run(release(peer))
    },
    wanted: (session: string) => {
      const peer = engine.peers.get(session)
      if (peer?.own.wanted() === true) engine.run(makeWay(peer))
    },
    inDoubt: (session: string, isAttaching: () => boolean) =>
      engine.run(Effect.ignore(settleDoubt(session, isAttaching))),
    refused,
    positionRefused,
    sayEnded,
    handOver
  }
}

export const goesElsewhere = "the session goes to another server"

const farewellCodes: Record<Farewell, number> = {
  ended: CloseCode.sessionEnded,
  moved: CloseCode.moved,
  replaced: CloseCode.replaced
}

export const foundOf = (info: SessionInfo | undefined): Found => info ?? "nobody"

/** How long it is looked for the server that wanted a session to be its owner, in ms: longer than that one waits. */
const ownerMillis = 3_000
const ownerLookMillis = 200

/** How often it is looked whether an attachment is done, in ms. */
const attachingMillis = 20

/** How long the last positions may take to be stored, and the last sessions to be released, in ms. */
const handOverMillis = 2_000
