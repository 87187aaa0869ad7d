/** All outboxes in memory: how much they and their shares hold, and what expires next. */
import type { Outbox } from "../../core/Outbox.ts"
import { type Full, fullBy, type Limit, ownLimit, type QueueBounds, totalLimit } from "../bounds/queueBounds.ts"
import { type ShareOrName, Shares } from "../bounds/shares.ts"
import { DeadlineHeap } from "../kit/deadlineHeap.ts"
import type { MemoryLog } from "./memoryLog.ts"

export class MemoryLogs {
  readonly bounds: QueueBounds
  private readonly logs = new Map<string, MemoryLog>()
  private readonly shares: Shares
  /** Logs by a lower bound of their earliest expiry, so that expiry scans nothing. */
  private readonly expiries = new DeadlineHeap<MemoryLog>((log, at) =>
    log.scheduledAt === at && this.logs.get(log.session) === log
  )
  private messages = 0
  private bytes = 0
  /** Memory that all messages take: `maxTotalBytes` bounds this, since everything is kept in memory. */
  private memory = 0

  constructor(bounds: QueueBounds) {
    this.bounds = bounds
    this.shares = new Shares(bounds)
  }

  get(session: string): MemoryLog | undefined {
    return this.logs.get(session)
  }

  amounts(): { readonly sessions: number; readonly messages: number; readonly bytes: number } {
    return { sessions: this.logs.size, messages: this.messages, bytes: this.bytes }
  }

  // --- which logs there are

  add(session: string, outbox: Outbox, generation: number, share: ShareOrName | undefined): void {
    this.logs.set(session, {
      session,
      outbox,
      generation,
      share,
      waiters: undefined,
      scheduledAt: Infinity,
      dead: undefined
    })
  }

  /** The log belongs to this generation and this share from now on. */
  reopen(log: MemoryLog, generation: number, share: string | undefined): void {
    log.generation = generation
    log.share = this.shares.move(log.share, share, log.outbox.messages, log.outbox.memory)
  }

  /** The log is not found any more, but its contents count until it is cleared. */
  remove(session: string): void {
    this.logs.delete(session)
  }

  /** A log that was removed and cleared leaves its share. */
  leaveShare(log: MemoryLog): void {
    this.shares.leave(log.share, 0, 0)
  }

  // --- how much they hold

  /** Applies `change` to the log's outbox, and updates the totals. */
  tracked<A>(log: MemoryLog, change: (outbox: Outbox) => A): A {
    const { outbox } = log
    const { bytes, memory, messages } = outbox
    const result = change(outbox)
    this.count(log, outbox.messages - messages, outbox.bytes - bytes, outbox.memory - memory)
    return result
  }

  /** The log's outbox holds this much more, or less. */
  count(log: MemoryLog, messages: number, bytes: number, memory: number): void {
    this.messages += messages
    this.bytes += bytes
    this.memory += memory
    if (log.share !== undefined) log.share = this.shares.add(log.share, messages, memory)
  }

  /** The bound that this much more would break. Not an error yet: many callers need none. */
  exceeded({ outbox, share }: MemoryLog, messages: number, bytes: number, memory: number): Limit | undefined {
    return ownLimit(this.bounds, outbox.messages + messages, outbox.bytes + bytes) ??
      totalLimit(this.bounds, this.messages + messages, this.memory + memory) ??
      this.shares.over(share, outbox.messages, outbox.memory, this.messages, this.memory, messages, memory)
  }

  /** The limit as the error shows it, with how much there is now. */
  fullBy({ outbox }: MemoryLog, limit: Limit): Full {
    if (typeof limit === "object") return limit
    const sizes = {
      messages: outbox.messages,
      bytes: outbox.bytes,
      totalMessages: this.messages,
      totalBytes: this.memory
    }
    return fullBy(this.bounds, limit, sizes[limit])
  }

  // --- what expires

  schedule(log: MemoryLog): void {
    const at = log.outbox.earliestExpiry
    if (at < log.scheduledAt) {
      log.scheduledAt = at
      this.expiries.push(at, log)
    }
  }

  /** Takes a log that may hold something expired. The caller must schedule it again. */
  takeDue(now: number): MemoryLog | undefined {
    const log = this.expiries.popDue(now)
    if (log !== undefined) log.scheduledAt = Infinity
    return log
  }
}
