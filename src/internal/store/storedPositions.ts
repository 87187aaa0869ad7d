/** Positions of sessions, written only by the owner's generation: many together, or in an application's transaction. */
import { Effect, Exit, Schema } from "effect"
import { isRejection } from "../../core/Text.ts"
import type { StoredPosition } from "../../SessionRegistry.ts"
import type { SessionRegistryError } from "../../WebSocketError.ts"
import { makeBatcher } from "./batcher.ts"
import { fenced, registryFailed } from "./registryFailures.ts"
import type { RegistryParts } from "./registryParts.ts"
import type { PositionOutcome, PositionRequest } from "./sessions.ts"
import { ifStorable } from "./texts.ts"

export const makeStoredPositions = Effect.fnUntraced(function*({ call, driver, rows, written }: RegistryParts) {
  const saveAll = (requests: ReadonlyArray<PositionRequest>) => call("savePositions", driver.savePositions(requests))
  const savePositions = yield* makeBatcher<PositionRequest, PositionOutcome>({
    name: "savePosition",
    maxBatch: 1_024,
    run: saveAll,
    aside: { keyOf: ({ session }) => session, isLocked: (outcome) => outcome === "Locked", run: saveAll }
  })
  // The epoch comes from the client, so its text is checked.
  const save = (request: PositionRequest) => ifStorable("savePosition", [request.epoch], savePositions(request))

  const isInTransaction = driver.transaction?.isOpen ?? Effect.succeed(false)

  return {
    /** Whether the calling fiber is in a transaction of this store. */
    isInTransaction,

    save: (session: string, generation: number, position: StoredPosition) => {
      const request = requestOf(session, generation, position, false)
      return Effect.flatMap(
        Effect.mapError(
          rows.orPutBack(session, (outcome) => outcome === "Missing", save(request)),
          registryFailed(session, "savePosition")
        ),
        (outcome) => {
          if (outcome === "Saved") written.saved(request)
          return accept(session, "savePosition", false)(outcome)
        }
      )
    },

    commit: (session: string, generation: number, position: StoredPosition) => {
      const request = requestOf(session, generation, position, true)
      return Effect.flatMap(isInTransaction, (isOpen) =>
        Effect.flatMap(
          Effect.mapError(
            isOpen ? Effect.map(driver.savePositions([request]), ([outcome]) => outcome) : save(request),
            registryFailed(session, "commitPosition")
          ),
          accept(session, "commitPosition", true)
        ))
    }
  }
})

const requestOf = (
  session: string,
  generation: number,
  position: StoredPosition,
  strict: boolean
): PositionRequest => ({
  session,
  generation,
  position: JSON.stringify(position),
  epoch: position.epoch ?? "",
  handled: position.handled,
  strict
})

const accept =
  (session: string, operation: string, strict: boolean) =>
  (outcome: PositionOutcome | undefined): Effect.Effect<void, SessionRegistryError> => {
    if (outcome === "Saved" || (outcome === "Behind" && !strict)) return Effect.void
    return Effect.fail(fenced(session, operation))
  }

const Offset = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

const FailureReason = Schema.Union([
  Schema.Literals(["failed", "undecodable"]),
  Schema.declare(isRejection)
])

/** A position as this library stored it. */
const Position = Schema.fromJsonString(Schema.Struct({
  epoch: Schema.NullOr(Schema.String),
  received: Offset,
  handled: Offset,
  failed: Schema.Array(Schema.Tuple([Offset, FailureReason])),
  pending: Schema.Struct({ messages: Offset, bytes: Offset }),
  told: Schema.optionalKey(Schema.Boolean),
  newcomer: Schema.optionalKey(Schema.Boolean)
}))

export const readPosition: (text: string) => Exit.Exit<StoredPosition, unknown> = Schema.decodeUnknownExit(Position)

/** The position that is further on in the same log: the store may have lost what this server wrote. */
export const later = (
  stored: StoredPosition | undefined,
  written: PositionRequest | undefined
): StoredPosition | undefined => {
  if (written === undefined) return stored
  if (stored !== undefined && (stored.epoch !== written.epoch || written.handled <= stored.handled)) return stored
  const position = readPosition(written.position)
  return Exit.isSuccess(position) ? position.value : stored
}
