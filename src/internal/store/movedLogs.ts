/** Logs of sessions that have another owner: until they are forgotten, callers learn that they are fenced. */
import type { StoredLog } from "./storedLog.ts"

export class MovedLogs {
  /** Since when each has moved, the oldest first. */
  private readonly since = new Map<StoredLog, number>()

  has(log: StoredLog): boolean {
    return this.since.has(log)
  }

  note(log: StoredLog, at: number): void {
    if (!this.since.has(log)) this.since.set(log, at)
  }

  /** This server has the session again. */
  delete(log: StoredLog): void {
    this.since.delete(log)
  }

  /** Takes out those that were noted at or before this time. */
  take(before: number): ReadonlyArray<StoredLog> {
    const taken: Array<StoredLog> = []
    for (const [log, at] of this.since) {
      if (at > before) break
      this.since.delete(log)
      taken.push(log)
    }
    return taken
  }
}
