/** Waits for somebody else's code with a time limit, which holds even if that code can't be interrupted. */
import { Effect, Exit } from "effect"

export interface Limit<A, E> {
  /** `Infinity` for none. */
  readonly millis: number
  /** What the wait fails with when the time is up. */
  readonly onTimeout: () => E
  /** Gets a value that came after the wait was over, which nobody else owns. */
  readonly onLate?: ((value: A) => void) | undefined
  /** Gets, while it waits, a function that ends the wait. It does nothing once the wait is over. */
  readonly onWait?: ((end: (error: E) => void) => void) | undefined
}

/**
 * Runs the effect in its own fiber, which is interrupted but not awaited. `Effect.timeout` waits for the interruption,
 * so it can't limit an effect that can't be interrupted.
 */
export const limited = <A, E, E2>(
  effect: Effect.Effect<A, E>,
  { millis, onLate, onTimeout, onWait }: Limit<A, E2>
): Effect.Effect<A, E | E2> => {
  if (Exit.isExit(effect)) return effect
  return Effect.withFiber((parent): Effect.Effect<A, E | E2> => {
    const run = Effect.runForkWith(parent.context)
    const fiber = run(effect)
    const done = fiber.pollUnsafe()
    if (done !== undefined) return done
    return Effect.callback<A, E | E2>((resume) => {
      let isOver = false
      const end = (): boolean => {
        const isFirst = !isOver
        isOver = true
        timer?.interruptUnsafe()
        return isFirst
      }
      const fail = (error: E2): void => {
        if (!end()) return
        fiber.interruptUnsafe()
        resume(Effect.fail(error))
      }
      const timer = millis === Infinity
        ? undefined
        : run(Effect.andThen(Effect.sleep(millis), Effect.sync(() => fail(onTimeout()))))
      fiber.addObserver((exit) => {
        if (end()) resume(exit)
        else if (Exit.isSuccess(exit)) onLate?.(exit.value)
      })
      onWait?.(fail)
      return Effect.sync(() => {
        if (end()) fiber.interruptUnsafe()
      })
    })
  })
}
