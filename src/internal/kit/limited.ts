/** Waits for somebody else's code, with a limit that holds whatever that code does about interruption. */
import { Effect, Exit } from "effect"

export interface Limit<A, E> {
  /** `Infinity` for none. */
  readonly millis: number
  /** What the wait fails with when the time is up. */
  readonly onTimeout: () => E
  /** Given what came after the wait was over: whoever made it no longer has an owner. */
  readonly onLate?: ((value: A) => void) | undefined
  /** Told, while it waits, how to end the wait. Does nothing once that is over. */
  readonly onWait?: ((end: (error: E) => void) => void) | undefined
}

/**
 * Runs it in a fiber of its own, which is interrupted but not waited for. `Effect.timeout` waits for the interrupt, so
 * that an effect which can't be interrupted has no limit there.
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
