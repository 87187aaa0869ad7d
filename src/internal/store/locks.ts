/** Rows that an application's transaction has locked for a while: asks again until they are free. */
import { Duration, Effect } from "effect"

/** The pause between tries. */
export const lockedMillis = 50

/** The first answer that is not one of a locked row; after `maxTries` tries the last answer, whatever it is. */
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
