/**
 * Steady time, read once per turn of the event loop. Reading the system's clock costs as much as all other work for a
 * message (50 to 100 ns on a virtual machine), and within a turn nobody can tell the difference.
 */
import { Effect } from "effect"
import { steady } from "./time.ts"

export const makeTurnClock: Effect.Effect<() => number> = Effect.withFiber((fiber) => {
  const dispatcher = fiber.currentDispatcher
  let time: number | undefined
  const forget = () => {
    time = undefined
  }
  return Effect.map(steady, (now) => () => {
    if (time === undefined) {
      time = now()
      dispatcher.scheduleTask(forget, 0)
    }
    return time
  })
})
