/**
 * Work at intervals, with one fiber for all. That fiber watches the clock; a chore has its own fiber only while it
 * runs, so that a slow or failing one holds up no other. No chore runs twice at once.
 */
import { Effect, type Latch, type Scope } from "effect"
import { supervised, type Worker } from "./supervisor.ts"

export interface Chore extends Worker {
  readonly everyMillis: number
}

/** Does the chores until the scope closes, while the gate is open; each for the first time after its interval. */
export const doChores = (
  chores: ReadonlyArray<Chore>,
  gate: Latch.Latch
): Effect.Effect<void, never, Scope.Scope> => {
  // Counted down by the time slept, so that setting the system clock back holds up nothing.
  const rounds = chores.map((chore) => {
    const { everyMillis } = chore
    const finish = Effect.sync(() => {
      round.left = everyMillis
    })
    const round = {
      everyMillis,
      /** In ms; Infinity while it runs, and for good once it was given up. */
      left: everyMillis,
      run: supervised({ ...chore, loop: Effect.andThen(chore.loop, finish) })
    }
    return round
  })
  const loop = Effect.gen(function*() {
    while (true) {
      let pause = Infinity
      // One that is still running is checked again after its interval.
      for (const { everyMillis, left } of rounds) pause = Math.min(pause, left, everyMillis)
      yield* Effect.sleep(pause)
      yield* gate.await
      for (const round of rounds) {
        round.left -= pause
        if (round.left > 0) continue
        round.left = Infinity
        yield* Effect.forkChild(round.run, { startImmediately: true })
      }
    }
  })
  return Effect.asVoid(Effect.forkScoped(loop, { startImmediately: true }))
}
