/**
 * Fates of outboxes that this server has removed, for callers that had no answer. A caller that was giving up messages
 * there, or noting failures, can still learn whether that was done. They are kept for a while only: callers ask soon.
 */
import type { Fate } from "./outboxes.ts"

interface Gone {
  readonly epoch: string
  readonly fates: ReadonlyArray<Fate>
  readonly at: number
}

export class GoneFates {
  private readonly held = new Map<string, Gone>()

  note(session: string, epoch: string, fates: ReadonlyArray<Fate>, at: number): void {
    this.held.delete(session) // to the end
    this.held.set(session, { epoch, fates, at })
  }

  of(session: string): ReadonlyArray<Fate> {
    return this.held.get(session)?.fates ?? []
  }

  epochOf(session: string): string | undefined {
    return this.held.get(session)?.epoch
  }

  /** Forgets those noted before this time. */
  sweep(before: number): void {
    for (const [session, { at }] of this.held) {
      if (at > before) return
      this.held.delete(session)
    }
  }
}
