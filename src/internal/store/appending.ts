/**
 * Appends to a stored queue: what many senders append at once is committed together, bounds and overflow policies are
 * kept, and a batch whose outcome is not known is tried again under the same stamp, so that it is done once.
 */
import { Duration, Effect, Schedule } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { Receipt } from "../../Deduplicator.ts"
import type { Appended, AppendedOnce, NewMessage, OverflowPolicy } from "../../MessageQueue.ts"
import { DeduplicationError, MessageQueueError, QueueOverflowError } from "../../WebSocketError.ts"
import { fullJitter } from "../kit/backoff.ts"
import { makeBatcher } from "./batcher.ts"
import type { Calls } from "./calls.ts"
import { type Draft, type DraftOptions, makeDrafts, type PublishOnce, type Unit } from "./drafts.ts"
import type { AppendRequest, AppendResult, Stamp, StoreDriver, StoreError } from "./driver.ts"
import type { Extent } from "./storedLog.ts"
import { unstorable } from "./texts.ts"
import { makeWaitingLines, type Tried, type WaitingLinesOptions } from "./waitingLines.ts"

/** What one commit takes at most. */
const maxBatchRequests = 4_096
const maxBatchBytes = 8 * 1024 * 1024
/** How often and how long a sender waits for the owner of an outbox after the store has lost its newest part. */
const maxWaits = 40
const waitMillis = 50
/** How often making room by dropping is tried before the queue counts as full. */
const maxRounds = 16

export interface AppendingOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly node: string
  readonly now: () => number
  readonly lanes: number
  readonly ttlMillis: number
  readonly overflow: OverflowPolicy
  readonly suspendTimeoutMillis: number
  readonly appendTimeoutMillis: number
  readonly bounds: {
    readonly maxMessages: number
    readonly maxBytes: number
    readonly maxTotalMessages: number
    readonly maxTotalBytes: number
  }
  readonly keys: { readonly windowMillis: () => number; readonly maxKeys: number }
  readonly known: DraftOptions["known"]
  /** Asks the owner of an outbox that is not settled, unless there is none. */
  readonly askOwner: (session: string, owner: string | undefined) => Effect.Effect<boolean, StoreError>
  /** Whether an outbox that is not there may have been lost by the store, and be put back. */
  readonly mayReturn: (session: string) => Effect.Effect<boolean, StoreError>
  /** So many offsets were skipped. */
  readonly onLost: (session: string, lost: number) => void
  /** The session's bound that so much more would break, for an outbox that is known here: that spares asking the store. */
  readonly isFull: (session: string, count: number, bytes: number) => Full | undefined
  /** The bound on all outboxes together, or the session's share of it, that so much more would break, as far as known. */
  readonly isFullInAll: (session: string, count: number, bytes: number) => Full | undefined
  /** What has room in an outbox and in all together, as far as known here; and whether it is these that leave no more. */
  readonly room: WaitingLinesOptions["room"]
  readonly onAppended: (
    session: string,
    epoch: string,
    messages: ReadonlyArray<OutboxMessage>,
    extents: ReadonlyArray<Extent>,
    expiresAt: number
  ) => void
  readonly onOverflow: () => void
  /** An append has failed, and may be done all the same: then nobody here was told. */
  readonly onInDoubt: (session: string) => void
  /** What was dropped to make room for an append that then failed. */
  readonly onLateDrops: (session: string, epoch: string, messages: ReadonlyArray<OutboxMessage>) => void
  /** Drops the oldest that may be dropped, so that so much more has room; what was dropped, or undefined if it can't. */
  readonly makeRoom: (
    session: string,
    count: number,
    bytes: number
  ) => Effect.Effect<
    { readonly epoch: string; readonly dropped: ReadonlyArray<OutboxMessage> } | undefined,
    StoreError
  >
}

/** A bound that is reached: its value, and how much there is. */
type Full = Pick<QueueOverflowError, "limit" | "bound" | "size">

type Outcome =
  | { readonly _tag: "Appended"; readonly epoch: string; readonly first: number; readonly at: number }
  | { readonly _tag: "Again" }
  | Exclude<AppendResult, { readonly _tag: "Appended" }>

const bytesOf = (messages: ReadonlyArray<NewMessage>): number => {
  let bytes = 0
  for (let i = 0; i < messages.length; i++) bytes += (messages[i] as NewMessage).bytes // in bounds
  return bytes
}

export const makeAppending = Effect.fnUntraced(function*(options: AppendingOptions) {
  const { bounds, call, driver, lanes, node, now, overflow } = options
  const lines = yield* makeWaitingLines({ room: options.room })
  const { requestsOf, ttlOf, unite } = makeDrafts(options)
  const waitsForRoom = overflow === "suspend"

  const failed = (draft: Pick<Draft, "session" | "inDoubt">, cause: StoreError) =>
    new MessageQueueError({
      session: draft.session,
      operation: "append",
      reason: "store",
      cause: cause.cause,
      ...(draft.inDoubt ? { inDoubt: true } : {})
    })

  // --- one batch

  const tell = (unit: Unit, requests: ReadonlyArray<AppendRequest>, epoch: string, first: number, at: number): void => {
    const messages = unit.messages.map((message, index): OutboxMessage => ({
      kind: "message",
      offset: first + index,
      payload: message.payload,
      bytes: message.bytes,
      id: message.id,
      trace: message.trace,
      enqueuedAt: at,
      expiresAt: at + ttlOf(message)
    }))
    let offset = first
    let expiresAt = Infinity
    const extents = requests.map(({ bytes, count, expiresAt: partExpiresAt }): Extent => {
      expiresAt = Math.min(expiresAt, partExpiresAt)
      const extent = { first: offset, last: offset + count - 1, bytes }
      offset += count
      return extent
    })
    options.onAppended(unit.first.session, epoch, messages, extents, expiresAt)
  }

  /** Does the drafts' appends by `append`, and says what came of each draft. */
  const commit = (
    drafts: ReadonlyArray<Draft>,
    append: (requests: ReadonlyArray<AppendRequest>) => Effect.Effect<ReadonlyArray<AppendResult>, StoreError>,
    onDone: (tellAll: () => void) => Effect.Effect<void>
  ): Effect.Effect<ReadonlyArray<Outcome>, StoreError> =>
    Effect.suspend(() => {
      const at = now()
      const units = unite(drafts)
      const requests = units.map((unit) => requestsOf(unit, at))
      return Effect.flatMap(append(requests.flat()), (results) => {
        const outcomes: Array<Outcome> = []
        const tellings: Array<() => void> = []
        let index = 0
        units.forEach((unit, u) => {
          const parts = requests[u] as ReadonlyArray<AppendRequest> // one for each
          const result = results[index] as AppendResult // one for each
          index += parts.length
          if (result._tag !== "Appended") {
            const isShared = unit.drafts.length > 1 && result._tag === "Full"
            for (const draft of unit.drafts) outcomes[draft] = isShared ? { _tag: "Again" } : result
            return
          }
          let { first } = result
          if (result.lost !== undefined) options.onLost(unit.first.session, result.lost)
          tellings.push(() => tell(unit, parts, result.epoch, result.first, at))
          for (const draft of unit.drafts) {
            outcomes[draft] = { _tag: "Appended", epoch: result.epoch, first, at }
            first += (drafts[draft] as Draft).messages.length // of this batch
          }
        })
        return Effect.as(onDone(() => tellings.forEach((tellOne) => tellOne())), outcomes)
      })
    })

  // --- group commit

  /** Whether others of its session wait for room already, and it is theirs; or there is none in all outboxes together. */
  const hasToWait = (draft: Draft): boolean =>
    !draft.isCalled && (lines.has(draft.session) || exceedsTotal(draft) !== undefined)

  const makeLane = Effect.fnUntraced(function*(index: number) {
    const runAs = (writer: string) => {
      let sequence = 0
      return (drafts: ReadonlyArray<Draft>, isWanted: () => boolean) =>
        run(drafts, { writer, sequence: ++sequence }, isWanted)
    }
    const run = (drafts: ReadonlyArray<Draft>, stamp: Stamp, isWanted: () => boolean) => {
      const setInDoubt = (inDoubt: boolean) => drafts.forEach((draft) => (draft.inDoubt = inDoubt))
      // From now on: it is tried for as long as anybody in it waits, also when others have given up.
      setInDoubt(true)
      return commit(
        drafts,
        (requests) =>
          call("append", driver.append(requests, stamp, node)).pipe(
            // The same batch under the same stamp: done once, whatever became of the tries before.
            Effect.retry({ schedule: appendRetry, while: isWanted }),
            Effect.tap(() => Effect.sync(() => setInDoubt(false)))
          ),
        (tellAll) => Effect.sync(tellAll)
      ).pipe(Effect.onError(() => Effect.sync(() => drafts.forEach(({ session }) => options.onInDoubt(session)))))
    }
    const runNow = runAs(`${node}/${index}`)
    /** Does not try those that have to wait. */
    const runInOrder = (all: ReadonlyArray<Draft>, isWanted: () => boolean) => {
      const drafts = all.filter((draft) => !hasToWait(draft))
      if (drafts.length === all.length) return runNow(all, isWanted)
      const done = drafts.length === 0 ? Effect.succeed([]) : runNow(drafts, isWanted)
      return Effect.map(done, (outcomes) => {
        let next = 0
        return all.map((draft) => draft === drafts[next] ? outcomes[next++] as Outcome : again) // one for each
      })
    }
    return yield* makeBatcher<Draft, Outcome>({
      name: "append",
      maxBatch: maxBatchRequests,
      weigh: (draft) => draft.bytes,
      maxWeight: maxBatchBytes,
      limit: { millis: options.appendTimeoutMillis, late: notInTime(options.appendTimeoutMillis) },
      run: waitsForRoom ? runInOrder : runNow,
      aside: {
        keyOf: ({ session }) => session,
        isLocked: ({ _tag }) => _tag === "Locked",
        run: runAs(`${node}/${index}/aside`)
      }
    })
  })
  const laneOf: Array<(draft: Draft) => Effect.Effect<Outcome, StoreError>> = []
  for (let i = 0; i < lanes; i++) laneOf.push(yield* makeLane(i))

  /**
   * The store may have lost its newest part. The owner of the outbox says how far it goes, or puts it back, if there is
   * one: after that, or a while, it is tried again.
   */
  const awaitOwner = (draft: Draft, isThere: boolean): Effect.Effect<Outcome, MessageQueueError> => {
    draft.waits = isThere && draft.waits < maxWaits ? draft.waits + 1 : Infinity
    draft.alone = true
    return Effect.andThen(isThere ? Effect.sleep(Duration.millis(waitMillis)) : Effect.void, committed(draft))
  }

  const committed = (draft: Draft): Effect.Effect<Outcome, MessageQueueError> =>
    Effect.flatMap(committedOnce(draft), (outcome) => {
      const { _tag } = outcome
      if (_tag !== "Unsettled" && (_tag !== "Missing" || draft.waits >= maxWaits)) return Effect.succeed(outcome)
      const asked = _tag === "Missing"
        ? options.mayReturn(draft.session)
        : options.askOwner(draft.session, outcome.node)
      return Effect.flatMap(
        Effect.mapError(asked, (error) => failed(draft, error)),
        (isThere) => _tag === "Missing" && !isThere ? Effect.succeed(outcome) : awaitOwner(draft, isThere)
      )
    })

  const committedOnce = (draft: Draft): Effect.Effect<Outcome, MessageQueueError> => {
    const lane = laneOf[lanes === 1 ? 0 : hash(draft.session) % lanes] as (draft: Draft) => Effect.Effect<
      Outcome,
      StoreError
    > // in bounds
    return Effect.mapError(lane(draft), (error) => failed(draft, error))
  }

  // --- overflow

  const overflowError = (session: string, full: Full): QueueOverflowError => {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0 // a sender that is refused a million times needs none
    try {
      return new QueueOverflowError({ session, ...full })
    } finally {
      Error.stackTraceLimit = stackTraceLimit
    }
  }

  /** Others of the session wait already. */
  const inLine: Full = { limit: "messages", bound: bounds.maxMessages, size: bounds.maxMessages }

  const neverFits = ({ bytes, messages }: Draft): boolean =>
    messages.length > Math.min(bounds.maxMessages, bounds.maxTotalMessages) ||
    bytes > Math.min(bounds.maxBytes, bounds.maxTotalBytes)

  /** The bound on all together that would be broken. */
  const exceedsTotal = ({ bytes, messages, session }: Draft): Full | undefined =>
    options.isFullInAll(session, messages.length, bytes)

  /** The session's bound, as the store found it. */
  const fullOf = (outcome: Outcome & { readonly _tag: "Full" }): Full => {
    const { limit } = outcome
    return { limit, bound: limit === "messages" ? bounds.maxMessages : bounds.maxBytes, size: outcome[limit] }
  }

  const suspendSender = (
    draft: Draft,
    full: Full
  ): Effect.Effect<Outcome, MessageQueueError | QueueOverflowError> => {
    const waiting = lines.wait<Outcome, MessageQueueError>({
      session: draft.session,
      needs: { messages: draft.messages.length, bytes: draft.bytes },
      isTotal: full.limit !== "messages" && full.limit !== "bytes",
      attempt: Effect.suspend(() => {
        draft.isCalled = true
        if (exceedsTotal(draft) !== undefined) return Effect.succeed<Tried<Outcome>>({ _tag: "NoRoom", isTotal: true })
        return Effect.map(
          committed(draft),
          (outcome): Tried<Outcome> =>
            outcome._tag === "Full" || outcome._tag === "Again"
              ? { _tag: "NoRoom", isTotal: false }
              : { _tag: "Done", value: outcome }
        )
      }),
      closed: () => failed(draft, closed)
    })
    if (options.suspendTimeoutMillis === Infinity) return waiting
    return Effect.timeoutOrElse(waiting, {
      duration: Duration.millis(options.suspendTimeoutMillis),
      orElse: () => Effect.fail(overflowError(draft.session, full))
    })
  }

  const dropAndAppend = (draft: Draft, full: Full) =>
    Effect.suspend(() => {
      const dropped: Array<OutboxMessage> = []
      let epoch = ""
      const dropLate = Effect.sync(() => {
        if (dropped.length > 0) options.onLateDrops(draft.session, epoch, dropped.splice(0))
      })
      const attempt: Effect.Effect<Settled, MessageQueueError | QueueOverflowError> = Effect.gen(function*() {
        for (let round = 0; round < maxRounds; round++) {
          const made = yield* Effect.mapError(
            options.makeRoom(draft.session, draft.messages.length, draft.bytes),
            (error) => failed(draft, error)
          )
          if (made === undefined) break
          epoch = made.epoch
          dropped.push(...made.dropped)
          const outcome = yield* committed(draft)
          if (outcome._tag === "Appended") return { outcome, dropped }
          if (outcome._tag === "Full" || outcome._tag === "Again") continue
          yield* dropLate
          return { outcome, dropped: [] }
        }
        return yield* overflowError(draft.session, full)
      })
      // Whoever is refused can't be told of what was dropped for it.
      return Effect.onError(attempt, () => dropLate)
    })

  interface Settled {
    readonly outcome: Outcome
    readonly dropped: ReadonlyArray<OutboxMessage>
  }

  const overflowing = (
    draft: Draft,
    full: Full
  ): Effect.Effect<Settled, MessageQueueError | QueueOverflowError> => {
    options.onOverflow()
    if (overflow === "reject" || neverFits(draft)) return Effect.fail(overflowError(draft.session, full))
    if (overflow === "dropNewest") return Effect.succeed({ outcome: notTaken, dropped: [] })
    if (overflow === "suspend") {
      return Effect.map(suspendSender(draft, full), (outcome) => ({ outcome, dropped: [] }))
    }
    return dropAndAppend(draft, full)
  }

  // --- what senders call

  /** What was sent under its key before is no new message, also when there is no room for one. */
  const unlessDone = (
    draft: Draft,
    { id }: PublishOnce,
    otherwise: Effect.Effect<Settled, MessageQueueError | QueueOverflowError>
  ): Effect.Effect<Settled, MessageQueueError | QueueOverflowError> => {
    const target = { scope: draft.session, key: id }
    const lookup = call("lookupKey", driver.lookupKey(target, now() - options.keys.windowMillis()))
    return Effect.flatMap(
      Effect.mapError(lookup, (error) => failed(draft, error)),
      (receipt) =>
        receipt === undefined
          ? otherwise
          : Effect.succeed<Settled>({ outcome: { _tag: "Duplicate", receipt }, dropped: [] })
    )
  }

  const settle = (draft: Draft): Effect.Effect<Settled, MessageQueueError | QueueOverflowError> =>
    Effect.suspend(() => {
      const known = options.isFull(draft.session, draft.messages.length, draft.bytes) ?? exceedsTotal(draft)
      if (waitsForRoom) {
        // Nobody overtakes a sender that waits, nor one that has begun before and may have to wait.
        if (lines.has(draft.session)) return overflowing(draft, inLine)
        if (known !== undefined && neverFits(draft)) return overflowing(draft, known)
      } else if (known !== undefined) {
        const refused = overflowing(draft, known)
        return draft.publish === undefined ? refused : unlessDone(draft, draft.publish, refused)
      }
      return Effect.flatMap(committed(draft), (outcome) => {
        if (outcome._tag === "Again") {
          if (waitsForRoom) {
            return overflowing(draft, exceedsTotal(draft) ?? inLine)
          }
          draft.alone = true
          return settle(draft)
        }
        if (outcome._tag !== "Full") return Effect.succeed({ outcome, dropped: [] })
        return overflowing(draft, fullOf(outcome))
      })
    })

  /** In the transaction of the caller, who can't wait in it for room. */
  const settleInTransaction = (draft: Draft): Effect.Effect<Settled, MessageQueueError | QueueOverflowError> =>
    Effect.suspend(() => {
      draft.waits = Infinity
      const total = exceedsTotal(draft)
      if (total !== undefined) return Effect.fail(overflowError(draft.session, total))
      const afterCommit = driver.transaction?.afterCommit ?? ((effect: Effect.Effect<void>) => effect)
      return commit(
        [draft],
        (requests) => driver.append(requests, undefined, node),
        (tellAll) => afterCommit(Effect.sync(tellAll))
      ).pipe(
        Effect.mapError((error) => failed(draft, error)),
        Effect.flatMap(([outcome]): Effect.Effect<Settled, MessageQueueError | QueueOverflowError> => {
          if (outcome === undefined || outcome._tag === "Again") return Effect.die("a draft without an outcome")
          // It has to be told apart from one that was not stored: the transaction must not commit without it.
          if (outcome._tag === "Unsettled" || outcome._tag === "Locked") return Effect.fail(failed(draft, notNow))
          if (outcome._tag !== "Full") return Effect.succeed({ outcome, dropped: [] })
          options.onOverflow()
          return Effect.fail(overflowError(draft.session, fullOf(outcome)))
        })
      )
    })

  const isInTransaction = driver.transaction?.isOpen ?? Effect.succeed(false)

  const settled = (draft: Draft): Effect.Effect<Settled, MessageQueueError | QueueOverflowError> => {
    const refused = unstorable("append", draft.session, draft.publish?.id)
    if (refused !== undefined) return Effect.fail(failed(draft, refused))
    return driver.transaction === undefined
      ? settle(draft)
      : Effect.flatMap(isInTransaction, (isOpen) => isOpen ? settleInTransaction(draft) : settle(draft))
  }

  const draftOf = (
    session: string,
    messages: ReadonlyArray<NewMessage>,
    publish: PublishOnce | undefined
  ): Draft => ({
    session,
    messages,
    bytes: bytesOf(messages),
    publish,
    alone: false,
    isCalled: false,
    waits: 0,
    inDoubt: false
  })

  const missing = (session: string) => new MessageQueueError({ session, operation: "append", reason: "unknownSession" })

  const append = (
    session: string,
    messages: ReadonlyArray<NewMessage>
  ): Effect.Effect<Appended, MessageQueueError | QueueOverflowError> =>
    Effect.suspend(() =>
      Effect.flatMap(settled(draftOf(session, messages, undefined)), ({ dropped, outcome }) => {
        if (outcome._tag === "Missing") return Effect.fail(missing(session))
        return Effect.succeed(appendedOf(outcome, dropped, now()))
      })
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
        ({ dropped, outcome }): Effect.Effect<AppendedOnce, MessageQueueError | DeduplicationError> => {
          switch (outcome._tag) {
            case "Missing":
              return Effect.fail(missing(session))
            case "Duplicate":
              return Effect.succeed<{ _tag: "Duplicate"; receipt: Receipt }>({
                _tag: "Duplicate",
                receipt: outcome.receipt
              })
            case "Mismatch":
              return Effect.fail(new DeduplicationError({ ...key, reason: "mismatch" }))
            case "InFlight": {
              const retryAfterMillis = Math.max(0, outcome.until - now())
              return Effect.fail(new DeduplicationError({ ...key, reason: "inFlight", retryAfterMillis }))
            }
            case "KeysFull":
              return Effect.fail(new DeduplicationError({ ...key, reason: "full" }))
            default:
              return Effect.succeed({ _tag: "Appended", appended: appendedOf(outcome, dropped, now()) })
          }
        }
      )
    })

  return { append, appendOnce, wake: lines.wake, suspended: lines.suspended }
})

const again: Outcome = { _tag: "Again" }

/** Of the policy that drops the newest. */
const notTaken: Outcome = { _tag: "Full", limit: "messages", messages: 0, bytes: 0 }

const appendedOf = (outcome: Outcome, dropped: ReadonlyArray<OutboxMessage>, at: number): Appended => {
  if (outcome._tag === "Appended") {
    return { epoch: outcome.epoch, first: outcome.first, enqueuedAt: outcome.at, dropped }
  }
  if (outcome !== notTaken) throw new Error(`an append came to ${outcome._tag}`)
  return { epoch: "", first: undefined, enqueuedAt: at, dropped }
}

/** A batch that failed is tried again soon; the circuit and each sender's own limit keep that within bounds. */
const appendRetry: Schedule.Schedule<unknown, unknown> = fullJitter(50, 2_000)

/** In a transaction nobody can wait for the owner. */
const notNow: StoreError = {
  _tag: "StoreError",
  operation: "append",
  cause: new Error("the store was started anew, and may have lost its newest part: try again in a moment")
}

const closed: StoreError = { _tag: "StoreError", operation: "append", cause: new Error("the store is closed") }

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
