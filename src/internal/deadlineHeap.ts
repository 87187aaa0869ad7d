/** A binary heap of values by time: the earliest is found in O(1) and taken in O(log n). */
export class DeadlineHeap<A> {
  private readonly times: Array<number> = []
  private readonly values: Array<A> = []

  get size(): number {
    return this.times.length
  }

  /** The earliest time; Infinity when empty. */
  get earliest(): number {
    return this.times[0] ?? Infinity
  }

  push(time: number, value: A): void {
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

  /** Takes the earliest value whose time is not after `now`. */
  popDue(now: number): A | undefined {
    if (this.earliest > now || this.times.length === 0) return undefined
    const first = this.values[0]
    const time = this.times.pop() as number // not empty
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

  private timeAt(index: number): number {
    return this.times[index] as number // callers stay in bounds
  }

  private move(from: number, to: number): void {
    this.times[to] = this.timeAt(from)
    this.values[to] = this.values[from] as A
  }
}
