/**
 * Wakes fibers from synchronous code, in a task of their own: a latch opened there and then would run them inside
 * whoever opened it, in the middle of its work.
 */
import { Effect, Latch } from "effect"

export interface Signal {
  /** Wakes who waits, and who comes to wait next. Many calls in one turn are one. */
  readonly notify: () => void
  /** Waits for the next `notify`, if none came since the last wait. */
  readonly wait: Effect.Effect<void>
}

export const makeSignal: Effect.Effect<Signal> = Effect.withFiber((fiber) => {
  const dispatcher = fiber.currentDispatcher
  const latch = Latch.makeUnsafe(false)
  let scheduled = false
  const wake = () => {
    scheduled = false
    latch.openUnsafe()
  }
  return Effect.succeed({
    notify: () => {
      if (scheduled) return
      scheduled = true
      dispatcher.scheduleTask(wake, 0)
    },
    wait: Effect.andThen(latch.await, Effect.sync(() => latch.closeUnsafe()))
  })
})

/** `Effect.callback` whose resumption runs in a task of its own. */
export const callbackLater = <A, E = never>(
  register: (resume: (effect: Effect.Effect<A, E>) => void) => Effect.Effect<void>
): Effect.Effect<A, E> =>
  Effect.withFiber((fiber) =>
    Effect.callback<A, E>((resume) =>
      register((effect) => fiber.currentDispatcher.scheduleTask(() => resume(effect), 0))
    )
  )
