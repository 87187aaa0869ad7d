/** Which share a newcomer counts with, as the server's options say. */
import type { Request } from "../../Transport.ts"

/** What is known of a peer when its share is asked for. */
export interface Newcomer extends Request {
  /** Who it is; undefined before that is known, and for a stranger. */
  readonly principal: string | undefined
}

export type ShareOf = (newcomer: Newcomer) => string | undefined

/** Of an address only these can have a colon; not `node:net`, as a browser's bundle has what a contract needs. */
const looksLikeIPv6 = /^[\da-f.]*:[\da-f.:]*$/i

/** The share of its principal, or of its address if it is a stranger. */
export const defaultShareOf: ShareOf = ({ principal, remoteAddress }) =>
  principal === undefined ? addressShare(remoteAddress) : `principal ${principal}`

/** One for each IPv4 address, and for each IPv6 network of 64 bits, which is what a single host is given. */
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

/** Asks the user's function; the default holds if that throws, or gives nothing usable as a name. */
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
