/** The end of a stored outbox: what was in it comes back, once, even if the store fails after it has removed it. */
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

/** Others may append meanwhile, or give up: it is looked at again, this often at most. */
const maxLooks = 16

export const makeRemoving = (parts: QueueParts, appending: Appending, acks: StoredAcks) => {
  const { call, driver, givingUp, gone, logs, members, onMoved, ownDoubts, reader, removals, roomDoubts, totals } =
    parts
  const { steady } = members

  /** Whether somebody here may ask later what was done in this outbox, though it is gone by then. */
  const isInDoubt = (session: string): boolean => {
    const log = logs.get(session)
    return givingUp.isTrying(session) || roomDoubts.has(session) ||
      (log !== undefined && (ownDoubts.has(log) || acks.isInDoubt(log)))
  }

  /** It is gone: by our own hand if an earlier try has failed after it was done. */
  const removedBefore = (session: string): Effect.Effect<Removed, MessageQueueError> => {
    // Later it was another outbox of the same name, or somebody else who removed it.
    const done = removals.take(session, steady() - removalMillis)
    logs.forget(session)
    return done === undefined ? Effect.fail(refuse(session, "remove", "unknownSession")) : Effect.succeed(done)
  }

  /** Whether it was done: others may have appended since it was read. */
  const removeRead = Effect.fnUntraced(function*(
    session: string,
    { state }: Contents,
    { messages }: Removed
  ): Effect.fn.Return<boolean, StoreError> {
    if (isInDoubt(session)) {
      const fates = yield* call("fates", driver.fates(session, 1, state.last))
      // What was given up since the look is among the messages, and told of with them.
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
      // Of an outbox that others have delivered from it is not known what they sent.
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
      // Nobody is held up by a store that can't tell the owner just now: it will find out.
      yield* Effect.ignore(members.nudge(state.node, session))
      return removed
    }
    return yield* Effect.fail(new StoreError("remove", new Error("others append all the time")))
  })
}
