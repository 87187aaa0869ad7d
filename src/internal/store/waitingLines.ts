/**
 * Senders that wait for room in an outbox, first come first served. As many of the first in a line as seem to have room
 * try together, in order, and are committed together; the store has the last word. They are called when this server
 * knows of room. The first also tries now and then, as other servers make room too.
 */
import { Effect } from "effect"
import { makeLater, makeSignal, type Signal } from "../kit/signal.ts"

/** How often the first in a line tries without being called. */
const lookMillis = 250
/** How many try together at most. */
const maxGroup = 1_024

interface Size {
  readonly messages: number
  readonly bytes: number
}

interface Room extends Size {
  /** Whether the bound on all outboxes together is what limits it. */
  readonly isTotal: boolean
}

/** A sender that waits for room. */
interface Waiter {
  readonly needs: Size
  /** Its turn has come, and it has not yet begun to try. */
  isCalled: boolean
  isTrying: boolean
  /** Set while it waits to be called. */
  resume: ((effect: Effect.Effect<void>) => void) | undefined
}

/** Senders that wait for room in one outbox, in order of arrival. */
interface Line {
  readonly waiters: Set<Waiter>
  /** How many are trying now. */
  trying: number
  /** Whether one of them was refused. */
  isRefused: boolean
  /** Whether there may have been room again since they began. */
  mayTryAgain: boolean
  /** How many may try together next time: more after each success, one after a refusal. */
  group: number
}

/** What one try came to. */
export type Tried<A> =
  | { readonly _tag: "Done"; readonly value: A }
  /** There is no room in this outbox, or (`isTotal`) in all outboxes together. */
  | { readonly _tag: "NoRoom"; readonly isTotal: boolean }

/** A sender that gets in line. */
interface WaitRequest<A, E> {
  readonly session: string
  readonly needs: Size
  /** Whether it waits for room in all outboxes together. */
  readonly isTotal: boolean
  readonly attempt: Effect.Effect<Tried<A>, E>
  readonly closed: () => E
}

interface WaitingLinesOptions {
  /** The room in an outbox, as far as this server knows. */
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
  /** Notified when somebody waits. */
  private readonly waits: Signal
  private readonly lines = new Map<string, Line>()
  /** Sessions whose first in line waits for the bound on all outboxes together. */
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

  /** Tries when it is this sender's turn, until there is room; fails with `closed` when the store is closed. */
  wait<A, E>(request: WaitRequest<A, E>): Effect.Effect<A, E> {
    const { session } = request
    return Effect.suspend(() => {
      this.waiting++
      const waiter: Waiter = { needs: request.needs, isCalled: false, isTrying: false, resume: undefined }
      const line = this.lineOf(session)
      line.waiters.add(waiter)
      if (request.isTotal) this.blockedByTotal.add(session)
      // There may be room since the sender was refused.
      if (line.waiters.size === 1) this.callUp(session, "none")
      return Effect.ensuring(
        this.attempt(request, line, waiter),
        Effect.sync(() => {
          this.waiting--
          this.leave(session, waiter)
          // The try failed or was interrupted.
          if (waiter.isTrying) this.tried(session, line, waiter)
          // Room for one may be room for another.
          if (line.trying === 0) this.callUp(session, "none")
        })
      )
    })
  }

  /** There is room in this session's outbox, and so in all outboxes together. */
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

  /** The last of those that tried together decides how many try next. */
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

  /** Calls as many as seem to have room; with `force` "first", the first in any case. */
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

  /** Resumes it in a task of its own, as it goes on with its own work. */
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
