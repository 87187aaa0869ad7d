/** Rows that an application's transaction has for a while: asks again until they are free. */
import { Duration, Effect } from "effect"

/** How far apart it is tried. */
export const lockedMillis = 50

/** The first answer that is not one of a locked row; after so many tries the last, whatever it is. */
export const untilFree = Effect.fnUntraced(function*<A, E>(
  ask: Effect.Effect<A, E>,
  isLocked: (answer: A) => boolean,
  maxTries: number
): Effect.fn.Return<A, E> {
  let answer = yield* ask
  for (let tries = 1; tries < maxTries && isLocked(answer); tries++) {
    yield* Effect.sleep(Duration.millis(lockedMillis))
    answer = yield* ask
  }
  return answer
})
