/**
 * The memory layer of MessageQueue: core outboxes behind bounds, an overflow policy and a TTL.
 *
 * Everything is synchronous inside one Effect, so there is nothing to lock. Sessions are found for expiry through a
 * heap, by a lower bound of their earliest expiry: nothing is scanned.
 */
import { Duration, Effect, Random } from "effect"
import { Deque } from "../../core/Deque.ts"
import type { Failure } from "../../core/Frame.ts"
import { memoryOfMessage, Outbox, type OutboxMessage } from "../../core/Outbox.ts"
import type {
  Appended,
  Interface,
  NewMessage,
  Operation,
  Options,
  OverflowPolicy,
  Progress,
  ReadLimit
} from "../../MessageQueue.ts"
import type { DeadLetterReason } from "../../WebSocketError.ts"
import { MessageQueueError, QueueOverflowError } from "../../WebSocketError.ts"
import { type OverPart, type ShareOrName, Shares } from "../bounds/shares.ts"
import { DeadlineHeap } from "../kit/deadlineHeap.ts"
import { makeId } from "../kit/ids.ts"
import * as Option from "../kit/options.ts"
import * as Shapes from "../kit/shapes.ts"
import { callbackLater } from "../kit/signal.ts"
import { makeTurnClock } from "../kit/turnClock.ts"

type Limit = Exclude<QueueOverflowError["limit"], OverPart["limit"]> | OverPart

/** Whether it is not the session's own bound. */
const isTotal = (limit: Limit): boolean => limit !== "messages" && limit !== "bytes"

interface Bounds {
  readonly maxMessages: number
  readonly maxBytes: number
  readonly maxTotalMessages: number
  readonly maxTotalBytes: number
}

/** A sender that waits for room. */
interface Waiter {
  readonly messages: ReadonlyArray<NewMessage>
  readonly bytes: number
  readonly memory: number
  readonly resume: (effect: Effect.Effect<Appended, MessageQueueError | QueueOverflowError>) => void
}

interface Log {
  readonly session: string
  readonly outbox: Outbox
  generation: number
  /** Whose part of all together it has. */
  share: ShareOrName | undefined
  /** In order of arrival; one that gives up leaves nothing behind. Made when the first one waits. */
  waiters: Set<Waiter> | undefined
  /** The earliest time at which the heap will look at this log. */
  scheduledAt: number
  /** What was given up, for those who sent it from elsewhere: the newest. Made with the first. */
  dead: Deque<Dead> | undefined
}

type Dead = Progress["dead"][number]

/** How many given up messages of a session are remembered. */
const rememberedDead = 1_024

const none: ReadonlyArray<never> = []
const isAwaited = (log: Log): boolean => log.waiters !== undefined && log.waiters.size > 0
const totalBytes = (messages: ReadonlyArray<NewMessage>): number => {
  let bytes = 0
  for (let i = 0; i < messages.length; i++) bytes += (messages[i] as NewMessage).bytes // in bounds
  return bytes
}
const totalMemory = (messages: ReadonlyArray<NewMessage>): number => {
  let memory = 0
  for (let i = 0; i < messages.length; i++) memory += memoryOfMessage(messages[i] as NewMessage) // in bounds
  return memory
}

export const makeMemory = Effect.fnUntraced(function*(options: Options) {
  Option.check(options, Shapes.queue)
  const now = yield* makeTurnClock
  const random = yield* Random.Random
  const bounds: Bounds = {
    maxMessages: Option.count("maxMessages", options.maxMessages, 1_000),
    maxBytes: Option.count("maxBytes", options.maxBytes, 16 * 1024 * 1024),
    maxTotalMessages: Option.count("maxTotalMessages", options.maxTotalMessages, 1_000_000),
    maxTotalBytes: Option.count("maxTotalBytes", options.maxTotalBytes, 128 * 1024 * 1024)
  }
  const ttl = Option.millis("ttl", options.ttl, "5 minutes")
  const overflow: OverflowPolicy = options.overflow ?? "reject"
  const suspendTimeout = Option.millis("suspendTimeout", options.suspendTimeout, Infinity)

  const logs = new Map<string, Log>()
  const expiries = new DeadlineHeap<Log>((log, at) => log.scheduledAt === at && logs.get(log.session) === log)
  let listeners: ReadonlyArray<(session: string) => void> = []
  let moveListeners: ReadonlyArray<(session: string, generation: number) => void> = []
  const blockedByTotal = new Set<Log>()
  let messages = 0
  let bytes = 0
  /** What they take: the total is a bound on this, since all are kept here. */
  let memory = 0
  const shares = new Shares(bounds)
  let suspended = 0
  const totals = { appended: 0, acknowledged: 0, expired: 0, overflows: 0 }

  const missing = (session: string, operation: string) =>
    new MessageQueueError({ session, operation, reason: "unknownSession" })

  /** Runs `use` on the log if its owner's generation is the newest. */
  const owned = <A>(
    session: string,
    generation: number,
    operation: string,
    use: (log: Log) => A
  ): Effect.Effect<A, MessageQueueError> =>
    Effect.suspend(() => {
      const log = logs.get(session)
      if (log === undefined) return Effect.fail(missing(session, operation))
      if (log.generation !== generation) {
        return Effect.fail(new MessageQueueError({ session, operation, reason: "fenced" }))
      }
      return Effect.succeed(use(log))
    })

  /** `owned`, there and then if the caller is the owner. */
  const ownedOperation = <Args extends ReadonlyArray<unknown>, A>(
    operation: string,
    use: (log: Log, ...args: Args) => A
  ): Operation<[session: string, generation: number, ...args: Args], A, MessageQueueError> =>
    Object.assign(
      (session: string, generation: number, ...args: Args) =>
        owned(session, generation, operation, (log) => use(log, ...args)),
      {
        unsafe: (session: string, generation: number, ...args: Args) => {
          const log = logs.get(session)
          return log?.generation === generation ? use(log, ...args) : undefined
        }
      }
    )

  const count = (log: Log, moreMessages: number, moreBytes: number, moreMemory: number): void => {
    messages += moreMessages
    bytes += moreBytes
    memory += moreMemory
    if (log.share !== undefined) log.share = shares.add(log.share, moreMessages, moreMemory)
  }

  /** Applies `change` to the log's outbox and keeps the totals, and lets waiting senders in. */
  const tracked = <A>(log: Log, change: (outbox: Outbox) => A): A => {
    const { outbox } = log
    const messagesBefore = outbox.messages
    const bytesBefore = outbox.bytes
    const memoryBefore = outbox.memory
    const result = change(outbox)
    count(log, outbox.messages - messagesBefore, outbox.bytes - bytesBefore, outbox.memory - memoryBefore)
    if (suspended > 0 && outbox.messages < messagesBefore) admitWaiters(log)
    return result
  }

  const remember = (
    log: Log,
    messages: ReadonlyArray<OutboxMessage>,
    reason: DeadLetterReason,
    maybeHandled: number
  ): void => {
    for (let i = 0; i < messages.length; i++) {
      const { offset } = messages[i] as OutboxMessage // in bounds
      log.dead ??= new Deque()
      log.dead.pushBack({ first: offset, end: offset, reason, maybeHandled: i < maybeHandled })
      if (log.dead.size > rememberedDead) log.dead.popFront()
    }
  }

  /** The bound that so much more would break. Not yet an error: errors are made only for those who get them. */
  const exceeded = (log: Log, count: number, size: number, more: number): Limit | undefined => {
    const { outbox } = log
    if (outbox.messages + count > bounds.maxMessages) return "messages"
    if (outbox.bytes + size > bounds.maxBytes) return "bytes"
    if (messages + count > bounds.maxTotalMessages) return "totalMessages"
    if (memory + more > bounds.maxTotalBytes) return "totalBytes"
    return shares.over(log.share, outbox.messages, outbox.memory, messages, memory, count, more)
  }

  /** Without a stack trace: a sender that is refused a million times needs none, and it costs ten times the rest. */
  const overflowError = (log: Log, limit: Limit): QueueOverflowError => {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    try {
      return describeOverflow(log, limit)
    } finally {
      Error.stackTraceLimit = stackTraceLimit
    }
  }

  const describeOverflow = ({ outbox, session }: Log, limit: Limit): QueueOverflowError => {
    if (typeof limit === "object") return new QueueOverflowError({ session, ...limit })
    switch (limit) {
      case "messages":
        return new QueueOverflowError({ session, limit, bound: bounds.maxMessages, size: outbox.messages })
      case "bytes":
        return new QueueOverflowError({ session, limit, bound: bounds.maxBytes, size: outbox.bytes })
      case "totalMessages":
        return new QueueOverflowError({ session, limit, bound: bounds.maxTotalMessages, size: messages })
      case "totalBytes":
        return new QueueOverflowError({ session, limit, bound: bounds.maxTotalBytes, size: memory })
    }
  }

  const neverFits = (count: number, size: number, more: number): boolean =>
    count > Math.min(bounds.maxMessages, bounds.maxTotalMessages) ||
    size > bounds.maxBytes || more > bounds.maxTotalBytes

  const appendNow = (log: Log, batch: ReadonlyArray<NewMessage>, dropped: ReadonlyArray<OutboxMessage>): Appended => {
    const at = now()
    const { outbox } = log
    const first = outbox.last + 1
    const bytesBefore = outbox.bytes
    const memoryBefore = outbox.memory
    for (let i = 0; i < batch.length; i++) {
      const message = batch[i] as NewMessage // in bounds
      outbox.append({
        payload: message.payload,
        bytes: message.bytes,
        id: message.id,
        trace: message.trace,
        enqueuedAt: at,
        expiresAt: at + (message.ttlMillis ?? ttl)
      })
    }
    count(log, batch.length, outbox.bytes - bytesBefore, outbox.memory - memoryBefore)
    totals.appended += batch.length
    scheduleExpiry(log)
    for (const listener of listeners) listener(log.session)
    return { epoch: outbox.epoch, first, enqueuedAt: at, dropped }
  }

  const scheduleExpiry = (log: Log): void => {
    const at = log.outbox.earliestExpiry
    if (at < log.scheduledAt) {
      log.scheduledAt = at
      expiries.push(at, log)
    }
  }

  /**
   * Lets senders in, first come first served, as long as there is room; but only once a quarter of the bound is free,
   * so that a sender comes back to write many messages and not one.
   */
  const admitWaiters = (log: Log): void => {
    const { outbox } = log
    if (outbox.messages * 4 > bounds.maxMessages * 3 || outbox.bytes * 4 > bounds.maxBytes * 3) return
    for (const waiter of log.waiters ?? none) {
      const full = exceeded(log, waiter.messages.length, waiter.bytes, waiter.memory)
      if (full !== undefined) {
        if (isTotal(full)) blockedByTotal.add(log)
        return
      }
      leave(log, waiter)
      waiter.resume(Effect.succeed(appendNow(log, waiter.messages, none)))
    }
    blockedByTotal.delete(log)
    for (const other of blockedByTotal) {
      if (other === log) continue
      blockedByTotal.delete(other)
      admitWaiters(other)
    }
  }

  /** Whether it was waiting still. */
  const leave = (log: Log, waiter: Waiter): boolean => {
    const waited = log.waiters?.delete(waiter) === true
    if (waited) suspended--
    return waited
  }

  const suspendSender = (
    log: Log,
    batch: ReadonlyArray<NewMessage>,
    full: Limit
  ): Effect.Effect<Appended, MessageQueueError | QueueOverflowError> =>
    Effect.suspend(() => {
      // Set when it is let in, which may be a moment before it runs on.
      let admitted: Effect.Effect<Appended, MessageQueueError | QueueOverflowError> | undefined
      const wait = callbackLater<Appended, MessageQueueError | QueueOverflowError>((resume) => {
        const waiter: Waiter = {
          messages: batch,
          bytes: totalBytes(batch),
          memory: totalMemory(batch),
          resume: (effect) => {
            admitted = effect
            resume(effect)
          }
        }
        // The fiber may have yielded since it found the queue full: what it waits for must be still to come.
        if (logs.get(log.session) !== log) {
          waiter.resume(Effect.fail(missing(log.session, "append")))
          return Effect.void
        }
        if (!isAwaited(log) && exceeded(log, batch.length, waiter.bytes, waiter.memory) === undefined) {
          waiter.resume(Effect.succeed(appendNow(log, batch, none)))
          return Effect.void
        }
        log.waiters ??= new Set()
        log.waiters.add(waiter)
        suspended++
        if (isTotal(full)) blockedByTotal.add(log)
        return Effect.sync(() => {
          if (leave(log, waiter)) admitWaiters(log) // the next in line may be smaller
        })
      })
      if (suspendTimeout === Infinity) return wait
      return Effect.timeoutOrElse(wait, {
        duration: Duration.millis(suspendTimeout),
        orElse: () => admitted ?? Effect.fail(overflowError(log, full))
      })
    })

  /** Makes room, unless what may be at the peer already, and so can't be dropped, leaves too little. */
  const dropOldest = (log: Log, batch: ReadonlyArray<NewMessage>): ReadonlyArray<OutboxMessage> | undefined => {
    const { waitingBytes, waitingMemory, waitingMessages } = log.outbox
    const count = batch.length
    const size = totalBytes(batch)
    const more = totalMemory(batch)
    if (exceeded(log, count - waitingMessages, size - waitingBytes, more - waitingMemory) !== undefined) {
      return undefined
    }
    const dropped: Array<OutboxMessage> = []
    while (exceeded(log, count, size, more) !== undefined) {
      const oldest = tracked(log, (outbox) => outbox.dropOldest("overflow"))
      if (oldest === undefined) break
      dropped.push(oldest)
    }
    remember(log, dropped, "overflow", 0)
    return dropped
  }

  /**
   * What may be at the peer can't be dropped. So that a peer that stops reading leaves something to drop, only half of
   * the bound is given out under the policy `dropOldest`.
   */
  const maxSent = overflow === "dropOldest" ? Math.ceil(bounds.maxMessages / 2) : Infinity

  const appendFull = (
    log: Log,
    batch: ReadonlyArray<NewMessage>,
    full: Limit
  ): Effect.Effect<Appended, MessageQueueError | QueueOverflowError> => {
    totals.overflows++
    if (overflow === "reject" || neverFits(batch.length, totalBytes(batch), totalMemory(batch))) {
      return Effect.fail(overflowError(log, full))
    }
    if (overflow === "dropNewest") {
      return Effect.succeed({
        epoch: log.outbox.epoch,
        first: undefined,
        enqueuedAt: now(),
        dropped: none
      })
    }
    if (overflow === "suspend") return suspendSender(log, batch, full)
    const dropped = dropOldest(log, batch)
    return dropped === undefined
      ? Effect.fail(overflowError(log, full))
      : Effect.succeed(appendNow(log, batch, dropped))
  }

  const append = (
    session: string,
    batch: ReadonlyArray<NewMessage>
  ): Effect.Effect<Appended, MessageQueueError | QueueOverflowError> =>
    Effect.suspend(() => {
      const log = logs.get(session)
      if (log === undefined) return Effect.fail(missing(session, "append"))
      const full = exceeded(log, batch.length, totalBytes(batch), totalMemory(batch))
      if (full !== undefined) return appendFull(log, batch, full)
      // Nobody overtakes a sender that waits.
      if (isAwaited(log)) return suspendSender(log, batch, "messages")
      return Effect.succeed(appendNow(log, batch, none))
    })

  const appendUnsafe = (session: string, batch: ReadonlyArray<NewMessage>): Appended | undefined => {
    const log = logs.get(session)
    if (log === undefined || isAwaited(log)) return undefined
    const full = exceeded(log, batch.length, totalBytes(batch), totalMemory(batch))
    return full === undefined ? appendNow(log, batch, none) : undefined
  }

  const self: Interface = {
    durable: false,

    open: (session, generation, share) =>
      Effect.suspend(() => {
        const log = logs.get(session)
        if (log === undefined) {
          const outbox = new Outbox(makeId(random))
          logs.set(session, {
            session,
            outbox,
            generation,
            share,
            waiters: undefined,
            scheduledAt: Infinity,
            dead: undefined
          })
          return Effect.succeed(outbox.position)
        }
        if (log.generation > generation) {
          return Effect.fail(new MessageQueueError({ session, operation: "open", reason: "fenced" }))
        }
        const isNewer = log.generation < generation
        log.generation = generation
        log.share = shares.move(log.share, share, log.outbox.messages, log.outbox.memory)
        if (isNewer) { for (const listener of moveListeners) listener(session, generation) }
        return Effect.succeed(log.outbox.position)
      }),

    append: Object.assign(append, { unsafe: appendUnsafe }),

    read: ownedOperation("read", (log, after: number, limit: ReadLimit) => {
      const result = tracked(log, (outbox) => outbox.read(after, limit, now(), maxSent))
      totals.expired += result.expired.length
      remember(log, result.expired, "expired", 0)
      remember(log, result.oversized, "overflow", 0)
      scheduleExpiry(log)
      return result
    }),

    ack: ownedOperation("ack", (log, upTo: number, failed: ReadonlyArray<Failure>) => {
      const result = tracked(log, (outbox) => outbox.ack(upTo, failed))
      totals.acknowledged += result.released
      for (const { message, reason } of result.failed) remember(log, [message], reason, 0)
      return result
    }),

    recover: (session, generation, last) =>
      owned(session, generation, "recover", (log) =>
        tracked(log, (outbox) => {
          outbox.recover(last)
          return outbox.position
        })),

    giveBackSent: (session, generation) =>
      owned(session, generation, "giveBackSent", (log) => {
        const given = tracked(log, (outbox) => outbox.giveBackSent("fresh"))
        remember(log, given, "fresh", given.length)
        return given
      }),

    remove: (session) =>
      Effect.suspend(() => {
        const log = logs.get(session)
        if (log === undefined) return Effect.fail(missing(session, "remove"))
        logs.delete(session)
        blockedByTotal.delete(log)
        // Before the clearing, which would let them in: whoever waits has no session to send to.
        for (const waiter of log.waiters ?? none) {
          leave(log, waiter)
          waiter.resume(Effect.fail(missing(session, "append")))
        }
        for (const listener of moveListeners) listener(session, Infinity)
        const removed = { ...tracked(log, (outbox) => outbox.clear()), epoch: log.outbox.epoch }
        shares.leave(log.share, 0, 0)
        return Effect.succeed(removed)
      }),

    expire: (owns) =>
      Effect.sync(() => {
        const at = now()
        const result: Array<{ session: string; epoch: string; messages: ReadonlyArray<OutboxMessage> }> = []
        const others: Array<Log> = []
        while (true) {
          const log = expiries.popDue(at)
          if (log === undefined) break
          log.scheduledAt = Infinity
          if (!owns(log.session)) {
            others.push(log)
            continue
          }
          const expired = tracked(log, (outbox) => outbox.expire(at))
          remember(log, expired, "expired", 0)
          totals.expired += expired.length
          if (expired.length > 0) {
            result.push({ session: log.session, epoch: log.outbox.epoch, messages: expired })
            for (const listener of listeners) listener(log.session) // the owner has a gap to tell
          }
          scheduleExpiry(log)
        }
        for (const log of others) scheduleExpiry(log)
        return result
      }),

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
        if (log === undefined) return Effect.fail(missing(session, "size"))
        return Effect.succeed({ messages: log.outbox.messages, bytes: log.outbox.bytes })
      }),

    onAppend: (listener) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          listeners = [...listeners, listener]
        }),
        () =>
          Effect.sync(() => {
            listeners = listeners.filter((other) => other !== listener)
          })
      ),

    onMoved: (listener) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          moveListeners = [...moveListeners, listener]
        }),
        () =>
          Effect.sync(() => {
            moveListeners = moveListeners.filter((other) => other !== listener)
          })
      ),

    progress: (requests) =>
      Effect.sync(() =>
        requests.map(({ after, session }) => {
          const log = logs.get(session)
          if (log === undefined) return undefined
          const { acked, epoch } = log.outbox
          const dead: Array<Dead> = []
          log.dead?.forEach((fate) => {
            if (fate.end > after) dead.push(fate)
          })
          return { epoch, acked, dead }
        })
      ),

    stats: Effect.sync(() => ({ sessions: logs.size, messages, bytes, suspended, ...totals }))
  }
  return self
})
