/**
 * The server's half of the handshake (PROTOCOL.md §4): hello in, who is it, attach to the session, welcome out.
 */
import { type Cause, Effect, Exit, Random } from "effect"
import { decode, encode } from "../../core/Codec.ts"
import type { Frame, Hello } from "../../core/Frame.ts"
import type { Inbox } from "../../core/Inbox.ts"
import { CloseCode, type FreshReason, subprotocol, version, wireMillis } from "../../core/Protocol.ts"
import { maxFrameBytes, maxHandshakeBytes, resumeInbox, resumeOutbox, Session } from "../../core/Session.ts"
import { Violation } from "../../core/Violation.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Attached, AttachRequest, SessionRegistry } from "../../SessionRegistry.ts"
import type { Connection, ConnectionSink, Request } from "../../Transport.ts"
import {
  ConnectionTimeoutError,
  HandshakeError,
  type MessageQueueError,
  ProtocolError,
  type SessionRegistryError,
  TransportError,
  type WebSocketError
} from "../../WebSocketError.ts"
import { Crowd, type Spare } from "../bounds/crowd.ts"
import { makeId } from "../kit/ids.ts"
import { inWords, type RareLog, wordsOf } from "../kit/rareLog.ts"
import { hashToken, makeToken } from "../kit/resume.ts"
import type { Engine } from "../run/engine.ts"
import { type Handshake, identityFault, type Name } from "../session/identity.ts"
import { Peer } from "../session/peer.ts"
import { redacted } from "../session/tokens.ts"
import type { ShareOf } from "./newcomer.ts"
import { Port } from "./port.ts"
import { rejection } from "./rejection.ts"
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
  readonly makeRoom: (share: string) => Effect.Effect<boolean>
  readonly isClosing: () => boolean
  /** The store failed, and may have attached the session all the same. */
  readonly onInDoubt: (session: string, isAttaching: () => boolean) => void
  /** A session was attached for nothing. */
  readonly abandon: (session: string, generation: number) => Effect.Effect<void>
  /** `resumed` says whether the session went on, or began anew. */
  readonly onAttached: (peer: Peer, resumed: boolean) => void
}

/** For whom a registered connection is, or how to find out; without it the hook says so. */
export type Wanted = string | undefined | Effect.Effect<string | undefined, HandshakeError>

/** What is known of a connection that somebody else accepted. */
interface Registration {
  readonly session: Wanted
  readonly settle: (exit: Exit.Exit<string, WebSocketError>) => void
}

/** A connection whose handshake is not done, and when its time is up. */
interface Pending {
  readonly connection: Connection
  readonly until: number
  share: string
  spare: Spare
}

type AcceptError =
  | HandshakeError
  | ConnectionTimeoutError
  | ProtocolError
  | MessageQueueError
  | SessionRegistryError
  | TransportError

export const makeAcceptor = Effect.fnUntraced(function*(options: AcceptorOptions) {
  const { engine, queue, rare, recorder, registry } = options
  const random = yield* Random.Random
  const handshakeTimeout = new ConnectionTimeoutError({
    phase: "handshake",
    afterMillis: options.handshakeTimeoutMillis
  })
  const sessionOptions = { role: "server", window: options.window, maxPayload: options.maxPayload } as const
  const tooMany = new HandshakeError({
    reason: "overloaded",
    detail: `${options.maxHandshakes} handshakes at once already`,
    retryable: true,
    bound: options.maxHandshakes
  })
  let arrivals = 0
  /** Attachments under way to sessions that have no runtime here yet. */
  const unopened = new Set<AttachRequest>()
  /** Connections whose handshake is not done, the longest first. */
  const pending = new Map<Connection, Pending>()
  /** The same, by share. */
  const crowd = new Crowd<Pending>(() => "first")

  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  const inTurn = makeTurns(handshakesATurn, (task) => dispatcher.scheduleTask(task, 0))

  /** Turned away already: for its time, say, and now its hook fails too. */
  const refused = new WeakSet<Connection>()

  /** Registered connections that speak the protocol, until their handshake has ended: for whom they are, and who waits. */
  const registering = new WeakMap<Connection, Registration>()

  const settle = (connection: Connection, exit: Exit.Exit<string, WebSocketError>): void => {
    registering.get(connection)?.settle(exit)
    registering.delete(connection)
  }

  /** Registered ones of which nothing has been heard. */
  const unheard = new WeakSet<Connection>()

  /** Their silence has a likely cause. */
  const tellOfSilence = (connection: Connection): void => {
    if (!unheard.delete(connection)) return
    options.rare.warn("silence", `a registered socket said no hello. ${whenMissed}`)
  }

  const refuse = (connection: Connection, error: WebSocketError): void => {
    if (error === handshakeTimeout) tellOfSilence(connection)
    settle(connection, Exit.fail(error))
    if (refused.has(connection)) return
    refused.add(connection)
    recorder.count("connectionsFailed")
    const { code, reject } = rejection(error)
    if (reject.code === "internal" || reject.code === "overloaded") tellOperator(reject.code, error)
    if (connection.protocol === subprotocol) connection.send(encode(reject))
    connection.close(code, reject.detail)
  }

  /** It is not the peer's fault: nobody but this side can do anything about it. */
  const tellOperator = (code: "internal" | "overloaded", error: WebSocketError): void => {
    // That it was late, or had gone, may well be the peer's.
    if (error._tag === "ConnectionTimeoutError" || error === goneEarly) return
    if (code === "internal") recorder.count("internalErrors")
    rare.warn(`refused ${code}`, `handshakes are refused (${code}): ${wordsOf(error)}`)
  }

  /** Runs a handshake step; its failure turns the connection away. */
  const step = (connection: Connection, effect: Effect.Effect<unknown, AcceptError>): void => {
    engine.run(
      Effect.catchCause(effect, (cause) => {
        isDone(connection)
        const failure = cause.reasons.find((reason) => reason._tag === "Fail")
        if (failure !== undefined) {
          return Effect.andThen(
            Effect.sync(() => refuse(connection, failure.error)),
            Effect.logDebug(`a handshake failed: ${wordsOf(failure.error)}`)
          )
        }
        const error = new TransportError({ operation: "receive", detail: "the handshake broke off" })
        return Effect.andThen(
          Effect.sync(() => {
            refuse(connection, error)
            rare.error("handshake defect", `a handshake failed by a defect: ${inWords(cause)}`)
          }),
          Effect.logDebug("a handshake failed by a defect", cause)
        )
      }).pipe(Effect.asVoid)
    )
  }

  const accept = (connection: Connection): void => {
    recorder.count("connectionsTotal")
    if (options.isClosing()) return refuse(connection, closing)
    const share = options.shareOf({ ...connection.request, principal: undefined }) ?? ""
    if (pending.size >= options.maxHandshakes && !makeRoom(share)) return refuse(connection, tooMany)
    if (connection.protocol !== subprotocol) return acceptPlain(connection, share, undefined)
    const arrival = ++arrivals
    if (registering.has(connection)) unheard.add(connection)
    let heard = false
    const sink: ConnectionSink = {
      frame: (data, bytes) => {
        if (refused.has(connection)) return
        if (heard) return step(connection, Effect.fail(malformed("a frame before the welcome")))
        heard = true
        unheard.delete(connection)
        const frame = decodeFirst(data, bytes)
        if (frame instanceof Violation) return step(connection, Effect.fail(protocolError(frame)))
        if (frame.t !== "hello") return step(connection, Effect.fail(malformed(`${frame.t} instead of hello`)))
        inTurn(share, () => {
          if (pending.has(connection)) step(connection, welcome(connection, frame, port, arrival))
        })
      },
      drained: noop,
      alive: noop,
      closed: () => {
        tellOfSilence(connection)
        settle(connection, Exit.fail(heard ? goneEarly : goneUnheard))
        if (isDone(connection)) recorder.count("connectionsFailed")
      }
    }
    expect(connection, share)
    const port = new Port(connection, sink)
  }

  const expect = (connection: Connection, share: string): void => {
    // The peer's time began with its first byte, and not when it was a WebSocket.
    const until = engine.now() + options.handshakeTimeoutMillis - (connection.upgradeMillis ?? 0)
    const handshake: Pending = { connection, until, share, spare: undefined }
    pending.set(connection, handshake)
    crowd.add(handshake, share)
  }

  /** Its handshake is over, in one way or another. False when it was before. */
  const isDone = (connection: Connection): boolean => {
    const handshake = pending.get(connection)
    if (handshake === undefined) return false
    crowd.delete(handshake)
    return pending.delete(connection)
  }

  /**
   * For a newcomer of a share that has few, the share that has most gives way: with its longest, since who means well is
   * done soon.
   */
  const makeRoom = (share: string): boolean => {
    const handshake = crowd.givesWay(share)
    if (handshake === undefined) return false
    isDone(handshake.connection)
    refuse(handshake.connection, tooMany)
    return true
  }

  const orAbandon = (session: string, generation: number) => <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.onError(effect, () => options.abandon(session, generation))

  /**
   * Attaches to the session, and makes its runtime that of the new generation. What its peer here writes meanwhile may
   * be refused because of that.
   */
  const own = (
    request: AttachRequest,
    claim: Claim
  ): Effect.Effect<{ readonly attached: Attached; readonly peer: Peer }, SessionRegistryError | HandshakeError> =>
    Effect.suspend(() => {
      const known = engine.peers.get(request.session)
      if (known !== undefined) known.attaching++
      else unopened.add(request)
      return attach(request, claim).pipe(
        Effect.flatMap((attached) => {
          const peer = openPeer(request, attached, claim)
          return peer === undefined ? Effect.fail(replaced) : Effect.succeed({ attached, peer })
        }),
        Effect.onExit((exit) => {
          if (known !== undefined) known.attaching--
          else unopened.delete(request)
          if (Exit.isSuccess(exit) || !isStoreFailure(exit.cause)) return Effect.void
          if (known !== undefined) known.inDoubt = true
          const { session } = request
          return Effect.sync(() =>
            options.onInDoubt(session, () => [...unopened].some((other) => other.session === session))
          )
        })
      )
    })

  /** Where there is no room for another session, one of those who have most ends for it. */
  const attach = (
    request: AttachRequest,
    { isNew, share }: Claim
  ): Effect.Effect<Attached, SessionRegistryError | HandshakeError> =>
    Effect.suspend(() => {
      if (isNew && options.isCrowded(share)) return Effect.fail(crowded)
      return Effect.catchIf(
        registry.attach(request),
        (error) => error._tag === "HandshakeError" && error.bound !== undefined,
        (error) =>
          Effect.flatMap(options.makeRoom(share), (hasRoom) => hasRoom ? registry.attach(request) : Effect.fail(error))
      )
    })

  const claimOf = (
    connection: Connection,
    plain: boolean,
    { principal, session }: Name,
    isNew: boolean
  ): Claim => ({
    plain,
    isNew,
    isStranger: principal === undefined && session === undefined,
    share: options.shareOf({ ...connection.request, principal }) ?? ""
  })

  const authenticate = (
    request: Request,
    auth: string | undefined,
    session: string | undefined,
    plain: boolean
  ): Effect.Effect<Name, HandshakeError | ConnectionTimeoutError> => {
    const token = redacted(auth ?? tokenOf(request))
    return Effect.flatMap(inTime(options.authenticate({ ...request, token, session, plain })), (checked) => {
      const fault = identityFault(checked)
      if (fault === undefined) return Effect.succeed(checked)
      rare.error("identity", fault.detail)
      return Effect.fail(fault)
    })
  }

  /** The session that a connection was registered for, which may take as long as the hook. */
  const nameOf = (
    wanted: Wanted
  ): Effect.Effect<string | undefined, HandshakeError | ConnectionTimeoutError> => {
    if (!Effect.isEffect(wanted)) return Effect.succeed(wanted)
    return Effect.flatMap(inTime(wanted), (session) => {
      const fault = identityFault({ session })
      return fault === undefined ? Effect.succeed(session) : Effect.fail(fault)
    })
  }

  const inTime = <A>(
    answer: Effect.Effect<A, HandshakeError>
  ): Effect.Effect<A, HandshakeError | ConnectionTimeoutError> =>
    Exit.isExit(answer) ? answer : Effect.timeoutOrElse(answer, { // nothing to wait for
      duration: options.handshakeTimeoutMillis,
      orElse: () => Effect.fail(handshakeTimeout)
    })

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
    }, claimOf(connection, false, identity, before === undefined))
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
      // Gone, or overtaken by a newer connection of the same session, while this one was being looked at.
      if (!isDone(connection) || peer.generation !== attached.generation) {
        settle(connection, Exit.fail(goneEarly))
        connection.terminate()
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

  /**
   * Opens the session's outbox, and compares it with what the client has of it. A client that has more than there is
   * shows that a durable store has lost its newest messages: those offsets are taken, and what comes next goes on.
   */
  const openOutbox = Effect.fnUntraced(function*(peer: Peer, hello: Hello) {
    const { generation, key } = peer
    const opened = yield* queue.open(key, generation, peer.share === "" ? undefined : peer.share)
    const received = hello.in.epoch === opened.epoch ? hello.in.received : 0
    const canBe = received - opened.last <= maxRecovered
    const isLost = queue.durable && received > opened.last && canBe
    if (isLost) {
      options.rare.warn(
        "lost",
        `the store has lost messages of session ${key}: its log ends at ${opened.last}, and the client has received ${received}`
      )
    }
    const out = isLost || opened.isUncertain === true
      ? yield* queue.recover(key, generation, canBe ? received : 0)
      : opened
    engine.opened(peer, out)
    const resumedOut = resumeOutbox(out, hello.in)
    if (resumedOut instanceof Violation) return yield* protocolError(resumedOut, key)
    return { out: { epoch: out.epoch, acked: out.acked, last: out.last }, resumedOut }
  })

  /**
   * The session that a peer without a name from the hook may resume: one that is known, by its token, which `attach`
   * checks. An unknown one is not made anew under the id that was asked for: anybody could ask.
   */
  const ownSession = Effect.fnUntraced(function*(
    hello: Hello
  ): Effect.fn.Return<string | undefined, SessionRegistryError> {
    if (hello.session === undefined || hello.token === undefined) return undefined
    return (yield* registry.find(hello.session))?.session
  })

  /** The session's runtime, owned by this generation; whatever connection it had is closed. */
  const openPeer = (
    request: AttachRequest,
    { generation, here }: Attached,
    { isStranger, plain, share }: Claim
  ): Peer | undefined => {
    const { principal, session } = request
    let peer = engine.peers.get(session)
    if (peer !== undefined && peer.generation > generation) return undefined
    let ofOtherKind: Peer | undefined
    if (peer !== undefined && peer.plain !== plain) {
      engine.close(peer, CloseCode.replaced, "replaced by a connection of another kind")
      ofOtherKind = peer
      peer = undefined
    }
    if (peer === undefined) {
      peer = new Peer({ key: session, session, principal, core: new Session(sessionOptions), plain, share })
      if (ofOtherKind !== undefined) peer.inherit(ofOtherKind)
      engine.peers.set(session, peer)
    }
    // As the one of the generation before, so that nothing is detached but that.
    if (peer.connection !== undefined) {
      recorder.count("connectionsReplaced")
      if (!peer.plain) peer.connection.send(encode(rejection(replaced).reject))
      engine.close(peer, CloseCode.replaced, "replaced by a newer connection", replaced)
    }
    const next = peer.generation + 1
    if (peer.generation > 0 && generation !== next && !(here ?? generation <= peer.generation + peer.attaching)) {
      // Another server had the session meanwhile: what is here is not the newest.
      engine.forfeit(peer)
      peer.core.inbox.forget()
    }
    peer.generation = generation
    peer.leaving = false
    peer.inDoubt = false
    peer.away = false
    peer.isStranger = isStranger
    engine.peers.reshare(peer, share)
    return peer
  }

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
      if (pending.has(connection)) step(connection, attaching)
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
    }, claimOf(connection, true, identity, identity.session === undefined))
    const opened = yield* queue.open(session, attached.generation, peer.share === "" ? undefined : peer.share)
    // It has no position of its own, so nothing is known but what this server knows.
    const out = opened.isUncertain === true ? yield* queue.recover(session, attached.generation, 0) : opened
    engine.opened(peer, out)
    recorder.count(attached.known ? "connectionsResumed" : "connectionsFresh")
    port.become(engine.attach(peer, connection, {
      window: options.window,
      position: { epoch: null, received: 0, handled: out.acked, failed: [], pending: { messages: 0, bytes: 0 } },
      announced: 0,
      maxPayload: options.maxPayload
    }))
    options.onAttached(peer, attached.known)
    return peer
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

  const tick = (now: number): void => {
    for (const { connection, until } of pending.values()) {
      if (until > now) continue
      isDone(connection)
      recorder.count("connectionsTimedOut")
      refuse(connection, handshakeTimeout)
    }
  }

  /** Turns away whoever's handshake is not done. */
  const close = (): void => {
    for (const connection of pending.keys()) {
      isDone(connection)
      refuse(connection, closing)
    }
  }

  return { accept, register, tick, close, maxFrameBytes: maxFrameBytes(options.maxPayload) }
})

/** What a connection wants a session as. */
interface Claim {
  readonly plain: boolean
  /** The session did not exist before. */
  readonly isNew: boolean
  /** Nobody knows who it is. */
  readonly isStranger: boolean
  readonly share: string
}

/** How many handshakes begin in one turn of the event loop: a few milliseconds of a process that is not warm yet. */
const handshakesATurn = 8

/** More messages than a store may have lost: a client that is further ahead is wrong. */
const maxRecovered = 1_000_000

const noop = (): void => {}

const decodeFirst = (data: string | Uint8Array, bytes: number): Frame | Violation => {
  if (bytes > maxHandshakeBytes) return new Violation("tooLarge", `a hello of ${bytes} bytes`)
  return typeof data === "string" ? decode(data) : new Violation("malformed", "a binary frame")
}

const closing = new HandshakeError({ reason: "draining", detail: "the server is closing", retryable: true })
const replaced = new HandshakeError({
  reason: "replaced",
  detail: "the session is connected elsewhere",
  retryable: false
})

const registerError = (detail: string) => new TransportError({ operation: "register", detail })

/** Connections that were registered, with any server: each can be once. */
const taken = new WeakSet<Connection>()
const takenAlready = registerError("the connection was registered before, here or elsewhere: take its socket over anew")

const whenMissed =
  "It was registered too late if anything was awaited before: register it in its `connection` event itself, and give " +
  "what has to be awaited as its session, or pause the socket meanwhile."
const missedHello = registerError(`its first message was missed. ${whenMissed}`)
const goneUnheard = registerError(`the connection was gone, and had said no hello. ${whenMissed}`)

const goneEarly = new TransportError({
  operation: "register",
  detail: "the connection was gone before its handshake was done"
})

const crowded = new HandshakeError({ reason: "overloaded", detail: "too many sessions already", retryable: true })

const malformed = (detail: string) => new ProtocolError({ code: "unexpected", detail })

const protocolError = (violation: Violation, session?: string) =>
  new ProtocolError({ code: violation.code, detail: violation.detail, ...(session === undefined ? {} : { session }) })

const freshReason = (hello: Hello, known: boolean, lost: boolean, continuedIn: boolean): FreshReason => {
  if (!known) return hello.session === undefined ? "new" : "unknownSession"
  if (hello.in.epoch === null) return "peerStateLost"
  if (lost) return "positionLost"
  return continuedIn ? "unknownEpoch" : "peerStateLost"
}

/** Whether this side has no position, or is behind what the client was told in this very log. */
const positionLost = ({ epoch, handled }: Inbox, { out }: Hello): boolean =>
  epoch === null || (epoch === out.epoch && handled < out.acked)

const isStoreFailure = (cause: Cause.Cause<WebSocketError>): boolean =>
  cause.reasons.some((reason) =>
    reason._tag === "Fail" && reason.error._tag === "SessionRegistryError" && reason.error.reason === "store"
  )

const tokenOf = (request: Request): string | undefined => {
  const bearer = /^Bearer (.+)$/i.exec(request.headers["authorization"] ?? "")?.[1]
  return bearer ?? new URLSearchParams(request.url.split("?")[1] ?? "").get("token") ?? undefined
}
