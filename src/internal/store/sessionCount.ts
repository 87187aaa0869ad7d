/** How many sessions the store has, counted anew every few seconds. */
import { Effect } from "effect"
import type { StoreError } from "./driver.ts"

interface Counted {
  readonly sessions: number
  readonly attached: number
}

/** How long a count is used. */
const countMillis = 5_000

export class SessionCount {
  /** The present count; the store is asked again when the count is old. */
  readonly get: Effect.Effect<Counted, StoreError>
  private counted: Counted = { sessions: 0, attached: 0 }
  private countedAt = -Infinity

  constructor(ask: Effect.Effect<Counted, StoreError>, steady: () => number) {
    this.get = Effect.suspend(() => {
      if (steady() - this.countedAt < countMillis) return Effect.succeed(this.counted)
      return Effect.map(ask, (fresh) => {
        this.countedAt = steady()
        this.counted = fresh
        return fresh
      })
    })
  }

  /** Adds an attached session. */
  added(): void {
    const { attached, sessions } = this.counted
    this.counted = { sessions: sessions + 1, attached: attached + 1 }
  }

  removed(): void {
    const { attached, sessions } = this.counted
    this.counted = { sessions: Math.max(0, sessions - 1), attached }
  }
}
