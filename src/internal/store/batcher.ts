/**
 * Group commit: requests that come while one batch is under way make up the next one. One fiber for all, and one batch
 * at a time, so that what is asked later is done later.
 */
import { Cause, Effect, Exit } from "effect"
import { Deque } from "../../core/Deque.ts"
import { callbackLater, makeSignal } from "../signal.ts"
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
}

interface Entry<Request, Result> {
  readonly request: Request
  resume: ((effect: Effect.Effect<Result, StoreError>) => void) | undefined
}

/** The function that asks; it lives as long as the scope. */
export const makeBatcher = Effect.fnUntraced(function*<Request, Result>(options: BatcherOptions<Request, Result>) {
  const { maxBatch, maxWeight = Infinity, name, run, weigh } = options
  const waiting = new Deque<Entry<Request, Result>>()
  const work = yield* makeSignal

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
      weight += weigh?.(entry.request) ?? 0
      if (batch.length > 0 && weight > maxWeight) break
      waiting.popFront()
      batch.push(entry)
    }
    return batch
  }

  const answer = (entry: Entry<Request, Result>, effect: Effect.Effect<Result, StoreError>): void => {
    const { resume } = entry
    entry.resume = undefined
    resume?.(effect)
  }

  const doBatch = (batch: ReadonlyArray<Entry<Request, Result>>) => {
    const isWanted = () => batch.some((entry) => entry.resume !== undefined)
    return Effect.onExit(run(batch.map((entry) => entry.request), isWanted), (exit) =>
      Effect.sync(() => {
        for (let i = 0; i < batch.length; i++) {
          const entry = batch[i] as Entry<Request, Result> // in bounds
          if (Exit.isSuccess(exit)) answer(entry, Effect.succeed(exit.value[i] as Result)) // one for each
          else answer(entry, failureOf(name, exit.cause))
        }
      }))
  }

  const loop = Effect.gen(function*() {
    while (true) {
      if (waiting.size === 0) yield* work.wait
      const batch = take()
      if (batch.length > 0) yield* Effect.exit(doBatch(batch))
    }
  })
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      waiting.forEach((entry) => answer(entry, Effect.fail(closed(name))))
      waiting.clear()
    })
  )
  yield* Effect.forkScoped(loop, { startImmediately: true })

  return (request: Request): Effect.Effect<Result, StoreError> =>
    callbackLater((resume) => {
      const entry: Entry<Request, Result> = { request, resume }
      waiting.pushBack(entry)
      work.notify()
      return Effect.sync(() => {
        entry.resume = undefined
      })
    })
})

const failureOf = (name: string, cause: Cause.Cause<StoreError>): Effect.Effect<never, StoreError> => {
  if (Cause.hasInterruptsOnly(cause)) return Effect.fail(closed(name))
  const failure = cause.reasons.find((reason) => reason._tag === "Fail")
  return Effect.fail(failure?.error ?? new StoreError(name, Cause.squash(cause)))
}

const closed = (name: string) => new StoreError(name, new Error("the store is closed"))
