/**
 * Senders that wait for room in an outbox, first come first served. As many of the first in a line as there seems to be
 * room for try together, in their order, and are committed together; the store has the last word. They are told when
 * this server knows of room, and the first also looks now and then, as other servers make room too.
 */
import { Effect } from "effect"
import { makeLater, makeSignal, type Signal } from "../kit/signal.ts"

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

/** A sender to be put in line. */
interface WaitRequest<A, E> {
  readonly session: string
  readonly needs: Size
  /** Whether it waits for room in all outboxes together. */
  readonly isTotal: boolean
  readonly attempt: Effect.Effect<Tried<A>, E>
  readonly closed: () => E
}

interface WaitingLinesOptions {
  /** What has room in an outbox, as far as known here. */
  readonly room: (session: string) => Room
}

export const makeWaitingLines = Effect.fnUntraced(function*({ room }: WaitingLinesOptions) {
  const lines = new WaitingLines(room, yield* makeLater, yield* makeSignal)
  yield* Effect.addFinalizer(() => Effect.sync(() => lines.close()))
  yield* Effect.forkScoped(lines.look(), { startImmediately: true })
  return lines
})

export class WaitingLines {
  private readonly room: WaitingLinesOptions["room"]
  private readonly later: (task: () => void) => void
  /** Somebody waits. */
  private readonly waits: Signal
  private readonly lines = new Map<string, Line>()
  /** Sessions whose first in line waits for the bound on all together. */
  private readonly blockedByTotal = new Set<string>()
  private resuming: Array<Waiter> = []
  private waiting = 0
  private isClosed = false

  constructor(room: WaitingLinesOptions["room"], later: (task: () => void) => void, waits: Signal) {
    this.room = room
    this.later = later
    this.waits = waits
  }

  /** Whether somebody waits for room in this outbox: nobody may overtake. */
  has(session: string): boolean {
    return this.lines.has(session)
  }

  /** How many wait. */
  suspended(): number {
    return this.waiting
  }

  /** Tries until there is room, when it is this sender's turn; fails with `closed` when the store is closed. */
  wait<A, E>(request: WaitRequest<A, E>): Effect.Effect<A, E> {
    const { session } = request
    return Effect.suspend(() => {
      this.waiting++
      const waiter: Waiter = { needs: request.needs, isCalled: false, isTrying: false, resume: undefined }
      const line = this.lineOf(session)
      line.waiters.add(waiter)
      if (request.isTotal) this.blockedByTotal.add(session)
      // There may have been room since it was refused.
      if (line.waiters.size === 1) this.callUp(session, "none")
      return Effect.ensuring(
        this.attempt(request, line, waiter),
        Effect.sync(() => {
          this.waiting--
          this.leave(session, waiter)
          // One that failed or was interrupted.
          if (waiter.isTrying) this.tried(session, line, waiter)
          // Room for one may be room for another.
          if (line.trying === 0) this.callUp(session, "none")
        })
      )
    })
  }

  /** There is room in this session's outbox, and so in all together. */
  wake(session: string): void {
    this.callUp(session, "none")
    if (this.blockedByTotal.size === 0) return
    const blocked = [...this.blockedByTotal]
    this.blockedByTotal.clear()
    for (const other of blocked) this.callUp(other, "first")
  }

  close(): void {
    this.isClosed = true
    for (const { waiters } of this.lines.values()) for (const waiter of waiters) this.call(waiter)
  }

  /** Lets the first of each line try now and then. */
  look(): Effect.Effect<never> {
    return Effect.gen({ self: this }, function*() {
      while (true) {
        if (this.lines.size === 0) yield* this.waits.wait
        yield* Effect.sleep(lookMillis)
        for (const session of this.lines.keys()) this.callUp(session, "first")
      }
    })
  }

  private attempt<A, E>(request: WaitRequest<A, E>, line: Line, waiter: Waiter): Effect.Effect<A, E> {
    const { session } = request
    return Effect.flatMap(this.called(waiter), () => {
      if (this.isClosed) return Effect.fail(request.closed())
      waiter.isCalled = false
      waiter.isTrying = true
      waiter.resume = undefined
      line.trying++
      return Effect.flatMap(request.attempt, (result) => {
        if (result._tag === "NoRoom") {
          line.isRefused = true
          if (result.isTotal) this.blockedByTotal.add(session)
        } else this.leave(session, waiter)
        this.tried(session, line, waiter)
        return result._tag === "Done" ? Effect.succeed(result.value) : this.attempt(request, line, waiter)
      })
    })
  }

  private called(waiter: Waiter): Effect.Effect<void> {
    return Effect.callback((resume) => {
      if (waiter.isCalled || this.isClosed) return resume(Effect.void)
      waiter.resume = resume
    })
  }

  /** The last of those who tried together says what that means for the next. */
  private tried(session: string, line: Line, waiter: Waiter): void {
    waiter.isTrying = false
    line.trying--
    if (line.trying > 0) return
    const { isRefused, mayTryAgain } = line
    line.isRefused = false
    line.mayTryAgain = false
    line.group = isRefused ? 1 : Math.min(maxGroup, line.group * 2)
    if (!isRefused || mayTryAgain) this.callUp(session, "none")
  }

  /** Calls as many as seem to have room; the first in any case if `force` says so. */
  private callUp(session: string, force: "first" | "none"): void {
    const line = this.lines.get(session)
    if (line === undefined) return
    if (line.trying > 0) {
      line.mayTryAgain = true
      return
    }
    const { bytes, isTotal, messages } = this.room(session)
    let called = 0
    let needed = 0
    let neededBytes = 0
    for (const waiter of line.waiters) {
      needed += waiter.needs.messages
      neededBytes += waiter.needs.bytes
      const fits = needed <= messages && neededBytes <= bytes && called < line.group
      if (!fits && !(called === 0 && force === "first")) {
        if (isTotal) this.blockedByTotal.add(session)
        return
      }
      called++
      this.call(waiter)
    }
  }

  /** In a task of its own, as it goes on with its own work. */
  private call(waiter: Waiter): void {
    if (waiter.isCalled) return
    waiter.isCalled = true
    if (waiter.resume === undefined) return
    if (this.resuming.length === 0) this.later(this.resumeAll)
    this.resuming.push(waiter)
  }

  private readonly resumeAll = (): void => {
    const waiters = this.resuming
    this.resuming = []
    for (const waiter of waiters) waiter.resume?.(Effect.void)
  }

  private lineOf(session: string): Line {
    const known = this.lines.get(session)
    if (known !== undefined) return known
    const line: Line = { waiters: new Set(), trying: 0, isRefused: false, mayTryAgain: false, group: maxGroup }
    this.lines.set(session, line)
    this.waits.notify()
    return line
  }

  private leave(session: string, waiter: Waiter): void {
    const line = this.lines.get(session)
    if (line === undefined) return
    line.waiters.delete(waiter)
    if (line.waiters.size > 0) return
    this.lines.delete(session)
    this.blockedByTotal.delete(session)
  }
}
