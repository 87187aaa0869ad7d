/**
 * Does what `core/Ownership.ts` decides: asks and tells the registry, closes connections, and reports back. A session
 * with nothing waiting here is released, so that any server may take it at once.
 */
import { Effect } from "effect"
import { endFrame } from "../../core/Codec.ts"
import type { Farewell, Found, Verdict } from "../../core/Ownership.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { SessionInfo, SessionRegistry } from "../../SessionRegistry.ts"
import { type MessageQueueError, SessionRegistryError } from "../../WebSocketError.ts"
import type { Engine } from "../run/engine.ts"
import type { Peer } from "../session/peer.ts"
import { isStoreFailure, storeRetry } from "../session/storeRetry.ts"

export interface OwningOptions {
  readonly engine: Engine
  readonly registry: SessionRegistry["Service"]
  /** The peer has no connection, and the registry knows. */
  readonly onAway: (peer: Peer) => void
  /** The peer's runtime here is no longer needed. */
  readonly forget: (peer: Peer) => void
  /** If the session is over, removes what was made for it. */
  readonly removeOrphan: (session: string) => Effect.Effect<void>
}

const goesElsewhere = "the session goes to another server"
const farewellCodes: Record<Farewell, number> = {
  ended: CloseCode.sessionEnded,
  moved: CloseCode.moved,
  replaced: CloseCode.replaced
}
/** How long to wait for the server that wanted a session to own it, in ms: longer than that server waits. */
const ownerMillis = 3_000
const ownerLookMillis = 200
/** How often to check whether an attachment is done, in ms. */
const attachingMillis = 20
/** How long the last positions may take to be stored, and the last sessions to be released, in ms. */
const handOverMillis = 2_000

export class Owning {
  private readonly engine: Engine
  private readonly registry: SessionRegistry["Service"]
  private readonly onAway: OwningOptions["onAway"]
  private readonly forget: OwningOptions["forget"]
  private readonly removeOrphan: OwningOptions["removeOrphan"]
  /** Detachments and releases under way. */
  private departing = 0

  constructor({ engine, forget, onAway, registry, removeOrphan }: OwningOptions) {
    this.engine = engine
    this.registry = registry
    this.onAway = onAway
    this.forget = forget
    this.removeOrphan = removeOrphan
  }

  // --- what happens

  /** The session's connection is gone. */
  disconnected(peer: Peer): void {
    this.engine.run(this.detach(peer, peer.own.generation))
  }

  /** Nothing waits to be handled, or for its position to be stored. */
  idle(peer: Peer): void {
    if (peer.own.isReleasable) this.engine.run(this.release(peer))
  }

  /** Another server wants the session. */
  wanted(session: string): void {
    const peer = this.engine.peers.get(session)
    if (peer?.own.wanted() === true) this.engine.run(this.makeWay(peer))
  }

  /**
   * The store failed to attach the session, but may have done it. `isUnopened` says whether another attachment is under
   * way that began when the session had no runtime here.
   */
  attachmentInDoubt(session: string, isUnopened: () => boolean = () => false): void {
    this.engine.run(Effect.ignore(this.settleDoubt(session, isUnopened)))
  }

  /** A session was attached in vain: its retention begins again. */
  abandon(session: string, generation: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { engine, registry } = this
      const peer = engine.peers.get(session)
      if (peer?.own.isAbandoned(generation) === false) return Effect.void
      const left = peer === undefined
        ? Effect.ignore(registry.detach(session, generation))
        : this.detach(peer, generation)
      return registry.durable ? Effect.andThen(left, this.removeOrphan(session)) : left
    })
  }

  /** A write of the newest generation was refused: asks the registry who the owner is, and lets it have the session. */
  refused(peer: Peer, error: MessageQueueError | SessionRegistryError): Effect.Effect<Verdict | undefined> {
    return Effect.suspend(() => {
      const { connection, instance, own: { generation } } = peer
      const by = error._tag === "resilient-websocket/MessageQueueError" ? "queue" : "registry"
      return Effect.map(this.find(peer), (found) => {
        const verdict = peer.own.ownerIs(by, generation, instance, found)
        if (verdict === undefined) return undefined
        if (verdict.forfeits) this.engine.forfeit(peer)
        if (connection !== undefined && peer.connection === connection) {
          if (verdict.farewell === "ended") this.sayEnded(peer)
          else this.engine.close(peer, farewellCodes[verdict.farewell], "the session has another owner", error)
        }
        if (verdict.forgets === "now") this.forget(peer)
        else if (verdict.forgets === "whenKnown") this.engine.run(Effect.ignore(this.forgetLost(peer)))
        // The newest generation must be taken over, whether or not a client comes for it.
        if (peer.own.isInDoubt) this.attachmentInDoubt(peer.key)
        return verdict
      })
    })
  }

  /**
   * A position of this generation was refused. `again`: store it by the newer one. `inDoubt`: this server may own the
   * session without knowing, so try again later. `lost`: another server has the session.
   */
  positionRefused(
    peer: Peer,
    generation: number,
    error: MessageQueueError | SessionRegistryError
  ): Effect.Effect<"again" | "inDoubt" | "lost"> {
    return Effect.suspend(() => {
      switch (peer.own.refused("registry", generation)) {
        case "again":
          return Effect.succeed("again" as const)
        case "wait":
          return Effect.delay(this.positionRefused(peer, generation, error), attachingMillis)
        case "ask":
          return Effect.map(this.refused(peer, error), (verdict) => {
            if (verdict === undefined) return "again"
            return verdict.forfeits ? "lost" : "inDoubt"
          })
      }
    })
  }

  /** Ends when no attachment of the session is under way, or at `until`: then the newest generation is known. */
  attached(peer: Peer, until: number): Effect.Effect<void> {
    return Effect.suspend(() =>
      !peer.own.isAttaching || this.engine.now() >= until
        ? Effect.void
        : Effect.flatMap(Effect.sleep(attachingMillis), () => this.attached(peer, until))
    )
  }

  /** The session is over, and its client is told so. */
  sayEnded(peer: Peer): void {
    peer.say(endFrame)
    this.engine.close(peer, CloseCode.sessionEnded, "the session ended")
  }

  /**
   * This server closes and leaves its sessions to others: it stores what is handled, and interrupts handlers that are
   * not done.
   */
  readonly handOver = Effect.suspend(() => {
    const { engine } = this
    const until = engine.now() + handOverMillis
    const peers = this.busy()
    for (const peer of peers) engine.stop(peer)
    return Effect.gen({ self: this }, function*() {
      for (const peer of peers) engine.storeHandled(peer)
      yield* engine.settled(Effect.sync(() => peers.every((peer) => !peer.incoming.isSaving)), until)
      for (const peer of peers) if (peer.incoming.isHandling) engine.forfeit(peer)
      yield* engine.settled(Effect.sync(() => this.departing === 0 && this.busy().length === 0), until)
    })
  })

  private busy(): ReadonlyArray<Peer> {
    return [...this.engine.peers.values()].filter((peer) => !peer.incoming.isIdle)
  }

  private find(peer: Peer): Effect.Effect<Found> {
    return Effect.match(this.registry.find(peer.key), { onFailure: (): Found => "unknown", onSuccess: foundOf })
  }

  // --- without a connection

  /** Retries while the store fails, until the session has a newer owner. */
  private insist(
    peer: Peer,
    generation: number,
    effect: Effect.Effect<void, SessionRegistryError>
  ): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.departing++
      return Effect.retry(effect, {
        schedule: storeRetry,
        while: (error) => isStoreFailure(error) && peer.own.isCurrent(generation)
      })
    }).pipe(
      Effect.catch((error) => Effect.logDebug(`session ${peer.session} has left in another way`, error)),
      Effect.onExit(() => {
        this.departing--
        this.engine.notify()
        return Effect.void
      })
    )
  }

  private release(peer: Peer): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!peer.own.takeRelease(peer.incoming.isIdle)) return Effect.void
      const { generation } = peer.own
      return this.insist(peer, generation, this.registry.release(peer.key, generation))
    })
  }

  /** The connection of this generation is gone: retention begins. */
  private detach(peer: Peer, generation: number): Effect.Effect<void> {
    return Effect.flatMap(this.insist(peer, generation, this.registry.detach(peer.key, generation)), () => {
      if (!peer.own.detached(generation)) return Effect.void
      this.onAway(peer)
      return this.release(peer)
    })
  }

  // --- other owners

  /**
   * Asks the registry whether an attachment whose answer was lost was made. If so, no connection has its generation.
   */
  private readonly settleDoubt = Effect.fnUntraced(
    function*(this: Owning, session: string, isUnopened: () => boolean) {
      const { engine, registry } = this
      const isAttaching = () => engine.peers.get(session)?.own.isAttaching === true || isUnopened()
      let info: SessionInfo | undefined
      do {
        // An attachment under way changes who the owner is.
        while (isAttaching()) yield* Effect.sleep(attachingMillis)
        info = yield* Effect.retry(registry.find(session), { schedule: storeRetry, while: isStoreFailure })
      } while (isAttaching())
      const peer = engine.peers.get(session)
      if (peer === undefined) {
        if (info?.here !== true) return
        yield* registry.detach(session, info.generation)
        return yield* registry.release(session, info.generation)
      }
      const outcome = peer.own.doubtSettled(foundOf(info))
      if (outcome === "detach") return yield* this.detach(peer, peer.own.generation)
      if (outcome === "close") engine.close(peer, CloseCode.moved, "a newer connection was lost")
    }
  )

  /** The session's next owner, if it appears soon. */
  private readonly nextOwner = Effect.fnUntraced(
    function*(this: Owning, peer: Peer, generation: number): Effect.fn.Return<Found> {
      for (let waited = 0;; waited += ownerLookMillis) {
        const owner = yield* this.find(peer)
        if (typeof owner !== "object" || owner.generation !== generation || waited >= ownerMillis) return owner
        yield* Effect.sleep(ownerLookMillis)
      }
    }
  )

  /**
   * Hands the session to another server. A running handler may end; if it takes too long, the other server takes the
   * session by force. What the client is told depends on who comes, so its connection is closed after that.
   */
  private readonly makeWay = Effect.fnUntraced(function*(this: Owning, peer: Peer) {
    const { engine } = this
    const { connection, instance, own: { generation }, session } = peer
    engine.stop(peer)
    engine.storeHandled(peer)
    if (connection === undefined) {
      yield* this.release(peer)
      if (peer.incoming.isIdle) return
    } else {
      const error = new SessionRegistryError({ session, operation: "attach", reason: "fenced" })
      engine.detach(peer, { code: CloseCode.moved, reason: goesElsewhere, error })
    }
    const { farewell, forfeits } = peer.own.wentTo(generation, instance, yield* this.nextOwner(peer, generation))
    connection?.close(farewellCodes[farewell], goesElsewhere)
    if (forfeits) engine.forfeit(peer)
  })

  /** Forgets a session as soon as the store says that it has another owner, or none. */
  private readonly forgetLost = Effect.fnUntraced(function*(this: Owning, peer: Peer) {
    const { generation } = peer.own
    const owner = yield* Effect.retry(this.registry.find(peer.key), {
      schedule: storeRetry,
      while: (error) => isStoreFailure(error) && peer.own.isCurrent(generation)
    })
    if (peer.own.isLostTo(generation, foundOf(owner))) this.forget(peer)
  })
}

export const foundOf = (info: SessionInfo | undefined): Found => info ?? "nobody"
