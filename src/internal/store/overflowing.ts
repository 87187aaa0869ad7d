/** Appends to a stored queue that has no room: refused, left out, put in line, or put in the place of the oldest. */
import { Duration, Effect } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { MessageQueueError, QueueOverflowError } from "../../WebSocketError.ts"
import { answerTo } from "../bounds/overflow.ts"
import { type Full, isOfAll, overflowError } from "../bounds/queueBounds.ts"
import type { Committed } from "./appendLanes.ts"
import type { Draft } from "./drafts.ts"
import type { StoreError } from "./driver.ts"
import { appendFailed, notTaken, type Outcome, type Settled } from "./outcomes.ts"
import type { QueueParts } from "./queueParts.ts"
import type { Room } from "./room.ts"
import type { Tried, WaitingLines } from "./waitingLines.ts"

/** How often to try to make room by dropping before the queue counts as full. */
const maxRounds = 16

export interface OverflowingOptions {
  readonly parts: QueueParts
  readonly room: Room
  readonly lines: WaitingLines
  readonly committed: Committed
  readonly suspendTimeoutMillis: number
}

/** What comes of a draft that breaks the bound `full`. */
export type Overflowing = (draft: Draft, full: Full) => Effect.Effect<Settled, MessageQueueError | QueueOverflowError>

export const makeOverflowing = (options: OverflowingOptions): Overflowing => {
  const { committed, lines, parts: { bounds, overflow, totals, untold }, room, suspendTimeoutMillis } = options

  /** One try for a sender whose turn it is. */
  const tryAgain = (draft: Draft) =>
    Effect.suspend((): Effect.Effect<Tried<Outcome>, MessageQueueError> => {
      draft.isCalled = true
      if (room.totalFull(draft.session, draft.messages.length, draft.bytes) !== undefined) {
        return Effect.succeed({ _tag: "NoRoom", isTotal: true })
      }
      return Effect.map(
        committed(draft),
        (outcome): Tried<Outcome> =>
          outcome._tag === "Full" || outcome._tag === "Again"
            ? { _tag: "NoRoom", isTotal: false }
            : { _tag: "Done", value: outcome }
      )
    })

  const wait = (draft: Draft, full: Full): Effect.Effect<Outcome, MessageQueueError | QueueOverflowError> => {
    const waiting = lines.wait<Outcome, MessageQueueError>({
      session: draft.session,
      needs: { messages: draft.messages.length, bytes: draft.bytes },
      isTotal: isOfAll(full.limit),
      attempt: tryAgain(draft),
      closed: () => appendFailed(draft, closed)
    })
    if (suspendTimeoutMillis === Infinity) return waiting
    return Effect.timeoutOrElse(waiting, {
      duration: Duration.millis(suspendTimeoutMillis),
      orElse: () => Effect.fail(overflowError(draft.session, full))
    })
  }

  const dropAndAppend = (draft: Draft, full: Full) =>
    Effect.suspend(() => {
      const dropped: Array<OutboxMessage> = []
      let epoch = ""
      const tellLater = Effect.sync(() => {
        if (dropped.length > 0) untold.dropped(draft.session, epoch, dropped.splice(0))
      })
      const attempt: Effect.Effect<Settled, MessageQueueError | QueueOverflowError> = Effect.gen(function*() {
        for (let round = 0; round < maxRounds; round++) {
          const made = yield* Effect.mapError(
            room.dropOldest(draft.session, draft.messages.length, draft.bytes),
            (error) => appendFailed(draft, error)
          )
          if (made === undefined) break
          epoch = made.epoch
          dropped.push(...made.dropped)
          const outcome = yield* committed(draft)
          if (outcome._tag === "Appended") return { outcome, dropped }
          if (outcome._tag === "Full" || outcome._tag === "Again") continue
          yield* tellLater
          return { outcome, dropped: [] }
        }
        return yield* overflowError(draft.session, full)
      })
      // A refused sender gets an error, which can't carry what was dropped for it.
      return Effect.onError(attempt, () => tellLater)
    })

  return (draft, full) => {
    totals.overflowed()
    switch (answerTo(overflow, bounds, draft.messages.length, draft.bytes, draft.bytes)) {
      case "refuse":
        return Effect.fail(overflowError(draft.session, full))
      case "skip":
        return Effect.succeed({ outcome: notTaken, dropped: [] })
      case "wait":
        return Effect.map(wait(draft, full), (outcome) => ({ outcome, dropped: [] }))
      case "dropOldest":
        return dropAndAppend(draft, full)
    }
  }
}

const closed: StoreError = { _tag: "StoreError", operation: "append", cause: new Error("the store is closed") }
