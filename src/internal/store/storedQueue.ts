/**
 * MessageQueue over a database driver: what is appended is committed before anybody is told, what is read comes from
 * memory where it can, and what fails half-way is found out at the next look.
 */
import { Duration, Effect, Exit, Random } from "effect"
import { defaultMessageId, type OutboxMessage, type ReadLimit } from "../../core/Outbox.ts"
import type { Expired, Interface, Located, Opened, Options } from "../../MessageQueue.ts"
import { MessageQueueError } from "../../WebSocketError.ts"
import { type Amount, nothing, Shares } from "../bounds/shares.ts"
import { makeId } from "../kit/ids.ts"
import * as Option from "../kit/options.ts"
import { makeAppending } from "./appending.ts"
import type { Calls } from "./calls.ts"
import { type OutboxState, type StoreDriver, StoreError } from "./driver.ts"
import { DoubtLedger, type Doubts, type GivenUp, type GiveUpOptions, makeGivingUp, shareOf } from "./givingUp.ts"
import { GoneFates } from "./goneFates.ts"
import type { StoreHistory } from "./history.ts"
import { makeLogs } from "./logs.ts"
import { makeLostTail } from "./lostTail.ts"
import type { Members } from "./members.ts"
import { makeOutboxReader, type Page } from "./outboxReader.ts"
import { makeStoredAcks } from "./storedAcks.ts"
import { StoredLog } from "./storedLog.ts"
import { makeStoredReads } from "./storedReads.ts"
import { ifStorable } from "./texts.ts"

export interface StoredQueueOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly members: Members
  readonly history: StoreHistory
  readonly queue: Options
  readonly lanes: number
  readonly appendTimeoutMillis: number
  readonly cacheBytes: number
  readonly keys: { readonly windowMillis: () => number; readonly maxKeys: number }
}

/** Conflicts with other servers are settled by looking again, this often at most. */
const maxLooks = 16
/** How long what a removal took out is kept for its next try. */
const removalMillis = 60_000
/** Outboxes asked for in one call. */
const lookSize = 500
/** In so many rounds, all outboxes have been looked at. */
const roundsOfLooks = 12
/** How long a session that moved away is remembered as that. */
const lostMillis = 60_000
/** How often the totals of all outboxes are asked for. */
const totalsMillis = 5_000
/** An append that failed may be done a while later: so often is looked for it. */
const doubtfulLooks = 2

export const makeStoredQueue = Effect.fnUntraced(function*(options: StoredQueueOptions) {
  const { call, driver, members } = options
  const { node, now, steady } = members
  const random = yield* Random.Random
  const overflow = options.queue.overflow ?? "reject"
  const bounds = {
    maxMessages: Option.count("maxMessages", options.queue.maxMessages, 1_000),
    maxBytes: Option.count("maxBytes", options.queue.maxBytes, 16 * 1024 * 1024),
    maxTotalMessages: Option.count("maxTotalMessages", options.queue.maxTotalMessages, 1_000_000),
    maxTotalBytes: Option.count("maxTotalBytes", options.queue.maxTotalBytes, 256 * 1024 * 1024)
  }
  /** With this policy others drop what was not sent, so the store has to know what was; and half of it stays unsent. */
  const maxSent = overflow === "dropOldest" ? Math.ceil(bounds.maxMessages / 2) : Infinity

  const shares = new Shares(bounds)
  const logs = makeLogs(options.cacheBytes, shares)
  const { forget, schedule, tracked } = logs
  let listeners: ReadonlyArray<(session: string) => void> = []
  let moveListeners: ReadonlyArray<(session: string, generation: number) => void> = []
  /** What was dropped for appends that then failed: told of by the next sweep. */
  const lateDrops: Array<Expired> = []
  /** Logs of sessions that have another owner, and since when that is known. */
  const lost = new Map<StoredLog, number>()
  /** Sessions to which something may have been appended without anybody being told, and how often to look for it. */
  const doubtful = new Map<string, number>()
  /** Results of removals of which it is not known whether they were done. */
  const removals = new Map<string, Removed & { readonly at: number }>()
  const totals = { appended: 0, acknowledged: 0, expired: 0, overflows: 0 }
  let known = yield* call("totals", driver.totals)
  let since = { messages: 0, bytes: 0 }

  const reader = makeOutboxReader(driver, call)
  const { readAll, readPage } = reader
  const gone = new GoneFates()
  const { giveUp, isTrying } = makeGivingUp({
    driver,
    call,
    now,
    share: shareOf(random),
    reader,
    gone: (session) => gone.of(session),
    onGivenUp: ({ bytes }) => {
      since.messages--
      since.bytes -= bytes
    }
  })

  // --- errors

  const storeFailed = (session: string, operation: string) => (error: StoreError) =>
    new MessageQueueError({ session, operation, reason: "store", cause: error.cause })
  const orStoreFailed = (session: string, operation: string) => (error: StoreError | MessageQueueError) =>
    error._tag === "StoreError" ? storeFailed(session, operation)(error) : error
  const refuse = (session: string, operation: string, reason: "fenced" | "unknownSession") =>
    new MessageQueueError({ session, operation, reason })

  /** The log, if it is this generation's as far as known here. */
  const ownLog = (session: string, generation: number, operation: string): StoredLog | MessageQueueError => {
    const log = logs.get(session)
    if (log === undefined) return refuse(session, operation, "unknownSession")
    return log.generation === generation ? log : refuse(session, operation, "fenced")
  }

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
        if (error.reason === "fenced" && log.generation === generation && !lost.has(log)) lost.set(log, steady())
        return error
      })
    })

  const tail = yield* makeLostTail({
    driver,
    call,
    members,
    logs,
    readPage,
    isOwned: (log) => !lost.has(log),
    refuse,
    onNews: (session) => listeners.forEach((listener) => listener(session))
  })

  /** Whether an outbox that is not there was lost by the store, and may be put back; one of this server's is by then. */
  const mayReturn = (session: string): Effect.Effect<boolean, StoreError> => {
    const log = logs.get(session)
    if (log !== undefined && !lost.has(log)) return options.history.hasLost(session)
    return Effect.flatMap(
      options.history.lookForChange,
      (hasChanged) =>
        hasChanged ? Effect.map(options.history.wasEnded(session), (isEnded) => !isEnded) : Effect.succeed(false)
    )
  }

  /** A page into the log's cache. */
  const load = Effect.fnUntraced(
    function*(log: StoredLog, after: number): Effect.fn.Return<Page, StoreError | MessageQueueError> {
      const { acked, reach } = log
      let page = yield* readPage(log.session, after)
      if (page === undefined && (yield* mayReturn(log.session))) page = yield* readPage(log.session, after)
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

  /** `giveUp` for the owner's log, which then reads anew. */
  const giveUpOwn = Effect.fnUntraced(function*(
    log: StoredLog,
    pick: (messages: ReadonlyArray<OutboxMessage>) => ReadonlyArray<GivenUp>
  ): Effect.fn.Return<ReadonlyArray<GivenUp>, StoreError | MessageQueueError> {
    const { generation, session } = log
    const result = yield* giveUp({ session, generation, doubts: doubted.of(log), pick, settlesExpiry: true })
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

  const doubted = new DoubtLedger<StoredLog>()

  // --- appending

  const onAppended: Parameters<typeof makeAppending>[0]["onAppended"] = (
    session,
    epoch,
    messages,
    extents,
    expiresAt
  ) => {
    totals.appended += messages.length
    since.messages += messages.length
    for (const { bytes } of extents) since.bytes += bytes
    const log = logs.get(session)
    tail.noteAppended(session, epoch, messages[messages.length - 1]?.offset ?? 0)
    if (log !== undefined && log.epoch === epoch) {
      tracked(log, () => log.appended(messages, extents, expiresAt))
      schedule(log)
    }
    for (const listener of listeners) listener(session)
  }

  const totalsNow = () => ({ messages: known.messages + since.messages, bytes: known.bytes + since.bytes })

  const roomOf = (log: StoredLog | undefined, all: Amount): Amount =>
    shares.room(log?.share, log?.counted ?? nothing, all)

  const roomDoubts = new DoubtLedger<string>()
  const makeRoom = Effect.fnUntraced(function*(session: string, count: number, bytes: number) {
    const doubts = roomDoubts.of(session)
    const pick: GiveUpOptions["pick"] = (messages, state) => {
      const all = totalsNow()
      const room = roomOf(logs.get(session), all)
      let overMessages = Math.max(state.messages + count - bounds.maxMessages, count - room.messages)
      let overBytes = Math.max(state.bytes + bytes - bounds.maxBytes, bytes - room.bytes)
      const picked: Array<GivenUp> = []
      for (const message of messages) {
        if (overMessages <= 0 && overBytes <= 0) break
        if (message.offset <= state.sent) continue // it may be at the peer
        picked.push({ reason: "overflow", message })
        overMessages--
        overBytes -= message.bytes
      }
      return overMessages <= 0 && overBytes <= 0 ? picked : undefined
    }
    const result = yield* giveUp({ session, generation: undefined, doubts, pick, settlesExpiry: false })
    if (typeof result === "string") return undefined
    const log = logs.get(session)
    if (log !== undefined) {
      tracked(log, () => {
        log.forget()
        log.gaveUp(result.given.map(({ message }) => message))
      })
    }
    return { epoch: result.state.epoch, dropped: result.given.map(({ message }) => message) }
  })

  const appending = yield* makeAppending({
    driver,
    call,
    node,
    now,
    lanes: options.lanes,
    ttlMillis: Option.millis("ttl", options.queue.ttl, "5 minutes"),
    overflow,
    suspendTimeoutMillis: Option.millis("suspendTimeout", options.queue.suspendTimeout, Infinity),
    appendTimeoutMillis: options.appendTimeoutMillis,
    bounds,
    keys: options.keys,
    known: tail.known,
    askOwner: tail.askOwner,
    mayReturn,
    onLost: tail.note,
    isFull: (session, count, bytes) => {
      const log = logs.get(session)
      if (log === undefined) return undefined
      if (log.messages + count > bounds.maxMessages) {
        return { limit: "messages", bound: bounds.maxMessages, size: log.messages }
      }
      return log.bytes + bytes > bounds.maxBytes
        ? { limit: "bytes", bound: bounds.maxBytes, size: log.bytes }
        : undefined
    },
    room: (session) => {
      const log = logs.get(session)
      const room = roomOf(log, totalsNow())
      const messages = log === undefined ? Infinity : bounds.maxMessages - log.messages
      const bytes = log === undefined ? Infinity : bounds.maxBytes - log.bytes
      return {
        messages: Math.min(messages, room.messages),
        bytes: Math.min(bytes, room.bytes),
        isTotal: room.messages < messages || room.bytes < bytes
      }
    },
    isFullInAll: (session, count, bytes) => {
      const all = totalsNow()
      if (all.messages + count > bounds.maxTotalMessages) {
        return { limit: "totalMessages", bound: bounds.maxTotalMessages, size: all.messages }
      }
      if (all.bytes + bytes > bounds.maxTotalBytes) {
        return { limit: "totalBytes", bound: bounds.maxTotalBytes, size: all.bytes }
      }
      const log = logs.get(session)
      const own = log?.counted ?? nothing
      return shares.over(log?.share, own.messages, own.bytes, all.messages, all.bytes, count, bytes)
    },
    onAppended,
    onOverflow: () => void totals.overflows++,
    onInDoubt: (session) => {
      if (logs.get(session) !== undefined) doubtful.set(session, doubtfulLooks)
    },
    makeRoom,
    onLateDrops: (session, epoch, messages) => void lateDrops.push({ session, epoch, reason: "overflow", messages })
  })

  const acks = yield* makeStoredAcks({
    driver,
    call,
    now,
    readPage,
    refuse,
    tracked,
    settle: tail.settle,
    mayReturn,
    isOwn: (log) => logs.get(log.session) === log && !lost.has(log),
    gone: (session) => gone.of(session),
    onLost: tail.note,
    onReleased: (log, messages, bytes) => {
      since.messages -= messages
      since.bytes -= bytes
      totals.acknowledged += messages
      if (messages > 0) appending.wake(log.session)
    }
  })

  const { read, readUnsafe } = makeStoredReads({
    driver,
    call,
    now,
    logs,
    doubted,
    maxSent,
    load,
    giveUpOwn,
    refuse,
    onExpired: (messages) => void (totals.expired += messages),
    mayReturn,
    onLate: (log, given) => {
      for (const one of given) lateDrops.push(expiredOf(log.session, log.epoch, one))
    }
  })

  // --- what was being given up when the store failed

  /** Finds out what became of messages that were being given up when the store failed, and nothing has asked since. */
  const settleDoubts = Effect.fnUntraced(function*(session: string, doubts: Doubts, result: Array<Expired>) {
    const settled = yield* giveUp({ session, generation: undefined, doubts, pick: () => [], settlesExpiry: false })
    // What is left is certain: it was given up, and nothing more is to be learnt of it.
    const given = typeof settled === "string" ? doubts.take() : settled.given
    const epoch = (typeof settled === "string" ? gone.epochOf(session) : settled.state.epoch) ?? ""
    for (const one of given) result.push(expiredOf(session, epoch, one))
  })

  const settleAllDoubts = Effect.fnUntraced(function*(result: Array<Expired>) {
    for (const log of doubted.keys()) yield* settleDoubts(log.session, doubted.of(log), result)
    for (const session of roomDoubts.keys()) yield* settleDoubts(session, roomDoubts.of(session), result)
    yield* acks.settleFailures(({ epoch, session }, message, reason) =>
      void result.push({ session, epoch, reason, messages: [message] })
    )
  })

  /** Whether somebody here may ask later what was done in this outbox, though it is gone by then. */
  const isInDoubt = (session: string): boolean => {
    const log = logs.get(session)
    return isTrying(session) || roomDoubts.has(session) ||
      (log !== undefined && (doubted.has(log) || acks.isInDoubt(log)))
  }

  // --- ends

  const remove = Effect.fnUntraced(
    function*(session: string): Effect.fn.Return<Removed, StoreError | MessageQueueError> {
      const sent = logs.get(session)?.sent
      for (let look = 0; look < maxLooks; look++) {
        const all = yield* readAll(session)
        if (all === undefined) {
          // Gone; by our own hand if an earlier try has failed after it was done.
          const done = removals.get(session)
          removals.delete(session)
          forget(session)
          // Later it was another outbox of the same name, or somebody else who removed it.
          if (done !== undefined && steady() - done.at < removalMillis) return done
          return yield* refuse(session, "remove", "unknownSession")
        }
        const { messages, state } = all
        // Of an outbox that others have delivered from it is not known what they sent.
        const maybeHandled = sent === undefined
          ? messages.length
          : messages.filter(({ offset }) => offset <= sent).length
        const removed: Removed = { messages, maybeHandled, epoch: state.epoch }
        removals.set(session, { ...removed, at: steady() })
        if (isInDoubt(session)) {
          const fates = yield* call("fates", driver.fates(session, 1, state.last))
          // What was given up since the look is among the messages, and told of with them.
          const told = new Set(messages.map(({ offset }) => offset))
          gone.note(session, state.epoch, fates.filter(({ first }) => !told.has(first)), steady())
        }
        if (!(yield* call("removeOutbox", driver.removeOutbox(session, state.last)))) continue
        removals.delete(session)
        forget(session)
        since.messages -= messages.length
        for (const { bytes } of messages) since.bytes -= bytes
        appending.wake(session)
        for (const listener of moveListeners) listener(session, Infinity)
        // Nobody is held up by a store that can't tell the owner just now: it will find out.
        yield* Effect.ignore(members.nudge(state.node, session))
        return removed
      }
      return yield* Effect.fail(new StoreError("remove", new Error("others append all the time")))
    }
  )

  const expire = Effect.fnUntraced(function*(owns: (session: string) => boolean) {
    const at = now()
    const result: Array<Expired> = lateDrops.splice(0)
    const sweep = (log: StoredLog): Effect.Effect<void, StoreError> =>
      Effect.matchEffect(
        giveUpOwn(log, (messages) =>
          messages.flatMap((message): ReadonlyArray<GivenUp> =>
            message.expiresAt <= at && message.offset > log.sent ? [{ reason: "expired", message }] : []
          )),
        {
          onFailure: (error) => {
            // Of a session that moved away or ended, others take care.
            if (error._tag !== "StoreError") {
              return Effect.void
            }
            schedule(log)
            return Effect.fail(error)
          },
          onSuccess: (given) =>
            Effect.sync(() => {
              if (given.length === 0) {
                return
              }
              totals.expired += given.length
              result.push({
                session: log.session,
                epoch: log.epoch,
                messages: given.map(({ message }) =>
                  message
                )
              })
              for (const listener of listeners) listener(log.session) // the owner has a gap to tell
            })
        }
      )
    const due = logs.takeDue(at)
    const own = due.filter((log) => owns(log.session))
    for (const log of due) if (!owns(log.session)) schedule(log)
    const exit = yield* Effect.exit(
      Effect.forEach(own, (log) => Effect.tapError(sweep(log), () => Effect.sync(() => own.forEach(schedule))), {
        concurrency: 16,
        discard: true
      })
    )
    if (Exit.isSuccess(exit)) yield* Effect.ignore(settleAllDoubts(result))
    // What was given up is told all the same.
    if (exit._tag === "Failure" && result.length === 0) {
      yield* Effect.mapError(exit, storeFailed("", "expire"))
    }
    return result
  })

  // --- what others did

  /** Looks what became of these outboxes, and tells those who want to know. */
  const look = (sessions: ReadonlyArray<string>): Effect.Effect<void, StoreError> => {
    const mine = sessions.flatMap((session) => logs.get(session) ?? [])
    if (mine.length === 0) return Effect.void
    const known = mine.map(({ acked, reach }) => ({ acked, reach }))
    return Effect.flatMap(call("outboxes", driver.outboxes(mine.map(({ session }) => session))), (states) => {
      const found = new Map(states.map((state) => [state.session, state]))
      const behind: Array<StoredLog> = []
      const missing = mine.filter(({ session }) => !found.has(session))
      mine.forEach((log, index) => {
        const state = found.get(log.session)
        if (state !== undefined) hear(log.session, state)
        const isOwn = state !== undefined && state.generation <= log.generation && logs.get(log.session) === log
        // One that is just being opened is settled by what its peer says.
        if (isOwn && log.isCertain && tail.isBehind(log, known[index] ?? log, state)) behind.push(log)
      })
      const settled = Effect.forEach(behind, (log) =>
        Effect.catchTag(
          Effect.asVoid(tail.settle(log, 0)),
          "MessageQueueError",
          () => Effect.void
        ), { concurrency: 16, discard: true })
      if (missing.length === 0) return settled
      // They ended; or the store has lost them, and they are put back when all others are looked at.
      const told = Effect.forEach(
        missing,
        ({ session }) =>
          Effect.map(options.history.endedOrMissed(session), (isEnded) => {
            if (isEnded) hear(session, undefined)
          }),
        { concurrency: 16, discard: true }
      )
      return Effect.andThen(settled, told)
    })
  }

  members.onNudges((sessions) => Effect.ignore(look(sessions)))
  const lookAt = (sessions: ReadonlyArray<string>): Effect.Effect<void, StoreError> => {
    const starts = Array.from({ length: Math.ceil(sessions.length / lookSize) }, (_, index) => index * lookSize)
    return Effect.forEach(starts, (start) => look(sessions.slice(start, start + lookSize)), { discard: true })
  }
  members.onRejoin(Effect.suspend(() => lookAt(logs.sessions())))

  /** Outboxes that the store had never heard of, or has forgotten, are there again as those that they were. */
  const putBack = Effect.suspend(() => {
    const own = logs.sessions().flatMap((session) => logs.get(session) ?? []).filter((log) => !lost.has(log))
    const remake = Effect.fnUntraced(function*(part: ReadonlyArray<StoredLog>) {
      const states = yield* call("outboxes", driver.outboxes(part.map(({ session }) => session)))
      const found = new Set(states.map(({ session }) => session))
      for (const log of part) {
        if (!found.has(log.session) && !(yield* options.history.wasEnded(log.session))) yield* tail.reopen(log)
      }
      yield* look(part.map(({ session }) => session))
    })
    const parts = Array.from(
      { length: Math.ceil(own.length / lookSize) },
      (_, index) => own.slice(index * lookSize, (index + 1) * lookSize)
    )
    return Effect.forEach(parts, remake, { discard: true })
  })
  options.history.onChange(putBack)

  const hear = (session: string, state: OutboxState | undefined): void => {
    const log = logs.get(session)
    if (log === undefined) return
    const generation = state?.generation ?? Infinity
    if (state !== undefined && generation === log.generation) {
      const isNews = tracked(log, () => log.refresh(state))
      schedule(log)
      if (isNews) { for (const listener of listeners) listener(session) }
    } else if (generation > log.generation) {
      if (!lost.has(log)) lost.set(log, steady())
      for (const listener of moveListeners) listener(session, generation)
    }
  }

  /** Forgets the logs of sessions that others have had for a while: until then, who asks is told that it is fenced. */
  const forgetLost = (): void => {
    for (const [session, { at }] of removals) if (at <= steady() - removalMillis) removals.delete(session)
    gone.sweep(steady() - removalMillis)
    for (const [log, at] of lost) {
      if (at > steady() - lostMillis) return
      lost.delete(log)
      if (logs.get(log.session) === log) forget(log.session)
    }
  }

  /** Looks at outboxes to which something may have been appended without anybody being told. */
  const lookAtDoubtful = Effect.gen(function*() {
    const sessions = [...doubtful.keys()].slice(0, lookSize)
    yield* look(sessions)
    for (const session of sessions) {
      const left = (doubtful.get(session) ?? 0) - 1
      doubtful.delete(session)
      if (left > 0) doubtful.set(session, left)
    }
  })

  const roundOfLooks = Effect.gen(function*() {
    yield* Effect.sleep(Duration.millis(totalsMillis))
    known = yield* call("totals", driver.totals)
    since = { messages: 0, bytes: 0 }
    forgetLost()
    // Behind the nudges, which may be lost with whoever was to give them, or with their answer: each in a minute.
    yield* lookAt(logs.takeNext(lookSize, roundsOfLooks).filter((log) => !lost.has(log)).map(({ session }) => session))
    yield* lookAtDoubtful
  })
  // A round that failed is followed by the next, whatever it failed of.
  yield* Effect.forkScoped(
    Effect.forever(
      Effect.catchCause(roundOfLooks, (cause) => Effect.logDebug("a look into the store is put off", cause))
    ),
    { startImmediately: true }
  )

  /** The node that opened the outbox last, unless that is known to be this one: it is to be told that it was taken. */
  const formerOwner = (session: string): Effect.Effect<string | undefined, StoreError> => {
    if (members.kept.delete(session)) return Effect.succeed(undefined)
    const outboxes = ifStorable("outboxes", [session], call("outboxes", driver.outboxes([session])))
    return Effect.map(outboxes, ([state]) => state?.node)
  }

  const open = Effect.fnUntraced(function*(
    session: string,
    generation: number,
    share: string | undefined
  ): Effect.fn.Return<Opened, StoreError | MessageQueueError> {
    const former = yield* formerOwner(session)
    // Where the store has lost it, it is what it was, as far as it is known here.
    const here = logs.get(session)
    const epoch = here === undefined || lost.has(here) ? undefined : here.epoch
    const request = { session, generation, node, newEpoch: epoch ?? makeId(random), isPutBack: epoch !== undefined }
    const state = yield* ifStorable("openOutbox", [session], call("openOutbox", driver.openOutbox(request)))
    if (state.generation > generation) return yield* refuse(session, "open", "fenced")
    const log = logs.get(session)
    const isNewer = log !== undefined && generation > log.generation
    const own = log ?? new StoredLog(state)
    if (log !== undefined) {
      tracked(log, () => log.reopened(state))
      lost.delete(log)
    }
    own.openedAt = steady()
    logs.opened(own, share)
    schedule(own)
    if (isNewer) { for (const listener of moveListeners) listener(session, generation) }
    yield* Effect.ignore(members.nudge(former, session))
    return { epoch: state.epoch, acked: state.acked, last: state.last, ...(state.settled ? {} : { isUncertain: true }) }
  })

  const subscribe = <A>(get: () => ReadonlyArray<A>, set: (list: ReadonlyArray<A>) => void) => (listener: A) =>
    Effect.acquireRelease(
      Effect.sync(() => set([...get(), listener])),
      () => Effect.sync(() => set(get().filter((other) => other !== listener)))
    )

  const self: Interface = {
    durable: true,

    open: (session, generation, share) =>
      Effect.mapError(open(session, generation, share), orStoreFailed(session, "open")),

    append: appending.append,
    appendOnce: appending.appendOnce,

    read: Object.assign(
      (session: string, generation: number, after: number, limit: ReadLimit) =>
        owning(session, generation, "read", (log) => read(log, after, limit)),
      { unsafe: readUnsafe }
    ),

    ack: (session, generation, upTo, failed) =>
      owning(session, generation, "ack", (log) => acks.ack(log, upTo, failed)),

    recover: (session, generation, last) =>
      owning(
        session,
        generation,
        "recover",
        (log) =>
          Effect.map(tail.settle(log, last), (state) => ({ epoch: state.epoch, acked: state.acked, last: state.last }))
      ),

    giveBackSent: (session, generation) =>
      owning(session, generation, "giveBackSent", (log) =>
        Effect.map(
          giveUpOwn(log, (messages) =>
            messages.flatMap((message): ReadonlyArray<GivenUp> =>
              message.offset <= log.sent ? [{ reason: "fresh", message }] : []
            )),
          (given) =>
            given.map(({ message }) => message)
        )),

    remove: (session) =>
      Effect.mapError(
        remove(session),
        (error) => error._tag === "StoreError" ? storeFailed(session, "remove")(error) : error
      ),

    expire,

    find: (session, messageId) =>
      Effect.mapError(readAll(session), storeFailed(session, "find")).pipe(
        Effect.map((all): Located | undefined => {
          const found = all?.messages.find((message) =>
            (message.id ?? defaultMessageId(all.state.epoch, message.offset)) === messageId
          )
          if (found === undefined) return undefined
          const { enqueuedAt, offset } = found
          return { state: offset <= (logs.get(session)?.sent ?? 0) ? "sent" : "waiting", offset, enqueuedAt }
        })
      ),

    size: (session) =>
      Effect.suspend(() => {
        const log = logs.get(session)
        if (log !== undefined) return Effect.succeed({ messages: log.messages, bytes: log.bytes })
        return Effect.flatMap(
          Effect.mapError(
            ifStorable("outboxes", [session], call("outboxes", driver.outboxes([session]))),
            storeFailed(session, "size")
          ),
          ([state]) =>
            state === undefined
              ? Effect.fail(refuse(session, "size", "unknownSession"))
              : Effect.succeed({ messages: state.messages, bytes: state.bytes })
        )
      }),

    onAppend: subscribe(() => listeners, (list) => (listeners = list)),
    onMoved: subscribe(() => moveListeners, (list) => (moveListeners = list)),

    progress: (requests) =>
      Effect.gen(function*() {
        const states = yield* call("outboxes", driver.outboxes(requests.map(({ session }) => session)))
        const bySession = new Map(states.map((state) => [state.session, state]))
        return yield* Effect.forEach(requests, ({ after, session }) => {
          const state = bySession.get(session)
          if (state === undefined) return Effect.succeed(undefined)
          const { acked, epoch, last } = state
          return Effect.map(
            call("fates", driver.fates(session, after + 1, Math.max(after + 1, last))),
            (dead) => ({ epoch, acked, dead: [...dead, ...logs.get(session)?.fatesBeside(epoch, after, dead) ?? []] })
          )
        }, { concurrency: 8 })
      }).pipe(Effect.mapError(storeFailed("", "progress"))),

    stats: Effect.sync(() => ({
      sessions: known.sessions,
      messages: Math.max(0, known.messages + since.messages),
      bytes: Math.max(0, known.bytes + since.bytes),
      suspended: appending.suspended(),
      lost: tail.total(),
      ...totals
    }))
  }
  return self
})

const expiredOf = (session: string, epoch: string, { message, reason }: GivenUp): Expired => ({
  session,
  epoch,
  reason: reason === "overflow" ? "overflow" : "expired",
  messages: [message]
})

interface Removed {
  readonly messages: ReadonlyArray<OutboxMessage>
  readonly maybeHandled: number
  readonly epoch: string
}
