/**
 * Background workers: restarted when they fail, and given up when they fail too often. A worker that ends by a failure
 * or defect is logged, counted and restarted with backoff; one that fails too often in a period fails its owner.
 */
import { type Cause, Effect, type Scope } from "effect"
import { fullJitter } from "../kit/backoff.ts"
import { steady } from "../kit/time.ts"

/** Restarts allowed within a period, as in Erlang's supervisors. */
export interface Intensity {
  readonly restarts: number
  readonly periodMillis: number
}

export const defaultIntensity: Intensity = { restarts: 10, periodMillis: 60_000 }

const restartDelay = fullJitter(10, 1_000)

export interface Worker<R = never> {
  readonly name: string
  readonly loop: Effect.Effect<unknown, unknown, R>
  readonly intensity: Intensity
  readonly onRestart: (name: string) => void
  readonly onGiveUp: (name: string, cause: Cause.Cause<unknown>) => Effect.Effect<void>
}

/**
 * The worker as an effect that never fails. It ends when the loop ends normally, or when it is given up. May be run
 * again: then its failures count together.
 */
export const supervised = <R = never>(worker: Worker<R>): Effect.Effect<void, never, R> => {
  const failedAt: Array<number> = []
  // Until its first failure, a worker needs none of the machinery of restarts.
  return Effect.catchCause(Effect.asVoid(worker.loop), (cause) => restarting(worker, cause, failedAt))
}

/** Goes on after the first failure. `failedAt` is when it failed within the period. */
const restarting = <R>(
  worker: Worker<R>,
  first: Cause.Cause<unknown>,
  failedAt: Array<number>
): Effect.Effect<void, never, R> =>
  Effect.suspend(() => {
    const { intensity, name } = worker
    const mayRestart = Effect.map(steady, (read) => {
      const now = read()
      while (failedAt.length > 0 && now - (failedAt[0] ?? now) > intensity.periodMillis) failedAt.shift()
      failedAt.push(now)
      return failedAt.length <= intensity.restarts
    })
    let attempts = 0
    const loop = Effect.suspend(() => attempts++ === 0 ? Effect.failCause(first) : worker.loop)
    return loop.pipe(
      Effect.sandbox,
      Effect.tapError((cause) =>
        Effect.andThen(
          Effect.sync(() => worker.onRestart(name)),
          Effect.logError(`${name} failed; it is restarted`, cause)
        )
      ),
      Effect.retry({ schedule: restartDelay, while: () => mayRestart }),
      Effect.catch((cause) =>
        Effect.andThen(
          Effect.logFatal(
            `${name} failed more than ${intensity.restarts} times in ${intensity.periodMillis} ms`,
            cause
          ),
          worker.onGiveUp(name, cause)
        )
      ),
      Effect.asVoid
    )
  })

/** Runs the worker in the current scope. */
export const supervise = (worker: Worker): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(Effect.forkScoped(supervised(worker), { startImmediately: true }))
