/** The sweep of stored outboxes: gives up what is too old, and tells what was given up when something failed. */
import { Effect, Exit } from "effect"
import type { Expired } from "../../MessageQueue.ts"
import type { StoreError } from "./driver.ts"
import type { Doubts, GivenUp } from "./givingUp.ts"
import type { OwnLogs } from "./ownLogs.ts"
import { storeFailed } from "./queueFailures.ts"
import type { QueueParts } from "./queueParts.ts"
import type { StoredAcks } from "./storedAcks.ts"
import type { StoredLog } from "./storedLog.ts"
import { expiredOf } from "./untold.ts"

export const makeExpiring = (parts: QueueParts, ownLogs: OwnLogs, acks: StoredAcks) => {
  const { givingUp: { giveUp }, gone, logs, members: { now }, onAppend, ownDoubts, roomDoubts, totals, untold } = parts

  /** Finds out what became of messages that were being given up when the store failed, if nothing has asked since. */
  const settleDoubts = Effect.fnUntraced(function*(session: string, doubts: Doubts, result: Array<Expired>) {
    const settled = yield* giveUp({ session, generation: undefined, doubts, pick: () => [], settlesExpiry: false })
    // What is left is certain: it was given up, and there is nothing more to learn of it.
    const given = typeof settled === "string" ? doubts.take() : settled.given
    const epoch = (typeof settled === "string" ? gone.epochOf(session) : settled.state.epoch) ?? ""
    for (const one of given) result.push(expiredOf(session, epoch, one))
  })

  const settleAllDoubts = Effect.fnUntraced(function*(result: Array<Expired>) {
    for (const log of ownDoubts.keys()) yield* settleDoubts(log.session, ownDoubts.of(log), result)
    for (const session of roomDoubts.keys()) yield* settleDoubts(session, roomDoubts.of(session), result)
    yield* acks.settleFailures(({ epoch, session }, message, reason) =>
      void result.push({ session, epoch, reason, messages: [message] })
    )
  })

  const sweep = (log: StoredLog, at: number, result: Array<Expired>): Effect.Effect<void, StoreError> => {
    const tooOld = ownLogs.giveUp(
      log,
      (messages) =>
        messages.flatMap((message): ReadonlyArray<GivenUp> =>
          message.expiresAt <= at && message.offset > log.sent ? [{ reason: "expired", message }] : []
        )
    )
    return Effect.matchEffect(tooOld, {
      onFailure: (error) => {
        // A session that moved away or ended is for others to take care of.
        if (error._tag !== "StoreError") return Effect.void
        logs.schedule(log)
        return Effect.fail(error)
      },
      onSuccess: (given) =>
        Effect.sync(() => {
          if (given.length === 0) return
          totals.expired(given.length)
          result.push({ session: log.session, epoch: log.epoch, messages: given.map(({ message }) => message) })
          onAppend.tell(log.session) // the owner has a gap to tell
        })
    })
  }

  return Effect.fnUntraced(function*(owns: (session: string) => boolean) {
    const at = now()
    const result = untold.take()
    const due = logs.takeDue(at)
    const own = due.filter((log) => owns(log.session))
    for (const log of due) if (!owns(log.session)) logs.schedule(log)
    const scheduleAll = Effect.sync(() => own.forEach(logs.schedule))
    const exit = yield* Effect.exit(
      Effect.forEach(own, (log) => Effect.tapError(sweep(log, at, result), () => scheduleAll), {
        concurrency: 16,
        discard: true
      })
    )
    if (Exit.isSuccess(exit)) yield* Effect.ignore(settleAllDoubts(result))
    // A failure must not hide what was given up.
    if (exit._tag === "Failure" && result.length === 0) {
      yield* Effect.mapError(exit, storeFailed("", "expire"))
    }
    return result
  })
}
