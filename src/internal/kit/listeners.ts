/** Calls the user's listeners, which may throw, in the middle of other work. */
import { Cause, Effect } from "effect"

/** A throw stops nothing, and is logged only once: the listener may be called a million times. */
export const guardedListener = <A>(
  name: string,
  listener: ((value: A) => void) | undefined
): Effect.Effect<(value: A) => void> =>
  Effect.map(Effect.context<never>(), (context) => {
    let hasThrown = false
    return (value) => {
      if (listener === undefined) return
      try {
        listener(value)
      } catch (fault) {
        if (!hasThrown) {
          Effect.runForkWith(context)(Effect.logError(`${name} threw, which it must not`, Cause.die(fault)))
        }
        hasThrown = true
      }
    }
  })
