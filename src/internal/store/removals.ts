/** What removals of outboxes took out, kept until they are known to be done: the next try may find nothing there. */
import type { OutboxMessage } from "../../core/Outbox.ts"

export interface Removed {
  readonly messages: ReadonlyArray<OutboxMessage>
  readonly maybeHandled: number
  readonly epoch: string
}

export class Removals {
  private readonly held = new Map<string, { readonly removed: Removed; readonly at: number }>()

  note(session: string, removed: Removed, at: number): void {
    this.held.set(session, { removed, at })
  }

  delete(session: string): void {
    this.held.delete(session)
  }

  /** What was noted after `before`. Nothing is kept, even if it is older. */
  take(session: string, before: number): Removed | undefined {
    const held = this.held.get(session)
    this.held.delete(session)
    return held === undefined || held.at <= before ? undefined : held.removed
  }

  sweep(before: number): void {
    for (const [session, { at }] of this.held) if (at <= before) this.held.delete(session)
  }
}
