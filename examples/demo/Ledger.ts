/**
 * What the servers' handlers do: they write each line down in the store, in a list that takes the same line twice. The
 * demo reads it at the end, so a line that is missing, there twice, or in the wrong place is seen.
 */
import { Context, type Effect } from "effect"

export interface Entry {
  readonly session: string
  readonly i: number
  readonly text: string
}

export class Ledger extends Context.Service<Ledger, {
  /**
   * Handles a line. With SQL it is written in one transaction with `commit`, which says that the message is handled;
   * with Redis it is written unless one with this `messageId` has been. Whether it was written.
   */
  readonly write: (
    entry: Entry,
    messageId: string,
    commit: Effect.Effect<void, unknown>
  ) => Effect.Effect<boolean, unknown>
  /** Entries so far. */
  readonly size: Effect.Effect<number, unknown>
  /** All entries, in the order in which they were written. */
  readonly read: (use: (entry: Entry) => void) => Effect.Effect<void, unknown>
}>()("resilient-websocket/demo/Ledger") {}
