/**
 * Group commit of appends: what many senders append at once is committed together, in lanes by session. A batch whose
 * outcome is unknown is tried again under the same stamp, so that it is done once.
 */
import { Duration, Effect, Schedule } from "effect"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { waitsForRoom } from "../bounds/overflow.ts"
import { fullJitter } from "../kit/backoff.ts"
import { appendBatch } from "./appendBatch.ts"
import { makeBatcher } from "./batcher.ts"
import type { Draft, Drafts } from "./drafts.ts"
import type { StoreError } from "./driver.ts"
import { mayReturn } from "./mayReturn.ts"
import type { Stamp } from "./outboxes.ts"
import { again, appendFailed, type Outcome } from "./outcomes.ts"
import type { QueueParts } from "./queueParts.ts"
import type { Room } from "./room.ts"
import type { WaitingLines } from "./waitingLines.ts"

/** The most that one commit takes. */
const maxBatchRequests = 4_096
const maxBatchBytes = 8 * 1024 * 1024
/** How often, and how long each time, a sender waits for an outbox's owner after the store lost its newest part. */
const maxWaits = 40
const waitMillis = 50

export interface AppendLanesOptions {
  readonly parts: QueueParts
  readonly drafts: Drafts
  readonly room: Room
  readonly lines: WaitingLines
  readonly lanes: number
  readonly appendTimeoutMillis: number
}

type Lane = (draft: Draft) => Effect.Effect<Outcome, StoreError>

/** Commits a draft, together with others. */
export type Committed = (draft: Draft) => Effect.Effect<Outcome, MessageQueueError>

export const makeAppendLanes = Effect.fnUntraced(function*(options: AppendLanesOptions) {
  const { lanes, parts } = options
  const laneOf: Array<Lane> = []
  for (let i = 0; i < lanes; i++) laneOf.push(yield* makeLane(options, i))

  /**
   * The store may have lost its newest part. If the outbox has an owner, that owner says how far it goes, or puts it
   * back: the append is tried again after that, or after a while.
   */
  const awaitOwner = (draft: Draft, isThere: boolean): Effect.Effect<Outcome, MessageQueueError> => {
    draft.waits = isThere && draft.waits < maxWaits ? draft.waits + 1 : Infinity
    draft.alone = true
    return Effect.andThen(isThere ? Effect.sleep(Duration.millis(waitMillis)) : Effect.void, committed(draft))
  }

  const committed: Committed = (draft) =>
    Effect.flatMap(committedOnce(draft), (outcome) => {
      const { _tag } = outcome
      if (_tag !== "Unsettled" && (_tag !== "Missing" || draft.waits >= maxWaits)) return Effect.succeed(outcome)
      const asked = _tag === "Missing"
        ? mayReturn(parts, draft.session)
        : parts.tail.askOwner(draft.session, outcome.node)
      return Effect.flatMap(
        Effect.mapError(asked, (error) => appendFailed(draft, error)),
        (isThere) => _tag === "Missing" && !isThere ? Effect.succeed(outcome) : awaitOwner(draft, isThere)
      )
    })

  const committedOnce: Committed = (draft) => {
    const lane = laneOf[lanes === 1 ? 0 : hash(draft.session) % lanes] as Lane // in bounds
    return Effect.mapError(lane(draft), (error) => appendFailed(draft, error))
  }

  return committed
})

const makeLane = Effect.fnUntraced(function*(options: AppendLanesOptions, index: number) {
  const { appendTimeoutMillis, drafts, lines, parts, room } = options
  const { call, doubtful, driver, logs, members: { node }, overflow } = parts

  const runAs = (writer: string) => {
    let sequence = 0
    return (batch: ReadonlyArray<Draft>, isWanted: () => boolean) =>
      run(batch, { writer, sequence: ++sequence }, isWanted)
  }

  const run = (batch: ReadonlyArray<Draft>, stamp: Stamp, isWanted: () => boolean) => {
    const setInDoubt = (inDoubt: boolean) => batch.forEach((draft) => (draft.inDoubt = inDoubt))
    // The batch is tried for as long as anybody in it waits, even if others have given up.
    setInDoubt(true)
    const appended = appendBatch(
      parts,
      drafts,
      batch,
      (requests) =>
        call("append", driver.append(requests, stamp, node)).pipe(
          // The same stamp each time: the batch is done once, whatever became of earlier tries.
          Effect.retry({ schedule: appendRetry, while: isWanted }),
          Effect.tap(() => Effect.sync(() => setInDoubt(false)))
        ),
      (tellAll) => tellAll
    )
    // The store may have done it all the same, and then nobody here was told.
    const noteDoubts = () => {
      for (const { session } of batch) if (logs.get(session) !== undefined) doubtful.note(session)
    }
    return Effect.onError(appended, () => Effect.sync(noteDoubts))
  }

  const runNow = runAs(`${node}/${index}`)

  /**
   * Whether the draft must wait: others of its session are already waiting for room and it is not called, or there is
   * no room in all outboxes together.
   */
  const hasToWait = ({ bytes, isCalled, messages, session }: Draft): boolean =>
    !isCalled && (lines.has(session) || room.totalFull(session, messages.length, bytes) !== undefined)

  /** Leaves out those that have to wait. */
  const runInOrder = (all: ReadonlyArray<Draft>, isWanted: () => boolean) => {
    const batch = all.filter((draft) => !hasToWait(draft))
    if (batch.length === all.length) return runNow(all, isWanted)
    const done = batch.length === 0 ? Effect.succeed([]) : runNow(batch, isWanted)
    return Effect.map(done, (outcomes) => {
      let next = 0
      return all.map((draft) => draft === batch[next] ? outcomes[next++] as Outcome : again) // one for each
    })
  }

  return yield* makeBatcher<Draft, Outcome>({
    name: "append",
    maxBatch: maxBatchRequests,
    weigh: (draft) => draft.bytes,
    maxWeight: maxBatchBytes,
    limit: { millis: appendTimeoutMillis, late: notInTime(appendTimeoutMillis) },
    run: waitsForRoom(overflow) ? runInOrder : runNow,
    aside: {
      keyOf: ({ session }) => session,
      isLocked: ({ _tag }) => _tag === "Locked",
      run: runAs(`${node}/${index}/aside`)
    }
  })
})

/** A batch that failed is tried again soon; the circuit and each sender's own limit keep that within bounds. */
const appendRetry: Schedule.Schedule<unknown, unknown> = fullJitter(50, 2_000)

const notInTime = (millis: number): StoreError => ({
  _tag: "StoreError",
  operation: "append",
  cause: new Error(`not stored within ${millis} ms`)
})

/** FNV-1a, 32 bits. */
const hash = (text: string): number => {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return value >>> 0
}
