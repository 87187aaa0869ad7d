/**
 * Where a process can be killed: at each operation of its store, and at each other step that it names, before it or
 * after it. One run counts them; then each is the one that a run is killed at.
 */
import { Effect } from "effect"
import type { StoreDriver, StoreError } from "../../src/internal/store/driver.ts"

type Call = Effect.Effect<unknown, StoreError>

/** Members of a driver that are no calls of the database. */
const apart = new Set<string>(["name", "transaction", "watch"])

/** A driver all of whose calls go through `around`. */
export const everyCall = (
  driver: StoreDriver,
  around: (operation: string, args: ReadonlyArray<unknown>, call: Call) => Call
): StoreDriver => {
  const wrapped = Object.entries(driver).map(([operation, member]): [string, unknown] => {
    if (apart.has(operation)) return [operation, member]
    if (typeof member !== "function") return [operation, around(operation, [], member as Call)]
    // Every function of a driver but `watch` makes a call.
    const make = member as (...args: ReadonlyArray<unknown>) => Call
    return [operation, (...args: ReadonlyArray<unknown>) => around(operation, args, make(...args))]
  })
  return Object.fromEntries(wrapped) as unknown as StoreDriver // the same members
}

/** The step to be killed at, from 1. */
export interface CrashPoint {
  readonly step: number
  readonly when: "before" | "after"
}

/** Counts the steps of all processes of one run, and kills the one that comes to the chosen step. */
export class Crash {
  /** The names of the steps so far. */
  readonly steps: Array<string> = []
  private readonly point: CrashPoint | undefined

  constructor(point: CrashPoint | undefined) {
    this.point = point
  }

  /** A step; `kill` ends the process that takes it. */
  step<A, E, R>(name: string, kill: () => void, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.suspend(() => {
      this.steps.push(name)
      const when = this.steps.length === this.point?.step ? this.point.when : "never"
      const die = Effect.suspend(() => {
        kill()
        return Effect.never
      })
      if (when === "before") return die
      return when === "after" ? Effect.andThen(effect, die) : effect
    })
  }
}
