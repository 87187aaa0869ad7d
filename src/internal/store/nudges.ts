/**
 * How nodes that share a store tell each other that something happened to a session. Nudges are kept in the store until
 * they are taken, so that a missed one is found at the next look.
 */
import { Effect } from "effect"
import { makeSignal } from "../kit/signal.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"

export interface NudgesOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly node: string
  /** How often nudges are looked for when no signal came. */
  readonly pollMillis: number
}

const maxNudges = 1_000

export const makeNudges = Effect.fnUntraced(function*({ call, driver, node, pollMillis }: NudgesOptions) {
  const listeners: Array<(sessions: ReadonlyArray<string>) => Effect.Effect<void>> = []
  const work = yield* makeSignal

  const takeAll = Effect.gen(function*() {
    while (true) {
      const sessions = yield* call("takeNudges", driver.takeNudges(node, maxNudges))
      if (sessions.length > 0) { for (const listener of listeners) yield* listener(sessions) }
      if (sessions.length < maxNudges) return
    }
  })

  const loop = Effect.gen(function*() {
    while (true) {
      yield* Effect.raceFirst(work.wait, Effect.sleep(pollMillis))
      // A store that is down is asked again at the next look.
      yield* Effect.catchCause(takeAll, (cause) => Effect.logDebug("nudges are put off", cause))
    }
  })

  yield* driver.watch(node, work.notify)
  yield* Effect.forkScoped(loop, { startImmediately: true })

  return {
    nudge: (other: string | undefined, session: string): Effect.Effect<void, StoreError> =>
      other === undefined || other === node ? Effect.void : call("nudge", driver.nudge(other, session)),
    /** Calls `listener` with sessions that something happened to, as long as the store lives. */
    onNudges: (listener: (sessions: ReadonlyArray<string>) => Effect.Effect<void>): void => {
      listeners.push(listener)
    }
  }
})
