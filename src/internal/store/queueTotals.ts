/** How much is in all outboxes of a store, as far as this server knows, and what a stored queue has done. */

/** Totals as the store counts them. */
interface StoreTotals {
  readonly sessions: number
  readonly messages: number
  readonly bytes: number
}

export class QueueTotals {
  private known: StoreTotals
  /** What this server added and removed since the store was last asked. */
  private sinceMessages = 0
  private sinceBytes = 0
  private readonly done = { appended: 0, acknowledged: 0, expired: 0, overflows: 0 }

  constructor(known: StoreTotals) {
    this.known = known
  }

  /** In all outboxes together. */
  get messages(): number {
    return this.known.messages + this.sinceMessages
  }

  get bytes(): number {
    return this.known.bytes + this.sinceBytes
  }

  stats() {
    const { bytes, known: { sessions }, messages } = this
    return { sessions, messages: Math.max(0, messages), bytes: Math.max(0, bytes), ...this.done }
  }

  /** Takes over the store's answer. */
  renewed(known: StoreTotals): void {
    this.known = known
    this.sinceMessages = 0
    this.sinceBytes = 0
  }

  appended(messages: number, bytes: number): void {
    this.done.appended += messages
    this.sinceMessages += messages
    this.sinceBytes += bytes
  }

  acknowledged(messages: number, bytes: number): void {
    this.done.acknowledged += messages
    this.left(messages, bytes)
  }

  /** Counts what is no longer in the outboxes. */
  left(messages: number, bytes: number): void {
    this.sinceMessages -= messages
    this.sinceBytes -= bytes
  }

  expired(messages: number): void {
    this.done.expired += messages
  }

  overflowed(): void {
    this.done.overflows++
  }
}
