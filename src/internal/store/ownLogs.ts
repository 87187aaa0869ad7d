/** Stored outboxes as their owner uses them: ownership, pages for their caches, and messages that it gives up. */
import { Effect } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import { MessageQueueError } from "../../WebSocketError.ts"
import { StoreError } from "./driver.ts"
import type { GivenUp } from "./givingUp.ts"
import { mayReturn } from "./mayReturn.ts"
import type { Page } from "./outboxReader.ts"
import { refuse, storeFailed } from "./queueFailures.ts"
import type { QueueParts } from "./queueParts.ts"
import type { StoredLog } from "./storedLog.ts"

export type OwnLogs = ReturnType<typeof makeOwnLogs>

export const makeOwnLogs = (parts: QueueParts) => {
  const { givingUp, logs, members, moved, ownDoubts, reader: { readPage }, tail } = parts
  const { schedule, tracked } = logs

  /** The log, if it is of this generation as far as this server knows. */
  const ownLog = (session: string, generation: number, operation: string): StoredLog | MessageQueueError => {
    const log = logs.get(session)
    if (log === undefined) return refuse(session, operation, "unknownSession")
    return log.generation === generation ? log : refuse(session, operation, "fenced")
  }

  /** Runs `use` if this generation owns the session. */
  const owning = <A>(
    session: string,
    generation: number,
    operation: string,
    use: (log: StoredLog) => Effect.Effect<A, StoreError | MessageQueueError>
  ): Effect.Effect<A, MessageQueueError> =>
    Effect.suspend(() => {
      const log = ownLog(session, generation, operation)
      if (log instanceof MessageQueueError) return Effect.fail(log)
      return Effect.mapError(use(log), (error) => {
        if (error._tag === "StoreError") return storeFailed(session, operation)(error)
        if (error.reason === "fenced" && log.generation === generation) moved.note(log, members.steady())
        return error
      })
    })

  /** Reads a page into the log's cache. */
  const load = Effect.fnUntraced(
    function*(log: StoredLog, after: number): Effect.fn.Return<Page, StoreError | MessageQueueError> {
      const { acked, reach } = log
      let page = yield* readPage(log.session, after)
      if (page === undefined && (yield* mayReturn(parts, log.session))) page = yield* readPage(log.session, after)
      if (page === undefined) return yield* refuse(log.session, "read", "unknownSession")
      if (page.state.generation > log.generation) return yield* refuse(log.session, "read", "fenced")
      if (tail.isBehind(log, { acked, reach }, page.state)) {
        yield* tail.settle(log, after)
        page = (yield* readPage(log.session, after)) ?? page
      }
      const { chunks, slots, state } = page
      tracked(log, () => {
        log.refresh(state)
        log.loaded(slots, chunks)
      })
      schedule(log)
      return page
    }
  )

  /** Gives up the messages that `pick` names, and empties the log's cache. */
  const giveUp = Effect.fnUntraced(function*(
    log: StoredLog,
    pick: (messages: ReadonlyArray<OutboxMessage>) => ReadonlyArray<GivenUp>
  ): Effect.fn.Return<ReadonlyArray<GivenUp>, StoreError | MessageQueueError> {
    const { generation, session } = log
    const doubts = ownDoubts.of(log)
    const result = yield* givingUp.giveUp({ session, generation, doubts, pick, settlesExpiry: true })
    tracked(log, () => log.forget())
    if (result === "fenced") return yield* refuse(log.session, "giveUp", "fenced")
    if (result === "missing") return yield* refuse(log.session, "giveUp", "unknownSession")
    if (result === "refused") return []
    if (result === "busy") {
      return yield* Effect.fail(new StoreError("giveUp", new Error("others change the outbox all the time")))
    }
    log.expiresAt = result.state.expiresAt
    if (log.scheduledAt !== log.expiresAt) log.scheduledAt = Infinity
    log.revision = result.state.revision
    log.gaveUp(result.given.map(({ message }) => message))
    logs.count(log)
    schedule(log)
    return result.given
  })

  return { owning, load, giveUp }
}
