/**
 * Counts calls, failures and slow calls over the last few seconds, in buckets of time. Recording is O(1) amortised and
 * no timer rolls the window: the clock is passed in.
 *
 * Evicting a bucket subtracts it from the totals (resilience4j, `SlidingTimeWindowMetrics`). All buckets that an idle
 * time skipped are evicted, not one per call, or failures from before a long pause would still count.
 */
export class RollingWindow {
  calls = 0
  failures = 0
  slow = 0
  private readonly bucketMillis: number
  private readonly buckets: number
  // Three counters per bucket: calls, failures, slow. The bucket of time slot s is at s % buckets.
  private readonly counters: Uint32Array
  // The time slot (time / bucketMillis) recorded last: the newest bucket.
  private newest: number

  constructor(windowMillis: number, buckets: number, now: number) {
    this.bucketMillis = windowMillis / buckets
    this.buckets = buckets
    this.counters = new Uint32Array(buckets * 3)
    this.newest = Math.floor(now / this.bucketMillis)
  }

  /** When everything recorded so far will have left the window. */
  get expiresAt(): number {
    return (this.newest + this.buckets) * this.bucketMillis
  }

  record(now: number, call: { readonly failed: boolean; readonly slow: boolean }): void {
    this.roll(Math.floor(now / this.bucketMillis))
    const index = (this.newest % this.buckets) * 3
    this.add(index, 1)
    this.calls++
    if (call.failed) {
      this.add(index + 1, 1)
      this.failures++
    }
    if (call.slow) {
      this.add(index + 2, 1)
      this.slow++
    }
  }

  private roll(slot: number): void {
    // If the clock went back a little, keep counting in the newest bucket. If it went back by a window or more, start
    // afresh, or nothing would be evicted until the clock caught up.
    if (slot <= this.newest - this.buckets) return this.restart(slot)
    if (slot - this.newest >= this.buckets) return this.restart(slot)
    while (this.newest < slot) {
      this.newest++
      this.evict((this.newest % this.buckets) * 3)
    }
  }

  private evict(index: number): void {
    this.calls -= this.read(index)
    this.failures -= this.read(index + 1)
    this.slow -= this.read(index + 2)
    this.counters.fill(0, index, index + 3)
  }

  private restart(slot: number): void {
    this.newest = slot
    this.calls = this.failures = this.slow = 0
    this.counters.fill(0)
  }

  private read(index: number): number {
    return this.counters[index] ?? 0
  }

  private add(index: number, n: number): void {
    this.counters[index] = this.read(index) + n
  }
}
