/** A double-ended queue on a ring buffer, for what is put in and taken out in order. */

/** What an empty deque has: never written to. */
const noSlots: Array<never> = []

/**
 * A double-ended queue on a power-of-two ring: every operation is O(1) amortised, unlike `Array.shift`.
 * It shrinks when seven eighths are empty, so that a burst leaves no memory behind.
 */
export class Deque<A> {
  // A slot is undefined exactly when it is outside head .. head + size.
  private slots: Array<A | undefined> = noSlots
  private head = 0
  size = 0

  pushBack(value: A): void {
    if (this.size === this.slots.length) this.resize(this.size === 0 ? 4 : this.size * 4)
    this.slots[(this.head + this.size) & (this.slots.length - 1)] = value
    this.size++
  }

  pushFront(value: A): void {
    if (this.size === this.slots.length) this.resize(this.size === 0 ? 4 : this.size * 4)
    this.head = (this.head - 1) & (this.slots.length - 1)
    this.slots[this.head] = value
    this.size++
  }

  popFront(): A | undefined {
    if (this.size === 0) return undefined
    const value = this.slots[this.head]
    this.slots[this.head] = undefined
    this.head = (this.head + 1) & (this.slots.length - 1)
    this.size--
    this.shrink()
    return value
  }

  popBack(): A | undefined {
    if (this.size === 0) return undefined
    const index = (this.head + this.size - 1) & (this.slots.length - 1)
    const value = this.slots[index]
    this.slots[index] = undefined
    this.size--
    this.shrink()
    return value
  }

  front(): A | undefined {
    return this.size === 0 ? undefined : this.slots[this.head]
  }

  back(): A | undefined {
    return this.at(this.size - 1)
  }

  at(index: number): A | undefined {
    if (index < 0 || index >= this.size) return undefined
    return this.slots[(this.head + index) & (this.slots.length - 1)]
  }

  forEach(visit: (value: A) => void): void {
    for (let i = 0; i < this.size; i++) visit(this.at(i) as A) // in bounds
  }

  clear(): void {
    this.slots = noSlots
    this.head = 0
    this.size = 0
  }

  /** Far below the size at which it grows, so that a queue that fills and empties does not copy itself all the time. */
  private shrink(): void {
    if (this.slots.length > 64 && this.size * 8 <= this.slots.length) this.resize(this.slots.length / 4)
  }

  private resize(capacity: number): void {
    const { head, size, slots } = this
    const mask = slots.length - 1
    const copy: Array<A | undefined> = []
    copy.length = capacity
    for (let i = 0; i < size; i++) copy[i] = slots[(head + i) & mask]
    this.slots = copy
    this.head = 0
  }
}

/** Of all who have had nothing to put in theirs: never written to. Most sessions are idle, and each has several. */
export const emptyDeque = new Deque<never>()
