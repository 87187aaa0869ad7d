/**
 * When a silent peer is probed, and when it counts as dead (PROTOCOL.md §8). Any frame is a sign of life; after
 * `interval` of silence a probe is sent, and only an unanswered probe is death.
 */
export class Liveness {
  readonly interval: number
  readonly timeout: number
  heardAt: number
  private probedAt: number | undefined
  private tickedAt: number

  /** Times in ms. Silence is noticed within `interval + timeout` and two ticks. */
  constructor(options: { readonly interval: number; readonly timeout: number; readonly now: number }) {
    this.interval = options.interval
    this.timeout = options.timeout
    this.heardAt = options.now
    this.tickedAt = options.now
  }

  heard(now: number): void {
    this.heardAt = now
    this.probedAt = undefined
  }

  tick(now: number): "alive" | "probe" | "dead" {
    // A late tick means that this process slept or was busy: frames may lie unread, so probe again before judging.
    const late = now - this.tickedAt > this.timeout / 2
    this.tickedAt = now
    if (now - this.heardAt < this.interval) return "alive"
    if (this.probedAt === undefined || late) {
      this.probedAt = now
      return "probe"
    }
    return now - this.probedAt >= this.timeout ? "dead" : "alive"
  }
}
