/** How much room of a nearly full queue one share may have. */

/** What the outboxes of one share hold together. */
export interface Share {
  readonly name: string
  outboxes: number
  messages: number
  bytes: number
}

/** An outbox's share, or only the share's name until something was in the outbox: most are empty. */
export type ShareOrName = Share | string

export interface TotalBounds {
  readonly maxTotalMessages: number
  readonly maxTotalBytes: number
}

export interface Amount {
  readonly messages: number
  readonly bytes: number
}

/** A part of a bound that would be exceeded. */
export interface OverPart {
  readonly limit: "shareMessages" | "shareBytes"
  readonly bound: number
  readonly size: number
}

interface HeldAmount extends Amount {
  readonly outboxes: number
}

export const nothing: HeldAmount = { outboxes: 0, messages: 0, bytes: 0 }

/** A smaller reserve is no use to anybody, in bytes. */
const leastReserveBytes = 1_024

/**
 * The shares of a queue, and the rule for their parts. Anybody may use seven eighths of a bound on all together. Of the
 * last eighth, the reserve, a share may take until it holds an n-th of what is then left, where n shares hold anything;
 * but it may always have one message.
 *
 * A share of several outboxes that has more than that, such as strangers from one address, is divided the same way: of
 * the eighth before the reserve, an outbox may take until it holds an m-th of what is then left of that eighth, where m
 * outboxes of its share have had something.
 *
 * Shares that take all they can, one after the other, leave at least `2 * reserve / (n + 1) - n`. Proof: of the m
 * shares in any set, take the one that appended last. If that was within the seven eighths, the set holds no more than
 * those. Otherwise that share holds one message, or at most an m-th of what was left then, when the others held no less
 * than they do now: by induction the set leaves that much. A share that holds at most an (n + 1)-th of that is never
 * refused.
 */
export class Shares {
  private readonly shares = new Map<string, Share>()
  private readonly bounds: TotalBounds
  private readonly anybodysMessages: number
  private readonly anybodysBytes: number
  /** Up to this total, any outbox of any share may append. */
  private readonly commonMessages: number
  private readonly commonBytes: number
  /** Shares that hold anything. */
  private holding = 0

  constructor(bounds: TotalBounds) {
    this.bounds = bounds
    this.anybodysMessages = anybodys(bounds.maxTotalMessages, 1)
    this.anybodysBytes = anybodys(bounds.maxTotalBytes, leastReserveBytes)
    this.commonMessages = common(bounds.maxTotalMessages, this.anybodysMessages)
    this.commonBytes = common(bounds.maxTotalBytes, this.anybodysBytes)
  }

  get size(): number {
    return this.shares.size
  }

  /** An outbox of this share gets its first contents. */
  private join(name: string): Share {
    let share = this.shares.get(name)
    if (share === undefined) {
      share = { name, outboxes: 0, messages: 0, bytes: 0 }
      this.shares.set(name, share)
    }
    share.outboxes++
    return share
  }

  /** An outbox leaves its share, with this much in it. */
  leave(share: ShareOrName | undefined, messages: number, bytes: number): void {
    if (share === undefined || typeof share === "string") return
    this.add(share, -messages, -bytes)
    if (--share.outboxes === 0) this.shares.delete(share.name)
  }

  /** An outbox, with this much in it, belongs to the share `to` from now on. */
  move(
    share: ShareOrName | undefined,
    to: string | undefined,
    messages: number,
    bytes: number
  ): ShareOrName | undefined {
    if ((typeof share === "string" ? share : share?.name) === to) return share
    this.leave(share, messages, bytes)
    return to === undefined ? undefined : this.add(to, messages, bytes)
  }

  /** An outbox of the share has this much more, or less. Returns what the outbox must keep as its share. */
  add(shareOrName: ShareOrName, messages: number, bytes: number): ShareOrName {
    if (typeof shareOrName === "string" && messages === 0 && bytes === 0) return shareOrName
    const share = typeof shareOrName === "string" ? this.join(shareOrName) : shareOrName
    const before = share.messages
    share.messages = before + messages
    share.bytes += bytes
    if (before === 0 && messages > 0) this.holding++
    else if (before > 0 && share.messages === 0) this.holding--
    return share
  }

  /**
   * The part that `messages` and `bytes` more would exceed. They go to an outbox of this share that has `ownMessages`
   * and `ownBytes`, while all outboxes together have `totalMessages` and `totalBytes`.
   */
  over(
    shareOrName: ShareOrName | undefined,
    ownMessages: number,
    ownBytes: number,
    totalMessages: number,
    totalBytes: number,
    messages: number,
    bytes: number
  ): OverPart | undefined {
    const areCommon = totalMessages + messages <= this.commonMessages && totalBytes + bytes <= this.commonBytes
    if (areCommon || shareOrName === undefined) return undefined
    const share = this.held(shareOrName)
    return overPart("shareMessages", this.partOfMessages(share, ownMessages, totalMessages), messages) ??
      overPart("shareBytes", this.partOfBytes(share, ownBytes, totalBytes), bytes)
  }

  /** How much more an outbox of this share that has `own` may append. */
  room(shareOrName: ShareOrName | undefined, own: Amount, total: Amount): Amount {
    const messages = this.bounds.maxTotalMessages - total.messages
    const bytes = this.bounds.maxTotalBytes - total.bytes
    if (shareOrName === undefined) return { messages, bytes }
    const share = this.held(shareOrName)
    return {
      messages: Math.min(messages, this.partOfMessages(share, own.messages, total.messages).room),
      bytes: Math.min(bytes, this.partOfBytes(share, own.bytes, total.bytes).room)
    }
  }

  private partOfMessages(share: HeldAmount, own: number, total: number): Part {
    const { anybodysMessages, bounds, commonMessages } = this
    const part = Math.max(1, this.part(share, bounds.maxTotalMessages - total, share.messages))
    const free = anybodysMessages - total
    return partOf(share.messages, part, own, Math.max(1, partOfOutbox(share, free, own)), free, commonMessages - total)
  }

  private partOfBytes(share: HeldAmount, own: number, total: number): Part {
    const { anybodysBytes, bounds, commonBytes } = this
    const part = this.part(share, bounds.maxTotalBytes - total, share.bytes)
    const free = anybodysBytes - total
    return partOf(share.bytes, part, own, partOfOutbox(share, free, own), free, commonBytes - total)
  }

  /** What a share has, and in how many outboxes. The one in question counts, even if it is new. */
  private held(share: ShareOrName): HeldAmount {
    if (typeof share !== "string") return share
    const { bytes, messages, outboxes } = this.shares.get(share) ?? nothing
    return { outboxes: outboxes + 1, messages, bytes }
  }

  /** What a share that holds `held` may hold in all, so that this is an n-th of what is then free. */
  private part(share: Amount, free: number, held: number): number {
    const n = share.messages > 0 ? this.holding : this.holding + 1
    return (free + held) / (n + 1)
  }
}

/** What an outbox may hold in all before the reserve, so that this is an m-th of what is then free there. */
const partOfOutbox = ({ outboxes }: HeldAmount, free: number, own: number): number =>
  outboxes < 2 ? Infinity : (free + own) / (outboxes + 1)

/** How much an outbox may append, and what its sender is told if it asks for more. */
interface Part {
  readonly room: number
  /** How much is free before the reserve. */
  readonly free: number
  readonly ofShare: Omit<OverPart, "limit">
  readonly ofOutbox: Omit<OverPart, "limit">
}

/** For a share that has `held` and may have `part`, and one of its outboxes that has `own` and may have `ownPart`. */
const partOf = (held: number, part: number, own: number, ownPart: number, free: number, common: number): Part => {
  const ofShare = { bound: Math.max(0, Math.floor(part)), size: held }
  const ofOutbox = { bound: Math.max(0, Math.floor(ownPart)), size: own }
  const beforeReserve = Math.min(free, Math.max(common, Math.floor(ownPart) - own))
  return { room: Math.max(Math.floor(part) - held, beforeReserve), free, ofShare, ofOutbox }
}

const overPart = (
  limit: OverPart["limit"],
  { free, ofOutbox, ofShare, room }: Part,
  more: number
): OverPart | undefined => more <= room ? undefined : { limit, ...(more > free ? ofShare : ofOutbox) }

/** What all outboxes of a share may use freely: everything but the reserve and as much again before it. */
const common = (max: number, anybodys: number): number => anybodys === Infinity ? Infinity : 2 * anybodys - max

/** What all shares may use freely. */
const anybodys = (max: number, leastReserve: number): number => {
  const reserve = max === Infinity ? 0 : Math.floor(max / 8)
  return reserve < leastReserve ? max : max - reserve
}
