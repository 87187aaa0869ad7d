/** One batch of drafts: its requests to the store, what came of each, and who learns what was appended. */
import { Effect } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { Draft, Drafts, Unit } from "./drafts.ts"
import type { StoreError } from "./driver.ts"
import type { AppendRequest, AppendResult } from "./outboxes.ts"
import { again, type Outcome } from "./outcomes.ts"
import type { QueueParts } from "./queueParts.ts"
import type { Extent } from "./storedLog.ts"

/** Appends the drafts with `append` and gives each draft's outcome. `onDone` decides when others are told. */
export const appendBatch = (
  parts: QueueParts,
  { requestsOf, ttlOf, unite }: Drafts,
  drafts: ReadonlyArray<Draft>,
  append: (requests: ReadonlyArray<AppendRequest>) => Effect.Effect<ReadonlyArray<AppendResult>, StoreError>,
  onDone: (tellAll: Effect.Effect<void>) => Effect.Effect<void>
): Effect.Effect<ReadonlyArray<Outcome>, StoreError> =>
  Effect.suspend(() => {
    const at = parts.members.now()
    const units = unite(drafts)
    const requests = units.map((unit) => requestsOf(unit, at))
    return Effect.flatMap(append(requests.flat()), (results) => {
      const outcomes: Array<Outcome> = []
      const tellings: Array<() => void> = []
      let index = 0
      units.forEach((unit, u) => {
        const chunks = requests[u] as ReadonlyArray<AppendRequest> // one for each
        const result = results[index] as AppendResult // one for each
        index += chunks.length
        if (result._tag !== "Appended") {
          const isShared = unit.drafts.length > 1 && result._tag === "Full"
          for (const draft of unit.drafts) outcomes[draft] = isShared ? again : result
          return
        }
        let { first } = result
        if (result.lost !== undefined) parts.tail.note(unit.first.session, result.lost)
        tellings.push(() => {
          const messages = messagesOf(unit, result.first, at, ttlOf)
          tell(parts, unit.first.session, result.epoch, messages, chunks)
        })
        for (const draft of unit.drafts) {
          outcomes[draft] = { _tag: "Appended", epoch: result.epoch, first, at }
          first += (drafts[draft] as Draft).messages.length // within this batch
        }
      })
      return Effect.as(onDone(Effect.sync(() => tellings.forEach((tellOne) => tellOne()))), outcomes)
    })
  })

/** The unit's messages as they are in the outbox, from offset `first` on. */
const messagesOf = (
  { messages }: Unit,
  first: number,
  at: number,
  ttlOf: Drafts["ttlOf"]
): ReadonlyArray<OutboxMessage> =>
  messages.map((message, index): OutboxMessage => ({
    kind: "message",
    offset: first + index,
    payload: message.payload,
    bytes: message.bytes,
    id: message.id,
    trace: message.trace,
    enqueuedAt: at,
    expiresAt: at + ttlOf(message)
  }))

/** Tells the totals, the log and the listeners what was appended, and in which chunks. */
const tell = (
  { logs, onAppend, tail, totals }: QueueParts,
  session: string,
  epoch: string,
  messages: ReadonlyArray<OutboxMessage>,
  chunks: ReadonlyArray<AppendRequest>
): void => {
  let offset = messages[0]?.offset ?? 0
  let expiresAt = Infinity
  let allBytes = 0
  const extents = chunks.map(({ bytes, count, expiresAt: chunkExpiresAt }): Extent => {
    expiresAt = Math.min(expiresAt, chunkExpiresAt)
    allBytes += bytes
    const extent = { first: offset, last: offset + count - 1, bytes }
    offset += count
    return extent
  })
  totals.appended(messages.length, allBytes)
  const log = logs.get(session)
  tail.noteAppended(session, epoch, messages[messages.length - 1]?.offset ?? 0)
  if (log !== undefined && log.epoch === epoch) {
    logs.tracked(log, () => log.appended(messages, extents, expiresAt))
    logs.schedule(log)
  }
  onAppend.tell(session)
}
