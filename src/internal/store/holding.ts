/** Sessions that this server has, in the store: confirmed, detached, released, claimed again, wanted by others. */
import { Effect } from "effect"
import type { StoreError } from "./driver.ts"
import type { RegistryParts } from "./registryParts.ts"
import type { Change } from "./sessionRows.ts"

export const makeHolding = (parts: RegistryParts) => {
  const { members, onWanted, own, rows: { find, findNewest, update }, written } = parts
  const { node, now } = members

  /** What is attached here stays attached, though others may have taken this node for dead. */
  const reclaim = (ids: Iterable<string>) =>
    Effect.forEach(
      ids,
      (id) =>
        update(id, (row) =>
          own.isAttached(id, row.generation) && !row.ending && (row.detachedAt !== undefined || row.node !== node)
            ? { ...row, node, detachedAt: undefined }
            : undefined),
      { concurrency: 16, discard: true }
    )

  members.onRejoin(Effect.suspend(() => reclaim(own.allAttached())))

  const hear = (session: string): Effect.Effect<void, StoreError> =>
    Effect.flatMap(find(session), (row) => {
      if (row === undefined) return Effect.void
      if (row.wantedBy !== undefined && row.node === node) {
        onWanted.tell(session)
        return Effect.void
      }
      return row.node !== node && own.isAttached(session, row.generation) ? reclaim([session]) : Effect.void
    })

  members.onNudges((sessions) =>
    Effect.suspend(() => {
      const mine = sessions.filter((session) => own.has(session))
      return Effect.ignore(Effect.forEach(mine, hear, { concurrency: 16, discard: true }))
    })
  )

  const ownUpdate = (session: string, generation: number, change: Change): Effect.Effect<void, StoreError> =>
    Effect.asVoid(update(session, (row) => row.generation === generation ? change(row) : undefined))

  return {
    /**
     * Whether the session is this server's in this generation. Says so to others again if they have taken this node for
     * dead.
     */
    confirm: (session: string, generation: number): Effect.Effect<boolean, StoreError> =>
      Effect.flatMap(findNewest(session), (row) => {
        if (row === undefined || row.ending || row.generation !== generation) return Effect.succeed(false)
        if (row.node === node) return Effect.succeed(true)
        const isAttached = own.isAttached(session, generation)
        return Effect.map(
          update(session, (now) =>
            now.generation !== generation || now.ending
              ? undefined
              : { ...now, node, detachedAt: isAttached ? undefined : now.detachedAt }),
          (changed) => changed !== undefined
        )
      }),

    /**
     * Like `confirm`, but within an application's transaction, on its connection: waiting there could mean waiting for
     * what the transaction itself holds. When the answer can't be known now this gives false, and the handler is run
     * again.
     */
    confirmInside: (session: string, generation: number): Effect.Effect<boolean> =>
      Effect.match(find(session), {
        onFailure: () => false,
        onSuccess: (row) => row !== undefined && !row.ending && row.generation === generation
      }),

    detach: (session: string, generation: number): Effect.Effect<void, StoreError> =>
      Effect.suspend(() => {
        if (own.detach(session, generation)) {
          members.kept.delete(session)
          written.left(session, now())
        }
        return ownUpdate(session, generation, (row) =>
          row.detachedAt === undefined ? { ...row, detachedAt: now() } : undefined)
      }),

    release: (session: string, generation: number): Effect.Effect<void, StoreError> =>
      Effect.suspend(() => {
        own.release(session)
        written.released(session, generation)
        return ownUpdate(session, generation, (row) =>
          row.node === node
            ? { ...row, node: undefined, wantedBy: undefined, detachedAt: row.detachedAt ?? now() }
            : undefined)
      })
  }
}
