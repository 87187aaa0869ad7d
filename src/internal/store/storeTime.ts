/**
 * The time of a store, which all who share it must agree on. Messages expire by it, sessions end, servers are found
 * dead. It begins where the store's own clock stands and goes on with the steady clock, so that no clock that is set
 * moves it. What others have stamped is never in the future: who finds it there goes forward to it.
 */

/** Smaller differences are of no account: they come from how long an answer took. */
const stepMillis = 1_000

/** What a node said of itself last. */
export interface Stamp {
  readonly at: number
  /** It ended in an orderly way, then. */
  readonly hasLeft: boolean
}

export type Stamps = ReadonlyMap<string, Stamp>

/** A stamp as drivers keep it: one number, negative where it is the last. */
export const encodeStamp = ({ at, hasLeft }: Stamp): number => hasLeft ? -at - 1 : at
export const decodeStamp = (stamp: number): Stamp =>
  stamp < 0 ? { at: -stamp - 1, hasLeft: true } : { at: stamp, hasLeft: false }

const newestOf = (stamps: Stamps, isMeant: (stamp: Stamp) => boolean = () => true): number => {
  let newest = -Infinity
  for (const stamp of stamps.values()) if (isMeant(stamp)) newest = Math.max(newest, stamp.at)
  return newest
}

export class StoreTime {
  private readonly steady: () => number
  private offset: number
  /** How far the store's clock is ahead of this time, while it is not known whether to follow it. */
  private doubt: { readonly leap: number; readonly before: Stamps; readonly until: number } | undefined

  /**
   * `clock` is what the store's clock says, `stamps` what it knows of others: one that lives shows itself within
   * `nodeTimeoutMillis`. If nobody has for longer, all are dead, or the clock was set: time then goes on from the newest
   * stamp until it is sure that nobody else lives by it.
   */
  constructor(steady: () => number, clock: number, stamps: Stamps, nodeTimeoutMillis: number) {
    this.steady = steady
    const at = steady()
    const newest = newestOf(stamps)
    const newestAlive = newestOf(stamps, ({ hasLeft }) => !hasLeft)
    const begin = Math.max(clock, newest)
    const isDoubtful = newestAlive > -Infinity && begin - newest > nodeTimeoutMillis
    this.offset = (isDoubtful ? newest : begin) - at
    if (isDoubtful) this.doubt = { leap: begin - newest, before: stamps, until: at + watchMillis(nodeTimeoutMillis) }
  }

  readonly now = (): number => this.steady() + this.offset

  /** Whether it has to look at the stamps of others before it makes one of its own. */
  get isInDoubt(): boolean {
    return this.doubt !== undefined
  }

  /** Takes a look at the stamps of others, which may be ahead. */
  look(stamps: Stamps): void {
    if (this.doubt !== undefined) this.settle(this.doubt, stamps)
    const ahead = newestOf(stamps) - this.now()
    if (ahead > stepMillis) this.offset += ahead
  }

  private settle({ before, leap, until }: NonNullable<StoreTime["doubt"]>, stamps: Stamps): void {
    let lives = false
    for (const [node, { at }] of stamps) lives ||= at > (before.get(node)?.at ?? -Infinity)
    if (!lives && this.steady() < until) return
    this.doubt = undefined
    if (!lives) this.offset += leap
  }
}

/** As long as a node may take to be found dead, and one beat more. */
export const watchMillis = (nodeTimeoutMillis: number): number => 1.2 * nodeTimeoutMillis
