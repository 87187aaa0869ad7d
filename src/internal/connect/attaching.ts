/** Gives a known peer its session: attaches it in the registry, makes its runtime, and opens its outbox. */
import { type Cause, Effect, Exit } from "effect"
import { encode } from "../../core/Codec.ts"
import type { Hello } from "../../core/Frame.ts"
import { CloseCode } from "../../core/Protocol.ts"
import { resumeOutbox, Session } from "../../core/Session.ts"
import { Violation } from "../../core/Violation.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Attached, AttachRequest, SessionRegistry } from "../../SessionRegistry.ts"
import type { Connection } from "../../Transport.ts"
import { type AcceptError, HandshakeError, type SessionRegistryError } from "../../WebSocketError.ts"
import type { RareLog } from "../kit/rareLog.ts"
import type { Engine } from "../run/engine.ts"
import type { Dialect } from "../session/dialects.ts"
import type { Name } from "../session/identity.ts"
import { Peer } from "../session/peer.ts"
import type { ShareOf } from "./newcomer.ts"
import { protocolError, rejection } from "./rejection.ts"

export interface AttachingOptions {
  readonly engine: Engine
  readonly queue: MessageQueue["Service"]
  readonly registry: SessionRegistry["Service"]
  readonly recorder: Recorder
  readonly rare: RareLog
  readonly window: { readonly messages: number; readonly bytes: number }
  readonly maxPayload: number
  readonly shareOf: ShareOf
  /** Whether there is no room for a new session of this share. */
  readonly isCrowded: (share: string) => boolean
  /** Tries to make room for a new session of this share; says whether there is some now. */
  readonly giveWay: (share: string) => Effect.Effect<boolean>
  /** Called when the store failed but may have attached the session anyway. */
  readonly onInDoubt: (session: string, isUnopened: () => boolean) => void
  /** Detaches a session that was attached for nothing. */
  readonly abandon: (session: string, generation: number) => Effect.Effect<void>
}

/** What attaching needs to know of the connection that wants a session. */
export interface Claim {
  readonly dialect: Dialect
  /** The session did not exist before. */
  readonly isNew: boolean
  /** The hook named neither a principal nor a session. */
  readonly isStranger: boolean
  readonly share: string
  /** What the hook handed on. */
  readonly data: unknown
}

/** The most messages that a store can have lost: a client that is further ahead is wrong. */
const maxRecovered = 1_000_000

export const replaced = new HandshakeError({
  reason: "replaced",
  detail: "the session is connected elsewhere",
  retryable: false
})

export class Attaching {
  private readonly engine: Engine
  private readonly queue: MessageQueue["Service"]
  private readonly registry: SessionRegistry["Service"]
  private readonly options: Omit<AttachingOptions, "engine" | "queue" | "registry">
  /** Attachments under way to sessions that have no runtime here yet. */
  private readonly unopened = new Set<AttachRequest>()

  constructor({ engine, queue, registry, ...options }: AttachingOptions) {
    this.engine = engine
    this.queue = queue
    this.registry = registry
    this.options = options
  }

  /** Abandons the attachment if the effect fails or is interrupted. */
  orAbandon(session: string, generation: number) {
    return <A, E>(effect: Effect.Effect<A, E>) =>
      Effect.onError(effect, () => this.options.abandon(session, generation))
  }

  /**
   * Attaches to the session, and moves its runtime to the new generation. Until that is done, the store may refuse what
   * this server writes in the old one.
   */
  own(
    request: AttachRequest,
    claim: Claim
  ): Effect.Effect<{ readonly attached: Attached; readonly peer: Peer }, SessionRegistryError | HandshakeError> {
    return Effect.suspend(() => {
      const known = this.engine.peers.get(request.session)
      if (known !== undefined) known.own.attachmentBegan()
      else this.unopened.add(request)
      return this.attach(request, claim).pipe(
        Effect.flatMap((attached) => {
          const peer = this.openPeer(request, attached, claim)
          return peer === undefined ? Effect.fail(replaced) : Effect.succeed({ attached, peer })
        }),
        Effect.onExit((exit) => {
          const inDoubt = Exit.isFailure(exit) && isStoreFailure(exit.cause)
          if (known !== undefined) known.own.attachmentEnded(inDoubt)
          else this.unopened.delete(request)
          if (!inDoubt) return Effect.void
          const { session } = request
          return Effect.sync(() =>
            this.options.onInDoubt(session, () => [...this.unopened].some((other) => other.session === session))
          )
        })
      )
    })
  }

  /** If there is no room for a new session, one of the share that has the most gives way. */
  private attach(
    request: AttachRequest,
    { isNew, share }: Claim
  ): Effect.Effect<Attached, SessionRegistryError | HandshakeError> {
    return Effect.suspend(() => {
      if (isNew && this.options.isCrowded(share)) return Effect.fail(crowded)
      return Effect.catchIf(
        this.registry.attach(request),
        (error) => error._tag === "resilient-websocket/HandshakeError" && error.bound !== undefined,
        (error) =>
          Effect.flatMap(
            this.options.giveWay(share),
            (hasRoom) => hasRoom ? this.registry.attach(request) : Effect.fail(error)
          )
      )
    })
  }

  claimOf(
    connection: Connection,
    dialect: Dialect,
    { data, principal, session }: Name,
    isNew: boolean
  ): Claim {
    return ({
      dialect,
      isNew,
      data,
      isStranger: principal === undefined && session === undefined,
      share: this.options.shareOf({ ...connection.request, principal }) ?? ""
    })
  }

  /** The session's runtime in this generation. Closes the connection that it had. Undefined if a newer one has it. */
  private openPeer(
    request: AttachRequest,
    { generation, here }: Attached,
    { data, dialect, isStranger, share }: Claim
  ): Peer | undefined {
    const { principal, session } = request
    let peer = this.engine.peers.get(session)
    if (peer?.own.isOvertaken(generation) === true) return undefined
    let ofOtherKind: Peer | undefined
    if (peer !== undefined && peer.dialect !== dialect) {
      this.engine.close(peer, CloseCode.replaced, "replaced by a connection of another kind")
      ofOtherKind = peer
      peer = undefined
    }
    if (peer === undefined) {
      peer = new Peer({ key: session, session, principal, core: this.newCore(), dialect, share })
      if (ofOtherKind !== undefined) peer.inherit(ofOtherKind)
      this.engine.peers.set(session, peer)
    }
    // Before `attached`, so that the detach is in the old generation.
    if (peer.connection !== undefined) {
      this.options.recorder.count("connectionsReplaced")
      peer.say(encode(rejection(replaced).reject))
      this.engine.close(peer, CloseCode.replaced, "replaced by a newer connection", replaced)
    }
    if (peer.own.attached({ generation, here }) === "forfeit") {
      this.engine.forfeit(peer)
      peer.core.inbox.forget()
    }
    peer.away = false
    peer.isStranger = isStranger
    peer.data = data
    this.engine.peers.reshare(peer, share)
    return peer
  }

  /**
   * Opens the session's outbox, and compares it with the client's position. If the client has received more than a
   * durable store holds, the store has lost its newest messages: their offsets count as used, and the log goes on after
   * them.
   */
  readonly openOutbox = Effect.fnUntraced(function*(this: Attaching, peer: Peer, hello: Hello) {
    const { key, own: { generation } } = peer
    const opened = yield* this.queue.open(key, generation, peer.share === "" ? undefined : peer.share)
    const received = hello.in.epoch === opened.epoch ? hello.in.received : 0
    const canBe = received - opened.last <= maxRecovered
    const isLost = this.queue.durable && received > opened.last && canBe
    if (isLost) {
      this.options.rare.warn(
        "lost",
        `the store has lost messages of session ${key}: its log ends at ${opened.last}, and the client has received ${received}`
      )
    }
    const out = isLost || opened.isUncertain === true
      ? yield* this.queue.recover(key, generation, canBe ? received : 0)
      : opened
    this.engine.opened(peer, out)
    const resumedOut = resumeOutbox(out, hello.in)
    if (resumedOut instanceof Violation) return yield* protocolError(resumedOut, key)
    return { out: { epoch: out.epoch, acked: out.acked, last: out.last }, resumedOut }
  })

  /**
   * The session that a peer may resume if the hook named none: one that exists, by its token, which `attach` checks. An
   * unknown session is not made under the id that the peer asks for, as anybody could ask for it.
   */
  readonly ownSession = Effect.fnUntraced(
    function*(this: Attaching, hello: Hello): Effect.fn.Return<string | undefined, SessionRegistryError> {
      if (hello.session === undefined || hello.token === undefined) return undefined
      return (yield* this.registry.find(hello.session))?.session
    }
  )

  private newCore(): Session {
    const { maxPayload, window } = this.options
    return new Session({ role: "server", window, maxPayload })
  }
}

const crowded = new HandshakeError({ reason: "overloaded", detail: "too many sessions already", retryable: true })

const isStoreFailure = (cause: Cause.Cause<AcceptError>): boolean =>
  cause.reasons.some((reason) =>
    reason._tag === "Fail" && reason.error._tag === "resilient-websocket/SessionRegistryError" &&
    reason.error.reason === "store"
  )
