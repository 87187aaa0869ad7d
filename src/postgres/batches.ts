/**
 * How a batch gets done although some rows that it needs are locked, by transactions of the application that may take
 * as long as they like. First everything at once, with a short wait for locks; if that was not enough, all that is free
 * is done and committed; then a longer wait for what is left, and so on in turns until the deadline. So a locked
 * session delays the batches that have it by the deadline at most, and never what else is in them.
 *
 * A batch is then not one transaction but several. Each request is atomic as ever; and the stamp of a batch of appends
 * is stored with the results that there are, so whoever tries again goes on with the rest.
 */
import { Effect } from "effect"
import type { StoreError } from "../internal/store/driver.ts"
import { type Database, isLocked } from "./connection.ts"
import { Nonsense } from "./values.ts"

/** How to go about locks; for `skip` and `patience` see plpgsql.ts. */
export interface Patience {
  readonly millis: number
  readonly skip: boolean
}

/** In the caller's own transaction: it waits as long as the deadline lets it. */
export const unlimited: Patience = { millis: 0, skip: false }

// All shorter than PostgreSQL's default `deadlock_timeout` of 1 s.
const atFirst: Patience = { millis: 100, skip: false }
const whatIsFree: Patience = { millis: 50, skip: true }
const forTheRest: Patience = { millis: 500, skip: false }

/**
 * Asks until there is a result for each of `count` requests. `ask` gets the numbers of those that are still open, and
 * returns undefined in the place of those that it could not do.
 */
export const untilDone = <Result>(
  database: Database,
  operation: string,
  count: number,
  ask: (open: ReadonlyArray<number>, patience: Patience) => Effect.Effect<ReadonlyArray<Result | undefined>, StoreError>
): Effect.Effect<ReadonlyArray<Result>, StoreError> =>
  Effect.suspend(() => {
    const results = Array.from<Result | undefined>({ length: count })
    const stillOpen = () => [...results.keys()].filter((at) => results[at] === undefined)
    let patience = atFirst
    const work = Effect.gen(function*() {
      let open = stillOpen()
      while (open.length > 0) {
        const answers = yield* Effect.catch(ask(open, patience), (error) =>
          isLocked(error) ? Effect.undefined : Effect.fail(error))
        open.forEach((at, place) => {
          results[at] = answers?.[place]
        })
        patience = answers === undefined && !patience.skip ? whatIsFree : forTheRest
        open = stillOpen()
      }
      return results.filter((result) =>
        result !== undefined
      )
    })
    return database.deadline(operation, work, () =>
      patience === atFirst
        ? "PostgreSQL did not answer"
        : `other transactions did not let go of ${stillOpen().length} of ${count} sessions`)
  })

/** The sessions of a batch, each once, and which of them (from 1) each request is about. */
export const distinct = (requests: ReadonlyArray<{ readonly session: string }>) => {
  const places = new Map<string, number>()
  const index = requests.map(({ session }) => {
    const place = places.get(session) ?? places.size + 1
    places.set(session, place)
    return place
  })
  return { sessions: [...places.keys()], index }
}

/** Those with these numbers. */
export const pick = <A>(all: ReadonlyArray<A>, numbers: ReadonlyArray<number>): ReadonlyArray<A> =>
  numbers.length === all.length ? all : numbers.flatMap((at) => all.slice(at, at + 1))

/** In a transaction that waits for locks, nothing is left open. */
export const allDone = <Result>(results: ReadonlyArray<Result | undefined>): ReadonlyArray<Result> =>
  results.map((result) => {
    if (result === undefined) throw new Nonsense("a request without a result")
    return result
  })
