/** One outbox in memory: its owner, its share, the senders that wait for room, and what was given up lately. */
import type { Effect } from "effect"
import { Deque } from "../../core/Deque.ts"
import { memoryOfMessage, type Outbox, type OutboxMessage } from "../../core/Outbox.ts"
import type { FateReason } from "../../core/Protocol.ts"
import type { Appended, NewMessage, Progress } from "../../MessageQueue.ts"
import type { MessageQueueError, QueueOverflowError } from "../../WebSocketError.ts"
import type { ShareOrName } from "../bounds/shares.ts"

/** A sender that waits for room. */
export interface Waiter {
  readonly messages: ReadonlyArray<NewMessage>
  readonly bytes: number
  readonly memory: number
  readonly resume: (effect: Effect.Effect<Appended, MessageQueueError | QueueOverflowError>) => void
}

export interface MemoryLog {
  readonly session: string
  readonly outbox: Outbox
  generation: number
  /** The share that its contents count for. */
  share: ShareOrName | undefined
  /** Waiting senders, in order of arrival. Made when the first one waits. */
  waiters: Set<Waiter> | undefined
  /** The earliest time at which the heap will look at this log. */
  scheduledAt: number
  /** The newest messages that were given up, for those who sent them from elsewhere. Made with the first. */
  dead: Deque<Dead> | undefined
}

export type Dead = Progress["dead"][number]

/** How many given-up messages of a session are remembered. */
const rememberedDead = 1_024

/** Remembers that these were given up; the first `maybeHandled` of them may have been handled. */
export const remember = (
  log: MemoryLog,
  messages: ReadonlyArray<OutboxMessage>,
  reason: FateReason,
  maybeHandled: number
): void => {
  for (let i = 0; i < messages.length; i++) {
    const { offset } = messages[i] as OutboxMessage // in bounds
    log.dead ??= new Deque()
    log.dead.pushBack({ first: offset, end: offset, reason, maybeHandled: i < maybeHandled })
    if (log.dead.size > rememberedDead) log.dead.popFront()
  }
}

/** What is remembered of given-up messages after this offset. */
export const deadAfter = (log: MemoryLog, after: number): ReadonlyArray<Dead> => {
  const dead: Array<Dead> = []
  log.dead?.forEach((fate) => {
    if (fate.end > after) dead.push(fate)
  })
  return dead
}

/** The memory that a batch takes, in bytes. */
export const memoryOf = (messages: ReadonlyArray<NewMessage>): number => {
  let memory = 0
  for (let i = 0; i < messages.length; i++) memory += memoryOfMessage(messages[i] as NewMessage) // in bounds
  return memory
}
