/**
 * The time of a store, on which all servers that share it must agree. By it messages expire, sessions end, and servers
 * are found dead. It begins at the store's own clock and goes on with the steady clock, so that setting a clock does
 * not move it. Stamps of others are never in the future: a server that finds one ahead goes forward to it.
 */

/** Smaller differences are ignored: they come from how long an answer took. */
const stepMillis = 1_000

/** What a node last said of itself. */
export interface Stamp {
  readonly at: number
  /** Whether it ended then, in an orderly way. */
  readonly hasLeft: boolean
}

export type Stamps = ReadonlyMap<string, Stamp>

/** A stamp as drivers keep it: one number, negative if the node has left. */
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
  /** How far the store's clock is ahead of this time, while it is uncertain whether to follow it. */
  private doubt: { readonly leap: number; readonly before: Stamps; readonly until: number } | undefined

  /**
   * `clock` is what the store's clock says, `stamps` what it knows of others: a living node shows itself within
   * `nodeTimeoutMillis`. If none has for longer, all are dead, or the clock was set. Time then goes on from the newest
   * stamp until it is certain that nobody else lives by it.
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

  /** Whether this server must look at the stamps of others before it makes one of its own. */
  get isInDoubt(): boolean {
    return this.doubt !== undefined
  }

  /** Looks at the stamps of others, which may be ahead. */
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

/** The time that finding a node dead may take, and one beat more. */
export const watchMillis = (nodeTimeoutMillis: number): number => 1.2 * nodeTimeoutMillis
