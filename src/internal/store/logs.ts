/**
 * The outboxes that a server has opened: what is cached of them within one bound, each share's part, when each is
 * swept.
 */
import type { Shares } from "../bounds/shares.ts"
import { DeadlineHeap } from "../kit/deadlineHeap.ts"
import type { StoredLog } from "./storedLog.ts"

export type Logs = ReturnType<typeof makeLogs>

export const makeLogs = (maxCachedBytes: number, shares: Shares) => {
  const logs = new Map<string, StoredLog>()
  /** Logs with something cached, the least recently used first. */
  const cached = new Set<StoredLog>()
  let cachedBytes = 0
  const expiries = new DeadlineHeap<StoredLog>((log, at) => log.scheduledAt === at && logs.get(log.session) === log)

  const forget = (session: string): void => {
    const log = logs.get(session)
    if (log === undefined) return
    logs.delete(session)
    cachedBytes -= log.cachedBytes
    cached.delete(log)
    shares.leave(log.share, log.counted.messages, log.counted.bytes)
    log.share = undefined
  }

  /** Counts what is in the log for its share. */
  const count = (log: StoredLog): void => {
    const { bytes, counted, messages, share } = log
    if (share !== undefined) log.share = shares.add(share, messages - counted.messages, bytes - counted.bytes)
    counted.messages = messages
    counted.bytes = bytes
  }

  /** This server has opened the log, for this share. */
  const opened = (log: StoredLog, share: string | undefined): void => {
    logs.set(log.session, log)
    log.share = shares.move(log.share, share, log.counted.messages, log.counted.bytes)
    count(log)
  }

  /** Runs a change of the log's cache, and keeps all caches within their bound. */
  const tracked = <A>(log: StoredLog, change: () => A): A => {
    const before = log.cachedBytes
    const result = change()
    if (logs.get(log.session) !== log) return result
    count(log)
    cachedBytes += log.cachedBytes - before
    if (log.cachedBytes === 0) cached.delete(log)
    else if (before === 0) cached.add(log)
    if (cachedBytes > maxCachedBytes) evict(log)
    return result
  }

  const evict = (used: StoredLog): void => {
    for (const log of cached) {
      if (cachedBytes <= maxCachedBytes) return
      if (log === used) continue // a page of it is about to be read
      cachedBytes -= log.cachedBytes
      cached.delete(log)
      log.forget()
    }
  }

  const touch = (log: StoredLog): void => {
    if (cached.delete(log)) cached.add(log)
  }

  const schedule = (log: StoredLog): void => {
    if (log.expiresAt < log.scheduledAt) {
      log.scheduledAt = log.expiresAt
      expiries.push(log.expiresAt, log)
    }
  }

  /** Logs that may have messages that are too old, each once. */
  const takeDue = (now: number): ReadonlyArray<StoredLog> => {
    const due: Array<StoredLog> = []
    while (true) {
      const log = expiries.popDue(now)
      if (log === undefined) return due
      log.scheduledAt = Infinity
      due.push(log)
    }
  }

  return {
    takeNext: inTurns(logs),
    sessions: (): ReadonlyArray<string> => [...logs.keys()],
    get: (session: string): StoredLog | undefined => logs.get(session),
    opened,
    forget,
    count,
    tracked,
    touch,
    schedule,
    takeDue
  }
}

/** Takes `least` logs, or one in `parts` if that is more; different ones each time, so that all have their turn. */
const inTurns = (logs: ReadonlyMap<string, StoredLog>) => {
  let round = logs.values()
  return (least: number, parts: number): ReadonlyArray<StoredLog> => {
    const taken: Array<StoredLog> = []
    for (let left = Math.min(logs.size, Math.max(least, Math.ceil(logs.size / parts))); left > 0; left--) {
      let next = round.next()
      if (next.done === true) {
        round = logs.values()
        next = round.next()
      }
      if (next.done !== true) taken.push(next.value)
    }
    return taken
  }
}
