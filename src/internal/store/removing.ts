/** The end of a stored outbox: its contents come back, once, even if the store fails after removing it. */
import { Effect } from "effect"
import type { MessageQueueError } from "../../WebSocketError.ts"
import type { Appending } from "./appending.ts"
import { StoreError } from "./driver.ts"
import { removalMillis } from "./looks.ts"
import type { Contents } from "./outboxReader.ts"
import { refuse } from "./queueFailures.ts"
import type { QueueParts } from "./queueParts.ts"
import type { Removed } from "./removals.ts"
import type { StoredAcks } from "./storedAcks.ts"

/** Others may append or give up messages meanwhile: the outbox is read again, at most this often. */
const maxLooks = 16

export const makeRemoving = (parts: QueueParts, appending: Appending, acks: StoredAcks) => {
  const { call, driver, givingUp, gone, logs, members, onMoved, ownDoubts, reader, removals, roomDoubts, totals } =
    parts
  const { steady } = members

  /** Whether somebody here may still ask what was done in this outbox when it is gone. */
  const isInDoubt = (session: string): boolean => {
    const log = logs.get(session)
    return givingUp.isTrying(session) || roomDoubts.has(session) ||
      (log !== undefined && (ownDoubts.has(log) || acks.isInDoubt(log)))
  }

  /** The outbox is gone. If an earlier try removed it and then failed, its result is returned now. */
  const removedBefore = (session: string): Effect.Effect<Removed, MessageQueueError> => {
    // Anything older was another outbox of the same name, or was removed by somebody else.
    const done = removals.take(session, steady() - removalMillis)
    logs.forget(session)
    return done === undefined ? Effect.fail(refuse(session, "remove", "unknownSession")) : Effect.succeed(done)
  }

  /** Whether the removal was done: others may have appended since the read. */
  const removeRead = Effect.fnUntraced(function*(
    session: string,
    { state }: Contents,
    { messages }: Removed
  ): Effect.fn.Return<boolean, StoreError> {
    if (isInDoubt(session)) {
      const fates = yield* call("fates", driver.fates(session, 1, state.last))
      // What was given up since the read is among the messages, and is reported with them.
      const told = new Set(messages.map(({ offset }) => offset))
      gone.note(session, state.epoch, fates.filter(({ first }) => !told.has(first)), steady())
    }
    return yield* call("removeOutbox", driver.removeOutbox(session, state.last, state.revision))
  })

  return Effect.fnUntraced(function*(session: string): Effect.fn.Return<Removed, StoreError | MessageQueueError> {
    const sent = logs.get(session)?.sent
    for (let look = 0; look < maxLooks; look++) {
      const all = yield* reader.readAll(session)
      if (all === undefined) return yield* removedBefore(session)
      const { messages, state } = all
      // If another server delivered from this outbox, what it sent is unknown here.
      const maybeHandled = sent === undefined
        ? messages.length
        : messages.filter(({ offset }) => offset <= sent).length
      const removed: Removed = { messages, maybeHandled, epoch: state.epoch }
      removals.note(session, removed, steady())
      if (!(yield* removeRead(session, all, removed))) continue
      removals.delete(session)
      logs.forget(session)
      totals.left(messages.length, messages.reduce((sum, { bytes }) => sum + bytes, 0))
      appending.wake(session)
      onMoved.tell(session, Infinity)
      // A store that can't nudge the owner just now must hold nobody up: the owner will find out.
      yield* Effect.ignore(members.nudge(state.node, session))
      return removed
    }
    return yield* Effect.fail(new StoreError("remove", new Error("others append all the time")))
  })
}
