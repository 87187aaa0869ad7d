/** Room in stored outboxes for what is to be appended, as far as this server knows; the store has the last word. */
import { Effect } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import { type Full, fullBy, ownLimit, totalLimit } from "../bounds/queueBounds.ts"
import { type Amount, nothing } from "../bounds/shares.ts"
import type { StoreError } from "./driver.ts"
import type { GivenUp, GiveUpOptions } from "./givingUp.ts"
import type { OutboxState } from "./outboxes.ts"
import type { QueueParts } from "./queueParts.ts"
import type { StoredLog } from "./storedLog.ts"

/** What was dropped to make room. */
interface Dropped {
  readonly epoch: string
  readonly dropped: ReadonlyArray<OutboxMessage>
}

export class Room {
  private readonly parts: QueueParts

  constructor(parts: QueueParts) {
    this.parts = parts
  }

  /** The session's bound that this much more would break, if the outbox is known here: that spares asking the store. */
  ownFull(session: string, messages: number, bytes: number): Full | undefined {
    const { bounds, logs } = this.parts
    const log = logs.get(session)
    if (log === undefined) return undefined
    const limit = ownLimit(bounds, log.messages + messages, log.bytes + bytes)
    return limit === undefined ? undefined : fullBy(bounds, limit, log[limit])
  }

  /** The bound on all outboxes together, or the session's share of it, that this much more would break. */
  totalFull(session: string, messages: number, bytes: number): Full | undefined {
    const { bounds, logs, shares, totals } = this.parts
    const limit = totalLimit(bounds, totals.messages + messages, totals.bytes + bytes)
    if (limit !== undefined) return fullBy(bounds, limit, limit === "totalMessages" ? totals.messages : totals.bytes)
    const log = logs.get(session)
    const own = log?.counted ?? nothing
    return shares.over(log?.share, own.messages, own.bytes, totals.messages, totals.bytes, messages, bytes)
  }

  /** The room in an outbox; `isTotal` says whether the bound on all outboxes is what limits it. */
  of(session: string): Amount & { readonly isTotal: boolean } {
    const { bounds, logs } = this.parts
    const log = logs.get(session)
    const inAll = this.inAll(log)
    const messages = log === undefined ? Infinity : bounds.maxMessages - log.messages
    const bytes = log === undefined ? Infinity : bounds.maxBytes - log.bytes
    return {
      messages: Math.min(messages, inAll.messages),
      bytes: Math.min(bytes, inAll.bytes),
      isTotal: inAll.messages < messages || inAll.bytes < bytes
    }
  }

  /**
   * Drops the oldest messages that may be dropped, to make room for this much. Undefined if that is not enough: then
   * none is dropped.
   */
  dropOldest(session: string, messages: number, bytes: number): Effect.Effect<Dropped | undefined, StoreError> {
    const { givingUp, logs, roomDoubts } = this.parts
    const wanted: GiveUpOptions = {
      session,
      generation: undefined,
      doubts: roomDoubts.of(session),
      pick: (all, state) => this.oldest(all, state, messages, bytes),
      settlesExpiry: false
    }
    return Effect.map(givingUp.giveUp(wanted), (result) => {
      if (typeof result === "string") return undefined
      const dropped = result.given.map(({ message }) => message)
      const log = logs.get(session)
      if (log !== undefined) {
        logs.tracked(log, () => {
          log.forget()
          log.gaveUp(dropped)
        })
      }
      return { epoch: result.state.epoch, dropped }
    })
  }

  /** As many of the oldest as it takes; undefined if all that may be dropped are not enough. */
  private oldest(
    all: ReadonlyArray<OutboxMessage>,
    state: OutboxState,
    messages: number,
    bytes: number
  ): ReadonlyArray<GivenUp> | undefined {
    const { bounds, logs } = this.parts
    const room = this.inAll(logs.get(state.session))
    let overMessages = Math.max(state.messages + messages - bounds.maxMessages, messages - room.messages)
    let overBytes = Math.max(state.bytes + bytes - bounds.maxBytes, bytes - room.bytes)
    const picked: Array<GivenUp> = []
    for (const message of all) {
      if (overMessages <= 0 && overBytes <= 0) break
      if (message.offset <= state.sent) continue // the peer may have it
      picked.push({ reason: "overflow", message })
      overMessages--
      overBytes -= message.bytes
    }
    return overMessages <= 0 && overBytes <= 0 ? picked : undefined
  }

  private inAll(log: StoredLog | undefined): Amount {
    const { shares, totals } = this.parts
    return shares.room(log?.share, log?.counted ?? nothing, totals)
  }
}
