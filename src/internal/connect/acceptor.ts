/** The server's half of the handshake (PROTOCOL.md §4): hello in, who is it, attach to the session, welcome out. */
import { Effect, Exit, Random } from "effect"
import { decode, encode } from "../../core/Codec.ts"
import type { Frame, Hello } from "../../core/Frame.ts"
import type { Inbox } from "../../core/Inbox.ts"
import { CloseCode, type FreshReason, subprotocol, version, wireMillis } from "../../core/Protocol.ts"
import { maxFrameBytes, maxHandshakeBytes, resumeInbox } from "../../core/Session.ts"
import { Violation } from "../../core/Violation.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { SessionRegistry } from "../../SessionRegistry.ts"
import type { Connection, ConnectionSink } from "../../Transport.ts"
import { HandshakeError, ProtocolError, TransportError, type WebSocketError } from "../../WebSocketError.ts"
import { makeId } from "../kit/ids.ts"
import type { RareLog } from "../kit/rareLog.ts"
import { hashToken, makeToken } from "../kit/resume.ts"
import type { Engine } from "../run/engine.ts"
import { plain, protocol } from "../session/dialects.ts"
import { type Handshake, identityFault, type Name } from "../session/identity.ts"
import type { Peer } from "../session/peer.ts"
import { makeAttaching, replaced } from "./attaching.ts"
import { makeAuthenticating, type Wanted } from "./authenticating.ts"
import { closing, goneEarly, makeHandshakes, whenMissed } from "./handshakes.ts"
import type { ShareOf } from "./newcomer.ts"
import { Port } from "./port.ts"
import { protocolError } from "./rejection.ts"
import { makeTurns } from "./turns.ts"

export interface AcceptorOptions {
  readonly engine: Engine
  readonly queue: MessageQueue["Service"]
  readonly registry: SessionRegistry["Service"]
  readonly recorder: Recorder
  readonly rare: RareLog
  readonly authenticate: (handshake: Handshake) => Effect.Effect<Name, HandshakeError>
  readonly acceptPlain: boolean
  readonly window: { readonly messages: number; readonly bytes: number }
  readonly maxPayload: number
  readonly heartbeatMillis: number
  readonly jitterMillis: number
  readonly handshakeTimeoutMillis: number
  readonly maxHandshakes: number
  readonly shareOf: ShareOf
  /** Whether a new session of this share would find no room. */
  readonly isCrowded: (share: string) => boolean
  /** There was no room for a new session of this share. Whether there is now. */
  readonly giveWay: (share: string) => Effect.Effect<boolean>
  readonly isClosing: () => boolean
  /** The store failed, and may have attached the session all the same. */
  readonly onInDoubt: (session: string) => void
  /** A session was attached for nothing. */
  readonly abandon: (session: string, generation: number) => Effect.Effect<void>
  /** `resumed` says whether the session went on, or began anew. */
  readonly onAttached: (peer: Peer, resumed: boolean) => void
}

export const makeAcceptor = Effect.fnUntraced(function*(options: AcceptorOptions) {
  const { engine, queue, rare, recorder, registry } = options
  const random = yield* Random.Random
  const handshakes = makeHandshakes(options)
  const { expect, isDone, registering, refuse, settle, step } = handshakes
  const { authenticate, nameOf } = makeAuthenticating({
    authenticate: options.authenticate,
    rare,
    timeoutMillis: options.handshakeTimeoutMillis,
    late: handshakes.late
  })
  const { claimOf, isUnopened, openOutbox, orAbandon, own, ownSession } = makeAttaching(options)
  let arrivals = 0
  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  const inTurn = makeTurns(handshakesATurn, (task) => dispatcher.scheduleTask(task, 0))

  const accept = (connection: Connection): void => {
    recorder.count("connectionsTotal")
    if (options.isClosing()) return refuse(connection, closing)
    const share = options.shareOf({ ...connection.request, principal: undefined }) ?? ""
    if (!handshakes.hasRoom(share)) return refuse(connection, handshakes.tooMany)
    if (connection.protocol !== subprotocol) return acceptPlain(connection, share, undefined)
    const arrival = ++arrivals
    handshakes.awaitsHello(connection)
    let heard = false
    const sink: ConnectionSink = {
      frame: (data, bytes) => {
        if (handshakes.isRefused(connection)) return
        if (heard) return step(connection, Effect.fail(malformed("a frame before the welcome")))
        heard = true
        handshakes.heard(connection)
        const frame = decodeFirst(data, bytes)
        if (frame instanceof Violation) return step(connection, Effect.fail(protocolError(frame)))
        if (frame.t !== "hello") return step(connection, Effect.fail(malformed(`${frame.t} instead of hello`)))
        inTurn(share, () => {
          if (handshakes.isPending(connection)) step(connection, welcome(connection, frame, port, arrival))
        })
      },
      drained: noop,
      alive: noop,
      closed: () => {
        handshakes.tellOfSilence(connection)
        settle(connection, Exit.fail(heard ? goneEarly : goneUnheard))
        if (isDone(connection)) recorder.count("connectionsFailed")
      }
    }
    expect(connection, share)
    const port = new Port(connection, sink)
  }

  const welcome = Effect.fnUntraced(function*(
    connection: Connection,
    hello: Hello,
    port: Port,
    arrival: number
  ) {
    if (hello.version !== version) {
      const detail = `version ${hello.version} is not spoken here, ${version} is`
      return yield* new HandshakeError({ reason: "version", detail, retryable: false })
    }
    const named = yield* nameOf(registering.get(connection)?.session)
    const identity: Name = named === undefined
      ? yield* authenticate(connection.request, hello.auth, hello.session, false)
      : { session: named }
    const before = identity.session ?? (yield* ownSession(hello))
    const session = before ?? makeId(random)
    // A hello that was overtaken while its token was looked at must not replace the connection that overtook it, or use
    // up the token that one was given.
    if ((engine.peers.get(session)?.arrival ?? 0) > arrival) return yield* replaced
    const token = makeToken()
    const presented = hello.token === undefined ? undefined : hashToken(hello.token)
    const { attached, peer } = yield* own({
      session,
      principal: identity.principal,
      authorized: identity.session !== undefined,
      tokenHash: presented,
      nextTokenHash: hashToken(token),
      instance: hello.instance,
      attempt: hello.attempt
    }, claimOf(connection, protocol, identity, before === undefined))
    yield* Effect.gen(function*() {
      peer.arrival = arrival
      peer.instance = hello.instance
      peer.isNamed = named !== undefined
      const { core } = peer
      // A session of this process knows its inbox best; one from a store goes on from what was stored.
      if (core.inbox.epoch === null && attached.position !== undefined) core.inbox.restore(attached.position)
      const lost = positionLost(core.inbox, hello)
      // The token of a welcome shows that the welcome has arrived; so does our log, if that is the first it has heard of.
      // It may come with an older token: of the newest one, the welcome may be lost.
      if (attached.current || (core.inbox.newcomer && hello.in.epoch !== null)) core.inbox.told = true
      const { told } = core.inbox
      const { out, resumedOut } = yield* openOutbox(peer, hello)
      const resumedIn = resumeInbox(core.inbox, hello.out)
      if (resumedIn instanceof Violation) return yield* protocolError(resumedIn, session)
      if (!resumedIn) core.inbox.newcomer = hello.in.epoch === null
      if (!resumedIn && registry.durable) {
        // Else another server would not know where the log was taken up, and the client had to give up what it sent.
        const stored = peer.storedPosition(hello.out.epoch, core.inbox.handled)
        yield* registry.savePosition(session, attached.generation, stored)
      }
      // Gone, overtaken by a newer connection of the same session, or wanted by another server, while it was looked at.
      if (!isDone(connection) || !peer.own.mayConnect(attached.generation)) {
        settle(connection, Exit.fail(goneEarly))
        if (peer.own.isCurrent(attached.generation)) {
          connection.close(CloseCode.moved, "another server wants the session")
        } else connection.terminate()
        return yield* options.abandon(session, attached.generation)
      }

      // A welcome that told the client of a new position may have been lost: until we have heard from it, tell it again.
      const knowsPosition = resumedIn && told
      if (knowsPosition) core.inbox.told = true
      const resumed = knowsPosition && resumedOut.continued
      const { announced } = core.inbox
      recorder.count(resumed ? "connectionsResumed" : "connectionsFresh")
      connection.send(encode({
        t: "welcome",
        result: resumed ? "resumed" : "fresh",
        ...(resumed ? {} : { reason: freshReason(hello, attached.known, lost, knowsPosition) }),
        session,
        token,
        generation: attached.generation,
        out,
        in: announced,
        // One that never learned of our log has not learned of the position either.
        continued: { in: resumed, out: resumedOut.continued },
        window: options.window,
        maxPayload: options.maxPayload,
        heartbeat: wireMillis(options.heartbeatMillis),
        retention: wireMillis(registry.retentionMillis),
        jitter: wireMillis(options.jitterMillis)
      }))
      port.become(engine.attach(peer, connection, {
        window: hello.window,
        position: resumedOut.position,
        announced: announced.handled,
        maxPayload: hello.maxPayload
      }))
      options.onAttached(peer, resumed)
      settle(connection, Exit.succeed(session))
    }).pipe(orAbandon(session, attached.generation))
  })

  const acceptPlain = (connection: Connection, share: string, session: string | undefined): void => {
    if (!options.acceptPlain) return refuse(connection, malformed(`the subprotocol ${subprotocol} is required`))
    expect(connection, share)
    const closed = () => void isDone(connection)
    const port = new Port(connection, { frame: noop, drained: noop, alive: noop, closed })
    connection.pause()
    const attaching = Effect.gen(function*() {
      const peer = yield* attachPlain(connection, session, port)
      if (isDone(connection)) read(peer, connection)
      else engine.detach(peer, { code: 1006, reason: "", error: undefined })
    })
    inTurn(share, () => {
      if (handshakes.isPending(connection)) step(connection, attaching)
    })
  }

  /** Unless the session holds so much already that it has to wait. */
  const read = (peer: Peer, connection: Connection): void => {
    if (peer.reading.stopped === 0) connection.resume()
  }

  const attachPlain = Effect.fnUntraced(function*(
    connection: Connection,
    wanted: Wanted,
    port: Port
  ) {
    const named = yield* nameOf(wanted)
    const identity: Name = named === undefined
      ? yield* authenticate(connection.request, undefined, undefined, true)
      : { session: named }
    const session = identity.session ?? makeId(random)
    const { attached, peer } = yield* own({
      session,
      principal: identity.principal,
      authorized: true,
      tokenHash: undefined,
      nextTokenHash: hashToken(makeToken()),
      instance: makeId(random)
    }, claimOf(connection, plain, identity, identity.session === undefined))
    return yield* Effect.gen(function*() {
      const opened = yield* queue.open(session, attached.generation, peer.share === "" ? undefined : peer.share)
      // It has no position of its own, so nothing is known but what this server knows.
      const out = opened.isUncertain === true ? yield* queue.recover(session, attached.generation, 0) : opened
      engine.opened(peer, out)
      if (!peer.own.mayConnect(attached.generation)) return yield* peer.own.isStopping ? goesElsewhere : replaced
      recorder.count(attached.known ? "connectionsResumed" : "connectionsFresh")
      port.become(engine.attach(peer, connection, {
        window: options.window,
        position: { epoch: null, received: 0, handled: out.acked, failed: [], pending: { messages: 0, bytes: 0 } },
        announced: 0,
        maxPayload: options.maxPayload
      }))
      options.onAttached(peer, attached.known)
      return peer
    }).pipe(orAbandon(session, attached.generation))
  })

  /** One that speaks the protocol: it is accepted at once, and its handshake waited for. */
  const registerHandshake = (connection: Connection, session: Wanted) =>
    Effect.callback<string, WebSocketError>((resume) => {
      registering.set(connection, { session, settle: resume })
      accept(connection)
      return Effect.sync(() => {
        registering.delete(connection)
        connection.terminate()
      })
    })

  /** A connection that somebody else accepted, perhaps with the session it is for. */
  const register = Effect.fnUntraced(function*(
    connection: Connection,
    session: Wanted
  ): Effect.fn.Return<string, WebSocketError> {
    if (options.isClosing()) return yield* closing
    const fault = Effect.isEffect(session) ? undefined : identityFault({ session })
    if (fault !== undefined) return yield* fault
    if (taken.has(connection)) return yield* takenAlready
    taken.add(connection)
    const isPlain = connection.protocol !== subprotocol
    if (connection.missed === true) {
      options.rare.error("missed", `messages of a socket that was registered are lost. ${whenMissed}`)
      if (!isPlain) {
        refuse(connection, missedHello)
        return yield* missedHello
      }
    }
    if (!isPlain) return yield* registerHandshake(connection, session)
    if (!options.acceptPlain) return yield* malformed(`the subprotocol ${subprotocol} is required`)
    recorder.count("connectionsTotal")
    let gone = false
    const port = new Port(connection, {
      frame: noop,
      drained: noop,
      alive: noop,
      closed: () => void (gone = true)
    })
    connection.pause() // what comes before it is attached waits in the socket
    const peer = yield* Effect.onError(
      attachPlain(connection, session, port),
      () => Effect.sync(() => connection.resume())
    )
    read(peer, connection)
    if (gone) engine.detach(peer, { code: 1006, reason: "", error: undefined })
    return peer.session
  })

  return {
    accept,
    register,
    isUnopened,
    tick: handshakes.tick,
    close: handshakes.close,
    maxFrameBytes: maxFrameBytes(options.maxPayload)
  }
})

/** How many handshakes begin in one turn of the event loop: a few milliseconds of a process that is not warm yet. */
const handshakesATurn = 8

const goesElsewhere = new HandshakeError({
  reason: "overloaded",
  detail: "another server wants the session",
  retryable: true
})

const noop = (): void => {}

const decodeFirst = (data: string | Uint8Array, bytes: number): Frame | Violation => {
  if (bytes > maxHandshakeBytes) return new Violation("tooLarge", `a hello of ${bytes} bytes`)
  return typeof data === "string" ? decode(data) : new Violation("malformed", "a binary frame")
}

const registerError = (detail: string) => new TransportError({ operation: "register", detail })

/** Connections that were registered, with any server: each can be once. */
const taken = new WeakSet<Connection>()
const takenAlready = registerError("the connection was registered before, here or elsewhere: take its socket over anew")

const missedHello = registerError(`its first message was missed. ${whenMissed}`)
const goneUnheard = registerError(`the connection was gone, and had said no hello. ${whenMissed}`)

const malformed = (detail: string) => new ProtocolError({ code: "unexpected", detail })

const freshReason = (hello: Hello, known: boolean, lost: boolean, continuedIn: boolean): FreshReason => {
  if (!known) return hello.session === undefined ? "new" : "unknownSession"
  if (hello.in.epoch === null) return "peerStateLost"
  if (lost) return "positionLost"
  return continuedIn ? "unknownEpoch" : "peerStateLost"
}

/** Whether this side has no position, or is behind what the client was told in this very log. */
const positionLost = ({ epoch, handled }: Inbox, { out }: Hello): boolean =>
  epoch === null || (epoch === out.epoch && handled < out.acked)
