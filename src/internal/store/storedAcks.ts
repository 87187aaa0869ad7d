/** Acks of stored outboxes: those of many sessions are stored together; failures become dead letters. */
import { Effect } from "effect"
import type { Failure } from "../../core/Frame.ts"
import type { AckResult, OutboxMessage } from "../../core/Outbox.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import type { Appending } from "./appending.ts"
import { makeBatcher } from "./batcher.ts"
import type { StoreError } from "./driver.ts"
import { mayReturn } from "./mayReturn.ts"
import type { AckOutcome, AckRequest, Fate } from "./outboxes.ts"
import { refuse } from "./queueFailures.ts"
import type { QueueParts } from "./queueParts.ts"
import type { Failing, StoredLog } from "./storedLog.ts"

export type StoredAcks = Effect.Success<ReturnType<typeof makeStoredAcks>>

/** How often an outbox is settled for an ack: the store may restart again before the ack is stored. */
const maxTries = 3

export const makeStoredAcks = Effect.fnUntraced(function*(parts: QueueParts, appending: Appending) {
  const { call, driver, gone, logs, moved, reader: { readFates }, tail, totals } = parts

  const ackAll = (requests: ReadonlyArray<AckRequest>) => call("ack", driver.ack(requests))
  const ackBatch = yield* makeBatcher<AckRequest, AckOutcome>({
    name: "ack",
    maxBatch: 1_024,
    run: ackAll,
    aside: { keyOf: ({ session }) => session, isLocked: ({ _tag }) => _tag === "Locked", run: ackAll }
  })

  /** Logs with failures that may or may not be stored, and the generation that had the log then. */
  const inDoubt = new Map<StoredLog, number>()

  /**
   * Failures whose ack had no answer, in outboxes that this server no longer has. The new owner finds those messages
   * done with, so the stored ones are reported here. In outboxes that this server still has, the ack is tried again.
   */
  const settleFailures = Effect.fnUntraced(function*(
    report: (log: StoredLog, message: OutboxMessage, reason: Fate["reason"]) => void
  ): Effect.fn.Return<void, StoreError> {
    for (const [log, generation] of inDoubt) {
      const isOwn = logs.get(log.session) === log && !moved.has(log)
      if (isOwn && log.generation === generation) continue
      const { failing } = log
      if (failing === undefined) {
        inDoubt.delete(log)
        continue
      }
      const offsets = [...failing.keys()]
      const stored = yield* readFates(log.session, offsets)
      inDoubt.delete(log)
      log.failing = undefined
      for (const { at, first, reason } of [...stored, ...gone.of(log.session)]) {
        const failed = failing.get(first)
        if (failed === undefined || failed.at !== at) continue
        failing.delete(first)
        report(log, failed.message, reason)
      }
    }
  })

  const ack = Effect.fnUntraced(function*(
    log: StoredLog,
    upTo: number,
    failed: ReadonlyArray<Failure>
  ): Effect.fn.Return<AckResult, StoreError | MessageQueueError> {
    const { generation, session } = log
    const failing = failed.length === 0 ? undefined : yield* loadFailing(parts, log, failed)
    if (failing !== undefined && failing.size > 0) inDoubt.set(log, generation)
    const fates = failed.flatMap(([offset, reason]): ReadonlyArray<Fate> => {
      // For a message already done with, whoever did that has noted its fate, and knows it by its time.
      const at = failing?.get(offset)?.at
      return at === undefined ? [] : [{ first: offset, end: offset, reason, maybeHandled: false, at }]
    })
    let outcome = yield* ackBatch({ session, generation, upTo, fates })
    const isLost = outcome._tag === "Missing" && (yield* mayReturn(parts, session))
    if (isLost || outcome._tag === "Unsettled") {
      for (let tries = 0; tries < maxTries; tries++) {
        yield* tail.settle(log, upTo)
        outcome = yield* ackBatch({ session, generation, upTo, fates })
        if (outcome._tag !== "Unsettled") break
      }
    }
    if (outcome._tag === "Fenced") return yield* refuse(session, "ack", "fenced")
    if (outcome._tag !== "Acked") return yield* refuse(session, "ack", "unknownSession")
    const { lost, released } = outcome
    if (lost !== undefined) tail.note(session, lost)
    log.noted(fates)
    const bytesBefore = log.bytes
    const newest = logs.tracked(log, () => log.acknowledged(upTo, released))
    totals.acknowledged(released, Math.max(0, bytesBefore - log.bytes))
    if (released > 0) appending.wake(session)
    const dead: Array<{ message: OutboxMessage; reason: Failure[1] }> = []
    for (const [offset, reason] of failed) {
      const message = failing?.get(offset)?.message
      if (message === undefined) continue
      failing?.delete(offset)
      dead.push({ message, reason })
    }
    if (failing?.size === 0) {
      log.failing = undefined
      inDoubt.delete(log)
    }
    return { released, newestEnqueuedAt: newest?.enqueuedAt, failed: dead }
  })

  return { ack, settleFailures, isInDoubt: (log: StoredLog): boolean => inDoubt.has(log) }
})

/**
 * The messages that the peer could not handle. They are kept until the ack is stored, as it removes them from the
 * store.
 */
const loadFailing = Effect.fnUntraced(function*(
  { members, reader }: QueueParts,
  log: StoredLog,
  failed: ReadonlyArray<Failure>
): Effect.fn.Return<Failing, StoreError | MessageQueueError> {
  log.failing ??= new Map()
  const { failing } = log
  const at = members.now()
  for (const [offset] of failed) {
    if (offset <= log.acked || failing.has(offset)) continue
    const message = log.messageAt(offset)
    if (message !== undefined) {
      failing.set(offset, { message, at })
      continue
    }
    const page = yield* reader.readPage(log.session, offset - 1)
    if (page === undefined) return yield* refuse(log.session, "ack", "unknownSession")
    const [slot] = page.slots
    if (slot?.kind === "message" && slot.offset === offset) failing.set(offset, { message: slot, at })
  }
  return failing
})
