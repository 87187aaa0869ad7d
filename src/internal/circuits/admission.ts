/** Calls through circuits: which may go now, which wait until they may, and how their outcomes are recorded. */
import { Cause, Effect, Exit, Queue } from "effect"
import { CircuitBreakerError } from "../../WebSocketError.ts"
import { Circuit, type Outcome, type Permit, type State } from "./circuit.ts"
import type { Circuits } from "./circuits.ts"

export const makeAdmission = (circuits: Circuits, now: () => number) => {
  let rejected = 0

  const rejection = (circuit: Circuit) => {
    rejected++
    const { key, state } = circuit
    if (state._tag === "Isolated") {
      return new CircuitBreakerError({ circuit: key, state: "Isolated", reason: state.reason })
    }
    return new CircuitBreakerError({
      circuit: key,
      state: state._tag === "Open" ? "Open" : "HalfOpen",
      retryAfterMillis: Math.max(0, circuit.deadline - now()),
      reason: state._tag === "Open" ? state.reason : "its probes are out"
    })
  }

  const admit = (key: string): Effect.Effect<Permit, CircuitBreakerError> =>
    Effect.suspend(() => {
      const admitted = circuits.admit(key)
      return admitted instanceof Circuit ? Effect.fail(rejection(admitted)) : Effect.succeed(admitted)
    })

  /** Undefined if the call has to wait. */
  const tryAdmit = (key: string): Effect.Effect<Permit, CircuitBreakerError> | undefined => {
    const admitted = circuits.admit(key)
    if (!(admitted instanceof Circuit)) return Effect.succeed(admitted)
    return admitted.state._tag === "Isolated" ? Effect.fail(rejection(admitted)) : undefined
  }

  const awaitAdmission = (key: string): Effect.Effect<Permit, CircuitBreakerError> =>
    Effect.suspend(() => tryAdmit(key) ?? awaitChange(key))

  const awaitChange = (key: string) =>
    Effect.acquireUseRelease(
      Effect.map(Queue.sliding<State>(1), (changed) => ({
        changed,
        stop: circuits.watch(key, (state) => Queue.offerUnsafe(changed, state))
      })),
      ({ changed }) => {
        const attempt: Effect.Effect<Permit, CircuitBreakerError> = Effect.suspend(() =>
          tryAdmit(key) ?? Effect.flatMap(Effect.interruptible(Queue.take(changed)), () => attempt)
        )
        return attempt
      },
      ({ stop }) => Effect.sync(stop)
    )

  const record = (permit: Permit, outcome: Outcome): Effect.Effect<void> =>
    Effect.sync(() => circuits.record(permit.key, outcome, permit))

  function execute(
    key: string
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitBreakerError, R>
  function execute<A, E>(
    key: string,
    options: { readonly classify: (exit: Exit.Exit<A, E>) => Outcome }
  ): <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitBreakerError, R>
  function execute<A, E>(
    key: string,
    options?: { readonly classify: (exit: Exit.Exit<A, E>) => Outcome }
  ): <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitBreakerError, R> {
    const outcomeOf = (exit: Exit.Exit<A, E>, latencyMillis: number): Outcome => {
      if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)) return { _tag: "Ignored" }
      const outcome = options?.classify(exit) ?? { _tag: Exit.isSuccess(exit) ? "Success" : "Failure" }
      return outcome._tag === "Success" ? { latencyMillis, ...outcome } : outcome
    }
    return (self) =>
      Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
        const permit = yield* admit(key)
        const startedAt = now()
        const exit = yield* Effect.exit(restore(self))
        const outcome = yield* Effect.sync(() => outcomeOf(exit, now() - startedAt)).pipe(
          // A `classify` that throws must not keep a probe's place.
          Effect.onError(() => record(permit, { _tag: "Ignored" }))
        )
        yield* record(permit, outcome)
        return yield* exit
      }))
  }

  return {
    admit,
    awaitAdmission,
    record,
    execute,
    /** How many calls were refused. */
    rejected: (): number => rejected
  }
}
