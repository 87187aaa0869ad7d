/**
 * The time, read once a turn of the event loop. Reading the system's clock costs as much as all else that is done for a
 * message (50 to 100 ns on a virtual machine), and within a turn nobody can tell the difference.
 */
import { Clock, Effect } from "effect"

export const makeTurnClock: Effect.Effect<() => number> = Effect.withFiber((fiber) => {
  const dispatcher = fiber.currentDispatcher
  let time: number | undefined
  const forget = () => {
    time = undefined
  }
  return Effect.map(Clock.Clock, (clock) => () => {
    if (time === undefined) {
      time = clock.currentTimeMillisUnsafe()
      dispatcher.scheduleTask(forget, 0)
    }
    return time
  })
})
