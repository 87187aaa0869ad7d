/**
 * The two clocks: steady time for durations, the wall clock for people. Durations, deadlines and the order of events
 * use steady time, which nobody can set. The wall clock tells people when something happened, and a starting store what
 * time it is. Nothing else reads a system clock.
 *
 * Steady time is in ms since 1970 too: it starts where the wall clock stood when first asked, and goes on with the
 * monotonic clock. If nobody sets the wall clock, the two agree. Steady time may stand still while the machine sleeps.
 */
import { Clock, Effect } from "effect"

/** Readings of the monotonic clock are sums of rounded parts, so a few ns short of a ms count as a ms. */
const roundingMillis = 1e-4

/** One start for all that share a clock, so that their times can be compared. */
const beginnings = new WeakMap<Clock.Clock, { readonly millis: number; readonly nanos: bigint }>()

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

/**
 * Tells people when something happened: turns steady time into what the wall clock, as set now, would have shown.
 */
export const onWall: Effect.Effect<(steadyMillis: number) => number> = Effect.map(Clock.Clock, (clock) => {
  const now = steadyOf(clock)
  return (steadyMillis) => steadyMillis + clock.currentTimeMillisUnsafe() - now()
})

/** Reads the wall clock, in ms since 1970. For people only, since they may set it. */
export const wall: Effect.Effect<() => number> = Effect.map(
  Clock.Clock,
  (clock) => () => clock.currentTimeMillisUnsafe()
)
