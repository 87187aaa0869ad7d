/**
 * Reads of stored outboxes by their owner: from the cache, else from the store in pages. Messages that are too old, or
 * too large for the peer, are given up on the way.
 */
import { Effect } from "effect"
import type { ReadLimit, ReadResult, Slot } from "../../core/Outbox.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { maxSent as maxSentOf } from "../bounds/overflow.ts"
import type { StoreError } from "./driver.ts"
import type { GivenUp } from "./givingUp.ts"
import { mayReturn } from "./mayReturn.ts"
import type { OwnLogs } from "./ownLogs.ts"
import { refuse } from "./queueFailures.ts"
import type { QueueParts } from "./queueParts.ts"
import type { Served, StoredLog } from "./storedLog.ts"

/** After a conflict with another server the read begins again, at most this often. */
const maxLooks = 16

const nothing: ReadonlyArray<never> = []
const nothingToRead: ReadResult = { slots: nothing, expired: nothing, oversized: nothing, more: false }

export const makeStoredReads = (parts: QueueParts, ownLogs: OwnLogs) => {
  const { bounds, call, driver, logs, members: { now }, overflow, ownDoubts, totals, untold } = parts
  const { load } = ownLogs
  const { touch, tracked } = logs
  const maxSent = maxSentOf(overflow, bounds)
  /** If the policy limits what may be sent, other servers may drop the rest: the store has to know what was sent. */
  const marksSent = maxSent !== Infinity

  const plain = ({ more, slots }: Served): ReadResult => ({ slots, expired: nothing, oversized: nothing, more })
  const sentLimit = (log: StoredLog): number => maxSent === Infinity ? Infinity : maxSent - (log.sent - log.acked)

  const readUnsafe = (session: string, generation: number, after: number, limit: ReadLimit): ReadResult | undefined => {
    const log = logs.get(session)
    if (log?.generation !== generation || marksSent || !log.covers(after) || ownDoubts.has(log)) return undefined
    log.sent = after
    if (after >= log.last) return nothingToRead
    const served = log.serve(after, limit, now(), Infinity)
    if (served.expired.length > 0 || served.oversized.length > 0) return undefined
    touch(log)
    log.sent = endOfSlots(served.slots) ?? after
    return plain(served)
  }

  const read = (log: StoredLog, after: number, limit: ReadLimit) =>
    Effect.suspend(() => {
      const given: Array<GivenUp> = []
      // A caller that gets an error can't be told what was given up before it.
      return Effect.onError(
        readInto(given, log, after, limit),
        () => Effect.sync(() => untold.givenUp(log.session, log.epoch, given))
      )
    })

  const readInto = Effect.fnUntraced(function*(
    given: Array<GivenUp>,
    log: StoredLog,
    after: number,
    limit: ReadLimit
  ): Effect.fn.Return<ReadResult, StoreError | MessageQueueError> {
    const of = (wanted: "expired" | "overflow") =>
      given.filter(({ reason }) => reason === wanted).map(({ message }) => message)
    const result = (slots: ReadonlyArray<Slot>, more: boolean): ReadResult =>
      given.length === 0
        ? { slots, expired: nothing, oversized: nothing, more }
        : { slots, expired: of("expired"), oversized: of("overflow"), more }
    log.sent = after
    for (let look = 0; look < maxLooks; look++) {
      if (!log.covers(after)) yield* load(log, after)
      if (after >= log.last && !ownDoubts.has(log)) return result(nothing, false)
      const at = now()
      const served = log.serve(after, limit, at, sentLimit(log))
      if (served.expired.length > 0 || served.oversized.length > 0 || ownDoubts.has(log)) {
        const { maxMessageBytes = Infinity } = limit
        const fresh = yield* ownLogs.giveUp(log, (messages) =>
          messages.flatMap((message): ReadonlyArray<GivenUp> => {
            if (message.offset <= after) return []
            if (message.expiresAt <= at) return [{ reason: "expired", message }]
            return message.bytes > maxMessageBytes ? [{ reason: "overflow", message }] : []
          }))
        given.push(...fresh)
        totals.expired(fresh.filter(({ reason }) => reason === "expired").length)
        continue
      }
      if (served.next !== undefined && look < maxLooks - 1) {
        yield* load(log, served.next)
        continue
      }
      const sent = endOfSlots(served.slots) ?? after
      if (marksSent && served.slots.length > 0) {
        const { generation, revision, session } = log
        const outcome = yield* call("markSent", driver.markSent({ session, generation, revision, sent }))
        if (outcome._tag === "Fenced") return yield* refuse(session, "read", "fenced")
        if (outcome._tag === "Missing") {
          if (!(yield* mayReturn(parts, session))) return yield* refuse(session, "read", "unknownSession")
          continue // it has been put back; the cached messages may be only here
        }
        if (outcome._tag === "Conflict") {
          tracked(log, () => log.forget())
          yield* load(log, after)
          continue
        }
        log.revision = outcome.revision
      }
      touch(log)
      log.sent = sent
      return result(served.slots, served.more)
    }
    // What was given up must be reported even so.
    return result(nothing, true)
  })

  return { read, readUnsafe }
}

const endOfSlots = (slots: ReadonlyArray<Slot>): number | undefined => {
  const last = slots[slots.length - 1]
  return last === undefined ? undefined : last.kind === "gap" ? last.end : last.offset
}
