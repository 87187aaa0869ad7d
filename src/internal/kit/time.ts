/**
 * The two clocks: steady time for durations, the wall clock for people. Durations, deadlines and the order of events go
 * by the steady one, which nobody can set; the wall clock tells people when something was, and a store at its start how
 * late it is. Nothing else reads a clock of the system.
 *
 * Steady time is in ms since 1970 like the wall's, as it starts where that stood when it was first asked, and goes on
 * with the monotonic clock: where the wall clock is never set the two agree. While the machine sleeps it may stand still.
 */
import { Clock, Effect } from "effect"

/** One beginning for all who have the same clock, so that their times can be compared. */
const beginnings = new WeakMap<Clock.Clock, { readonly millis: number; readonly nanos: bigint }>()

/** Readings of the monotonic clock are summed from parts that were rounded: what is a few ns short of a ms is one. */
const roundingMillis = 1e-4

/** Steady time in whole ms. */
export const steadyOf = (clock: Clock.Clock): () => number => {
  let beginning = beginnings.get(clock)
  if (beginning === undefined) {
    beginning = { millis: clock.currentTimeMillisUnsafe(), nanos: clock.monotonicTimeNanosUnsafe() }
    beginnings.set(clock, beginning)
  }
  const { millis, nanos } = beginning
  return () => Math.floor(millis + Number(clock.monotonicTimeNanosUnsafe() - nanos) / 1e6 + roundingMillis)
}

/** Reads steady time. */
export const steady: Effect.Effect<() => number> = Effect.map(Clock.Clock, steadyOf)

/** Tells people when something was: of a steady time, what the wall clock would have shown if it had stood as it does now. */
export const onWall: Effect.Effect<(steadyMillis: number) => number> = Effect.map(Clock.Clock, (clock) => {
  const now = steadyOf(clock)
  return (steadyMillis) => steadyMillis + clock.currentTimeMillisUnsafe() - now()
})

/** Reads the wall clock, in ms since 1970: for people, who may set it. */
export const wall: Effect.Effect<() => number> = Effect.map(
  Clock.Clock,
  (clock) => () => clock.currentTimeMillisUnsafe()
)
