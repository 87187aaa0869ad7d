/** Appends to a stored queue, as senders call them: within bounds, by publish key, in the sender's transaction. */
import { Effect } from "effect"
import type { Appended, AppendedOnce, NewMessage } from "../../MessageQueue.ts"
import { DeduplicationError, type MessageQueueError, type QueueOverflowError } from "../../WebSocketError.ts"
import { neverFits, waitsForRoom } from "../bounds/overflow.ts"
import { type Full, fullBy, overflowError, payloadBytes } from "../bounds/queueBounds.ts"
import { appendBatch } from "./appendBatch.ts"
import { type Committed, makeAppendLanes } from "./appendLanes.ts"
import { type Draft, type DraftOptions, type Drafts, makeDrafts, type PublishOnce } from "./drafts.ts"
import type { StoreError } from "./driver.ts"
import { appendedOf, appendFailed, type Outcome, type Settled } from "./outcomes.ts"
import { makeOverflowing, type Overflowing } from "./overflowing.ts"
import { refuse } from "./queueFailures.ts"
import type { QueueParts } from "./queueParts.ts"
import { Room } from "./room.ts"
import { unstorable } from "./texts.ts"
import { makeWaitingLines, type WaitingLines } from "./waitingLines.ts"

export interface AppendingOptions {
  readonly parts: QueueParts
  readonly lanes: number
  readonly ttlMillis: number
  readonly suspendTimeoutMillis: number
  readonly appendTimeoutMillis: number
  readonly keys: DraftOptions["keys"]
}

export type Appending = Effect.Success<ReturnType<typeof makeAppending>>

export const makeAppending = Effect.fnUntraced(function*(options: AppendingOptions) {
  const { appendTimeoutMillis, keys, lanes, parts, suspendTimeoutMillis, ttlMillis } = options
  const { bounds, members: { now }, tail } = parts
  const room = new Room(parts)
  const lines = yield* makeWaitingLines({ room: (session) => room.of(session) })
  const drafts = makeDrafts({ ttlMillis, bounds, keys, known: tail.known })
  const committed = yield* makeAppendLanes({ parts, drafts, room, lines, lanes, appendTimeoutMillis })
  const overflowing = makeOverflowing({ parts, room, lines, committed, suspendTimeoutMillis })
  const settled = makeSettled({ parts, drafts, room, lines, committed, overflowing, keys })

  const append = (
    session: string,
    messages: ReadonlyArray<NewMessage>
  ): Effect.Effect<Appended, MessageQueueError | QueueOverflowError> =>
    Effect.suspend(() =>
      Effect.flatMap(
        settled(draftOf(session, messages, undefined)),
        (done) =>
          done.outcome._tag === "Missing"
            ? Effect.fail(refuse(session, "append", "unknownSession"))
            : Effect.succeed(appendedOf(done, now()))
      )
    )

  const appendOnce = (
    session: string,
    message: NewMessage & { readonly id: string },
    fingerprint: string
  ): Effect.Effect<AppendedOnce, MessageQueueError | QueueOverflowError | DeduplicationError> =>
    Effect.suspend(() => {
      const key = { scope: session, key: message.id }
      return Effect.flatMap(
        settled(draftOf(session, [message], { id: message.id, fingerprint })),
        (done): Effect.Effect<AppendedOnce, MessageQueueError | DeduplicationError> => {
          const { outcome } = done
          switch (outcome._tag) {
            case "Missing":
              return Effect.fail(refuse(session, "append", "unknownSession"))
            case "Duplicate":
              return Effect.succeed({ _tag: "Duplicate", receipt: outcome.receipt })
            case "Mismatch":
              return Effect.fail(new DeduplicationError({ ...key, reason: "mismatch" }))
            case "InFlight": {
              const retryAfterMillis = Math.max(0, outcome.until - now())
              return Effect.fail(new DeduplicationError({ ...key, reason: "inFlight", retryAfterMillis }))
            }
            case "KeysFull":
              return Effect.fail(new DeduplicationError({ ...key, reason: "full" }))
            default:
              return Effect.succeed({ _tag: "Appended", appended: appendedOf(done, now()) })
          }
        }
      )
    })

  return {
    append,
    appendOnce,
    wake: (session: string): void => lines.wake(session),
    suspended: (): number => lines.suspended()
  }
})

const draftOf = (
  session: string,
  messages: ReadonlyArray<NewMessage>,
  publish: PublishOnce | undefined
): Draft => ({
  session,
  messages,
  bytes: payloadBytes(messages),
  publish,
  alone: false,
  isCalled: false,
  waits: 0,
  inDoubt: false
})

type Settling = Effect.Effect<Settled, MessageQueueError | QueueOverflowError>

/** What a draft comes to in the end: appended, refused, or found to have been appended before. */
const makeSettled = (options: {
  readonly parts: QueueParts
  readonly drafts: Drafts
  readonly room: Room
  readonly lines: WaitingLines
  readonly committed: Committed
  readonly overflowing: Overflowing
  readonly keys: AppendingOptions["keys"]
}) => {
  const { committed, drafts, keys, lines, overflowing, parts, room } = options
  const { bounds, call, driver, members: { node, now }, overflow, totals } = parts
  const lineUp = waitsForRoom(overflow)
  /** Other senders of the session already wait. */
  const inLine = fullBy(bounds, "messages", bounds.maxMessages)

  /** The bound on all outboxes together that the draft would break. */
  const exceedsTotal = ({ bytes, messages, session }: Draft): Full | undefined =>
    room.totalFull(session, messages.length, bytes)

  /** The session's bound, as the store found it. */
  const fullOf = (outcome: Outcome & { readonly _tag: "Full" }): Full =>
    fullBy(bounds, outcome.limit, outcome[outcome.limit])

  /** A message already sent under the same key is not new: it is a duplicate even when there is no room. */
  const unlessDone = (draft: Draft, { id }: PublishOnce, otherwise: Settling): Settling => {
    const target = { scope: draft.session, key: id }
    const lookup = call("lookupKey", driver.lookupKey(target, now() - keys.windowMillis()))
    return Effect.flatMap(
      Effect.mapError(lookup, (error) => appendFailed(draft, error)),
      (receipt) =>
        receipt === undefined
          ? otherwise
          : Effect.succeed<Settled>({ outcome: { _tag: "Duplicate", receipt }, dropped: [] })
    )
  }

  const settle = (draft: Draft): Settling =>
    Effect.suspend(() => {
      const { bytes, messages, session } = draft
      const known = room.ownFull(session, messages.length, bytes) ?? exceedsTotal(draft)
      if (lineUp) {
        // Nobody overtakes a sender that waits, or one that began earlier and may have to wait.
        if (lines.has(session)) return overflowing(draft, inLine)
        if (known !== undefined && neverFits(bounds, messages.length, bytes, bytes)) return overflowing(draft, known)
      } else if (known !== undefined) {
        const refused = overflowing(draft, known)
        return draft.publish === undefined ? refused : unlessDone(draft, draft.publish, refused)
      }
      return Effect.flatMap(committed(draft), (outcome) => {
        if (outcome._tag === "Again") {
          if (lineUp) return overflowing(draft, exceedsTotal(draft) ?? inLine)
          draft.alone = true
          return settle(draft)
        }
        if (outcome._tag !== "Full") return Effect.succeed({ outcome, dropped: [] })
        return overflowing(draft, fullOf(outcome))
      })
    })

  /** In the caller's transaction, which can't wait for room. */
  const settleInTransaction = (draft: Draft): Settling =>
    Effect.suspend(() => {
      draft.waits = Infinity
      const total = exceedsTotal(draft)
      if (total !== undefined) return Effect.fail(overflowError(draft.session, total))
      const afterCommit = driver.transaction?.afterCommit ?? ((effect: Effect.Effect<void>) => effect)
      const append = appendBatch(parts, drafts, [draft], (all) => driver.append(all, undefined, node), afterCommit)
      return append.pipe(
        Effect.mapError((error) => appendFailed(draft, error)),
        Effect.flatMap(([outcome]): Settling => {
          if (outcome === undefined || outcome._tag === "Again") return Effect.die("a draft without an outcome")
          // A failure, not a result: the transaction must not commit without this message.
          if (outcome._tag === "Unsettled" || outcome._tag === "Locked") {
            return Effect.fail(appendFailed(draft, notNow))
          }
          if (outcome._tag !== "Full") return Effect.succeed({ outcome, dropped: [] })
          totals.overflowed()
          return Effect.fail(overflowError(draft.session, fullOf(outcome)))
        })
      )
    })

  const isInTransaction = driver.transaction?.isOpen ?? Effect.succeed(false)

  return (draft: Draft): Settling => {
    const refused = unstorable("append", draft.session, draft.publish?.id)
    if (refused !== undefined) return Effect.fail(appendFailed(draft, refused))
    return driver.transaction === undefined
      ? settle(draft)
      : Effect.flatMap(isInTransaction, (isOpen) => isOpen ? settleInTransaction(draft) : settle(draft))
  }
}

/** In a transaction nobody can wait for the owner. */
const notNow: StoreError = {
  _tag: "StoreError",
  operation: "append",
  cause: new Error("the store was started anew, and may have lost its newest part: try again in a moment")
}
