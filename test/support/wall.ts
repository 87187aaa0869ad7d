/** The test's clock as a machine's: somebody sets the time of day, and nothing else changes. */
import { Clock, Effect } from "effect"

export const hour = 3_600_000
export const day = 24 * hour

/** Makes the wall clock of the test settable: by so many ms, forward or back. */
export const settable: Effect.Effect<(byMillis: number) => void> = Effect.map(Clock.Clock, (clock) => {
  let ahead = 0
  const millis = clock.currentTimeMillisUnsafe.bind(clock)
  const nanos = clock.currentTimeNanosUnsafe.bind(clock)
  const shownMillis = () => millis() + ahead
  const shownNanos = () => nanos() + BigInt(ahead) * 1_000_000n
  Object.assign(clock, {
    currentTimeMillisUnsafe: shownMillis,
    currentTimeNanosUnsafe: shownNanos,
    currentTimeMillis: Effect.sync(shownMillis),
    currentTimeNanos: Effect.sync(shownNanos)
  })
  return (byMillis) => {
    ahead += byMillis
  }
})
