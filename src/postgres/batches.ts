/**
 * How a batch gets done although some of its rows are locked. Transactions of the application may lock rows as long as
 * they like. First everything is tried at once, with a short wait for locks. If that is not enough, all that is free is
 * done and committed, and the rest is reported as locked: the caller asks for it separately. So a locked session delays
 * nobody else by more than a moment.
 *
 * The stamp of a batch of appends is stored with the results so far, so that a retry with the same stamp goes on with
 * the rest.
 */
import { Effect } from "effect"
import type { StoreError } from "../internal/store/driver.ts"
import { type Database, isLocked } from "./connection.ts"
import * as Values from "./values.ts"

/** How to deal with locks; for `skip` and `patience` see plpgsql.ts. */
export interface Patience {
  readonly millis: number
  readonly skip: boolean
}

/** For the caller's own transaction: waits for locks as long as the deadline allows. */
export const unlimited: Patience = { millis: 0, skip: false }

// Shorter than PostgreSQL's default `deadlock_timeout` of 1 s.
const atFirst: Patience = { millis: 100, skip: false }
const whatIsFree: Patience = { millis: 50, skip: true }

/** Does a batch of `count` requests; `ask` returns undefined for those that it could not do, and these get `left`. */
export const unlessLocked = <Result, Left>(
  database: Database,
  operation: string,
  count: number,
  left: Left,
  ask: (patience: Patience) => Effect.Effect<ReadonlyArray<Result | undefined>, StoreError>
): Effect.Effect<ReadonlyArray<Result | Left>, StoreError> => {
  const none = Array.from<Result | undefined>({ length: count })
  const answers = (patience: Patience, otherwise: Effect.Effect<ReadonlyArray<Result | undefined>, StoreError>) =>
    Effect.catch(ask(patience), (error) => isLocked(error) ? otherwise : Effect.fail(error))
  const work = Effect.map(
    // If even the free ones take too long, all are left.
    answers(atFirst, answers(whatIsFree, Effect.succeed(none))),
    (results) => results.map((result) => result ?? left)
  )
  return database.deadline(operation, work, () => "PostgreSQL did not answer")
}

/** The sessions of a batch, each once, and for each request the place of its session (from 1). */
export const distinct = (requests: ReadonlyArray<{ readonly session: string }>) => {
  const places = new Map<string, number>()
  const index = requests.map(({ session }) => {
    const place = places.get(session) ?? places.size + 1
    places.set(session, place)
    return place
  })
  return { sessions: [...places.keys()], index }
}

/** The first parameters of a batch of owners' writes: how to deal with locks, the sessions, and the generations. */
export const ownersParameters = (
  requests: ReadonlyArray<{ readonly session: string; readonly generation: number }>,
  { millis, skip }: Patience
) => {
  const { index, sessions } = distinct(requests)
  return [
    Values.text(String(millis)),
    Values.boolean(skip),
    Values.texts(sessions),
    Values.integers(index),
    Values.numbers(requests.map(({ generation }) => generation))
  ]
}

/** For a transaction that waits for locks: every request must have a result. */
export const allDone = <Result>(results: ReadonlyArray<Result | undefined>): ReadonlyArray<Result> =>
  results.map((result) => {
    if (result === undefined) throw new Values.Nonsense("a request without a result")
    return result
  })
