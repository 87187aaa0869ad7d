/**
 * Senders that wait for room in an outbox, first come first served. Only the first in a line tries; it is told when this
 * server knows of room, and also looks by itself now and then, as other servers make room too.
 */
import { Effect } from "effect"
import { callbackLater } from "../signal.ts"

/** How often the first in a line looks without being told. */
const waitMillis = 250

/** A sender that waits for room. */
interface Waiter {
  isWoken: boolean
  wake: () => void
}

/** Those who wait for room in one outbox, in order of arrival. Only the first one tries. */
interface Line {
  readonly waiters: Set<Waiter>
  isTrying: boolean
  /** There was room again since the first one began its try. */
  mayTryAgain: boolean
}

const firstOf = (line: Line): Waiter | undefined => line.waiters.values().next().value

/** What one try came to. */
export type Tried<A> =
  | { readonly _tag: "Done"; readonly value: A }
  /** There is no room in the outbox, or none in all of them together. */
  | { readonly _tag: "NoRoom"; readonly isTotal: boolean }

export const makeWaitingLines = Effect.gen(function*() {
  /** Senders that wait for room. */
  const lines = new Map<string, Line>()
  /** Sessions whose first in line waits for the bound on all together. */
  const blockedByTotal = new Set<string>()
  let suspended = 0
  let isClosed = false
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      isClosed = true
      for (const { waiters } of lines.values()) for (const waiter of waiters) waiter.wake()
    })
  )

  const leave = (session: string, waiter: Waiter): void => {
    const line = lines.get(session)
    if (line === undefined) return
    const wasFirst = firstOf(line) === waiter
    line.waiters.delete(waiter)
    if (line.waiters.size === 0) {
      lines.delete(session)
      blockedByTotal.delete(session)
    } else if (wasFirst) {
      // Room for one may be room for another.
      line.isTrying = false
      wakeFirst(session)
    }
  }

  /** There is room in this session's outbox, and so in all together: the first of those who wait may try. */
  const wake = (session: string): void => {
    wakeFirst(session)
    for (const blocked of blockedByTotal) {
      blockedByTotal.delete(blocked)
      wakeFirst(blocked)
    }
  }

  const wakeFirst = (session: string): void => {
    const line = lines.get(session)
    if (line === undefined) return
    if (line.isTrying) line.mayTryAgain = true
    else firstOf(line)?.wake()
  }

  /** Until this waiter is the first in line, and there may be room: told so, or after a while, as others make room too. */
  const awaitTurn = (line: Line, waiter: Waiter): Effect.Effect<void> => {
    const woken = callbackLater<void>((resume) => {
      waiter.wake = () => {
        waiter.isWoken = true
        resume(Effect.void)
      }
      if (waiter.isWoken) resume(Effect.void)
      return Effect.void
    })
    return Effect.flatMap(
      Effect.raceFirst(woken, Effect.sleep(waitMillis)),
      () => isClosed || firstOf(line) === waiter ? Effect.void : awaitTurn(line, waiter)
    )
  }

  /** Tries until there is room, when it is this sender's turn; fails with `closed` when the store is closed. */
  const wait = <A, E>(options: {
    readonly session: string
    /** Whether it waits for room in all outboxes together. */
    readonly isTotal: boolean
    readonly attempt: Effect.Effect<Tried<A>, E>
    readonly closed: () => E
  }): Effect.Effect<A, E> => {
    const { session } = options
    const attempt = (line: Line, waiter: Waiter): Effect.Effect<A, E> =>
      Effect.flatMap(awaitTurn(line, waiter), () => {
        if (isClosed) return Effect.fail(options.closed())
        waiter.isWoken = false
        line.mayTryAgain = false
        line.isTrying = true
        return Effect.flatMap(options.attempt, (tried) => {
          line.isTrying = false
          if (tried._tag === "Done") return Effect.succeed(tried.value)
          if (tried.isTotal) blockedByTotal.add(session)
          waiter.isWoken = line.mayTryAgain
          return attempt(line, waiter)
        })
      })
    return Effect.suspend(() => {
      suspended++
      const waiter: Waiter = { isWoken: false, wake: () => void (waiter.isWoken = true) }
      const line = lines.get(session) ?? { waiters: new Set(), isTrying: false, mayTryAgain: false }
      lines.set(session, line)
      line.waiters.add(waiter)
      if (options.isTotal) blockedByTotal.add(session)
      return Effect.ensuring(
        attempt(line, waiter),
        Effect.sync(() => {
          suspended--
          leave(session, waiter)
        })
      )
    })
  }

  return {
    wait,
    wake,
    /** Whether somebody waits for room in this outbox: nobody may overtake. */
    has: (session: string): boolean => lines.has(session),
    suspended: () => suspended
  }
})
