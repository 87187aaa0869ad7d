/**
 * Who counts together where all share one room, and how much of the queue's a share may have when it is nearly full.
 */
import { isIPv6 } from "node:net"
import type { Request } from "../Transport.ts"

/** What is known of a peer when its share is asked for. */
export interface Newcomer extends Request {
  /** Who it is; undefined before it is known, and of whom nobody knows. */
  readonly principal: string | undefined
}

export type ShareOf = (newcomer: Newcomer) => string | undefined

/** Its principal's, or its address's where nobody knows who it is. */
export const defaultShareOf: ShareOf = ({ principal, remoteAddress }) =>
  principal === undefined ? addressShare(remoteAddress) : `principal ${principal}`

/** One for each IPv4 address, and for each IPv6 network of 64 bits, which is what a single host is given. */
export const addressShare = (address: string | undefined): string | undefined => {
  if (address === undefined) return undefined
  const plain = address.split("%")[0] ?? address
  if (!isIPv6(plain)) return `address ${plain}`
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(plain)?.[1]
  return mapped === undefined ? `network ${networkOf(plain)}` : `address ${mapped}`
}

/** The first four groups of an IPv6 address, written out. */
const networkOf = (address: string): string => {
  const [front = "", back] = address.split("::")
  const groups = front === "" ? [] : front.split(":")
  const tail = back === undefined || back === "" ? 0 : back.split(":").length + (back.includes(".") ? 1 : 0)
  const zeros = back === undefined ? 0 : 8 - groups.length - tail
  const all = [...groups, ...Array.from({ length: Math.max(0, zeros) }, () => "0"), ...(back ?? "").split(":")]
  return all.slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16)).join(":")
}

/** The user's function; where it throws, or says nothing that could be a name, the default holds. */
export const checkedShareOf = (shareOf: ShareOf | undefined): ShareOf => {
  if (shareOf === undefined) return defaultShareOf
  return (newcomer) => {
    try {
      const share: unknown = shareOf(newcomer)
      return typeof share === "string" ? share : defaultShareOf(newcomer)
    } catch {
      return defaultShareOf(newcomer)
    }
  }
}

/** What the outboxes of one share have. */
export interface Share {
  readonly name: string
  outboxes: number
  messages: number
  bytes: number
}

/** An outbox's share, or only its name as long as nothing was in the outbox: most have nothing. */
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

/**
 * The shares of a queue, and the rule of their parts: seven eighths of a bound on all together are anybody's. Of the
 * eighth, the reserve, a share may take as much that it holds no more than an n-th of what is left then, where n shares
 * hold anything; as far as messages are counted, one in any case.
 *
 * Shares that take all they can, one after the other, leave at least `2 * reserve / (n + 1) - n`. Proof: of the m shares in
 * any set, look at the one that was the last to append. If that was within the seven eighths, the set holds no more. Else
 * it holds one message, or at most an m-th of what was left then, when the others held no less than they do now: by
 * induction the set leaves so much. A share that holds no more than an (n + 1)-th of that is never refused.
 */
export class Shares {
  private readonly shares = new Map<string, Share>()
  private readonly bounds: TotalBounds
  private readonly anybodysMessages: number
  private readonly anybodysBytes: number
  /** Shares that hold anything. */
  private holding = 0

  constructor(bounds: TotalBounds) {
    this.bounds = bounds
    this.anybodysMessages = anybodys(bounds.maxTotalMessages, 1)
    this.anybodysBytes = anybodys(bounds.maxTotalBytes, leastReserveBytes)
  }

  get size(): number {
    return this.shares.size
  }

  /** An outbox has something for the first time. */
  private join(name: string): Share {
    let share = this.shares.get(name)
    if (share === undefined) {
      share = { name, outboxes: 0, messages: 0, bytes: 0 }
      this.shares.set(name, share)
    }
    share.outboxes++
    return share
  }

  /** An outbox goes, with what it had. */
  leave(share: ShareOrName | undefined, messages: number, bytes: number): void {
    if (share === undefined || typeof share === "string") return
    this.add(share, -messages, -bytes)
    if (--share.outboxes === 0) this.shares.delete(share.name)
  }

  /** An outbox, with what it has, is of this share from now on. */
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

  /** So much more, or less, is in an outbox of the share. Returns what the outbox has to keep as its share. */
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
   * The part that would be exceeded by so much more (`messages`, `bytes`) of this share, while all together have
   * `totalMessages` and `totalBytes`.
   */
  over(
    shareOrName: ShareOrName | undefined,
    totalMessages: number,
    totalBytes: number,
    messages: number,
    bytes: number
  ): OverPart | undefined {
    if (shareOrName === undefined) return undefined
    const share = this.held(shareOrName)
    const { maxTotalBytes, maxTotalMessages } = this.bounds
    if (totalMessages + messages > this.anybodysMessages) {
      const part = Math.max(1, this.part(share, maxTotalMessages - totalMessages, share.messages))
      if (share.messages + messages > part) {
        return { limit: "shareMessages", bound: Math.floor(part), size: share.messages }
      }
    }
    if (totalBytes + bytes > this.anybodysBytes) {
      const part = this.part(share, maxTotalBytes - totalBytes, share.bytes)
      if (share.bytes + bytes > part) {
        return { limit: "shareBytes", bound: Math.max(0, Math.floor(part)), size: share.bytes }
      }
    }
    return undefined
  }

  /** How much more this share may append. */
  room(shareOrName: ShareOrName | undefined, total: Amount): Amount {
    const messages = this.bounds.maxTotalMessages - total.messages
    const bytes = this.bounds.maxTotalBytes - total.bytes
    if (shareOrName === undefined) return { messages, bytes }
    const share = this.held(shareOrName)
    const partOfMessages = Math.max(1, this.part(share, messages, share.messages))
    const partOfBytes = this.part(share, bytes, share.bytes)
    return {
      messages: Math.min(
        messages,
        Math.max(this.anybodysMessages - total.messages, Math.floor(partOfMessages) - share.messages)
      ),
      bytes: Math.min(bytes, Math.max(this.anybodysBytes - total.bytes, Math.floor(partOfBytes) - share.bytes))
    }
  }

  private held(share: ShareOrName): Amount {
    return typeof share === "string" ? this.shares.get(share) ?? nothing : share
  }

  /** What a share that holds `held` may have in all, so that it is an n-th of what is free then. */
  private part(share: Amount, free: number, held: number): number {
    const n = share.messages > 0 ? this.holding : this.holding + 1
    return (free + held) / (n + 1)
  }
}

const nothing: Amount = { messages: 0, bytes: 0 }

/** What nobody's share is asked for. */
const anybodys = (max: number, leastReserve: number): number => {
  const reserve = max === Infinity ? 0 : Math.floor(max / 8)
  return reserve < leastReserve ? max : max - reserve
}

/** Less than this, in bytes, is no use to anybody. */
const leastReserveBytes = 1_024
