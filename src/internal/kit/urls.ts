/**
 * URLs as they may be shown and logged: without user, password, query and fragment, where secrets are. And errors about
 * URLs, which like to quote them.
 */

const looksLikeUrl = /^([a-z][a-z0-9+.-]*:[/\\]|(wss?|https?):)/i
/** Shorter parts occur in other words by chance. */
const leastSecret = 3

/**
 * Origin and path. Of a text that is not a URL, nothing is shown but that it is not one: its secrets could be anywhere.
 */
export const shownUrl = (text: string): string => {
  const url = parse(text)
  if (url !== undefined && url.host !== "") return `${url.protocol}//${url.host}${url.pathname}`
  return text.startsWith("/") ? text.split(/[?#]/, 1)[0] ?? "" : "(not a URL)"
}

/** The same for what need not be a URL: other names stay as they are. */
export const shownName = (text: string): string => looksLikeUrl.test(text) ? shownUrl(text) : text

/** The URL to dial: `ws` refuses one with a fragment, which browsers drop. */
export const withoutFragment = (url: string): string => url.split("#", 1)[0] ?? ""

/**
 * Whether a client that dialled `from` may be sent to `to`: only to a WebSocket, and from a secured one only to a
 * secured one.
 */
export const mayBeSentTo = (from: string, to: string): boolean => {
  const target = parse(to)?.protocol
  return target === "wss:" || (target === "ws:" && parse(from)?.protocol !== "wss:")
}

/**
 * An error as a cause: itself, unless it shows more of the URL than it may. Then its text without that, and its code.
 */
export const shownCause = (cause: unknown, url: string): unknown => {
  if (secretsOf(url).length === 0) return cause
  const error = new Error(withoutUrl(messageOf(cause), url))
  const { code, name } = typeof cause === "object" && cause !== null ? cause as { code?: unknown; name?: unknown } : {}
  if (typeof name === "string") error.name = name
  // The stack would show where in here it was made, which helps nobody.
  error.stack = `${error.name}: ${error.message}`
  return typeof code === "string" ? Object.assign(error, { code }) : error
}

/** An error's text, without those parts of the URL that may not be shown. */
export const withoutUrl = (text: string, url: string): string => {
  let result = url === "" ? text : text.replaceAll(url, shownUrl(url))
  for (const part of secretsOf(url)) result = result.replaceAll(part, "…")
  return result
}

const messageOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

const parse = (text: string): URL | undefined => {
  try {
    return new URL(text)
  } catch {
    return undefined
  }
}

/** As written, and as decoded. A text that is no URL is one secret. */
const secretsOf = (text: string): ReadonlyArray<string> => {
  const url = parse(text)
  if (url === undefined) return text === "" ? [] : [text]
  const { hash, password, search, searchParams, username } = url
  const written = [search.slice(1), hash.slice(1), password, username, ...searchParams.values()]
  return [...new Set([...written, ...written.map(decoded)])]
    .filter((part) => part.length >= leastSecret)
    .sort((a, b) => b.length - a.length)
}

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
