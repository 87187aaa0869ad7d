/**
 * Wakes fibers from synchronous code, in a task of their own. A latch opened directly would run them inside its opener,
 * in the middle of the opener's work.
 *
 * Under Effect's own scheduler that task is a microtask, after the code that runs now: the scheduler's own tasks run in
 * the next turn of the event loop, too late for a message that nothing holds back. Any other scheduler, such as a
 * test's that orders everything, is given the task. Frames must not be delivered in a microtask: see
 * `memoryTransport.ts`.
 */
import { Effect, type Fiber, Latch, Scheduler } from "effect"

export interface Signal {
  /** Wakes the waiter, or the next one to come. Many calls in one turn count as one. */
  readonly notify: () => void
  /** The same, in the next turn of the event loop: for work that must let connections be read first. */
  readonly notifyLater: () => void
  /** Waits for the next `notify`, if none came since the last wait. */
  readonly wait: Effect.Effect<void>
}

type Schedule = (task: () => void) => void

const scheduleOf = (fiber: Fiber.Fiber<unknown, unknown>): Schedule => {
  if (fiber.cache.scheduler instanceof Scheduler.MixedScheduler) return queueMicrotask
  const dispatcher = fiber.currentDispatcher
  return (task) => dispatcher.scheduleTask(task, 0)
}

export const makeSignal: Effect.Effect<Signal> = Effect.withFiber((fiber) => {
  const schedule = scheduleOf(fiber)
  const dispatcher = fiber.currentDispatcher
  const latch = Latch.makeUnsafe(false)
  let isScheduled = false
  let isScheduledLater = false
  const wake = () => {
    isScheduled = false
    latch.openUnsafe()
  }
  const wakeLater = () => {
    isScheduledLater = false
    latch.openUnsafe()
  }
  return Effect.succeed({
    notify: () => {
      if (isScheduled) return
      isScheduled = true
      schedule(wake)
    },
    notifyLater: () => {
      if (isScheduled || isScheduledLater) return
      isScheduledLater = true
      dispatcher.scheduleTask(wakeLater, 0)
    },
    wait: Effect.andThen(latch.await, Effect.sync(() => latch.closeUnsafe()))
  })
})

/** Runs a task as a signal would: to resume many fibers in one task. */
export const makeLater: Effect.Effect<(task: () => void) => void> = Effect.withFiber((fiber) =>
  Effect.succeed(scheduleOf(fiber))
)

/**
 * `Effect.callback` whose resumption runs in a task of its own. A fiber may yield before any operation, even after it
 * found a reason to wait and before this: `register` must check again whether there is still something to wait for.
 */
export const callbackLater = <A, E = never>(
  register: (resume: (effect: Effect.Effect<A, E>) => void) => Effect.Effect<void>
): Effect.Effect<A, E> =>
  Effect.withFiber((fiber) => {
    const schedule = scheduleOf(fiber)
    return Effect.callback<A, E>((resume) => register((effect) => schedule(() => resume(effect))))
  })
