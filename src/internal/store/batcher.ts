/**
 * Group commit of anything: requests that come while one batch is under way make up the next one. One fiber for all,
 * and one batch at a time, so that what is asked later is done later.
 *
 * A request whose key an application's transaction has locked steps aside, so that it holds up nobody else: it is
 * retried in batches of its own, and so is whatever comes after it under the same key.
 */
import { Cause, Effect, Exit } from "effect"
import { Deque } from "../../core/Deque.ts"
import { makeLater, makeSignal, type Signal } from "../kit/signal.ts"
import { steady } from "../kit/time.ts"
import { StoreError } from "./driver.ts"

export interface BatcherOptions<Request, Result> {
  readonly name: string
  readonly maxBatch: number
  /** Weight of a request. A batch weighs at most `maxWeight`, unless it is a single request. Default: no weight. */
  readonly weigh?: ((request: Request) => number) | undefined
  readonly maxWeight?: number | undefined
  /**
   * Does a batch, and gives a result for each request, in order, or fails. `isWanted` says whether anybody still waits
   * for a result; interrupted callers do not.
   */
  readonly run: (
    requests: ReadonlyArray<Request>,
    isWanted: () => boolean
  ) => Effect.Effect<ReadonlyArray<Result>, StoreError>
  /** For stores in which requests may find their key locked. */
  readonly aside?: Aside<Request, Result> | undefined
  /** A caller waits no longer than this, and then fails with `late`. Default: as long as it takes. */
  readonly limit?: { readonly millis: number; readonly late: StoreError } | undefined
}

interface Aside<Request, Result> {
  readonly keyOf: (request: Request) => string
  readonly isLocked: (result: Result) => boolean
  /** Like `run`, for requests that have stepped aside. */
  readonly run: BatcherOptions<Request, Result>["run"]
}

interface Entry<Request, Result> {
  readonly request: Request
  readonly deadline: number
  resume: ((effect: Effect.Effect<Result, StoreError>) => void) | undefined
}

/** How often locked requests are retried; the store itself also waits a while each time. */
const lockedMillis = 100

/** Makes the function that asks; it works as long as the scope is open. */
export const makeBatcher = Effect.fnUntraced(function*<Request, Result>(options: BatcherOptions<Request, Result>) {
  const batcher = new Batcher(options, {
    now: yield* steady,
    later: yield* makeLater,
    work: yield* makeSignal,
    lockedWork: yield* makeSignal,
    deadlines: yield* makeSignal
  })
  yield* Effect.addFinalizer(() => Effect.sync(() => batcher.close()))
  const { aside, limit } = options
  yield* Effect.forkScoped(batcher.loop(), { startImmediately: true })
  if (aside !== undefined) yield* Effect.forkScoped(batcher.loopAside(aside), { startImmediately: true })
  if (limit !== undefined) yield* Effect.forkScoped(batcher.watchDeadlines(limit.late), { startImmediately: true })
  return (request: Request): Effect.Effect<Result, StoreError> => batcher.ask(request)
})

interface Means {
  readonly now: () => number
  readonly later: (task: () => void) => void
  /** Something waits to be done. */
  readonly work: Signal
  /** Something has stepped aside. */
  readonly lockedWork: Signal
  /** There is a deadline, and the watcher sleeps. */
  readonly deadlines: Signal
}

class Batcher<Request, Result> {
  private readonly options: BatcherOptions<Request, Result>
  private readonly means: Means
  private readonly waiting = new Deque<Entry<Request, Result>>()
  /**
   * Requests that found their key locked, and those that came after them, in order; and their keys, even while they are
   * being tried.
   */
  private locked: Array<Entry<Request, Result>> = []
  private lockedKeys = new Set<string>()
  private answered: Array<() => void> = []
  /**
   * With a limit: requests not answered yet, in the order of their deadlines. An answered one is removed when it is the
   * first.
   */
  private readonly pending = new Deque<Entry<Request, Result>>()
  private isWatching = false

  constructor(options: BatcherOptions<Request, Result>, means: Means) {
    this.options = options
    this.means = means
  }

  ask(request: Request): Effect.Effect<Result, StoreError> {
    return Effect.callback((resume) => {
      const { limit } = this.options
      const deadline = limit === undefined ? Infinity : this.means.now() + limit.millis
      const entry: Entry<Request, Result> = { request, deadline, resume }
      this.waiting.pushBack(entry)
      this.means.work.notify()
      if (limit !== undefined) {
        this.pending.pushBack(entry)
        if (!this.isWatching) {
          this.isWatching = true
          this.means.deadlines.notify()
        }
      }
      return Effect.sync(() => this.settle(entry))
    })
  }

  close(): void {
    const { name } = this.options
    this.waiting.forEach((entry) => this.answer(entry, Effect.fail(closed(name))))
    this.waiting.clear()
    for (const entry of this.locked.splice(0)) this.answer(entry, Effect.fail(closed(name)))
  }

  loop(): Effect.Effect<never> {
    return Effect.gen({ self: this }, function*() {
      while (true) {
        if (this.waiting.size === 0) yield* this.means.work.wait
        const batch = this.take()
        if (batch.length === 0) continue
        this.stepAside(yield* this.doBatch(batch, this.options.run))
        // Otherwise a store that answers at once, and senders that send again at once, would leave nobody else a turn.
        // It also lets a refused sender get in line before the next batch asks who waits.
        yield* Effect.yieldNow
      }
    })
  }

  loopAside({ keyOf, run }: Aside<Request, Result>): Effect.Effect<never> {
    return Effect.gen({ self: this }, function*() {
      while (true) {
        if (this.locked.length === 0) yield* this.means.lockedWork.wait
        const batch = this.takeLocked()
        // Requests that come meanwhile under these keys stay behind them.
        const left = batch.length === 0 ? [] : yield* this.doBatch(batch, run)
        this.locked = [...left, ...this.locked]
        this.lockedKeys = new Set(this.locked.map(({ request }) => keyOf(request)))
        if (left.length > 0) yield* Effect.sleep(lockedMillis)
      }
    })
  }

  watchDeadlines(late: StoreError): Effect.Effect<never> {
    return Effect.gen({ self: this }, function*() {
      while (true) {
        const first = this.pending.front()
        if (first === undefined) {
          this.isWatching = false
          yield* this.means.deadlines.wait
          continue
        }
        const left = first.deadline - this.means.now()
        if (left > 0) yield* Effect.sleep(left)
        else this.answer(first, Effect.fail(late))
      }
    })
  }

  private take(): ReadonlyArray<Entry<Request, Result>> {
    const { aside, maxBatch, maxWeight = Infinity, weigh } = this.options
    const batch: Array<Entry<Request, Result>> = []
    let weight = 0
    while (batch.length < maxBatch) {
      const entry = this.waiting.front()
      if (entry === undefined) break
      if (entry.resume === undefined) {
        this.waiting.popFront()
        continue
      }
      if (aside !== undefined && this.lockedKeys.has(aside.keyOf(entry.request))) {
        this.waiting.popFront()
        this.stepAside([entry])
        continue
      }
      weight += weigh?.(entry.request) ?? 0
      if (batch.length > 0 && weight > maxWeight) break
      this.waiting.popFront()
      batch.push(entry)
    }
    return batch
  }

  private takeLocked(): ReadonlyArray<Entry<Request, Result>> {
    const { maxBatch, maxWeight = Infinity, weigh } = this.options
    let count = 0
    let weight = 0
    for (const { request } of this.locked) {
      weight += weigh?.(request) ?? 0
      if (count === maxBatch || (count > 0 && weight > maxWeight)) break
      count++
    }
    return this.locked.splice(0, count).filter(({ resume }) => resume !== undefined)
  }

  private stepAside(entries: ReadonlyArray<Entry<Request, Result>>): void {
    const { aside } = this.options
    if (aside === undefined || entries.length === 0) return
    for (const entry of entries) {
      this.locked.push(entry)
      this.lockedKeys.add(aside.keyOf(entry.request))
    }
    this.means.lockedWork.notify()
  }

  /** Answers the whole batch except those that found their key locked; returns these. */
  private doBatch(
    batch: ReadonlyArray<Entry<Request, Result>>,
    run: BatcherOptions<Request, Result>["run"]
  ): Effect.Effect<ReadonlyArray<Entry<Request, Result>>> {
    const { aside, name } = this.options
    const isWanted = () => batch.some((entry) => entry.resume !== undefined)
    return Effect.map(
      Effect.onExit(Effect.exit(run(batch.map((entry) => entry.request), isWanted)), (exit) =>
        // The store was interrupted: nobody is left waiting.
        Exit.isFailure(exit)
          ? Effect.sync(() => batch.forEach((entry) => this.answer(entry, Effect.fail(closed(name)))))
          : Effect.void),
      (exit) => {
        const left: Array<Entry<Request, Result>> = []
        for (let i = 0; i < batch.length; i++) {
          const entry = batch[i] as Entry<Request, Result> // in bounds
          if (Exit.isFailure(exit)) {
            this.answer(entry, failureOf(name, exit.cause))
            continue
          }
          const result = exit.value[i] as Result // one for each
          if (aside?.isLocked(result) === true) left.push(entry)
          else this.answer(entry, Effect.succeed(result))
        }
        return left
      }
    )
  }

  private answer(entry: Entry<Request, Result>, effect: Effect.Effect<Result, StoreError>): void {
    const { resume } = entry
    this.settle(entry)
    if (resume === undefined) return
    if (this.answered.length === 0) this.means.later(this.resumeAll)
    this.answered.push(() => resume(effect))
  }

  /**
   * Resumes callers in a task of their own, as they go on with their own work; one task for all, because one for each
   * costs more.
   */
  private readonly resumeAll = (): void => {
    const resuming = this.answered
    this.answered = []
    for (const resume of resuming) resume()
  }

  private settle(entry: Entry<Request, Result>): void {
    entry.resume = undefined
    while (this.pending.size > 0 && this.pending.front()?.resume === undefined) this.pending.popFront()
  }
}

const failureOf = (name: string, cause: Cause.Cause<StoreError>): Effect.Effect<never, StoreError> => {
  if (Cause.hasInterruptsOnly(cause)) return Effect.fail(closed(name))
  const failure = cause.reasons.find((reason) => reason._tag === "Fail")
  return Effect.fail(failure?.error ?? new StoreError(name, Cause.squash(cause)))
}

const closed = (name: string) => new StoreError(name, new Error("the store is closed"))
