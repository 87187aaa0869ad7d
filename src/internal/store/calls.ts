/**
 * Every call of a driver: within a time limit, and behind the store's circuit. The circuit keeps everybody from asking
 * a store that is down at once, and tries it again by itself. A call that fails here may or may not have been done.
 */
import { Duration, Effect } from "effect"
import { type CircuitBreaker, endpoint } from "../../CircuitBreaker.ts"
import { steady } from "../kit/time.ts"
import { StoreError } from "./driver.ts"

export interface CallOptions {
  readonly breaker: CircuitBreaker["Service"]
  /** The driver's name. */
  readonly name: string
  readonly timeoutMillis: number
}

export interface Calls {
  <A>(operation: string, effect: Effect.Effect<A, StoreError>): Effect.Effect<A, StoreError>
}

export const makeCalls = Effect.fnUntraced(function*({ breaker, name, timeoutMillis }: CallOptions) {
  const now = yield* steady
  const circuit = endpoint(`store:${name}`)
  const duration = Duration.millis(timeoutMillis)
  const refused = (operation: string) => (cause: unknown) => new StoreError(operation, cause)

  const call: Calls = (operation, effect) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        Effect.mapError(breaker.admit(circuit), refused(operation)),
        (permit) => {
          const startedAt = now()
          const limited = Effect.timeoutOrElse(effect, {
            duration,
            orElse: () => Effect.fail(new StoreError(operation, new Error(`no answer within ${timeoutMillis} ms`)))
          })
          return Effect.onExit(restore(limited), (exit) => {
            if (exit._tag === "Success") {
              const latencyMillis = now() - startedAt
              return breaker.record(permit, { _tag: "Success", latencyMillis })
            }
            const failed = exit.cause.reasons.some((reason) => reason._tag !== "Interrupt")
            return breaker.record(permit, failed ? { _tag: "Failure" } : { _tag: "Ignored" })
          })
        }
      )
    )
  return call
})
