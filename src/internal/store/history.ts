/**
 * Whether the store still has what it had. A replica that took over, or a restarted process, may lack the newest part.
 * A store may also be emptied, or lose a session, while it runs: what this server had in it is gone then, and no
 * tombstone says that it was ended. Whoever keeps something that the store may have lost is told, and puts it back.
 */
import { Effect, Semaphore } from "effect"
import { steady } from "../kit/time.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"

export interface HistoryOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  /** The store's time. */
  readonly now: () => number
  /** How often the store is asked for its history. */
  readonly pollMillis: number
  /** Others were there before, and may have something to put back that this server does not know. */
  readonly hasOthers: boolean
}

export type StoreHistory = Effect.Success<ReturnType<typeof makeHistory>>

/** For this long after a change, others may not have put back what they have. */
const recentMillis = 10_000
/** How many looks of others a newcomer waits for, as it does not know of earlier changes. */
const looks = 3

export const makeHistory = Effect.fnUntraced(function*(options: HistoryOptions) {
  const { call, driver, hasOthers, pollMillis } = options
  const time = yield* steady
  const listeners: Array<Effect.Effect<void, StoreError>> = []
  let known = yield* call("history", driver.history)
  let askedAt = time()
  // This server can't know whether the history changed just before; others put back what they have with their next
  // look.
  let changedAt: number | undefined
  let changedOrJoinedAt = hasOthers ? askedAt - recentMillis + Math.min(recentMillis, looks * pollMillis) : undefined
  /** Listeners that have not yet put everything back. */
  let left: ReadonlyArray<Effect.Effect<void, StoreError>> = []
  /** A session that is not in the store although nobody has ended it. */
  let missed: string | undefined

  const begin = (news: string) => {
    missed = undefined
    changedAt = askedAt
    changedOrJoinedAt = askedAt
    left = [...listeners]
    return Effect.logWarning(`the store ${driver.name} ${news}: what it may have lost is looked for, and put back`)
  }

  const lookOnce = Effect.gen(function*() {
    const now = yield* call("history", driver.history)
    askedAt = time()
    if (now !== known) {
      known = now
      yield* begin("has another history")
    } else if (missed !== undefined) {
      yield* begin(`lacks session ${missed}, which nobody has ended`)
    }
    while (left.length > 0) {
      const [next, ...rest] = left
      if (next !== undefined) yield* next
      left = rest
    }
  })

  const look = oneForAll(lookOnce)

  const round = Effect.andThen(
    Effect.sleep(pollMillis),
    Effect.catchCause(look, (cause) => Effect.logDebug("a look at the store's history is put off", cause))
  )
  yield* Effect.forkScoped(Effect.forever(round), { startImmediately: true })

  /** Whether a session that has no row was ended on purpose. */
  const hasTombstone = (session: string): Effect.Effect<boolean, StoreError> =>
    call("wasEnded", driver.wasEnded(session, options.now()))

  /** Whether the session is being ended, or was ended, on purpose. */
  const wasEnded = (session: string): Effect.Effect<boolean, StoreError> =>
    Effect.flatMap(
      call("findSession", driver.findSession(session)),
      (row) => row === undefined ? hasTombstone(session) : Effect.succeed(row.ending)
    )

  /**
   * Like `wasEnded`, for a session of this server that is not in the store. If it was not ended, the next look puts it
   * back.
   */
  const endedOrMissed = (session: string): Effect.Effect<boolean, StoreError> =>
    Effect.tap(wasEnded(session), (isEnded) =>
      Effect.sync(() => {
        if (!isEnded) missed ??= session
      }))

  const isRecent = (at: number | undefined): boolean => at !== undefined && time() - at < recentMillis

  return {
    /**
     * Runs `putBack` whenever the store may have lost something, until it succeeds; listeners run in the order in which
     * they came.
     */
    onChange: (putBack: Effect.Effect<void, StoreError>): void => {
      listeners.push(putBack)
    },
    hasTombstone,
    wasEnded,
    endedOrMissed,
    /**
     * Whether the store has lost a session that this server had in it. If so, all that is known here has been put back.
     */
    hasLost: (session: string): Effect.Effect<boolean, StoreError> =>
      Effect.flatMap(endedOrMissed(session), (isEnded) => isEnded ? Effect.succeed(false) : Effect.as(look, true)),
    /**
     * Whether the store may just have lost something that only others know and have not put back yet. First puts back
     * what this server knows. For a caller that misses something that was there.
     */
    look: Effect.map(look, () => isRecent(changedOrJoinedAt)),
    /** Like `look`, but leaves out what was lost before this server joined others. */
    lookForChange: Effect.map(look, () => isRecent(changedAt))
  }
})

/**
 * Runs one at a time, and one run serves all who asked before it began: each caller needs the state after a full run.
 */
const oneForAll = <E>(effect: Effect.Effect<void, E>): Effect.Effect<void, E> => {
  const lock = Semaphore.makeUnsafe(1)
  let begun = 0
  let done = 0
  return Effect.suspend(() => {
    const mine = begun + 1
    return lock.withPermit(Effect.suspend(() => {
      if (done >= mine) return Effect.void
      const number = ++begun
      return Effect.map(effect, () => void (done = number))
    }))
  })
}
