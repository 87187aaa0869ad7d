/**
 * The client's half of the handshake (PROTOCOL.md §4), and the loop that keeps it connected: admit, dial, hello,
 * welcome, stay until the connection is lost, back off, again.
 */
import { Cause, Deferred, Effect, Exit, Latch, Random } from "effect"
import { type CircuitBreaker, endpoint as circuitOf, type Permit } from "../CircuitBreaker.ts"
import { decode, encode } from "../core/Codec.ts"
import type { Hello, OutboxPosition, Reject, Welcome } from "../core/Frame.ts"
import { CloseCode, isRetryable, subprotocol, version } from "../core/Protocol.ts"
import { maxFrameBytes, maxHandshakeBytes, resumeInbox, resumeOutbox } from "../core/Session.ts"
import { utf8Length } from "../core/utf8.ts"
import { Violation } from "../core/Violation.ts"
import type { MessageQueue } from "../MessageQueue.ts"
import type { Recorder } from "../Metrics.ts"
import type { Connection, TransportClient } from "../Transport.ts"
import {
  ConnectionTimeoutError,
  HandshakeError,
  ProtocolError,
  SessionNotFoundError,
  TransportError,
  type WebSocketError
} from "../WebSocketError.ts"
import { jitteredMillis } from "./backoff.ts"
import type { DeadLetters } from "./deadLetters.ts"
import type { Agreement, Ending, Engine } from "./engine.ts"
import type * as Models from "./models.ts"
import type { Peer } from "./peer.ts"
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
  readonly backoff: { readonly baseMillis: number; readonly capMillis: number }
  readonly setState: (state: ConnectionState) => void
}

/** The generation of a client's own outbox: nobody else writes to it. */
export const ownGeneration = 1

export const makeConnector = Effect.fnUntraced(function*(options: ConnectorOptions) {
  const { breaker, engine, peer, queue, recorder, setState } = options
  const again = yield* Latch.make(false)
  let circuit: string | undefined // of the endpoint dialled last
  let dials = 0
  let stopped = false
  let resume: { readonly session: string; readonly token: string } | undefined
  let lost: Deferred.Deferred<Ending> | undefined
  let rejected: WebSocketError | undefined
  let drain: { readonly window: number; readonly endpoint: string | undefined } | undefined

  const timeout = () => new ConnectionTimeoutError({ phase: "handshake", afterMillis: options.handshakeTimeoutMillis })
  const token = Exit.isExit(options.token) ? options.token : Effect.timeoutOrElse(options.token, {
    duration: options.handshakeTimeoutMillis,
    orElse: () => Effect.fail(timeout())
  })

  /** Opens the connection and says hello; ends with the server's welcome. */
  const greet = Effect.fnUntraced(function*(
    connection: Connection,
    out: OutboxPosition,
    answer: Deferred.Deferred<Welcome, WebSocketError>
  ) {
    const settle = (effect: Exit.Exit<Welcome, WebSocketError>) => Deferred.doneUnsafe(answer, effect)
    const port = new Port(connection, {
      frame: (data) => {
        // A server whose welcome was lost may probe before this side has given up.
        if (isPing(data)) return
        port.hold()
        settle(readAnswer(data))
      },
      drained: noop,
      alive: noop,
      closed: (code, reason) => settle(Exit.fail(closedBeforeWelcome(code, reason)))
    })
    const auth = yield* token
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
    if (utf8Length(text) > maxHandshakeBytes) return yield* invalid("the hello is too large")
    connection.send(text)
    const welcome = yield* Deferred.await(answer)
    return { welcome, port, announced: hello.in.handled }
  })

  /** Takes positions and credentials from the welcome. */
  const agree = Effect.fnUntraced(function*(welcome: Welcome, out: OutboxPosition, announced: number) {
    const { core } = peer
    const resumedOut = resumeOutbox(out, welcome.in)
    if (resumedOut instanceof Violation) return yield* protocolError(resumedOut)
    if (!resumedOut.continued) return yield* protocolError(new Violation("malformed", "the welcome is for another log"))
    // What the server has handled is no longer in doubt.
    peer.noteAck(resumedOut.position.handled, resumedOut.position.failed)
    yield* engine.tellAcks(peer)
    // Before our position says that we know: should this be interrupted, the server tells us again.
    if (!welcome.continued.in && options.onFresh === "deadLetter") {
      const given = yield* queue.giveBackSent(peer.key, ownGeneration)
      yield* options.deadLetters.outgoing(peer.session, peer, peer.epoch, given, "fresh", given.length)
    }
    if (!welcome.continued.out) core.inbox.adopt(welcome.out.epoch, welcome.out.acked)
    else if (resumeInbox(core.inbox, welcome.out) !== true) {
      return yield* protocolError(new Violation("malformed", "the welcome goes on where we are not"))
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

  /** From dial to loss. Succeeds with why it ended; fails when it never came to be. */
  const connectOnce = Effect.fnUntraced(function*(url: string, permit: Permit, onConnected: () => void) {
    const connection = yield* options.transport.dial({
      url,
      protocol: subprotocol,
      headers: options.headers,
      timeoutMillis: options.dialTimeoutMillis,
      maxFrameBytes: maxFrameBytes(peer.core.options.maxPayload)
    })
    recorder.count("connectionsTotal")
    return yield* Effect.gen(function*() {
      // What the server acknowledged is settled first, so that the position we name is the newest.
      yield* engine.tellAcks(peer)
      const out = yield* queue.open(peer.key, ownGeneration)
      const answer = yield* Deferred.make<Welcome, WebSocketError>()
      const late = Effect.suspend(() => Deferred.fail(answer, timeout()))
      const timer = yield* after(options.handshakeTimeoutMillis, late)
      const { announced, port, welcome } = yield* Effect.onExit(
        greet(connection, out, answer),
        () => Effect.sync(() => timer.interruptUnsafe())
      )
      const agreement = yield* agree(welcome, out, announced)
      const ended = yield* Deferred.make<Ending>()
      lost = ended
      port.become(engine.attach(peer, connection, agreement))
      onConnected()
      yield* breaker.record(permit, { _tag: "Success" })
      recorder.count(welcome.result === "resumed" ? "connectionsResumed" : "connectionsFresh")
      const { reason, result, session } = welcome
      setState({ _tag: "Connected", session, result, reason })
      return yield* Deferred.await(ended)
    }).pipe(
      Effect.onExit((exit) =>
        Effect.sync(() => {
          if (Exit.isFailure(exit) && peer.connection !== connection) connection.terminate()
        })
      )
    )
  })

  const attempt = Effect.fnUntraced(function*(count: number, onConnected: () => void) {
    const url = drain?.endpoint ?? (yield* options.url)
    setState({ _tag: "Connecting", attempt: count })
    circuit = circuitOf(url)
    const permit = yield* breaker.awaitAdmission(circuit)
    drain = undefined
    rejected = undefined
    return yield* Effect.onExit(connectOnce(url, permit, onConnected), (exit) => {
      if (Exit.isSuccess(exit)) return Effect.void
      recorder.count("connectionsFailed")
      return breaker.record(permit, Cause.hasInterruptsOnly(exit.cause) ? { _tag: "Ignored" } : { _tag: "Failure" })
    })
  })

  const loop = Effect.gen(function*() {
    const { baseMillis, capMillis } = options.backoff
    let attempts = 0
    let failures = 0 // in a row, also over a stop
    while (true) {
      attempts++
      if (attempts > 1) recorder.count("retriesTried")
      let connected = false
      const exit = yield* Effect.exit(attempt(attempts, () => {
        connected = true
        if (attempts > 1) recorder.count("retriesSucceeded")
      }))
      if (Exit.isFailure(exit) && exit.cause.reasons.every((reason) => reason._tag !== "Fail")) {
        return yield* Effect.failCause(exit.cause) // a defect: the supervisor's
      }
      const error = Exit.isSuccess(exit) ? errorOf(peer.session, exit.value, rejected) : failureOf(exit.cause)
      if (connected) {
        attempts = 0
        failures = 0
      }
      if (!comesBack(error, exit)) {
        again.closeUnsafe()
        stopped = true
        setState({ _tag: "Stopped", error })
        yield* again.await
        attempts = 0
        continue
      }
      const part = yield* Random.next
      const retryInMillis = drain === undefined
        ? jitteredMillis(baseMillis, capMillis, ++failures, part)
        : part * drain.window
      setState({ _tag: "Disconnected", error, retryInMillis })
      again.closeUnsafe()
      const timer = yield* after(retryInMillis, again.open)
      yield* again.await
      timer.interruptUnsafe()
    }
  })

  return {
    loop,
    /** Ends a wait: for the next attempt, for an open circuit, or for ever. */
    reconnect: Effect.gen(function*() {
      // Who asks for the state next must not be told of the error from before.
      if (stopped) setState({ _tag: "Connecting", attempt: 1 })
      stopped = false
      if (circuit !== undefined) yield* breaker.probe(circuit)
      again.openUnsafe()
    }),
    forget: () => {
      resume = undefined
    },
    onDetached: (ending: Ending) => {
      if (lost !== undefined) Deferred.doneUnsafe(lost, Exit.succeed(ending))
    },
    onDrain: (window: number, endpoint: string | undefined) => {
      drain = { window, endpoint }
    },
    onReject: (reject: Reject) => {
      rejected = rejectionError(reject)
    }
  }
})

const noop = (): void => {}

/** A timer: half of what a race with a sleep would cost. Whoever starts it stops it. */
const after = (millis: number, effect: Effect.Effect<unknown>) =>
  Effect.forkChild(Effect.andThen(Effect.sleep(millis), effect), { startImmediately: true })

const invalid = (detail: string) => new HandshakeError({ reason: "invalid", detail, retryable: false })

const protocolError = ({ code, detail }: Violation) => new ProtocolError({ code, detail })

const isPing = (data: string | Uint8Array): boolean => typeof data === "string" && decode(data).t === "ping"

const readAnswer = (data: string | Uint8Array): Exit.Exit<Welcome, WebSocketError> => {
  const frame = typeof data === "string" ? decode(data) : new Violation("malformed", "a binary frame")
  if (frame.t === "welcome") return Exit.succeed(frame)
  if (frame.t === "reject") return Exit.fail(rejectionError(frame))
  return Exit.fail(
    frame instanceof Violation
      ? protocolError(frame)
      : new ProtocolError({ code: "unexpected", detail: `${frame.t} instead of welcome` })
  )
}

/** What a reject frame means to the client. */
export const rejectionError = ({ code, detail, violation = code }: Reject): WebSocketError => {
  switch (code) {
    case "unauthorized":
    case "forbidden":
    case "version":
    case "replaced":
      return new HandshakeError({ reason: code, detail, retryable: false })
    case "overloaded":
    case "draining":
      return new HandshakeError({ reason: code, detail, retryable: true })
    case "protocol":
      return new ProtocolError({ code: violation, detail })
    default:
      return new TransportError({ operation: "receive", detail: `the server rejected: ${detail}` })
  }
}

const closedError = (code: number, reason: string) =>
  new TransportError({ operation: "receive", detail: `closed with ${code}${reason === "" ? "" : ` (${reason})`}` })

/** A close that a reject frame should have explained, and did not. */
const closedBeforeWelcome = (code: number, reason: string): WebSocketError => {
  if (code === CloseCode.unauthorized) {
    return new HandshakeError({ reason: "unauthorized", detail: reason, retryable: false })
  }
  return isRetryable(code) ? closedError(code, reason) : new ProtocolError({ code: String(code), detail: reason })
}

const errorOf = (session: string, ending: Ending, rejected: WebSocketError | undefined): WebSocketError => {
  if (rejected !== undefined) return rejected
  if (ending.error !== undefined) return ending.error
  if (ending.code === CloseCode.sessionEnded) return new SessionNotFoundError({ session })
  return closedError(ending.code, ending.reason)
}

const failureOf = (cause: Cause.Cause<WebSocketError>): WebSocketError => {
  for (const reason of cause.reasons) if (reason._tag === "Fail") return reason.error
  return new TransportError({ operation: "dial", detail: "interrupted" })
}

/** Whether to try again by itself. */
const comesBack = (error: WebSocketError, exit: Exit.Exit<Ending, WebSocketError>): boolean => {
  if (Exit.isSuccess(exit) && !isRetryable(exit.value.code)) return false
  if (error._tag === "HandshakeError") return error.retryable
  return error._tag !== "ProtocolError" && error._tag !== "SessionNotFoundError"
}
