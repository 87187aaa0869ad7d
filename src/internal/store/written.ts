/**
 * What this server has written of its sessions, to put it back if the store loses it. Covers sessions that are attached
 * here, or were a while ago. So the newest resume token stays good, the newest owner stays the only one, and no
 * position goes back.
 */
import { Effect } from "effect"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"
import { untilFree } from "./locks.ts"
import type { PositionRequest, SessionRow } from "./sessions.ts"

export interface WrittenOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly steady: () => number
  /** Whether a session without a row was ended. */
  readonly hasTombstone: (session: string) => Effect.Effect<boolean, StoreError>
  /** Another server has since attached the session, in the same generation. */
  readonly onTaken: (session: string) => void
}

interface Written {
  row: SessionRow
  position: PositionRequest | undefined
}

/** How long the writes of a session that has left are remembered: longer than a replica may lag. */
const keptMillis = 60_000
/** How often to try when others have changed the row, or an application's transaction has locked it. */
const maxTries = 16

export type WrittenSessions = ReturnType<typeof makeWritten>

export const makeWritten = ({ call, driver, hasTombstone, onTaken, steady }: WrittenOptions) => {
  const sessions = new Map<string, Written>()
  /** Sessions no longer attached here, and since when; the oldest first. */
  const departed = new Map<string, number>()

  const forget = (session: string): void => {
    sessions.delete(session)
    departed.delete(session)
  }

  /** Puts the row back if the store has none or an older one. */
  const putRow = Effect.fnUntraced(function*(row: SessionRow): Effect.fn.Return<void, StoreError> {
    for (let tries = 0; tries < maxTries; tries++) {
      const stored = yield* call("findSession", driver.findSession(row.id))
      if (stored !== undefined && stored.generation === row.generation && stored.tokenHash !== row.tokenHash) {
        return onTaken(row.id)
      }
      if (stored === undefined && (yield* hasTombstone(row.id))) return forget(row.id)
      const isThere = stored !== undefined && (stored.generation > row.generation ||
        (stored.generation === row.generation && stored.revision >= row.revision))
      if (isThere) return
      const next = { ...row, revision: (stored?.revision ?? 0) + 1 }
      const outcome = yield* call("putSession", driver.putSession(next))
      if (outcome._tag === "Conflict") continue
      const written = sessions.get(row.id)
      if (written?.row === row) written.row = next
      return
    }
  })

  const putOne = Effect.fnUntraced(function*({ position, row }: Written) {
    yield* putRow(row)
    if (position === undefined || !sessions.has(row.id)) return
    // The position may be from an earlier connection, but is the session's newest all the same.
    const request = { ...position, generation: row.generation }
    yield* untilFree(
      call("savePositions", driver.savePositions([request])),
      ([outcome]) => outcome === "Locked",
      maxTries
    )
  })

  return {
    attached: (row: SessionRow): void => {
      departed.delete(row.id)
      sessions.set(row.id, { row, position: sessions.get(row.id)?.position })
    },
    /** This server has changed the row. */
    changed: (row: SessionRow): void => {
      if (row.ending) return forget(row.id)
      const written = sessions.get(row.id)
      if (written?.row.generation === row.generation) written.row = row
    },
    saved: (position: PositionRequest): void => {
      const written = sessions.get(position.session)
      if (written !== undefined) written.position = position
    },
    /** Whether or not the store still has the row. */
    released: (session: string, generation: number): void => {
      const written = sessions.get(session)
      if (written?.row.generation === generation) written.row = { ...written.row, node: undefined, wantedBy: undefined }
    },
    left: (session: string, at: number): void => {
      const written = sessions.get(session)
      if (written !== undefined) written.row = { ...written.row, detachedAt: written.row.detachedAt ?? at }
      departed.delete(session)
      departed.set(session, steady())
    },
    has: (session: string): boolean => sessions.has(session),
    /** Whether this server has written a later owner than the store knows: the store has lost it. */
    isLater: ({ generation, id }: SessionRow): boolean => (sessions.get(id)?.row.generation ?? 0) > generation,
    /**
     * What this server last wrote of the session, unless the store knows a later owner: the store may have less than
     * that.
     */
    newest: ({ generation, id }: SessionRow): Written | undefined => {
      const written = sessions.get(id)
      return written !== undefined && written.row.generation >= generation ? written : undefined
    },
    forget,
    sweep: (): void => {
      for (const [session, at] of departed) {
        if (steady() - at < keptMillis) return
        forget(session)
      }
    },
    putBack: Effect.suspend(() => Effect.forEach([...sessions.values()], putOne, { concurrency: 16, discard: true }))
  }
}
