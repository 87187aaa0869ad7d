/** The server's half of the handshake (PROTOCOL.md §4): takes the hello, attaches the session, sends the welcome. */
import { Effect, Exit } from "effect"
import { encode } from "../../core/Codec.ts"
import type { Hello } from "../../core/Frame.ts"
import type { Inbox } from "../../core/Inbox.ts"
import { CloseCode, type FreshReason, version, wireMillis } from "../../core/Protocol.ts"
import { resumeInbox } from "../../core/Session.ts"
import { Violation } from "../../core/Violation.ts"
import type { Connection } from "../../Transport.ts"
import { HandshakeError } from "../../WebSocketError.ts"
import { type Ids, makeId } from "../kit/ids.ts"
import { hashToken, makeToken } from "../kit/resume.ts"
import { plain, protocol } from "../session/dialects.ts"
import { contractFault, type ContractName, type Name } from "../session/identity.ts"
import type { Peer } from "../session/peer.ts"
import { Attaching, type AttachingOptions, replaced } from "./attaching.ts"
import type { Authenticating, Wanted } from "./authenticating.ts"
import { goneEarly, type Handshakes } from "./handshakes.ts"
import type { HandshakeSink } from "./handshakeSink.ts"
import { protocolError } from "./rejection.ts"

export interface WelcomingOptions extends AttachingOptions {
  readonly handshakes: Handshakes
  readonly authenticate: Authenticating["authenticate"]
  readonly nameOf: Authenticating["nameOf"]
  readonly random: Ids
  readonly contract: ContractName | undefined
  readonly heartbeatMillis: number
  readonly jitterMillis: number
  /** `resumed` says whether the session went on, or began anew. */
  readonly onAttached: (peer: Peer, resumed: boolean) => void
}

export class Welcoming {
  private readonly options: WelcomingOptions
  private readonly handshakes: Handshakes
  private readonly attaching: Attaching
  private readonly random: Ids

  constructor(options: WelcomingOptions) {
    this.options = options
    this.handshakes = options.handshakes
    this.attaching = new Attaching(options)
    this.random = options.random
  }

  readonly welcome = Effect.fnUntraced(
    function*(this: Welcoming, connection: Connection, hello: Hello, sink: HandshakeSink, arrival: number) {
      const { attaching, handshakes, options } = this
      if (hello.version !== version) {
        const detail = `version ${hello.version} is not spoken here, ${version} is`
        return yield* new HandshakeError({ reason: "version", detail, retryable: false })
      }
      const stranger = contractFault(options.contract, hello.contract)
      if (stranger !== undefined) return yield* stranger
      const named = yield* options.nameOf(handshakes.sessionOf(connection))
      const identity: Name = named === undefined
        ? yield* options.authenticate(connection.request, hello.auth, hello.session, false)
        : { session: named }
      const before = identity.session ?? (yield* attaching.ownSession(hello))
      const session = before ?? makeId(this.random)
      // A newer hello may have overtaken this one while the hook ran. Then this one must neither replace the newer
      // connection nor use up that one's token.
      if ((options.engine.peers.get(session)?.arrival ?? 0) > arrival) return yield* replaced
      const token = makeToken()
      const presented = hello.token === undefined ? undefined : hashToken(hello.token)
      const { attached, peer } = yield* attaching.own({
        session,
        principal: identity.principal,
        authorized: identity.session !== undefined,
        tokenHash: presented,
        nextTokenHash: hashToken(token),
        instance: hello.instance,
        attempt: hello.attempt
      }, attaching.claimOf(connection, protocol, identity, before === undefined))
      yield* Effect.gen(function*() {
        peer.arrival = arrival
        peer.instance = hello.instance
        peer.isNamed = named !== undefined
        const { core } = peer
        // If this process has the session's inbox, that is the newest; otherwise the stored position is.
        if (core.inbox.epoch === null && attached.position !== undefined) core.inbox.restore(attached.position)
        const lost = positionLost(core.inbox, hello)
        // A client that presents the newest token has had that welcome. So has one that knew of no log before and now
        // names one, even with an older token: the newest welcome may be lost.
        if (attached.current || (core.inbox.newcomer && hello.in.epoch !== null)) core.inbox.told = true
        const { told } = core.inbox
        const { out, resumedOut } = yield* attaching.openOutbox(peer, hello)
        const resumedIn = resumeInbox(core.inbox, hello.out)
        if (resumedIn instanceof Violation) return yield* protocolError(resumedIn, session)
        if (!resumedIn) core.inbox.newcomer = hello.in.epoch === null
        if (!resumedIn && options.registry.durable) {
          // Otherwise another server would not know where the log was taken up, and the client would have to give up
          // what it sent.
          const stored = peer.storedPosition(hello.out.epoch, core.inbox.handled)
          yield* options.registry.savePosition(session, attached.generation, stored)
        }
        // Meanwhile the connection may be gone or overtaken by a newer one, or another server may want the session.
        if (!handshakes.isDone(connection) || !peer.own.mayConnect(attached.generation)) {
          handshakes.settle(connection, Exit.fail(goneEarly))
          if (peer.own.isStopping) connection.close(CloseCode.moved, goesElsewhere.detail)
          else connection.terminate()
          return yield* options.abandon(session, attached.generation)
        }

        // The welcome that told the client of a new position may be lost: tell it again until the client has shown that
        // it knows.
        const knowsPosition = resumedIn && told
        if (knowsPosition) core.inbox.told = true
        const resumed = knowsPosition && resumedOut.continued
        const { announced } = core.inbox
        options.recorder.count(resumed ? "connectionsResumed" : "connectionsFresh")
        connection.send(encode({
          t: "welcome",
          result: resumed ? "resumed" : "fresh",
          ...(resumed ? {} : { reason: freshReason(hello, attached.known, lost, knowsPosition) }),
          session,
          token,
          generation: attached.generation,
          out,
          in: announced,
          // A client that never learned of our log has not learned of the position either.
          continued: { in: resumed, out: resumedOut.continued },
          window: options.window,
          maxPayload: options.maxPayload,
          heartbeat: wireMillis(options.heartbeatMillis),
          retention: wireMillis(options.registry.retentionMillis),
          jitter: wireMillis(options.jitterMillis)
        }))
        sink.become(options.engine.attach(peer, connection, {
          window: hello.window,
          position: resumedOut.position,
          announced: announced.handled,
          maxPayload: hello.maxPayload
        }))
        options.onAttached(peer, resumed)
        handshakes.settle(connection, Exit.succeed(session))
      }).pipe(attaching.orAbandon(session, attached.generation))
    }
  )

  readonly attachPlain = Effect.fnUntraced(
    function*(this: Welcoming, connection: Connection, wanted: Wanted, sink: HandshakeSink) {
      const { attaching, options } = this
      const named = yield* options.nameOf(wanted)
      const identity: Name = named === undefined
        ? yield* options.authenticate(connection.request, undefined, undefined, true)
        : { session: named }
      const session = identity.session ?? makeId(this.random)
      const { attached, peer } = yield* attaching.own({
        session,
        principal: identity.principal,
        authorized: true,
        tokenHash: undefined,
        nextTokenHash: hashToken(makeToken()),
        instance: makeId(this.random)
      }, attaching.claimOf(connection, plain, identity, identity.session === undefined))
      return yield* Effect.gen(function*() {
        const opened = yield* options.queue.open(
          session,
          attached.generation,
          peer.share === "" ? undefined : peer.share
        )
        // A plain peer names no position, so recovery has only what this server knows.
        const out = opened.isUncertain === true
          ? yield* options.queue.recover(session, attached.generation, 0)
          : opened
        options.engine.opened(peer, out)
        if (!peer.own.mayConnect(attached.generation)) return yield* peer.own.isStopping ? goesElsewhere : replaced
        options.recorder.count(attached.known ? "connectionsResumed" : "connectionsFresh")
        sink.become(options.engine.attach(peer, connection, {
          window: options.window,
          position: { epoch: null, received: 0, handled: out.acked, failed: [], pending: { messages: 0, bytes: 0 } },
          announced: 0,
          maxPayload: options.maxPayload
        }))
        options.onAttached(peer, attached.known)
        return peer
      }).pipe(attaching.orAbandon(session, attached.generation))
    }
  )
}

const freshReason = (hello: Hello, known: boolean, lost: boolean, continuedIn: boolean): FreshReason => {
  if (!known) return hello.session === undefined ? "new" : "unknownSession"
  if (hello.in.epoch === null) return "peerStateLost"
  if (lost) return "positionLost"
  return continuedIn ? "unknownEpoch" : "peerStateLost"
}

/** Whether this side has no position, or is behind what it acknowledged to the client in the same log. */
const positionLost = ({ epoch, handled }: Inbox, { out }: Hello): boolean =>
  epoch === null || (epoch === out.epoch && handled < out.acked)

const goesElsewhere = new HandshakeError({
  reason: "overloaded",
  detail: "another server wants the session",
  retryable: true
})
