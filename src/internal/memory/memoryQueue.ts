/**
 * `MessageQueue` in memory: opening, reads, acks, expiry, ends. It keeps core outboxes behind bounds, an overflow
 * policy and a TTL.
 *
 * Each operation is synchronous inside one Effect, so there is nothing to lock.
 */
import { Effect, Random } from "effect"
import type { Failure } from "../../core/Frame.ts"
import { Outbox } from "../../core/Outbox.ts"
import type {
  Expired,
  Interface,
  NewMessage,
  Operation,
  Options,
  OverflowPolicy,
  ReadLimit
} from "../../MessageQueue.ts"
import { MessageQueueError } from "../../WebSocketError.ts"
import { maxSent } from "../bounds/overflow.ts"
import { queueBounds } from "../bounds/queueBounds.ts"
import { makeId } from "../kit/ids.ts"
import * as Check from "../kit/options.ts"
import * as Shapes from "../kit/shapes.ts"
import { Subscribers } from "../kit/subscribers.ts"
import { makeTurnClock } from "../kit/turnClock.ts"
import { deadAfter, type MemoryLog, remember } from "./memoryLog.ts"
import { MemoryLogs } from "./memoryLogs.ts"
import { MemorySenders } from "./memorySenders.ts"

/** What the operations share. Only its own methods change each part. */
interface Parts {
  readonly logs: MemoryLogs
  readonly senders: MemorySenders
  readonly onAppend: Subscribers<string>
  readonly onMoved: Subscribers<string, number>
  readonly now: () => number
  readonly newEpoch: () => string
  readonly maxSent: number
  /** Changed by the operations below. */
  readonly totals: { acknowledged: number; expired: number }
}

export const makeMemory = Effect.fnUntraced(function*(options: Options) {
  Check.check(options, Shapes.queue)
  const now = yield* makeTurnClock
  const random = yield* Random.Random
  const bounds = queueBounds(options, Check.count("maxTotalBytes", options.maxTotalBytes, 128 * 1024 * 1024))
  const ttlMillis = Check.millis("ttl", options.ttl, "5 minutes")
  const suspendTimeoutMillis = Check.millis("suspendTimeout", options.suspendTimeout, Infinity)
  const overflow: OverflowPolicy = options.overflow ?? "reject"
  const logs = new MemoryLogs(bounds)
  const onAppend = new Subscribers<string>()
  const onMoved = new Subscribers<string, number>()
  const senders = new MemorySenders({ logs, now, ttlMillis, overflow, suspendTimeoutMillis, onAppend })
  const parts: Parts = {
    logs,
    senders,
    onAppend,
    onMoved,
    now,
    newEpoch: () => makeId(random),
    maxSent: maxSent(overflow, bounds),
    totals: { acknowledged: 0, expired: 0 }
  }

  const self: Interface = {
    durable: false,
    append: Object.assign(
      (session: string, batch: ReadonlyArray<NewMessage>) => senders.append(session, batch),
      { unsafe: (session: string, batch: ReadonlyArray<NewMessage>) => senders.appendUnsafe(session, batch) }
    ),
    ...ownersSide(parts),
    ...ends(parts),
    ...questions(parts),
    onAppend: (listener) => onAppend.add(listener),
    onMoved: (listener) => onMoved.add(listener)
  }
  return self
})

// --- what the owner of an outbox does

const ownersSide = (
  parts: Parts
): Pick<Interface, "open" | "read" | "ack" | "recover" | "giveBackSent"> => {
  const { logs, maxSent, newEpoch, now, onMoved, senders, totals } = parts
  return {
    open: (session, generation, share) =>
      Effect.suspend(() => {
        const log = logs.get(session)
        if (log === undefined) {
          const outbox = new Outbox(newEpoch())
          logs.add(session, outbox, generation, share)
          return Effect.succeed(outbox.position)
        }
        if (log.generation > generation) return Effect.fail(refused(session, "open", "fenced"))
        const isNewer = log.generation < generation
        logs.reopen(log, generation, share)
        if (isNewer) onMoved.tell(session, generation)
        return Effect.succeed(log.outbox.position)
      }),

    read: ownedOperation(logs, "read", (log, after: number, limit: ReadLimit) => {
      const result = senders.tracked(log, (outbox) => outbox.read(after, limit, now(), maxSent))
      totals.expired += result.expired.length
      remember(log, result.expired, "expired", 0)
      remember(log, result.oversized, "overflow", 0)
      logs.schedule(log)
      return result
    }),

    ack: ownedOperation(logs, "ack", (log, upTo: number, failed: ReadonlyArray<Failure>) => {
      const result = senders.tracked(log, (outbox) => outbox.ack(upTo, failed))
      totals.acknowledged += result.released
      for (const { message, reason } of result.failed) remember(log, [message], reason, 0)
      return result
    }),

    recover: (session, generation, last) =>
      owned(logs, session, generation, "recover", (log) =>
        senders.tracked(log, (outbox) => {
          outbox.recover(last)
          return outbox.position
        })),

    giveBackSent: (session, generation) =>
      owned(logs, session, generation, "giveBackSent", (log) => {
        const given = senders.tracked(log, (outbox) => outbox.giveBackSent("fresh"))
        remember(log, given, "fresh", given.length)
        return given
      })
  }
}

/** Runs `use` on the log if this generation owns it. */
const owned = <A>(
  logs: MemoryLogs,
  session: string,
  generation: number,
  operation: string,
  use: (log: MemoryLog) => A
): Effect.Effect<A, MessageQueueError> =>
  Effect.suspend(() => {
    const log = logs.get(session)
    if (log === undefined) return Effect.fail(refused(session, operation, "unknownSession"))
    if (log.generation !== generation) return Effect.fail(refused(session, operation, "fenced"))
    return Effect.succeed(use(log))
  })

/** `owned`, with a synchronous form that answers if the caller is the owner. */
const ownedOperation = <Args extends ReadonlyArray<unknown>, A>(
  logs: MemoryLogs,
  operation: string,
  use: (log: MemoryLog, ...args: Args) => A
): Operation<[session: string, generation: number, ...args: Args], A, MessageQueueError> =>
  Object.assign(
    (session: string, generation: number, ...args: Args) =>
      owned(logs, session, generation, operation, (log) => use(log, ...args)),
    {
      unsafe: (session: string, generation: number, ...args: Args) => {
        const log = logs.get(session)
        return log?.generation === generation ? use(log, ...args) : undefined
      }
    }
  )

const refused = (session: string, operation: string, reason: "fenced" | "unknownSession") =>
  new MessageQueueError({ session, operation, reason })

// --- how messages and outboxes end

const ends = ({ logs, now, onAppend, onMoved, senders, totals }: Parts): Pick<Interface, "remove" | "expire"> => ({
  remove: (session) =>
    Effect.suspend(() => {
      const log = logs.get(session)
      if (log === undefined) return Effect.fail(refused(session, "remove", "unknownSession"))
      logs.remove(session)
      // Dismiss waiting senders before clearing, which would let them in.
      senders.dismiss(log)
      onMoved.tell(session, Infinity)
      const removed = { ...senders.tracked(log, (outbox) => outbox.clear()), epoch: log.outbox.epoch }
      logs.leaveShare(log)
      return Effect.succeed(removed)
    }),

  expire: (owns) =>
    Effect.sync(() => {
      const at = now()
      const result: Array<Expired> = []
      const others: Array<MemoryLog> = []
      for (let log = logs.takeDue(at); log !== undefined; log = logs.takeDue(at)) {
        if (!owns(log.session)) {
          others.push(log)
          continue
        }
        const expired = senders.tracked(log, (outbox) => outbox.expire(at))
        remember(log, expired, "expired", 0)
        totals.expired += expired.length
        if (expired.length > 0) {
          result.push({ session: log.session, epoch: log.outbox.epoch, messages: expired })
          onAppend.tell(log.session) // the owner has a gap to send
        }
        logs.schedule(log)
      }
      for (const log of others) logs.schedule(log)
      return result
    })
})

// --- queries

const questions = (
  { logs, senders, totals }: Parts
): Pick<Interface, "find" | "size" | "progress" | "stats"> => ({
  find: (session, messageId) =>
    Effect.sync(() => {
      const found = logs.get(session)?.outbox.find(messageId)
      if (found === undefined) return undefined
      const { enqueuedAt, offset } = found.message
      return { state: found.sent ? "sent" : "waiting", offset, enqueuedAt }
    }),

  size: (session) =>
    Effect.suspend(() => {
      const log = logs.get(session)
      if (log === undefined) return Effect.fail(refused(session, "size", "unknownSession"))
      return Effect.succeed({ messages: log.outbox.messages, bytes: log.outbox.bytes })
    }),

  progress: (requests) =>
    Effect.sync(() =>
      requests.map(({ after, session }) => {
        const log = logs.get(session)
        if (log === undefined) return undefined
        const { acked, epoch } = log.outbox
        return { epoch, acked, dead: deadAfter(log, after) }
      })
    ),

  stats: Effect.sync(() => ({ ...logs.amounts(), ...senders.counts(), ...totals }))
})
