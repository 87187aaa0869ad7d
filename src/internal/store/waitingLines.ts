/**
 * Senders that wait for room in an outbox, first come first served. As many of the first in a line as there seems to be
 * room for try together, in their order, and are committed together; the store has the last word. They are told when
 * this server knows of room, and the first also looks now and then, as other servers make room too.
 */
import { Effect } from "effect"
import { makeLater, makeSignal } from "../kit/signal.ts"

/** How often the first in a line looks without being told. */
const lookMillis = 250
/** So many try together at most. */
const maxGroup = 1_024

interface Size {
  readonly messages: number
  readonly bytes: number
}

interface Room extends Size {
  /** Whether it is the bound on all outboxes together that leaves no more. */
  readonly isTotal: boolean
}

/** A sender that waits for room. */
interface Waiter {
  readonly needs: Size
  /** Its turn has come, and it has not begun to try. */
  isCalled: boolean
  isTrying: boolean
  /** While it waits to be called. */
  resume: ((effect: Effect.Effect<void>) => void) | undefined
}

/** Those who wait for room in one outbox, in order of arrival. */
interface Line {
  readonly waiters: Set<Waiter>
  /** So many try just now. */
  trying: number
  /** Whether one of them was refused. */
  isRefused: boolean
  /** There was room again since they began. */
  mayTryAgain: boolean
  /** So many may try together next time: more after each success, one after a refusal. */
  group: number
}

/** What one try came to. */
export type Tried<A> =
  | { readonly _tag: "Done"; readonly value: A }
  /** There is no room in the outbox, or none in all of them together. */
  | { readonly _tag: "NoRoom"; readonly isTotal: boolean }

export interface WaitingLinesOptions {
  /** What has room in an outbox, as far as known here. */
  readonly room: (session: string) => Room
}

export type WaitingLines = Effect.Success<ReturnType<typeof makeWaitingLines>>

export const makeWaitingLines = Effect.fnUntraced(function*(options: WaitingLinesOptions) {
  const lines = new Map<string, Line>()
  /** Sessions whose first in line waits for the bound on all together. */
  const blockedByTotal = new Set<string>()
  let suspended = 0
  let isClosed = false
  const waits = yield* makeSignal
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      isClosed = true
      for (const { waiters } of lines.values()) for (const waiter of waiters) call(waiter)
    })
  )

  const later = yield* makeLater
  let resuming: Array<Waiter> = []
  const resumeAll = (): void => {
    const waiters = resuming
    resuming = []
    for (const waiter of waiters) waiter.resume?.(Effect.void)
  }

  /** In a task of its own, as it goes on with its own work. */
  const call = (waiter: Waiter): void => {
    if (waiter.isCalled) return
    waiter.isCalled = true
    if (waiter.resume === undefined) return
    if (resuming.length === 0) later(resumeAll)
    resuming.push(waiter)
  }

  /** Calls as many as seem to have room; the first in any case if `force` says so. */
  const callUp = (session: string, force: "first" | "none"): void => {
    const line = lines.get(session)
    if (line === undefined) return
    if (line.trying > 0) {
      line.mayTryAgain = true
      return
    }
    const { bytes, isTotal, messages } = options.room(session)
    let called = 0
    let needed = 0
    let neededBytes = 0
    for (const waiter of line.waiters) {
      needed += waiter.needs.messages
      neededBytes += waiter.needs.bytes
      const fits = needed <= messages && neededBytes <= bytes && called < line.group
      if (!fits && !(called === 0 && force === "first")) {
        if (isTotal) blockedByTotal.add(session)
        return
      }
      called++
      call(waiter)
    }
  }

  const lineOf = (session: string): Line => {
    const known = lines.get(session)
    if (known !== undefined) return known
    const line: Line = { waiters: new Set(), trying: 0, isRefused: false, mayTryAgain: false, group: maxGroup }
    lines.set(session, line)
    waits.notify()
    return line
  }

  const leave = (session: string, waiter: Waiter): void => {
    const line = lines.get(session)
    if (line === undefined) return
    line.waiters.delete(waiter)
    if (line.waiters.size > 0) return
    lines.delete(session)
    blockedByTotal.delete(session)
  }

  /** There is room in this session's outbox, and so in all together. */
  const wake = (session: string): void => {
    callUp(session, "none")
    if (blockedByTotal.size === 0) return
    const blocked = [...blockedByTotal]
    blockedByTotal.clear()
    for (const other of blocked) callUp(other, "first")
  }

  const look = Effect.gen(function*() {
    while (true) {
      if (lines.size === 0) yield* waits.wait
      yield* Effect.sleep(lookMillis)
      for (const session of lines.keys()) callUp(session, "first")
    }
  })
  yield* Effect.forkScoped(look, { startImmediately: true })

  const called = (waiter: Waiter): Effect.Effect<void> =>
    Effect.callback((resume) => {
      if (waiter.isCalled || isClosed) return resume(Effect.void)
      waiter.resume = resume
    })

  /** The last of those who tried together says what that means for the next. */
  const tried = (session: string, line: Line, waiter: Waiter): void => {
    waiter.isTrying = false
    line.trying--
    if (line.trying > 0) return
    const { isRefused, mayTryAgain } = line
    line.isRefused = false
    line.mayTryAgain = false
    line.group = isRefused ? 1 : Math.min(maxGroup, line.group * 2)
    if (!isRefused || mayTryAgain) callUp(session, "none")
  }

  /** Tries until there is room, when it is this sender's turn; fails with `closed` when the store is closed. */
  const wait = <A, E>(request: {
    readonly session: string
    readonly needs: Size
    /** Whether it waits for room in all outboxes together. */
    readonly isTotal: boolean
    readonly attempt: Effect.Effect<Tried<A>, E>
    readonly closed: () => E
  }): Effect.Effect<A, E> => {
    const { session } = request
    const attempt = (line: Line, waiter: Waiter): Effect.Effect<A, E> =>
      Effect.flatMap(called(waiter), () => {
        if (isClosed) return Effect.fail(request.closed())
        waiter.isCalled = false
        waiter.isTrying = true
        waiter.resume = undefined
        line.trying++
        return Effect.flatMap(request.attempt, (result) => {
          if (result._tag === "NoRoom") {
            line.isRefused = true
            if (result.isTotal) blockedByTotal.add(session)
          } else leave(session, waiter)
          tried(session, line, waiter)
          return result._tag === "Done" ? Effect.succeed(result.value) : attempt(line, waiter)
        })
      })
    return Effect.suspend(() => {
      suspended++
      const waiter: Waiter = { needs: request.needs, isCalled: false, isTrying: false, resume: undefined }
      const line = lineOf(session)
      line.waiters.add(waiter)
      if (request.isTotal) blockedByTotal.add(session)
      // There may have been room since it was refused.
      if (line.waiters.size === 1) callUp(session, "none")
      return Effect.ensuring(
        attempt(line, waiter),
        Effect.sync(() => {
          suspended--
          leave(session, waiter)
          // One that failed or was interrupted.
          if (waiter.isTrying) tried(session, line, waiter)
          // Room for one may be room for another.
          if (line.trying === 0) callUp(session, "none")
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
