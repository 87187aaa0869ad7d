/**
 * Work that is due at intervals. One fiber looks at the clock for all of it; a chore has a fiber of its own only while
 * it runs, so that one that takes long or fails holds up no other. None runs twice at once.
 */
import { Clock, Effect, type Scope } from "effect"
import { supervised, type Worker } from "./supervisor.ts"

export interface Chore extends Worker {
  readonly everyMillis: number
}

/** Does the chores until the scope closes; for the first time after their intervals. */
export const doChores = Effect.fnUntraced(function*(
  chores: ReadonlyArray<Chore>
): Effect.fn.Return<void, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const now = () => clock.currentTimeMillisUnsafe()
  const rounds = chores.map((chore) => {
    const { everyMillis } = chore
    const finish = Effect.sync(() => {
      round.dueAt = now() + everyMillis
    })
    const round = {
      everyMillis,
      /** Infinity while it runs, and for ever when it was given up. */
      dueAt: now() + everyMillis,
      run: supervised({ ...chore, loop: Effect.andThen(chore.loop, finish) })
    }
    return round
  })
  const loop = Effect.gen(function*() {
    while (true) {
      const at = now()
      let next = Infinity
      for (const round of rounds) {
        if (round.dueAt <= at) {
          round.dueAt = Infinity
          yield* Effect.forkChild(round.run, { startImmediately: true })
        }
        // Who is still running is looked at again after its interval.
        next = Math.min(next, round.dueAt, at + round.everyMillis)
      }
      // Rounded up: woken a rounding error too early, it would find nothing due and spin.
      yield* Effect.sleep(Math.ceil(next - now()))
    }
  })
  yield* Effect.forkScoped(loop, { startImmediately: true })
})
