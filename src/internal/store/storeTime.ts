/**
 * The time of a store, which all who share it must agree on: messages expire by it, sessions end, servers are found dead.
 * It begins where the store's own clock stands and goes on with the steady clock, so that no clock that is set moves it.
 * What others have stamped is never in the future: who finds it there goes forward to it.
 */

/** Smaller differences are of no account: they come from how long an answer took. */
const stepMillis = 1_000

/**
 * A store whose clock is so far ahead of the newest stamp was left alone for long, or its clock was set. Time then goes
 * on from that stamp until it is sure that nobody else lives by it.
 */
const leapMillis = 600_000

/** When each node showed itself last, as it said. */
export type Stamps = ReadonlyMap<string, number>

const newestOf = (stamps: Stamps): number => Math.max(-Infinity, ...stamps.values())

export class StoreTime {
  private readonly steady: () => number
  private offset: number
  /** Where the store's clock stands beyond this time, while it is not known whether to follow it. */
  private doubt: { readonly leap: number; readonly before: Stamps; readonly until: number } | undefined

  /**
   * `clock` is what the store's clock says, `stamps` what it knows of others. A node that lives shows itself well within
   * `watchMillis`.
   */
  constructor(steady: () => number, clock: number, stamps: Stamps, watchMillis: number) {
    this.steady = steady
    const at = steady()
    const newest = newestOf(stamps)
    this.offset = Math.max(clock, newest) - at
    if (clock - newest < leapMillis || newest === -Infinity) return
    this.offset = newest + watchMillis - at
    this.doubt = { leap: clock - newest - watchMillis, before: stamps, until: at + watchMillis }
  }

  readonly now = (): number => this.steady() + this.offset

  /** Takes a look at the stamps of others; now and then, and in any case before an own one. */
  look(stamps: Stamps): void {
    if (this.doubt !== undefined) this.settle(this.doubt, stamps)
    const ahead = newestOf(stamps) - this.now()
    if (ahead > stepMillis) this.offset += ahead
  }

  private settle({ before, leap, until }: NonNullable<StoreTime["doubt"]>, stamps: Stamps): void {
    let lives = false
    for (const [node, at] of stamps) lives ||= at > (before.get(node) ?? -Infinity)
    if (!lives && this.steady() < until) return
    this.doubt = undefined
    if (!lives) this.offset += leap
  }
}
