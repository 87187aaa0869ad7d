/**
 * Keeps a client connected. The loop: wait for the circuit, dial, hello, welcome, stay until the connection is lost,
 * back off, repeat. The handshake is in `greeting.ts`, what an ending means in `endings.ts`.
 *
 * Every wait for code of others (the user's, the transport's, the store's) has a limit here. Only the circuit decides
 * for itself how long a client waits; `reconnect` ends that wait.
 */
import { Cause, Deferred, Effect, Exit, Latch, Random } from "effect"
import { type CircuitBreaker, endpoint as endpointCircuit, type Permit } from "../../CircuitBreaker.ts"
import type { Reject, Welcome } from "../../core/Frame.ts"
import { subprotocol, tooBig } from "../../core/Protocol.ts"
import { maxFrameBytes } from "../../core/Session.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection, TransportClient } from "../../Transport.ts"
import { type ConnectError, ConnectionTimeoutError, TransportError } from "../../WebSocketError.ts"
import { limited } from "../kit/limited.ts"
import { mayBeSentTo, shownUrl, withoutFragment } from "../kit/urls.ts"
import type { Ending } from "../run/connections.ts"
import type * as Models from "../session/models.ts"
import {
  type Backoff,
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
import { Greeting, type GreetingOptions, ownGeneration } from "./greeting.ts"

/**
 * Whether the client is connected, and if not, why, and what comes next.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionState = Models.ConnectionState<ConnectError>

export interface ConnectorOptions extends Omit<GreetingOptions, "token" | "onDrain"> {
  readonly breaker: CircuitBreaker["Service"]
  readonly transport: TransportClient["Service"]
  readonly recorder: Recorder
  readonly url: Effect.Effect<string, ConnectError>
  readonly token: Effect.Effect<string | undefined, ConnectError>
  readonly headers: Readonly<Record<string, string>>
  readonly dialTimeoutMillis: number
  readonly handshakeTimeoutMillis: number
  readonly backoff: Backoff
  readonly setState: (state: ConnectionState) => void
}

/** How long a connection must stand to have lasted, in ms; at most the longest pause between attempts. */
const mostLastedMillis = 10_000
/**
 * How long a connection must stand to prove that its endpoint works, in ms. Shorter than above, as all clients of a
 * process share the circuit, and wait for one of them to find out.
 */
const mostProvenMillis = 1_000

export const makeConnector = (options: ConnectorOptions): Effect.Effect<Connector> =>
  Effect.map(Latch.make(false), (again) => new Connector(options, again))

/** A client's connections, one after another. */
export class Connector {
  /** Asks for the token to send on an open connection. */
  readonly token: Effect.Effect<string | undefined, ConnectError>
  private readonly options: ConnectorOptions
  private readonly greeting: Greeting
  private readonly again: Latch.Latch
  private readonly lastedMillis: number
  private readonly provenMillis: number
  /** The circuit of the endpoint that was dialled last. */
  private circuit: string | undefined
  private dialled = ""
  private stopped = false
  private lost: Deferred.Deferred<Ending> | undefined
  /** When this attempt's connection had its welcome; undefined if it had none yet. */
  private connectedAt: number | undefined
  /** The permit of a connection that has not yet proved that the endpoint works. */
  private unproven: Permit | undefined
  private rejected: ConnectError | undefined
  private drain: { readonly window: number; readonly endpoint: string | undefined } | undefined
  /** Ends the wait for the user's code, the circuit or the outbox. */
  private hurry: () => void = noop

  constructor(options: ConnectorOptions, again: Latch.Latch) {
    const { handshakeTimeoutMillis, token } = options
    this.options = options
    this.again = again
    this.lastedMillis = Math.min(mostLastedMillis, options.backoff.capMillis)
    this.provenMillis = Math.min(mostProvenMillis, this.lastedMillis)
    this.greeting = new Greeting({
      ...options,
      token: this.ask(token, "token", handshakeTimeoutMillis),
      onDrain: (window, endpoint) => this.onDrain(window, endpoint)
    })
    this.token = Effect.mapError(
      limited(Effect.mapError(token, failed), {
        millis: handshakeTimeoutMillis,
        onTimeout: () => late("token", handshakeTimeoutMillis)
      }),
      ({ error }) => error
    )
  }

  /** Waits for code of others; `reconnect` ends the wait. */
  private ask<A>(
    effect: Effect.Effect<A, ConnectError>,
    phase: ConnectionTimeoutError["phase"],
    millis: number,
    onLate?: (value: A) => void
  ): Effect.Effect<A, Failure> {
    return Effect.ensuring(
      limited(Effect.mapError(effect, failed), {
        millis,
        onTimeout: () => late(phase, millis),
        onLate,
        onWait: (end) => {
          this.hurry = () => end(hurried)
        }
      }),
      Effect.sync(() => {
        this.hurry = noop
      })
    )
  }

  /** Uninterruptible, so that no permit is lost; one that comes too late is given back. */
  private admitted(key: string): Effect.Effect<Permit, Failure> {
    return this.ask(
      Effect.uninterruptible(this.options.breaker.awaitAdmission(key)),
      "dial",
      Infinity,
      (permit) => this.options.engine.run(this.options.breaker.record(permit, { _tag: "Ignored" }))
    )
  }

  private dial(url: string): Effect.Effect<Connection, Failure> {
    return limited(
      Effect.mapError(
        this.options.transport.dial({
          url: withoutFragment(url),
          protocol: subprotocol,
          headers: this.options.headers,
          timeoutMillis: this.options.dialTimeoutMillis,
          maxFrameBytes: maxFrameBytes(this.options.peer.core.options.maxPayload)
        }),
        undialled
      ),
      {
        millis: this.options.dialTimeoutMillis,
        onTimeout: () => late("dial", this.options.dialTimeoutMillis),
        onLate: (connection) => connection.terminate()
      }
    )
  }

  /** Ignores an endpoint that is less safe than the current one, as it would be sent the client's credentials. */
  onDrain(window: number, endpoint: string | undefined): void {
    const isSafe = endpoint !== undefined && mayBeSentTo(this.dialled, endpoint)
    this.drain = { window, endpoint: isSafe ? endpoint : undefined }
  }

  /** From hello until the connection is lost. Succeeds with its ending; fails if there was no welcome. */
  private readonly converse = Effect.fnUntraced(
    function*(this: Connector, connection: Connection, permit: Permit, onConnected: () => void) {
      const { engine, handshakeTimeoutMillis, peer, queue, recorder, setState } = this.options
      if (connection.protocol !== subprotocol) return yield* Effect.fail(notSelected)
      // Settle acknowledgements first, so that the hello names the newest position.
      const open = Effect.andThen(
        engine.tellAcks(peer),
        queue.open(peer.key, ownGeneration)
      )
      const out = yield* this.ask(open, "outbox", handshakeTimeoutMillis)
      const answer = yield* Deferred.make<Welcome, Failure>()
      const tooLate = Effect.suspend(() => Deferred.fail(answer, late("handshake", handshakeTimeoutMillis)))
      const timer = yield* after(handshakeTimeoutMillis, tooLate)
      const { announced, sink, welcome } = yield* Effect.onExit(
        this.greeting.greet(connection, out, answer),
        () => Effect.sync(() => timer.interruptUnsafe())
      )
      const agreement = yield* this.greeting.agree(welcome, out, announced)
      const ended = yield* Deferred.make<Ending>()
      this.lost = ended
      this.unproven = permit
      this.connectedAt = engine.now()
      sink.become(engine.attach(peer, connection, agreement))
      onConnected()
      recorder.count(welcome.result === "resumed" ? "connectionsResumed" : "connectionsFresh")
      const { reason, result, session } = welcome
      setState({ _tag: "Connected", session, result, reason })
      return yield* Deferred.await(ended)
    }
  )

  private readonly connectOnce = Effect.fnUntraced(
    function*(this: Connector, url: string, permit: Permit, onConnected: () => void) {
      const connection = yield* this.dial(url)
      this.options.recorder.count("connectionsTotal")
      return yield* Effect.onExit(this.converse(connection, permit, onConnected), (exit) =>
        Effect.sync(() => {
          if (Exit.isFailure(exit) && this.options.peer.connection !== connection) connection.terminate()
        }))
    }
  )

  private hasStood(millis: number): boolean {
    return this.connectedAt !== undefined && this.options.engine.now() - this.connectedAt >= millis
  }

  /** Tells the circuit how an attempt, or its connection, ended, unless the circuit knows already. */
  private judge(permit: Permit, exit: Exit.Exit<Ending, Failure>): Effect.Effect<void> {
    if (this.connectedAt !== undefined && this.unproven !== permit) return Effect.void
    this.unproven = undefined
    if (Exit.isSuccess(exit)) {
      if (this.hasStood(this.provenMillis)) return this.options.breaker.record(permit, { _tag: "Success" })
      const isFailure = this.drain === undefined && !isMeant(exit.value)
      return this.options.breaker.record(permit, { _tag: isFailure ? "Failure" : "Ignored" })
    }
    const { error } = failureOf(exit.cause)
    return this.options.breaker.record(
      permit,
      Cause.hasInterruptsOnly(exit.cause) || error === hurried.error
        ? { _tag: "Ignored" }
        : { _tag: "Failure", retryAfterMillis: retryAfterOf(error) }
    )
  }

  private readonly attempt = Effect.fnUntraced(function*(this: Connector, count: number, onConnected: () => void) {
    this.options.setState({ _tag: "Connecting", attempt: count })
    this.connectedAt = undefined
    const url = this.drain?.endpoint ?? (yield* this.ask(this.options.url, "url", this.options.dialTimeoutMillis))
    // The types don't guarantee what the program's effect returns at run time.
    if (typeof url !== "string") return yield* Effect.fail(notText)
    this.dialled = url
    this.circuit = endpointCircuit(shownUrl(url))
    const permit = yield* this.admitted(this.circuit)
    this.drain = undefined
    this.rejected = undefined
    return yield* Effect.onExit(this.connectOnce(url, permit, onConnected), (exit) => {
      if (Exit.isFailure(exit)) this.options.recorder.count("connectionsFailed")
      return this.judge(permit, exit)
    })
  })

  /** Whether the connection lasted long enough to clear the failures before it. */
  private hasLasted(): boolean {
    return this.hasStood(this.lastedMillis)
  }

  private outcomeOf(exit: Exit.Exit<Ending, Failure>): Failure {
    if (Exit.isFailure(exit)) return failureOf(exit.cause)
    const isStuck = this.options.peer.outgoing.isCautious
    // A message that is too big is given up in the end, so a client that is stuck at one goes on.
    const isDoubted = exit.value.code === tooBig ? !isStuck && !this.hasLasted() : isStuck || !this.hasLasted()
    return lostAfterWelcome(this.options.peer.session, exit.value, this.rejected, isDoubted)
  }

  readonly loop = Effect.gen({ self: this }, function*() {
    const { backoff, engine, recorder, setState } = this.options
    const doubts = new Doubts(backoff.capMillis)
    let attempts = 0
    let failures = 0 // in a row; a stop does not reset it
    while (true) {
      attempts++
      if (attempts > 1) recorder.count("retriesTried")
      const exit = yield* Effect.exit(this.attempt(attempts, () => {
        if (attempts > 1) recorder.count("retriesSucceeded")
      }))
      if (Exit.isFailure(exit) && exit.cause.reasons.every((reason) => reason._tag !== "Fail")) {
        return yield* Effect.failCause(exit.cause) // a defect, for the supervisor
      }
      const { error, verdict } = this.outcomeOf(exit)
      if (error === hurried.error) {
        attempts--
        continue
      }
      if (this.hasLasted()) {
        attempts = 0
        failures = 0
        doubts.clear()
      }
      // A drain is no failure if the connection had lasted.
      if (this.drain === undefined || !this.hasLasted()) failures++
      if (doubts.isEnough(verdict, engine.now())) {
        this.again.closeUnsafe()
        this.stopped = true
        setState({ _tag: "Stopped", error })
        yield* this.again.await
        attempts = 0
        doubts.clear()
        continue
      }
      const part = yield* Random.next
      const retryInMillis = pauseMillis(backoff, failures, part, this.drain?.window, error)
      setState({ _tag: "Disconnected", error, retryInMillis })
      this.again.closeUnsafe()
      const timer = yield* after(retryInMillis, this.again.open)
      yield* this.again.await
      timer.interruptUnsafe()
    }
  })

  /** Ends any wait: for the next attempt, for an open circuit, for the user's code, or after a stop. */
  readonly reconnect = Effect.gen({ self: this }, function*() {
    // So that the state no longer shows the old error.
    if (this.stopped) this.options.setState({ _tag: "Connecting", attempt: 1 })
    this.stopped = false
    if (this.circuit !== undefined) yield* this.options.breaker.probe(this.circuit)
    this.hurry()
    this.again.openUnsafe()
  })

  /** The next connection begins a new session. */
  forget(): void {
    this.greeting.forget()
  }

  onDetached(ending: Ending): void {
    if (this.lost !== undefined) Deferred.doneUnsafe(this.lost, Exit.succeed(ending))
  }

  onReject(reject: Reject): void {
    this.rejected = rejectionError(reject)
  }

  /** Called about once a second. */
  onTick(now: number): void {
    const { connectedAt, unproven } = this
    if (unproven === undefined || connectedAt === undefined || now - connectedAt < this.provenMillis) return
    this.options.engine.run(this.options.breaker.record(unproven, { _tag: "Success" }))
    this.unproven = undefined
  }
}

const noop = (): void => {}

/** A timer at half the cost of a race with a sleep. The caller must stop it. */
const after = (millis: number, effect: Effect.Effect<unknown>) =>
  Effect.forkChild(Effect.andThen(Effect.sleep(millis), effect), { startImmediately: true })

const late = (phase: ConnectionTimeoutError["phase"], afterMillis: number): Failure =>
  failed(new ConnectionTimeoutError({ phase, afterMillis }))

/** `reconnect` was called while the attempt waited: the attempt begins again, and does not count as failed. */
const hurried = failed(new TransportError({ operation: "dial", detail: "begun again" }))

const notText = failed(new TransportError({ operation: "dial", detail: "the url is no string" }))

const notSelected = undialled(
  new TransportError({ operation: "dial", detail: `the server did not select ${subprotocol}`, status: 101 })
)

const failureOf = (cause: Cause.Cause<Failure>): Failure => {
  for (const reason of cause.reasons) if (reason._tag === "Fail") return reason.error
  return failed(new TransportError({ operation: "dial", detail: "interrupted" }))
}
