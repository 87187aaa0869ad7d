/**
 * Whether the store is still the one that it was: a replica that took over, or a process that was started anew, may
 * lack the newest part of what was stored. Who keeps something that the store may have lost is told, and puts it back.
 */
import { Effect, Semaphore } from "effect"
import { steady } from "../kit/time.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"

export type StoreHistory = Effect.Success<ReturnType<typeof makeHistory>>

/** For so long after a change others may not have put back what they have. */
const recentMillis = 10_000
/** So many looks of others are waited for by who comes later, and does not know. */
const looks = 3

export const makeHistory = Effect.fnUntraced(function*(options: {
  readonly driver: StoreDriver
  readonly call: Calls
  /** How often it is asked which history this is. */
  readonly pollMillis: number
  /** Others were there before, and may have something to put back that is not known here. */
  readonly hasOthers: boolean
}) {
  const { call, driver, hasOthers, pollMillis } = options
  const time = yield* steady
  const listeners: Array<Effect.Effect<void, StoreError>> = []
  let known = yield* call("history", driver.history)
  let askedAt = time()
  // Whether it has changed just before is not known here, but others put back what they have with their next look.
  let changedAt: number | undefined
  let changedOrJoinedAt = hasOthers ? askedAt - recentMillis + Math.min(recentMillis, looks * pollMillis) : undefined
  /** Listeners that have not put back all. */
  let left: ReadonlyArray<Effect.Effect<void, StoreError>> = []

  const lookOnce = Effect.gen(function*() {
    const now = yield* call("history", driver.history)
    askedAt = time()
    if (now !== known) {
      known = now
      changedAt = askedAt
      changedOrJoinedAt = askedAt
      left = [...listeners]
      yield* Effect.logInfo(`the store ${driver.name} has another history: what it may have lost is looked for`)
    }
    while (left.length > 0) {
      const [next, ...rest] = left
      if (next !== undefined) yield* next
      left = rest
    }
  })

  // One at a time, and one for all who asked before it began: each of them must have what was put back.
  const lock = Semaphore.makeUnsafe(1)
  let begun = 0
  let done = 0
  const look = Effect.suspend(() => {
    const mine = begun + 1
    return lock.withPermit(Effect.suspend(() => {
      if (done >= mine) return Effect.void
      const number = ++begun
      return Effect.map(lookOnce, () => void (done = number))
    }))
  })

  const round = Effect.andThen(
    Effect.sleep(pollMillis),
    Effect.catchCause(look, (cause) => Effect.logDebug("a look at the store's history is put off", cause))
  )
  yield* Effect.forkScoped(Effect.forever(round), { startImmediately: true })

  const isRecent = (at: number | undefined): boolean => at !== undefined && time() - at < recentMillis

  return {
    /** Runs `putBack` when the store may have lost something, until it has succeeded; in the order in which they came. */
    onChange: (putBack: Effect.Effect<void, StoreError>): void => {
      listeners.push(putBack)
    },
    /** Whether it has another history than the one of which all is put back; that is then done at the next look. */
    hasChanged: Effect.map(call("history", driver.history), (now) => now !== known || left.length > 0),
    /**
     * Whether the store may have lost something a moment ago that others, who know of it, have not put back; what this
     * server knows is put back after that. For who misses something that was there.
     */
    look: Effect.map(look, () => isRecent(changedOrJoinedAt)),
    /** The same, but for what was lost before this server joined others. */
    lookForChange: Effect.map(look, () => isRecent(changedAt))
  }
})
