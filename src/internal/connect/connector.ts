/**
 * The client's half of the handshake (PROTOCOL.md §4), and the loop that keeps it connected. It goes: admit, dial,
 * hello, welcome, stay until the connection is lost, back off, again. What an ending means is in `endings.ts`.
 *
 * Every wait for somebody else's code, the user's, the transport's, the store's, has a limit here; only the circuit
 * says by itself how long it keeps a client waiting, which `reconnect` ends.
 */
import { Cause, Deferred, Effect, Exit, Latch, Random } from "effect"
import { type CircuitBreaker, endpoint as endpointCircuit, type Permit } from "../../CircuitBreaker.ts"
import { decode, encode } from "../../core/Codec.ts"
import type { Hello, OutboxPosition, Reject, Welcome } from "../../core/Frame.ts"
import { subprotocol, tooBig, version } from "../../core/Protocol.ts"
import { maxFrameBytes, maxHandshakeBytes, resumeInbox, resumeOutbox } from "../../core/Session.ts"
import { utf8Length } from "../../core/utf8.ts"
import { Violation } from "../../core/Violation.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection, TransportClient } from "../../Transport.ts"
import { ConnectionTimeoutError, HandshakeError, TransportError, type WebSocketError } from "../../WebSocketError.ts"
import { limited } from "../kit/limited.ts"
import { mayBeSentTo, shownUrl, withoutFragment } from "../kit/urls.ts"
import type { Ending } from "../run/connections.ts"
import type { Engine } from "../run/engine.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Agreement } from "../session/link.ts"
import type * as Models from "../session/models.ts"
import type { Peer } from "../session/peer.ts"
import {
  type Backoff,
  breach,
  closedBeforeWelcome,
  Doubts,
  failed,
  type Failure,
  isMeant,
  lostAfterWelcome,
  pauseMillis,
  rejectionError,
  retryAfterOf,
  undialled
} from "./endings.ts"
import { Port } from "./port.ts"

/**
 * Whether the client is connected, and if not, why and what next.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionState = Models.ConnectionState<WebSocketError>

export interface ConnectorOptions {
  readonly engine: Engine
  readonly peer: Peer
  readonly queue: MessageQueue["Service"]
  readonly breaker: CircuitBreaker["Service"]
  readonly transport: TransportClient["Service"]
  readonly recorder: Recorder
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly instance: string
  readonly url: Effect.Effect<string, WebSocketError>
  readonly token: Effect.Effect<string | undefined, WebSocketError>
  readonly headers: Readonly<Record<string, string>>
  readonly onFresh: "deadLetter" | "resend"
  readonly dialTimeoutMillis: number
  readonly handshakeTimeoutMillis: number
  readonly backoff: Backoff
  readonly setState: (state: ConnectionState) => void
}

/** The generation of a client's own outbox: nobody else writes to it. */
export const ownGeneration = 1

export type Connector = Effect.Success<ReturnType<typeof makeConnector>>

export const makeConnector = Effect.fnUntraced(function*(options: ConnectorOptions) {
  const { breaker, dialTimeoutMillis, engine, handshakeTimeoutMillis, peer, queue, recorder, setState } = options
  const lastedMillis = Math.min(mostLastedMillis, options.backoff.capMillis)
  const provenMillis = Math.min(mostProvenMillis, lastedMillis)
  const again = yield* Latch.make(false)
  let circuit: string | undefined // of the endpoint dialled last
  let dialled = ""
  let dials = 0
  let stopped = false
  let resume: { readonly session: string; readonly token: string } | undefined
  let lost: Deferred.Deferred<Ending> | undefined
  let connectedAt: number | undefined // of the connection that is, or was last
  /** The permit of a connection that has not shown yet that the endpoint works. */
  let unproven: Permit | undefined
  let rejected: WebSocketError | undefined
  let drain: { readonly window: number; readonly endpoint: string | undefined } | undefined
  /** Ends the wait for what the user, or the circuit, has to say. */
  let hurry: () => void = noop

  /** Waits for what somebody else has to say, until `reconnect` is called. */
  const ask = <A>(
    effect: Effect.Effect<A, WebSocketError>,
    phase: ConnectionTimeoutError["phase"],
    millis: number,
    onLate?: (value: A) => void
  ): Effect.Effect<A, Failure> =>
    Effect.ensuring(
      limited(Effect.mapError(effect, failed), {
        millis,
        onTimeout: () => late(phase, millis),
        onLate,
        onWait: (end) => {
          hurry = () => end(hurried)
        }
      }),
      Effect.sync(() => {
        hurry = noop
      })
    )

  /** A permit once given is not lost to an interrupt where there is none; what comes too late is given back. */
  const admitted = (key: string): Effect.Effect<Permit, Failure> =>
    ask(
      Effect.uninterruptible(breaker.awaitAdmission(key)),
      "dial",
      Infinity,
      (permit) => engine.run(breaker.record(permit, { _tag: "Ignored" }))
    )

  const dial = (url: string): Effect.Effect<Connection, Failure> =>
    limited(
      Effect.mapError(
        options.transport.dial({
          url: withoutFragment(url),
          protocol: subprotocol,
          headers: options.headers,
          timeoutMillis: dialTimeoutMillis,
          maxFrameBytes: maxFrameBytes(peer.core.options.maxPayload)
        }),
        undialled
      ),
      {
        millis: dialTimeoutMillis,
        onTimeout: () => late("dial", dialTimeoutMillis),
        onLate: (connection) => connection.terminate()
      }
    )

  /** An endpoint is sent this client's credentials: one that is less safe than where it is now is not dialled. */
  const onDrain = (window: number, endpoint: string | undefined): void => {
    const isSafe = endpoint !== undefined && mayBeSentTo(dialled, endpoint)
    drain = { window, endpoint: isSafe ? endpoint : undefined }
  }

  /** What the frame that came instead of a welcome means. */
  const refusal = (frame: Exclude<ReturnType<typeof decode>, Welcome>): Failure => {
    switch (frame.t) {
      case "reject":
        return failed(rejectionError(frame))
      case "drain":
        onDrain(frame.window, frame.endpoint)
        return failed(rejectionError({ t: "reject", code: "draining", detail: "the server is leaving" }))
      case "violation":
        return breach(frame)
      default:
        return breach(new Violation("unexpected", `${frame.t} instead of welcome`))
    }
  }

  /** Opens the connection and says hello; ends with the server's welcome. */
  const greet = Effect.fnUntraced(function*(
    connection: Connection,
    out: OutboxPosition,
    answer: Deferred.Deferred<Welcome, Failure>
  ) {
    const settle = (exit: Exit.Exit<Welcome, Failure>) => Deferred.doneUnsafe(answer, exit)
    const port = new Port(connection, {
      frame: (data) => {
        const frame = typeof data === "string" ? decode(data) : new Violation("malformed", "a binary frame")
        // A server whose welcome was lost may probe before this side has given up.
        if (frame.t === "ping") return
        port.hold()
        settle(frame.t === "welcome" ? Exit.succeed(frame) : Exit.fail(refusal(frame)))
      },
      drained: noop,
      alive: noop,
      closed: (code, reason) => settle(Exit.fail(closedBeforeWelcome(code, reason)))
    })
    const auth = yield* ask(options.token, "token", handshakeTimeoutMillis)
    const { core } = peer
    const hello: Hello = {
      t: "hello",
      version,
      ...(resume === undefined ? {} : { session: resume.session, token: resume.token }),
      instance: options.instance,
      attempt: ++dials,
      ...(auth === undefined ? {} : { auth }),
      out,
      in: core.inbox.announced,
      window: core.options.window,
      maxPayload: core.options.maxPayload
    }
    const text = encode(hello)
    if (utf8Length(text) > maxHandshakeBytes) return yield* Effect.fail(failed(helloTooLarge))
    connection.send(text)
    const welcome = yield* Deferred.await(answer)
    return { welcome, port, announced: hello.in.handled }
  })

  /** Takes positions and credentials from the welcome. */
  const agree = Effect.fnUntraced(function*(welcome: Welcome, out: OutboxPosition, announced: number) {
    const { core } = peer
    const resumedOut = resumeOutbox(out, welcome.in)
    if (resumedOut instanceof Violation) return yield* Effect.fail(breach(resumedOut))
    if (!resumedOut.continued) {
      return yield* Effect.fail(breach(new Violation("malformed", "the welcome is for another log")))
    }
    // What the server has handled is no longer in doubt.
    peer.outgoing.acknowledged(resumedOut.position.handled, resumedOut.position.failed)
    yield* Effect.mapError(engine.tellAcks(peer), failed)
    // Before our position says that we know: should this be interrupted, the server tells us again.
    if (!welcome.continued.in && options.onFresh === "deadLetter") {
      const given = yield* Effect.mapError(queue.giveBackSent(peer.key, ownGeneration), failed)
      yield* options.deadLetters.outgoing(peer.session, peer, peer.epoch, given, "fresh", given.length)
    }
    if (!welcome.continued.out) {
      // Another instance has handled more of this log. What waits here was handled there, or comes again.
      if (core.inbox.epoch === welcome.out.epoch) engine.forfeit(peer)
      core.inbox.adopt(welcome.out.epoch, welcome.out.acked)
    } else if (resumeInbox(core.inbox, welcome.out) !== true) {
      return yield* Effect.fail(breach(new Violation("malformed", "the welcome goes on where we are not")))
    }
    resume = { session: welcome.session, token: welcome.token }
    peer.session = welcome.session
    const agreement: Agreement = {
      window: welcome.window,
      position: resumedOut.position,
      announced: welcome.continued.out ? announced : core.inbox.handled,
      maxPayload: welcome.maxPayload
    }
    return agreement
  })

  /** From hello to loss. Succeeds with why it ended; fails when it never came to be. */
  const converse = Effect.fnUntraced(function*(connection: Connection, permit: Permit, onConnected: () => void) {
    if (connection.protocol !== subprotocol) return yield* Effect.fail(notSelected)
    // What the server acknowledged is settled first, so that the position we name is the newest.
    const open = Effect.andThen(engine.tellAcks(peer), queue.open(peer.key, ownGeneration))
    const out = yield* ask(open, "outbox", handshakeTimeoutMillis)
    const answer = yield* Deferred.make<Welcome, Failure>()
    const tooLate = Effect.suspend(() => Deferred.fail(answer, late("handshake", handshakeTimeoutMillis)))
    const timer = yield* after(handshakeTimeoutMillis, tooLate)
    const { announced, port, welcome } = yield* Effect.onExit(
      greet(connection, out, answer),
      () => Effect.sync(() => timer.interruptUnsafe())
    )
    const agreement = yield* agree(welcome, out, announced)
    const ended = yield* Deferred.make<Ending>()
    lost = ended
    unproven = permit
    connectedAt = engine.now()
    port.become(engine.attach(peer, connection, agreement))
    onConnected()
    recorder.count(welcome.result === "resumed" ? "connectionsResumed" : "connectionsFresh")
    const { reason, result, session } = welcome
    setState({ _tag: "Connected", session, result, reason })
    return yield* Deferred.await(ended)
  })

  const connectOnce = Effect.fnUntraced(function*(url: string, permit: Permit, onConnected: () => void) {
    const connection = yield* dial(url)
    recorder.count("connectionsTotal")
    return yield* Effect.onExit(converse(connection, permit, onConnected), (exit) =>
      Effect.sync(() => {
        if (Exit.isFailure(exit) && peer.connection !== connection) connection.terminate()
      }))
  })

  const hasStood = (millis: number): boolean => connectedAt !== undefined && engine.now() - connectedAt >= millis

  /** What an attempt, or the connection that it led to, says of the endpoint; nothing if that was told before. */
  const judge = (permit: Permit, exit: Exit.Exit<Ending, Failure>): Effect.Effect<void> => {
    if (connectedAt !== undefined && unproven !== permit) return Effect.void
    unproven = undefined
    if (Exit.isSuccess(exit)) {
      if (hasStood(provenMillis)) return breaker.record(permit, { _tag: "Success" })
      const isFailure = drain === undefined && !isMeant(exit.value)
      return breaker.record(permit, { _tag: isFailure ? "Failure" : "Ignored" })
    }
    const { error } = failureOf(exit.cause)
    return breaker.record(
      permit,
      Cause.hasInterruptsOnly(exit.cause) || error === hurried.error
        ? { _tag: "Ignored" }
        : { _tag: "Failure", retryAfterMillis: retryAfterOf(error) }
    )
  }

  const attempt = Effect.fnUntraced(function*(count: number, onConnected: () => void) {
    setState({ _tag: "Connecting", attempt: count })
    connectedAt = undefined
    const url = drain?.endpoint ?? (yield* ask(options.url, "url", dialTimeoutMillis))
    // What a program's effect says at run time its types need not.
    if (typeof url !== "string") return yield* Effect.fail(notText)
    dialled = url
    circuit = endpointCircuit(shownUrl(url))
    const permit = yield* admitted(circuit)
    drain = undefined
    rejected = undefined
    return yield* Effect.onExit(connectOnce(url, permit, onConnected), (exit) => {
      if (Exit.isFailure(exit)) recorder.count("connectionsFailed")
      return judge(permit, exit)
    })
  })

  /** A connection that has lasted wipes the slate: what fails from then on fails for the first time. */
  const hasLasted = (): boolean => hasStood(lastedMillis)

  const outcomeOf = (exit: Exit.Exit<Ending, Failure>): Failure => {
    if (Exit.isFailure(exit)) return failureOf(exit.cause)
    const isStuck = peer.outgoing.isCautious
    // What is too big is given up in the end, and the client goes on.
    const isDoubted = exit.value.code === tooBig ? !isStuck && !hasLasted() : isStuck || !hasLasted()
    return lostAfterWelcome(peer.session, exit.value, rejected, isDoubted)
  }

  const loop = Effect.gen(function*() {
    const doubts = new Doubts(options.backoff.capMillis)
    let attempts = 0
    let failures = 0 // in a row, also over a stop
    while (true) {
      attempts++
      if (attempts > 1) recorder.count("retriesTried")
      const exit = yield* Effect.exit(attempt(attempts, () => {
        if (attempts > 1) recorder.count("retriesSucceeded")
      }))
      if (Exit.isFailure(exit) && exit.cause.reasons.every((reason) => reason._tag !== "Fail")) {
        return yield* Effect.failCause(exit.cause) // a defect: the supervisor's
      }
      const { error, verdict } = outcomeOf(exit)
      if (error === hurried.error) {
        attempts--
        continue
      }
      if (hasLasted()) {
        attempts = 0
        failures = 0
        doubts.clear()
      }
      // A drain of one that has lasted is no failure.
      if (drain === undefined || !hasLasted()) failures++
      if (doubts.isEnough(verdict, engine.now())) {
        again.closeUnsafe()
        stopped = true
        setState({ _tag: "Stopped", error })
        yield* again.await
        attempts = 0
        doubts.clear()
        continue
      }
      const part = yield* Random.next
      const retryInMillis = pauseMillis(options.backoff, failures, part, drain?.window, error)
      setState({ _tag: "Disconnected", error, retryInMillis })
      again.closeUnsafe()
      const timer = yield* after(retryInMillis, again.open)
      yield* again.await
      timer.interruptUnsafe()
    }
  })

  return {
    loop,
    /** The token, for a connection that is open. */
    token: Effect.mapError(
      limited(Effect.mapError(options.token, failed), {
        millis: handshakeTimeoutMillis,
        onTimeout: () => late("token", handshakeTimeoutMillis)
      }),
      ({ error }) => error
    ),
    /** Ends a wait: for the next attempt, for an open circuit, for what the user has to say, or for ever. */
    reconnect: Effect.gen(function*() {
      // Who asks for the state next must not be told of the error from before.
      if (stopped) setState({ _tag: "Connecting", attempt: 1 })
      stopped = false
      if (circuit !== undefined) yield* breaker.probe(circuit)
      hurry()
      again.openUnsafe()
    }),
    forget: () => {
      resume = undefined
    },
    onDetached: (ending: Ending) => {
      if (lost !== undefined) Deferred.doneUnsafe(lost, Exit.succeed(ending))
    },
    onDrain,
    onReject: (reject: Reject) => {
      rejected = rejectionError(reject)
    },
    /** Told the time, about once a second. */
    onTick: (now: number) => {
      if (unproven === undefined || connectedAt === undefined || now - connectedAt < provenMillis) return
      engine.run(breaker.record(unproven, { _tag: "Success" }))
      unproven = undefined
    }
  }
})

/** A connection has lasted after this, in ms; or after the longest pause between attempts, if that is shorter. */
const mostLastedMillis = 10_000
/**
 * An endpoint works if its connection is still there after this, in ms. Not as long as above: the clients of a process
 * share the circuit, and wait for one of them to find out.
 */
const mostProvenMillis = 1_000

const noop = (): void => {}

/** A timer: half of what a race with a sleep would cost. Whoever starts it stops it. */
const after = (millis: number, effect: Effect.Effect<unknown>) =>
  Effect.forkChild(Effect.andThen(Effect.sleep(millis), effect), { startImmediately: true })

const late = (phase: ConnectionTimeoutError["phase"], afterMillis: number): Failure =>
  failed(new ConnectionTimeoutError({ phase, afterMillis }))

/** `reconnect` was called while the attempt waited: it begins again, and has not failed. */
const hurried = failed(new TransportError({ operation: "dial", detail: "begun again" }))

const helloTooLarge = new HandshakeError({
  reason: "invalid",
  detail: "the hello is too large",
  retryable: false
})

const notText = failed(new TransportError({ operation: "dial", detail: "the url is no string" }))

const notSelected = undialled(
  new TransportError({ operation: "dial", detail: `the server did not select ${subprotocol}`, status: 101 })
)

const failureOf = (cause: Cause.Cause<Failure>): Failure => {
  for (const reason of cause.reasons) if (reason._tag === "Fail") return reason.error
  return failed(new TransportError({ operation: "dial", detail: "interrupted" }))
}
