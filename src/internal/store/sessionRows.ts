/** Rows of sessions: found, changed by compare-and-set, and put back if the store lost them. */
import { Effect } from "effect"
import type { Calls } from "./calls.ts"
import { type StoreDriver, StoreError } from "./driver.ts"
import type { StoreHistory } from "./history.ts"
import type { PutOutcome, SessionRow } from "./sessions.ts"
import { ifStorable } from "./texts.ts"
import type { WrittenSessions } from "./written.ts"

/** How often compare-and-set is tried; others don't change one session for ever. */
export const maxTries = 16

/** What a row becomes; undefined when it stays as it is. */
export type Change = (row: SessionRow) => Omit<SessionRow, "revision"> | undefined

export interface SessionRows {
  readonly find: (session: string) => Effect.Effect<SessionRow | undefined, StoreError>
  /** The row, after putting back what the store has lost of it: the whole row, or its newest owner. */
  readonly findNewest: (session: string) => Effect.Effect<SessionRow | undefined, StoreError>
  /**
   * Runs `effect`. If it finds a session of this server missing, first puts back what the store has lost, then runs it
   * again: absence is not an end.
   */
  readonly orPutBack: <A>(
    session: string,
    isMissing: (found: A) => boolean,
    effect: Effect.Effect<A, StoreError>
  ) => Effect.Effect<A, StoreError>
  readonly put: (row: SessionRow) => Effect.Effect<PutOutcome, StoreError>
  /** Changes a session's row if `change` gives another one; reads it again when somebody else has changed it. */
  readonly update: (session: string, change: Change) => Effect.Effect<SessionRow | undefined, StoreError>
}

export const makeSessionRows = ({ call, driver, history, written }: {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly history: StoreHistory
  readonly written: WrittenSessions
}): SessionRows => {
  const find: SessionRows["find"] = (session) =>
    ifStorable("findSession", [session], call("findSession", driver.findSession(session)))

  const put: SessionRows["put"] = (row) => call("putSession", driver.putSession(row))

  const update: SessionRows["update"] = (session, change) => {
    const attempt = (tries: number): Effect.Effect<SessionRow | undefined, StoreError> =>
      Effect.flatMap(find(session), (row) => {
        const changed = row === undefined ? undefined : change(row)
        if (row === undefined || changed === undefined) return Effect.succeed(undefined)
        const next = { ...changed, revision: row.revision + 1 }
        return Effect.flatMap(put(next), (outcome) => {
          if (outcome._tag === "Stored") {
            written.changed(next)
            return Effect.succeed(next)
          }
          return tries < maxTries ? attempt(tries + 1) : Effect.fail(contended(session))
        })
      })
    return attempt(1)
  }

  const orPutBack: SessionRows["orPutBack"] = (session, isMissing, effect) =>
    Effect.flatMap(effect, (found) =>
      isMissing(found) && written.has(session)
        ? Effect.flatMap(history.hasLost(session), (isLost) => isLost ? effect : Effect.succeed(found))
        : Effect.succeed(found))

  const findNewest: SessionRows["findNewest"] = (session) =>
    orPutBack(session, (row) => row === undefined || written.isLater(row), find(session))

  return { find, findNewest, orPutBack, put, update }
}

export const contended = (session: string) =>
  new StoreError("attach", new Error(`others change session ${session} all the time`))
