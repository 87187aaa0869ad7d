/**
 * The rules for outboxes of a store that lost its newest part, in a failover for example. No offset that a peer may
 * have seen is given out again, and no message that the store got since is taken for an earlier one.
 *
 * An outbox is settled when its owner has said, in the store's present history, how far it goes. The owner knows that
 * from what it appended and read, or from the handshake. In a new history others wait for the owner. Where there is
 * none they append all the same, and the store notes where their messages begin. Whoever opens the outbox next learns
 * from the peer whether offsets behind that point were taken before; if so, these messages get new offsets.
 */
import { Duration, Effect, Semaphore } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { makeRareLog } from "../kit/rareLog.ts"
import type { Calls } from "./calls.ts"
import { encodeBody } from "./chunk.ts"
import type { KnownHere } from "./drafts.ts"
import { type StoreDriver, StoreError } from "./driver.ts"
import { lockedMillis, untilFree } from "./locks.ts"
import type { Logs } from "./logs.ts"
import type { Members } from "./members.ts"
import type { AckOutcome, AppendRequest, Fate, Known, OutboxState } from "./outboxes.ts"
import type { OutboxReader } from "./outboxReader.ts"
import { refuse } from "./queueFailures.ts"
import type { StoredLog } from "./storedLog.ts"

export interface LostTailOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly members: Members
  readonly logs: Logs
  readonly reader: OutboxReader
  /** Whether no other server is known to have the outbox. */
  readonly isOwned: (log: StoredLog) => boolean
  /** The peer may have something to read. */
  readonly onNews: (session: string) => void
}

/** How far a log went at one time. */
type Reach = Pick<StoredLog, "acked" | "reach">

export type LostTail = Effect.Success<ReturnType<typeof makeLostTail>>

/** How many outboxes of others are remembered, each with what this server appended to it. */
const maxRemembered = 10_000

const maxPart = 64
/** How often to try to change an outbox that an application's transaction has locked, or that is being settled. */
const maxTries = 40
/** A handshake that has not said within this time how far the peer is has failed. */
const openingMillis = 2_000
/** How often to look for what others have appended before giving up for now. */
const maxLooks = 16

/** What this server appended to outboxes that others own. */
class AppendedElsewhere {
  /** The least recent first. */
  private readonly appended = new Map<string, Known>()

  of(session: string): Known | undefined {
    return this.appended.get(session)
  }

  note(session: string, epoch: string, last: number): void {
    const before = this.appended.get(session)
    this.appended.delete(session)
    this.appended.set(session, { epoch, last: before?.epoch === epoch ? Math.max(before.last, last) : last })
    if (this.appended.size <= maxRemembered) return
    const [oldest] = this.appended.keys()
    if (oldest !== undefined) this.appended.delete(oldest)
  }
}

export const makeLostTail = Effect.fnUntraced(function*(options: LostTailOptions) {
  const { driver, logs, members } = options
  const { node } = members
  const elsewhere = new AppendedElsewhere()
  let total = 0
  const log = yield* makeRareLog

  // --- what is known

  const known = (session: string): KnownHere => {
    const log = logs.get(session)
    if (log === undefined) return { known: elsewhere.of(session), generation: undefined, settles: false }
    const isOwned = log.isCertain && options.isOwned(log)
    const generation = isOwned ? log.generation : undefined
    // Too early while the store may have lost fates: `settle` notes them first.
    const settles = isOwned && log.fates === undefined
    return { known: { epoch: log.epoch, last: log.reach }, generation, settles }
  }

  const noteAppended = (session: string, epoch: string, last: number): void => {
    if (logs.get(session) === undefined) elsewhere.note(session, epoch, last)
  }

  // --- what is told

  /** Logs that `lost` offsets were given out and are no longer in the store. */
  const note = (session: string, lost: number): void => {
    if (lost === 0) return
    total += lost
    log.warn(
      "lostTail",
      `the store ${driver.name} has lost its newest part: it lacks ${lost} positions in the log of session ${session}, ` +
        "which are skipped; messages there that were not delivered are lost"
    )
  }

  // --- settling

  /**
   * The owner says that the peer may have seen offsets up to `received`, and whatever this server gave out. The offsets
   * that the store lacks are taken.
   */
  const settle = (log: StoredLog, received: number): Effect.Effect<OutboxState, StoreError | MessageQueueError> =>
    Effect.suspend(() =>
      (log.settling ??= Semaphore.makeUnsafe(1)).withPermit(settleAlone(options, note, log, received))
    )

  const askHere = (session: string): Effect.Effect<boolean, StoreError> => {
    const log = logs.get(session)
    if (log === undefined) return Effect.succeed(false)
    // An outbox that is just being opened is settled by what its peer says, if that comes.
    if (!log.isCertain) return Effect.succeed(members.steady() - log.openedAt < openingMillis)
    return Effect.as(Effect.catchTag(settle(log, 0), "resilient-websocket/MessageQueueError", () => Effect.void), true)
  }

  /** Asks the owner to settle an outbox. Gives whether there is an owner to wait for. */
  const askOwner = (session: string, owner: string | undefined): Effect.Effect<boolean, StoreError> => {
    const log = logs.get(session)
    // The store may have lost that this server opened the outbox.
    if (owner === node || (log !== undefined && options.isOwned(log))) return askHere(session)
    if (owner === undefined) return Effect.succeed(false)
    return Effect.flatMap(
      members.isAlive(owner),
      (isAlive) => isAlive ? Effect.as(members.nudge(owner, session), true) : Effect.succeed(false)
    )
  }

  return {
    known,
    noteAppended,
    isBehind,
    note,
    settle,
    reopen: (log: StoredLog) => reopenIn(options, log),
    askOwner,
    total: () => total
  }
})

/** Whether a state shows a loss; `before` is what was known when the state was asked for. */
const isBehind = (log: StoredLog, before: Reach, state: OutboxState): boolean =>
  !state.settled || state.generation < log.generation ||
  (state.epoch === log.epoch && (state.last < before.reach || state.acked < before.acked))

// --- the steps of settling

const settleAlone = Effect.fnUntraced(function*(
  options: LostTailOptions,
  note: (session: string, lost: number) => void,
  log: StoredLog,
  received: number
): Effect.fn.Return<OutboxState, StoreError | MessageQueueError> {
  const { call, driver, logs, members: { now } } = options
  const { acked, epoch, generation, session, settledIn } = log
  const history = yield* call("history", driver.history)
  const before = yield* ownState(options, log)
  // Not the outbox that the peer knows: an earlier owner has put its own back, say. The next handshake reveals it.
  if (before.epoch !== epoch) return yield* refuse(session, "recover", "fenced")
  // Must come before settling: once it is settled, acks go on, and an acked message without a fate counts as handled.
  if (!before.settled) yield* noteFates(options, log, before)
  const last = Math.max(received, log.reach)
  const done = yield* call("advance", driver.advance({ session, generation, last, at: now(), settledIn }))
  if (done === undefined) return yield* refuse(session, "recover", "unknownSession")
  if (done.state.generation > generation) return yield* refuse(session, "recover", "fenced")
  note(session, done.lost)
  const hasForgotten = done.state.generation < generation
  if (hasForgotten) {
    if (before.settled) yield* noteFates(options, log, done.state)
    yield* reopenIn(options, log)
  }
  const state = !done.state.settled
    ? yield* moveBehind(options, log, last)
    : hasForgotten
    ? yield* ownState(options, log)
    : done.state
  if (state.epoch === epoch && state.acked < acked) yield* ackOwn(options, log, acked, [])
  log.settledIn = history
  logs.tracked(log, () => log.settled(state))
  // The peer knows nothing of an outbox that replaced its own.
  if (!done.state.settled || state.epoch !== epoch) options.onNews(session)
  return state
})

const ownState = Effect.fnUntraced(function*(
  { call, driver }: LostTailOptions,
  { generation, session }: StoredLog
): Effect.fn.Return<OutboxState, StoreError | MessageQueueError> {
  const [state] = yield* call("outboxes", driver.outboxes([session]))
  if (state === undefined) return yield* refuse(session, "recover", "unknownSession")
  return state.generation > generation ? yield* refuse(session, "recover", "fenced") : state
})

/** Notes the fates that the store may have lost. Offsets after `unsettledFrom` belong to what others appended since. */
const noteFates = Effect.fnUntraced(function*(
  options: LostTailOptions,
  log: StoredLog,
  { unsettledFrom = Infinity }: OutboxState
): Effect.fn.Return<void, StoreError | MessageQueueError> {
  const fates = (log.fates ?? []).filter(({ end }) => end <= unsettledFrom)
  if (fates.length === 0) return
  const stored = yield* options.reader.readFates(log.session, fates.flatMap(({ end, first }) => [first, end]))
  // A stored fate is as new, and may cover a longer range that begins at the same offset.
  const lost = fates.filter((fate) => !stored.some((other) => other.first <= fate.first && fate.end <= other.end))
  if (lost.length > 0) yield* ackOwn(options, log, 0, lost)
})

const ackOwn = Effect.fnUntraced(function*(
  { call, driver }: LostTailOptions,
  { generation, session }: StoredLog,
  upTo: number,
  fates: ReadonlyArray<Fate>
): Effect.fn.Return<void, StoreError | MessageQueueError> {
  const ack = call("ack", driver.ack([{ session, generation, upTo, fates }]))
  const [outcome] = yield* untilFree(ack, ([one]) => !isFinal(one), maxTries)
  if (outcome?._tag === "Acked") return
  if (outcome?._tag === "Missing") return yield* refuse(session, "recover", "unknownSession")
  if (outcome?._tag === "Fenced") return yield* refuse(session, "recover", "fenced")
  return yield* Effect.fail(contended)
})

/** The store has lost the outbox, or that this server opened it: puts it back under its identity. */
const reopenIn = ({ call, driver, members: { node } }: LostTailOptions, { epoch, generation, session }: StoredLog) =>
  call("openOutbox", driver.openOutbox({ session, generation, node, newEpoch: epoch, isPutBack: true }))

/**
 * Messages that others appended in this history may have offsets that the peer knows from lost messages. They get new
 * offsets, in order, behind those and `last`. At their old offsets their fate stays unknown.
 */
const moveBehind = Effect.fnUntraced(function*(
  options: LostTailOptions,
  log: StoredLog,
  last: number
): Effect.fn.Return<OutboxState, StoreError | MessageQueueError> {
  const { call, driver, members: { node, now } } = options
  const { generation, session } = log
  // Others append until this is done, and each of their messages has to be moved.
  for (let look = 0; look < maxLooks; look++) {
    const state = yield* ownState(options, log)
    if (state.settled) return state
    const from = Math.max(state.unsettledFrom ?? state.last, state.acked)
    const messages = yield* messagesAfter(options, session, from, state.last)
    const end = Math.max(last, state.last)
    if (from < end) {
      yield* ackOwn(options, log, 0, [{ first: from + 1, end, reason: "fresh", maybeHandled: true, at: now() }])
    }
    const requests = partsOf(messages).map((part) =>
      copyOf(session, generation, { epoch: state.epoch, last: end }, part)
    )
    // The move settles the outbox in the same step: if it fails before that, whoever opens the outbox next does it
    // again.
    if (requests.length === 0) {
      yield* call("advance", driver.advance({ session, generation, last: end, at: now(), isMoved: true }))
      continue
    }
    const results = yield* call("append", driver.append(requests, undefined, node))
    if (results.some(({ _tag }) => _tag === "Locked")) yield* Effect.sleep(Duration.millis(lockedMillis))
  }
  return yield* Effect.fail(contended)
})

/** The messages at `from + 1 .. last`. */
const messagesAfter = Effect.fnUntraced(function*(
  { reader }: LostTailOptions,
  session: string,
  from: number,
  last: number
) {
  const messages: Array<OutboxMessage> = []
  let after = from
  while (after < last) {
    const page = yield* reader.readPage(session, after)
    if (page === undefined) return yield* refuse(session, "recover", "unknownSession")
    for (const slot of page.slots) if (slot.kind === "message") messages.push(slot)
    after = page.more ? page.end : last
  }
  return messages
})

/** Runs of messages with the same times, in order: what one chunk can hold. */
const partsOf = (messages: ReadonlyArray<OutboxMessage>): ReadonlyArray<ReadonlyArray<OutboxMessage>> => {
  const parts: Array<Array<OutboxMessage>> = []
  for (const message of messages) {
    const part = parts[parts.length - 1]
    const before = part?.[part.length - 1]
    const joins = before?.enqueuedAt === message.enqueuedAt && before.expiresAt === message.expiresAt
    if (joins && part !== undefined && part.length < maxPart) part.push(message)
    else parts.push([message])
  }
  return parts
}

const isFinal = (outcome: AckOutcome | undefined): boolean =>
  outcome?._tag === "Acked" || outcome?._tag === "Missing" || outcome?._tag === "Fenced"

const copyOf = (
  session: string,
  generation: number,
  known: Known,
  part: ReadonlyArray<OutboxMessage>
): AppendRequest => ({
  session,
  count: part.length,
  bytes: part.reduce((sum, { bytes }) => sum + bytes, 0),
  enqueuedAt: part[0]?.enqueuedAt ?? 0,
  expiresAt: part[0]?.expiresAt ?? Infinity,
  body: encodeBody(part.map((message) => ({ ...message, ttlMillis: undefined }))),
  // These messages were let in before.
  maxMessages: Number.MAX_SAFE_INTEGER,
  maxBytes: Number.MAX_SAFE_INTEGER,
  known,
  unsettled: "moved",
  generation,
  publish: undefined
})

const contended = new StoreError("recover", new Error("others change the outbox all the time"))
