/**
 * Group commit of anything: requests that come while one batch is under way make up the next one. One fiber for all,
 * and one batch at a time, so that what is asked later is done later.
 *
 * What a transaction of the application has locked steps aside, so that it holds up nobody else: it is asked for again
 * and again in batches of its own, and so is what comes after it under the same key.
 */
import { Cause, Effect, Exit } from "effect"
import { Deque } from "../../core/Deque.ts"
import { makeLater, makeSignal } from "../kit/signal.ts"
import { steady } from "../kit/time.ts"
import { StoreError } from "./driver.ts"

export interface BatcherOptions<Request, Result> {
  readonly name: string
  readonly maxBatch: number
  /** Weight of a request, of which a batch has at most `maxWeight`, or one request. Default: nothing. */
  readonly weigh?: ((request: Request) => number) | undefined
  readonly maxWeight?: number | undefined
  /**
   * Does a batch: a result for each request, in order, or none. `isWanted` says whether anybody still waits for one:
   * who was interrupted does not.
   */
  readonly run: (
    requests: ReadonlyArray<Request>,
    isWanted: () => boolean
  ) => Effect.Effect<ReadonlyArray<Result>, StoreError>
  /** For stores in which requests may find their key locked. */
  readonly aside?:
    | {
      readonly keyOf: (request: Request) => string
      readonly isLocked: (result: Result) => boolean
      /** Like `run`, for what has stepped aside. */
      readonly run: BatcherOptions<Request, Result>["run"]
    }
    | undefined
  /** Who asked waits no longer than this, and then fails with `late`. Default: as long as it takes. */
  readonly limit?: { readonly millis: number; readonly late: StoreError } | undefined
}

interface Entry<Request, Result> {
  readonly request: Request
  readonly deadline: number
  resume: ((effect: Effect.Effect<Result, StoreError>) => void) | undefined
}

/** The function that asks; it lives as long as the scope. */
export const makeBatcher = Effect.fnUntraced(function*<Request, Result>(options: BatcherOptions<Request, Result>) {
  const { aside, limit, maxBatch, maxWeight = Infinity, name, run, weigh } = options
  const now = yield* steady
  const waiting = new Deque<Entry<Request, Result>>()
  const work = yield* makeSignal
  /** What found its key locked, and what came after it: in order. And their keys, also while they are being tried. */
  let locked: Array<Entry<Request, Result>> = []
  let lockedKeys = new Set<string>()
  const lockedWork = yield* makeSignal
  const later = yield* makeLater
  let answered: Array<() => void> = []
  /** With a limit, those not answered yet, in the order of their deadlines; what was answered goes when it is the first. */
  const pending = new Deque<Entry<Request, Result>>()
  const deadlines = yield* makeSignal
  let isWatching = false

  const take = (): ReadonlyArray<Entry<Request, Result>> => {
    const batch: Array<Entry<Request, Result>> = []
    let weight = 0
    while (batch.length < maxBatch) {
      const entry = waiting.front()
      if (entry === undefined) break
      if (entry.resume === undefined) {
        waiting.popFront()
        continue
      }
      if (aside !== undefined && lockedKeys.has(aside.keyOf(entry.request))) {
        waiting.popFront()
        stepAside([entry])
        continue
      }
      weight += weigh?.(entry.request) ?? 0
      if (batch.length > 0 && weight > maxWeight) break
      waiting.popFront()
      batch.push(entry)
    }
    return batch
  }

  const stepAside = (entries: ReadonlyArray<Entry<Request, Result>>): void => {
    if (aside === undefined || entries.length === 0) return
    for (const entry of entries) {
      locked.push(entry)
      lockedKeys.add(aside.keyOf(entry.request))
    }
    lockedWork.notify()
  }

  const takeLocked = (): ReadonlyArray<Entry<Request, Result>> => {
    let count = 0
    let weight = 0
    for (const { request } of locked) {
      weight += weigh?.(request) ?? 0
      if (count === maxBatch || (count > 0 && weight > maxWeight)) break
      count++
    }
    return locked.splice(0, count).filter(({ resume }) => resume !== undefined)
  }

  const answer = (entry: Entry<Request, Result>, effect: Effect.Effect<Result, StoreError>): void => {
    const { resume } = entry
    settle(entry)
    if (resume === undefined) return
    if (answered.length === 0) later(resumeAll)
    answered.push(() => resume(effect))
  }

  /** In a task of its own, as they go on with their own work; one for all, as a task for each would cost more than that. */
  const resumeAll = (): void => {
    const resuming = answered
    answered = []
    for (const resume of resuming) resume()
  }

  const settle = (entry: Entry<Request, Result>): void => {
    entry.resume = undefined
    while (pending.size > 0 && pending.front()?.resume === undefined) pending.popFront()
  }

  const watchDeadlines = (late: StoreError) =>
    Effect.gen(function*() {
      while (true) {
        const first = pending.front()
        if (first === undefined) {
          isWatching = false
          yield* deadlines.wait
          continue
        }
        const left = first.deadline - now()
        if (left > 0) yield* Effect.sleep(left)
        else answer(first, Effect.fail(late))
      }
    })

  /** Answers all of the batch but those that found their key locked, which it gives back. */
  const doBatch = (
    batch: ReadonlyArray<Entry<Request, Result>>,
    how: BatcherOptions<Request, Result>["run"]
  ): Effect.Effect<ReadonlyArray<Entry<Request, Result>>> => {
    const isWanted = () => batch.some((entry) => entry.resume !== undefined)
    return Effect.map(
      Effect.onExit(Effect.exit(how(batch.map((entry) => entry.request), isWanted)), (exit) =>
        // Interrupted with the store: nobody is left waiting.
        Exit.isFailure(exit)
          ? Effect.sync(() => batch.forEach((entry) => answer(entry, Effect.fail(closed(name)))))
          : Effect.void),
      (exit) => {
        const left: Array<Entry<Request, Result>> = []
        for (let i = 0; i < batch.length; i++) {
          const entry = batch[i] as Entry<Request, Result> // in bounds
          if (Exit.isFailure(exit)) {
            answer(entry, failureOf(name, exit.cause))
            continue
          }
          const result = exit.value[i] as Result // one for each
          if (aside?.isLocked(result) === true) left.push(entry)
          else answer(entry, Effect.succeed(result))
        }
        return left
      }
    )
  }

  const loopAside = ({ keyOf, run: runLocked }: NonNullable<typeof aside>) =>
    Effect.gen(function*() {
      while (true) {
        if (locked.length === 0) yield* lockedWork.wait
        const batch = takeLocked()
        // What comes meanwhile under these keys stays behind them.
        const left = batch.length === 0 ? [] : yield* doBatch(batch, runLocked)
        locked = [...left, ...locked]
        lockedKeys = new Set(locked.map(({ request }) => keyOf(request)))
        if (left.length > 0) yield* Effect.sleep(lockedMillis)
      }
    })

  const loop = Effect.gen(function*() {
    while (true) {
      if (waiting.size === 0) yield* work.wait
      const batch = take()
      if (batch.length === 0) continue
      stepAside(yield* doBatch(batch, run))
      // A store that answers at once, and senders that send again at once, would leave nobody else a turn. And who was
      // refused gets in line before the next batch asks who waits.
      yield* Effect.yieldNow
    }
  })
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      waiting.forEach((entry) => answer(entry, Effect.fail(closed(name))))
      waiting.clear()
      for (const entry of locked.splice(0)) answer(entry, Effect.fail(closed(name)))
    })
  )
  yield* Effect.forkScoped(loop, { startImmediately: true })
  if (aside !== undefined) yield* Effect.forkScoped(loopAside(aside), { startImmediately: true })
  if (limit !== undefined) yield* Effect.forkScoped(watchDeadlines(limit.late), { startImmediately: true })

  return (request: Request): Effect.Effect<Result, StoreError> =>
    Effect.callback((resume) => {
      const deadline = limit === undefined ? Infinity : now() + limit.millis
      const entry: Entry<Request, Result> = { request, deadline, resume }
      waiting.pushBack(entry)
      work.notify()
      if (limit !== undefined) {
        pending.pushBack(entry)
        if (!isWatching) {
          isWatching = true
          deadlines.notify()
        }
      }
      return Effect.sync(() => settle(entry))
    })
})

/** How often what is locked is asked for again; the store waits a while by itself each time. */
const lockedMillis = 100

const failureOf = (name: string, cause: Cause.Cause<StoreError>): Effect.Effect<never, StoreError> => {
  if (Cause.hasInterruptsOnly(cause)) return Effect.fail(closed(name))
  const failure = cause.reasons.find((reason) => reason._tag === "Fail")
  return Effect.fail(failure?.error ?? new StoreError(name, Cause.squash(cause)))
}

const closed = (name: string) => new StoreError(name, new Error("the store is closed"))
