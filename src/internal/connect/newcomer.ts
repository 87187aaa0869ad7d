/** Says which share a newcomer belongs to, as the server's options decide. */
import type { Request } from "../../Transport.ts"

/** What is known of a peer when its share is asked for. */
export interface Newcomer extends Request {
  /** Who the peer is; undefined before that is known, and for strangers. */
  readonly principal: string | undefined
}

export type ShareOf = (newcomer: Newcomer) => string | undefined

/** Only IPv6 addresses have a colon. Not by `node:net`, as contracts are bundled for browsers too. */
const looksLikeIPv6 = /^[\da-f.]*:[\da-f.:]*$/i

/** The principal's share; for a stranger, its address's. */
export const defaultShareOf: ShareOf = ({ principal, remoteAddress }) =>
  principal === undefined ? addressShare(remoteAddress) : `principal ${principal}`

/** One share for each IPv4 address, and one for each IPv6 network of 64 bits, as a single host gets a whole one. */
export const addressShare = (address: string | undefined): string | undefined => {
  if (address === undefined) return undefined
  const plain = address.split("%")[0] ?? address
  if (!looksLikeIPv6.test(plain)) return `address ${plain}`
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

/** The user's function; the default if that throws or returns no string. */
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
