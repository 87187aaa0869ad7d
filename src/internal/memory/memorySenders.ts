/** Senders to outboxes in memory: appending, what happens when there is no room, and who waits for it. */
import { Duration, Effect } from "effect"
import type { Outbox, OutboxMessage } from "../../core/Outbox.ts"
import type { Appended, NewMessage, OverflowPolicy } from "../../MessageQueue.ts"
import { MessageQueueError, type QueueOverflowError } from "../../WebSocketError.ts"
import { answerTo } from "../bounds/overflow.ts"
import { isOfAll, type Limit, overflowError, payloadBytes } from "../bounds/queueBounds.ts"
import { callbackLater } from "../kit/signal.ts"
import type { Subscribers } from "../kit/subscribers.ts"
import { type MemoryLog, memoryOf, remember, type Waiter } from "./memoryLog.ts"
import type { MemoryLogs } from "./memoryLogs.ts"

export interface MemorySendersOptions {
  readonly logs: MemoryLogs
  readonly now: () => number
  readonly ttlMillis: number
  readonly overflow: OverflowPolicy
  readonly suspendTimeoutMillis: number
  readonly onAppend: Subscribers<string>
}

type Appending = Effect.Effect<Appended, MessageQueueError | QueueOverflowError>

const none: ReadonlyArray<never> = []

export class MemorySenders {
  private readonly options: MemorySendersOptions
  private readonly logs: MemoryLogs
  /** Logs whose first waiting sender needs room in a bound on all outboxes together. */
  private readonly blockedByTotal = new Set<MemoryLog>()
  private suspended = 0
  private appended = 0
  private overflows = 0

  constructor(options: MemorySendersOptions) {
    this.options = options
    this.logs = options.logs
  }

  counts(): { readonly suspended: number; readonly appended: number; readonly overflows: number } {
    return { suspended: this.suspended, appended: this.appended, overflows: this.overflows }
  }

  append(session: string, batch: ReadonlyArray<NewMessage>): Appending {
    return Effect.suspend(() => {
      const log = this.logs.get(session)
      if (log === undefined) return Effect.fail(missing(session))
      const full = this.logs.exceeded(log, batch.length, payloadBytes(batch), memoryOf(batch))
      if (full !== undefined) return this.appendFull(log, batch, full)
      // No sender overtakes one that waits.
      if (isAwaited(log)) return this.wait(log, batch, "messages")
      return Effect.succeed(this.appendNow(log, batch, none))
    })
  }

  /** Appends synchronously if there is room; otherwise returns undefined. */
  appendUnsafe(session: string, batch: ReadonlyArray<NewMessage>): Appended | undefined {
    const log = this.logs.get(session)
    if (log === undefined || isAwaited(log)) return undefined
    const full = this.logs.exceeded(log, batch.length, payloadBytes(batch), memoryOf(batch))
    return full === undefined ? this.appendNow(log, batch, none) : undefined
  }

  /** Applies `change` to the log's outbox, and lets waiting senders in if it makes room. */
  tracked<A>(log: MemoryLog, change: (outbox: Outbox) => A): A {
    const before = log.outbox.messages
    const result = this.logs.tracked(log, change)
    if (this.suspended > 0 && log.outbox.messages < before) this.admit(log)
    return result
  }

  /** The log is gone: waiting senders fail, since their session is unknown now. */
  dismiss(log: MemoryLog): void {
    this.blockedByTotal.delete(log)
    for (const waiter of log.waiters ?? none) {
      this.leave(log, waiter)
      waiter.resume(Effect.fail(missing(log.session)))
    }
  }

  private appendNow(
    log: MemoryLog,
    batch: ReadonlyArray<NewMessage>,
    dropped: ReadonlyArray<OutboxMessage>
  ): Appended {
    const { now, onAppend, ttlMillis } = this.options
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
        expiresAt: at + (message.ttlMillis ?? ttlMillis)
      })
    }
    this.logs.count(log, batch.length, outbox.bytes - bytesBefore, outbox.memory - memoryBefore)
    this.appended += batch.length
    this.logs.schedule(log)
    onAppend.tell(log.session)
    return { epoch: outbox.epoch, first, enqueuedAt: at, dropped }
  }

  // --- when there is no room

  private appendFull(log: MemoryLog, batch: ReadonlyArray<NewMessage>, full: Limit): Appending {
    this.overflows++
    const { now, overflow } = this.options
    switch (answerTo(overflow, this.logs.bounds, batch.length, payloadBytes(batch), memoryOf(batch))) {
      case "refuse":
        return Effect.fail(this.overflowError(log, full))
      case "skip":
        return Effect.succeed({ epoch: log.outbox.epoch, first: undefined, enqueuedAt: now(), dropped: none })
      case "wait":
        return this.wait(log, batch, full)
      case "dropOldest": {
        const dropped = this.dropOldest(log, batch)
        return dropped === undefined
          ? Effect.fail(this.overflowError(log, full))
          : Effect.succeed(this.appendNow(log, batch, dropped))
      }
    }
  }

  private overflowError(log: MemoryLog, full: Limit): QueueOverflowError {
    return overflowError(log.session, this.logs.fullBy(log, full))
  }

  /** Makes room by dropping unsent messages; undefined if even dropping all of them would not be enough. */
  private dropOldest(log: MemoryLog, batch: ReadonlyArray<NewMessage>): ReadonlyArray<OutboxMessage> | undefined {
    const { waitingBytes, waitingMemory, waitingMessages } = log.outbox
    const count = batch.length
    const bytes = payloadBytes(batch)
    const memory = memoryOf(batch)
    const least = this.logs.exceeded(log, count - waitingMessages, bytes - waitingBytes, memory - waitingMemory)
    if (least !== undefined) return undefined
    const dropped: Array<OutboxMessage> = []
    while (this.logs.exceeded(log, count, bytes, memory) !== undefined) {
      const oldest = this.tracked(log, (outbox) => outbox.dropOldest("overflow"))
      if (oldest === undefined) break
      dropped.push(oldest)
    }
    remember(log, dropped, "overflow", 0)
    return dropped
  }

  // --- senders that wait

  private wait(log: MemoryLog, batch: ReadonlyArray<NewMessage>, full: Limit): Appending {
    const { suspendTimeoutMillis } = this.options
    return Effect.suspend(() => {
      // Set when the sender is let in, which may be a moment before its fiber resumes.
      let admitted: Appending | undefined
      const wait = callbackLater<Appended, MessageQueueError | QueueOverflowError>((resume) =>
        this.join(log, full, {
          messages: batch,
          bytes: payloadBytes(batch),
          memory: memoryOf(batch),
          resume: (effect) => {
            admitted = effect
            resume(effect)
          }
        })
      )
      if (suspendTimeoutMillis === Infinity) return wait
      return Effect.timeoutOrElse(wait, {
        duration: Duration.millis(suspendTimeoutMillis),
        orElse: () => admitted ?? Effect.fail(this.overflowError(log, full))
      })
    })
  }

  /** A sender begins to wait. The returned effect is for one that gives up. */
  private join(log: MemoryLog, full: Limit, waiter: Waiter): Effect.Effect<void> {
    const { bytes, memory, messages } = waiter
    // The fiber may have yielded since it found the queue full, and there may be room by now.
    if (this.logs.get(log.session) !== log) {
      waiter.resume(Effect.fail(missing(log.session)))
      return Effect.void
    }
    if (!isAwaited(log) && this.logs.exceeded(log, messages.length, bytes, memory) === undefined) {
      waiter.resume(Effect.succeed(this.appendNow(log, messages, none)))
      return Effect.void
    }
    log.waiters ??= new Set()
    log.waiters.add(waiter)
    this.suspended++
    if (isOfAll(full)) this.blockedByTotal.add(log)
    return Effect.sync(() => {
      if (this.leave(log, waiter)) this.admit(log) // the next in line may be smaller
    })
  }

  /**
   * Lets senders in, first come first served, while there is room. Only once a quarter of the outbox's bound is free,
   * so that a sender that resumes can write many messages, not one.
   */
  private admit(log: MemoryLog): void {
    const { bounds } = this.logs
    const { outbox } = log
    if (outbox.messages * 4 > bounds.maxMessages * 3 || outbox.bytes * 4 > bounds.maxBytes * 3) return
    for (const waiter of log.waiters ?? none) {
      const full = this.logs.exceeded(log, waiter.messages.length, waiter.bytes, waiter.memory)
      if (full !== undefined) {
        if (isOfAll(full)) this.blockedByTotal.add(log)
        return
      }
      this.leave(log, waiter)
      waiter.resume(Effect.succeed(this.appendNow(log, waiter.messages, none)))
    }
    this.blockedByTotal.delete(log)
    for (const other of this.blockedByTotal) {
      if (other === log) continue
      this.blockedByTotal.delete(other)
      this.admit(other)
    }
  }

  /** Returns whether the sender was still waiting. */
  private leave(log: MemoryLog, waiter: Waiter): boolean {
    const waited = log.waiters?.delete(waiter) === true
    if (waited) this.suspended--
    return waited
  }
}
const isAwaited = (log: MemoryLog): boolean => log.waiters !== undefined && log.waiters.size > 0
const missing = (session: string) => new MessageQueueError({ session, operation: "append", reason: "unknownSession" })
