/** Counts that a test can wait for. */
import { Effect } from "effect"

interface Waiter<Counts> {
  readonly predicate: (counts: Counts) => boolean
  readonly resume: (counts: Counts) => void
}

export class Tally<Counts> {
  private readonly read: () => Counts
  private readonly later: (task: () => void) => void
  private readonly waiters = new Set<Waiter<Counts>>()
  private isTelling = false

  constructor(read: () => Counts, later: (task: () => void) => void) {
    this.read = read
    this.later = later
  }

  readonly counts: Effect.Effect<Counts> = Effect.sync(() => this.read())

  awaitCounts(predicate: (counts: Counts) => boolean): Effect.Effect<Counts> {
    return Effect.callback((resume) => {
      const waiter: Waiter<Counts> = { predicate, resume: (counts) => resume(Effect.succeed(counts)) }
      this.waiters.add(waiter)
      this.changed()
      return Effect.sync(() => void this.waiters.delete(waiter))
    })
  }

  /** Tells who waits, in a task of its own: a fiber goes on at once when it is told. */
  changed(): void {
    if (this.isTelling || this.waiters.size === 0) return
    this.isTelling = true
    this.later(() => {
      this.isTelling = false
      const counts = this.read()
      for (const waiter of this.waiters) {
        if (!waiter.predicate(counts)) continue
        this.waiters.delete(waiter)
        waiter.resume(counts)
      }
    })
  }
}
