/**
 * Circuit breakers by key: who should not be called, or sent to, right now.
 *
 * One dead client must not stop the others, so there is no global breaker: a circuit belongs to one session
 * ({@link session}) or one endpoint ({@link endpoint}), and the prefix of its key selects the policy. Outcomes are
 * recorded when they are known, which for a message is when its acknowledgement arrives: `admit`, then `record`.
 *
 * An open circuit moves on by itself; no call is needed. One timer fiber serves all circuits, and every read is right
 * by the clock even when that fiber is late. Circuits live in this process: sessions are owned by one process anyway.
 *
 * @since 0.1.0
 */
import {
  Clock,
  type Config,
  Context,
  Duration,
  Effect,
  type Exit,
  Layer,
  Queue,
  Random,
  type Scope,
  Stream
} from "effect"
import { makeAdmission } from "./internal/circuits/admission.ts"
import { type Circuit, CLOSED } from "./internal/circuits/circuit.ts"
import type { Outcome, Permit, Policy, State, Stats, Transition } from "./internal/circuits/circuit.ts"
import { Circuits } from "./internal/circuits/circuits.ts"
import * as Check from "./internal/kit/options.ts"
import * as Shapes from "./internal/kit/shapes.ts"
import { Subscribers } from "./internal/kit/subscribers.ts"
import { onWall, steady } from "./internal/kit/time.ts"
import { shownName } from "./internal/kit/urls.ts"
import type { CircuitBreakerError } from "./WebSocketError.ts"

export type { Outcome, Permit, Policy, State, Stats, Transition } from "./internal/circuits/circuit.ts"

/**
 * When the circuits of sessions trip and how they recover.
 *
 * @since 0.1.0
 * @category options
 */
export interface SessionOptions {
  /** How many failures in a row open a circuit. Default 5. */
  readonly consecutiveFailures?: number | undefined
  /**
   * The longest that the first opening can last. It doubles with each opening until the circuit closes. Each opening is
   * drawn uniformly between zero and that (full jitter), but is never shorter than a tenth of this. Default 1 second.
   */
  readonly openBase?: Duration.Input | undefined
  /** The longest that any opening can last, unless a `retryAfterMillis` says more. Default 60 seconds. */
  readonly openCap?: Duration.Input | undefined
  /** How many probes a half-open circuit admits at once. Default 1. */
  readonly halfOpenPermits?: number | undefined
  /** How many successes close a half-open circuit. Default 1. */
  readonly successesToClose?: number | undefined
  /** When a probe without an outcome counts as failed. Default 30 seconds. */
  readonly probeTimeout?: Duration.Input | undefined
}

/**
 * When the circuits of endpoints trip: as those of sessions, and by the share of calls in a window of time that fail or
 * are slow.
 *
 * @since 0.1.0
 * @category options
 */
export interface EndpointOptions extends SessionOptions {
  /** The share of failed calls, in (0, 1], that opens a circuit. Default 0.5. */
  readonly failureRatio?: number | undefined
  /** How many calls the window must hold before a share of them counts. Default 10. */
  readonly minimumCalls?: number | undefined
  /** The window, kept in 10 buckets. Default 30 seconds. */
  readonly window?: Duration.Input | undefined
  /** The latency from which a successful call counts as slow. A slow probe counts as failed. Default: none is. */
  readonly slowCall?: Duration.Input | undefined
  /** The share of slow calls, in (0, 1], that opens a circuit. Default 1. */
  readonly slowRatio?: number | undefined
}

/**
 * Policies of the breaker, and how much it remembers. All have defaults.
 *
 * @since 0.1.0
 * @category options
 */
export interface Options {
  /** For keys that begin with `session:`. */
  readonly session?: SessionOptions | undefined
  /** For all other keys. */
  readonly endpoint?: EndpointOptions | undefined
  /**
   * How many circuits are remembered. Beyond that, the oldest ones that reject nothing are forgotten, so a closed one
   * may lose its count of failures. Open, isolated, disabled and watched circuits are never forgotten, even if that
   * takes more. Default 100,000.
   */
  readonly maxCircuits?: number | undefined
}

/**
 * What can be done with the circuits. Keys are made by {@link session} and {@link endpoint}.
 *
 * @since 0.1.0
 * @category services
 */
export interface Interface {
  /** Asks to make a call. Fails at once while the circuit is open, isolated, or half-open with its probes all out. */
  readonly admit: (key: string) => Effect.Effect<Permit, CircuitBreakerError>
  /**
   * Waits while `admit` would reject, and is woken when the circuit moves on. Fails only when it is isolated. The wait
   * is interruptible even in an uninterruptible region, where no interrupt can lose a permit once given: so it is best
   * used as the acquisition of `Effect.acquireUseRelease`.
   */
  readonly awaitAdmission: (key: string) => Effect.Effect<Permit, CircuitBreakerError>
  /** Gives a permit back, once, with the outcome. It doesn't count if the circuit has moved on since. */
  readonly record: (permit: Permit, outcome: Outcome) => Effect.Effect<void>
  /** Records an outcome without a permit: evidence from elsewhere, such as a missed heartbeat. */
  readonly report: (key: string, outcome: Outcome) => Effect.Effect<void>
  /**
   * Runs an effect through a circuit. `classify` turns its exit into an outcome; by default every failure and defect is
   * a `Failure`. An interrupt is always `Ignored`. A success is timed for the slow-call ratio.
   */
  readonly execute: {
    (key: string): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitBreakerError, R>
    <A, E>(
      key: string,
      options: { readonly classify: (exit: Exit.Exit<A, E>) => Outcome }
    ): <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitBreakerError, R>
  }
  /** Makes an open circuit half-open at once: a new connection is new evidence. */
  readonly probe: (key: string) => Effect.Effect<void>
  /** Closes the circuit and forgets what it recorded. Calls still under way no longer count. An override stays. */
  readonly reset: (key: string) => Effect.Effect<void>
  /** Rejects everything until `release`. The circuit goes on recording underneath. */
  readonly isolate: (key: string, reason: string) => Effect.Effect<void>
  /** Admits everything until `release`. The circuit goes on recording underneath. */
  readonly disable: (key: string, reason: string) => Effect.Effect<void>
  /** Lifts `isolate` or `disable`: the circuit's own state shows again. */
  readonly release: (key: string) => Effect.Effect<void>
  /** The state now. */
  readonly state: (key: string) => Effect.Effect<State>
  /** The same, synchronously and in O(1), for a hot path: allocates nothing for a key without a circuit. */
  readonly stateUnsafe: (key: string) => State
  /** The state now and each one after it. A consumer that falls behind by 1,024 loses the oldest. */
  readonly changes: (key: string) => Stream.Stream<State>
  /** The transitions of all circuits from now on. A consumer that falls behind by 1,024 loses the oldest. */
  readonly transitions: Stream.Stream<Transition>
  /**
   * The same for a listener, until the scope closes. It is called in the middle of a transition and must return at
   * once.
   */
  readonly onTransition: (listener: (transition: Transition) => void) => Effect.Effect<void, never, Scope.Scope>
  /** Counts, now. Visits every circuit: for a metrics endpoint, not for a hot path. */
  readonly stats: Effect.Effect<Stats>
  /** The timer that moves circuits on. `make` forks it in its scope; it may be run again if it ever dies. */
  readonly worker: Effect.Effect<never>
}

const SESSION = "session:"
/** How far a consumer of `changes` or `transitions` may fall behind. */
const BACKLOG = 1_024

/**
 * The circuit breakers of a program.
 *
 * **Example** (Waiting for an endpoint, then recording how it went)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "resilient-websocket"
 *
 * const dial = Effect.gen(function*() {
 *   const breaker = yield* CircuitBreaker.CircuitBreaker
 *   const key = CircuitBreaker.endpoint("wss://example.org/live")
 *   yield* breaker.report(key, { _tag: "Failure", trip: true })
 *   // Waits until the circuit is half-open, and is its probe.
 *   const permit = yield* breaker.awaitAdmission(key)
 *   yield* breaker.record(permit, { _tag: "Success" })
 *   return yield* breaker.state(key) // { _tag: "Closed", consecutiveFailures: 0 }
 * }).pipe(Effect.provide(CircuitBreaker.layer()))
 * ```
 *
 * @since 0.1.0
 * @category services
 */
export class CircuitBreaker
  extends Context.Service<CircuitBreaker, Interface>()("resilient-websocket/CircuitBreaker")
{}

/**
 * The key of a session's circuit. Keep it where it is used often: making the string is most of a `stateUnsafe`.
 *
 * @since 0.1.0
 * @category keys
 */
export const session = (id: string): string => SESSION + id

/**
 * The key of an endpoint's circuit: a URL that is dialled, a store. Only a URL's origin and path count, so that a token
 * in its query, or a password, neither shows nor makes a second circuit for the same endpoint.
 *
 * @since 0.1.0
 * @category keys
 */
export const endpoint = (url: string): string => `endpoint:${shownName(url)}`

const commonPolicy = (name: string, options: SessionOptions): Policy => ({
  consecutiveFailures: Check.count(`${name}.consecutiveFailures`, options.consecutiveFailures, 5),
  openBaseMillis: Check.millis(`${name}.openBase`, options.openBase, "1 second"),
  openCapMillis: Check.millis(`${name}.openCap`, options.openCap, "60 seconds"),
  halfOpenPermits: Check.count(`${name}.halfOpenPermits`, options.halfOpenPermits, 1),
  successesToClose: Check.count(`${name}.successesToClose`, options.successesToClose, 1),
  probeTimeoutMillis: Check.millis(`${name}.probeTimeout`, options.probeTimeout, "30 seconds")
})

const endpointPolicy = (options: EndpointOptions): Policy => ({
  ...commonPolicy("endpoint", options),
  rate: {
    windowMillis: Check.millis("endpoint.window", options.window, "30 seconds"),
    minimumCalls: Check.count("endpoint.minimumCalls", options.minimumCalls, 10),
    failureRatio: Check.fraction("endpoint.failureRatio", options.failureRatio, 0.5),
    slowMillis: Check.millis("endpoint.slowCall", options.slowCall, Infinity),
    slowRatio: Check.fraction("endpoint.slowRatio", options.slowRatio, 1)
  }
})

/**
 * Makes the service, with its timer in the scope. Time is the `Clock`'s, jitter the `Random`'s it is made with.
 * Options out of range are a defect.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function*(options?: Options): Effect.fn.Return<Interface, never, Scope.Scope> {
  Check.check(options, Shapes.breaker)
  const clock = yield* Clock.Clock
  const now = yield* steady
  const toWall = yield* onWall
  const random = yield* Random.Random
  const sessionPolicy = commonPolicy("session", options?.session ?? {})
  const otherPolicy = endpointPolicy(options?.endpoint ?? {})
  const policies = { session: sessionPolicy, endpoint: otherPolicy }
  const wake = yield* Queue.sliding<void>(1)
  const listeners = new Subscribers<Transition>()
  const streams = new Set<() => void>()
  let armedUntil = Infinity

  const circuits: Circuits = new Circuits({
    maxCircuits: Check.count("maxCircuits", options?.maxCircuits, 100_000),
    now,
    random: () => random.nextDoubleUnsafe(),
    policyOf: (key) => key.startsWith(SESSION) ? sessionPolicy : otherPolicy,
    onTransition: (transition) => {
      listeners.tell({ ...transition, atMillis: toWall(transition.atMillis) })
    },
    // Offering schedules the worker; none of it runs inside the change that is being made.
    onDeadline: () => {
      if (circuits.nextDeadline >= armedUntil) return
      armedUntil = circuits.nextDeadline
      Queue.offerUnsafe(wake, undefined)
    }
  })

  const admission = makeAdmission(circuits, now)

  const worker = Effect.suspend(() => {
    circuits.elapse()
    armedUntil = circuits.nextDeadline
    const woken = Queue.take(wake)
    if (armedUntil === Infinity) return woken
    // Rounded up: woken a rounding error too early, it would find nothing due and spin.
    const left = Math.ceil(armedUntil - now())
    return Effect.raceFirst(woken, clock.sleep(Duration.millis(left)))
  }).pipe(Effect.forever)

  /** A stream of what `subscribe` emits, until its scope or the breaker's closes. */
  const listen = <A>(
    subscribe: (emit: (value: A) => void) => Effect.Effect<void, never, Scope.Scope>
  ): Stream.Stream<A> =>
    Stream.callback<A>((queue) =>
      Effect.andThen(
        Effect.acquireRelease(
          Effect.sync(() => {
            const end = () => Queue.endUnsafe(queue)
            streams.add(end)
            return end
          }),
          (end) => Effect.sync(() => streams.delete(end))
        ),
        subscribe((value) => Queue.offerUnsafe(queue, value))
      ), { bufferSize: BACKLOG, strategy: "sliding" })

  const stateUnsafe = (key: string): State => circuits.find(key)?.state ?? CLOSED
  const update = (key: string, change: (circuit: Circuit) => void) => Effect.sync(() => circuits.update(key, change))

  yield* Effect.addFinalizer(() => Effect.sync(() => streams.forEach((end) => end())))
  yield* Effect.forkScoped(worker, { startImmediately: true })

  return CircuitBreaker.of({
    admit: admission.admit,
    awaitAdmission: admission.awaitAdmission,
    record: admission.record,
    report: (key, outcome) => Effect.sync(() => circuits.record(key, outcome)),
    execute: admission.execute,
    probe: (key) => update(key, (circuit) => circuit.probe()),
    reset: (key) => update(key, (circuit) => circuit.reset("reset")),
    isolate: (key, reason) => Effect.sync(() => circuits.setOverride(key, { _tag: "Isolated", reason })),
    disable: (key, reason) => Effect.sync(() => circuits.setOverride(key, { _tag: "Disabled", reason })),
    release: (key) => update(key, (circuit) => circuit.setOverride(undefined)),
    state: (key) => Effect.sync(() => stateUnsafe(key)),
    stateUnsafe,
    changes: (key) =>
      listen((emit) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            emit(stateUnsafe(key))
            return circuits.watch(key, emit)
          }),
          (stop) => Effect.sync(stop)
        )
      ),
    transitions: listen((emit) => listeners.add(emit)),
    onTransition: (listener) => listeners.add(listener),
    stats: Effect.sync(() => ({ ...circuits.stats(admission.rejected()), policies })),
    worker
  })
})

/**
 * The circuit breakers of this process.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options?: Options): Layer.Layer<CircuitBreaker> => Layer.effect(CircuitBreaker, make(options))

/**
 * `layer` with its options read from `Config`. Options that can't be read fail with `ConfigError`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<CircuitBreaker, Config.ConfigError> =>
  Check.fromConfig(options, layer)
