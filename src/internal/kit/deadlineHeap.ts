/**
 * What is due next: a binary heap of values by time. The earliest is found in O(1) and taken in O(log n). A value that
 * is put in again at another time, or is no longer needed, leaves an outdated entry behind, which `isCurrent` tells.
 * Outdated entries are never handed out, and are thrown away before they make up more than half of the heap.
 */

const leastLimit = 64

export class DeadlineHeap<A> {
  private readonly times: Array<number> = []
  private readonly values: Array<A> = []
  private readonly isCurrent: (value: A, time: number) => boolean
  /** At this many entries, outdated ones are thrown away: amortised constant time per entry put in. */
  private limit = leastLimit

  constructor(isCurrent: (value: A, time: number) => boolean) {
    this.isCurrent = isCurrent
  }

  /** The number of entries, outdated ones included. */
  get size(): number {
    return this.times.length
  }

  /** The earliest time; Infinity when empty. */
  get earliest(): number {
    return this.times[0] ?? Infinity
  }

  push(time: number, value: A): void {
    if (this.times.length >= this.limit) this.compact()
    this.insert(time, value)
  }

  /** Takes the earliest value whose time is not after `now`. */
  popDue(now: number): A | undefined {
    while (this.times.length > 0 && this.earliest <= now) {
      const time = this.timeAt(0)
      const value = this.popFirst()
      if (this.isCurrent(value, time)) return value
    }
    return undefined
  }

  private insert(time: number, value: A): void {
    let index = this.times.length
    this.times.push(time)
    this.values.push(value)
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (this.timeAt(parent) <= time) break
      this.move(parent, index)
      index = parent
    }
    this.times[index] = time
    this.values[index] = value
  }

  private popFirst(): A {
    const first = this.values[0] as A // not empty
    const time = this.times.pop() as number
    const value = this.values.pop() as A
    const size = this.times.length
    if (size === 0) return first
    let index = 0
    while (true) {
      let child = 2 * index + 1
      if (child >= size) break
      if (child + 1 < size && this.timeAt(child + 1) < this.timeAt(child)) child++
      if (this.timeAt(child) >= time) break
      this.move(child, index)
      index = child
    }
    this.times[index] = time
    this.values[index] = value
    return first
  }

  private compact(): void {
    const times = this.times.splice(0)
    const values = this.values.splice(0)
    times.forEach((time, index) => {
      const value = values[index] as A // as many as times
      if (this.isCurrent(value, time)) this.insert(time, value)
    })
    this.limit = Math.max(leastLimit, 2 * this.times.length)
  }

  private timeAt(index: number): number {
    return this.times[index] as number // callers stay in bounds
  }

  private move(from: number, to: number): void {
    this.times[to] = this.timeAt(from)
    this.values[to] = this.values[from] as A
  }
}
