/** Effects that nobody waits for, each in its own fiber: a limited number at once, the others in line. */
import { Effect, type Exit, FiberSet } from "effect"
import { Deque } from "../../core/Deque.ts"

export interface Pool {
  /** Runs the effect at once if there is room. Calls `onExit` when it is over. */
  readonly run: (effect: Effect.Effect<void>, onExit: (exit: Exit.Exit<void>) => void) => void
  readonly isBusy: () => boolean
}

interface Job {
  readonly effect: Effect.Effect<void>
  readonly onExit: (exit: Exit.Exit<void>) => void
}

/** A pool until the scope closes. The line is bounded, since its users have at most one job per session. */
export const makePool = Effect.fnUntraced(function*(count: number) {
  const fibers = yield* FiberSet.make<void, never>()
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  const line = new Deque<Job>()
  let running = 0
  let isStarting = false

  /** A loop, not recursion: many jobs in line that end at once must not make the stack grow. */
  const startNext = (): void => {
    if (isStarting) return
    isStarting = true
    while (true) {
      const job = running < count ? line.popFront() : undefined
      if (job === undefined) break
      start(job)
    }
    isStarting = false
  }

  const start = (job: Job): void => {
    if (fibers.state._tag === "Closed") return
    running++
    const end = (exit: Exit.Exit<void>): void => {
      running--
      job.onExit(exit)
      startNext()
    }
    const fiber = fork(job.effect)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return end(exit)
    FiberSet.addUnsafe(fibers, fiber)
    fiber.addObserver(end)
  }

  const pool: Pool = {
    run: (effect, onExit) => {
      line.pushBack({ effect, onExit })
      startNext()
    },
    isBusy: () => running > 0 || line.size > 0
  }
  return pool
})
