/** The user's listeners, which may throw, called in the middle of other work. */
import { Cause, Effect } from "effect"

/** What it throws stops nothing, and is logged once: it may be called a million times. */
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
