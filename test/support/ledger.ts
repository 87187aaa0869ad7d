/**
 * What really became of the messages of one direction: what the sender was told, and what the receiver's handler saw.
 * It throws at the first thing that the promise forbids, and knows nothing of how the core works.
 */

/** What the direction may expect. */
export interface Expectations {
  /** No side ever loses its state: everything is exact. */
  readonly stateKept: boolean
  /** A message may be handled again by a receiver that lost its state: the sender resends instead of giving back. */
  readonly mayRepeat: boolean
}

export class BrokenPromise extends Error {}

const forbid = (condition: boolean, what: string): void => {
  if (condition) throw new BrokenPromise(what)
}

export class Ledger {
  readonly name: string
  private readonly expectations: Expectations
  /** Where each accepted message is: its value is its place among them. */
  private readonly accepted: Array<{ readonly epoch: string; readonly offset: number }> = []
  private readonly valueAt = new Map<string, number>()
  private readonly handledValues = new Set<number>()
  private readonly failedValues = new Set<number>()
  private readonly gapValues = new Set<number>()
  private readonly deadValues = new Map<number, "certainlyNotHandled" | "maybeHandled" | "failed">()
  /** Lost with the sender's state: nobody is left to be told. */
  private readonly orphans = new Set<number>()
  private newest = -1

  constructor(name: string, expectations: Expectations) {
    this.name = name
    this.expectations = expectations
  }

  /** The value of the next message. */
  get next(): number {
    return this.accepted.length
  }

  accept(epoch: string, offset: number): void {
    this.valueAt.set(`${epoch}/${offset}`, this.next)
    this.accepted.push({ epoch, offset })
  }

  handle(value: number): void {
    this.see(value, "handled")
    this.handledValues.add(value)
  }

  fail(value: number): void {
    this.see(value, "failed")
    this.failedValues.add(value)
  }

  gap(epoch: string, first: number, end: number): void {
    for (let offset = first; offset <= end; offset++) {
      const value = this.valueAt.get(`${epoch}/${offset}`)
      if (value === undefined) throw new BrokenPromise(`${this.name}: a gap at ${offset}, where nothing ever was`)
      forbid(!this.deadValues.has(value), `${this.name}: a gap for ${value}, and no dead letter`)
      if (this.expectations.stateKept) this.inOrder(value, "told of as a gap")
      this.gapValues.add(value)
    }
  }

  dead(value: number, kind: "certainlyNotHandled" | "maybeHandled" | "failed"): void {
    forbid(this.deadValues.has(value), `${this.name}: two dead letters for ${value}`)
    forbid(kind === "maybeHandled" && this.expectations.stateKept, `${this.name}: ${value} given back for no reason`)
    forbid(kind === "failed" && !this.failedValues.has(value), `${this.name}: ${value} did not fail`)
    if (kind === "certainlyNotHandled" && !this.expectations.mayRepeat) {
      forbid(this.handledValues.has(value), `${this.name}: a dead letter for ${value}, which was handled`)
      forbid(this.failedValues.has(value), `${this.name}: ${value} failed, and its dead letter says otherwise`)
    }
    this.deadValues.set(value, kind)
  }

  /** The sender lost its state, and with it what was not handled. */
  senderLost(): void {
    for (let value = 0; value < this.next; value++) {
      if (!this.handledValues.has(value) && !this.deadValues.has(value)) this.orphans.add(value)
    }
  }

  /** The receiver lost its state. */
  receiverLost(): void {
    if (this.expectations.mayRepeat) this.newest = -1
  }

  /** All has come to rest: every accepted message must have met its end, and both sides tell the same story. */
  close(): void {
    for (let value = 0; value < this.next; value++) {
      const what = `${this.name}: ${value}`
      if (this.orphans.has(value)) continue
      const handled = this.handledValues.has(value)
      const dead = this.deadValues.get(value)
      forbid(!handled && dead === undefined, `${what} is lost`)
      if (!this.expectations.stateKept) continue
      forbid(handled && dead !== undefined, `${what} was handled, and is a dead letter`)
      forbid(this.failedValues.has(value) !== (dead === "failed"), `${what}: its sender was not told that it failed`)
      forbid(this.gapValues.has(value) !== (dead === "certainlyNotHandled"), `${what}: its receiver was told no gap`)
    }
  }

  private see(value: number, how: string): void {
    forbid(this.accepted[value] === undefined, `${this.name}: ${value} was ${how}, and never sent`)
    this.inOrder(value, how)
    if (!this.expectations.mayRepeat) {
      forbid(
        this.deadValues.get(value) === "certainlyNotHandled",
        `${this.name}: ${value} was ${how}, and a dead letter`
      )
    }
  }

  /** Each value once, in order and, if no state is lost, without a hole. */
  private inOrder(value: number, how: string): void {
    forbid(value <= this.newest, `${this.name}: ${value} was ${how} after ${this.newest}`)
    forbid(this.expectations.stateKept && value !== this.newest + 1, `${this.name}: ${this.newest + 1} was skipped`)
    this.newest = value
  }
}
