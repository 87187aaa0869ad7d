/**
 * URLs as they may be shown and logged: without user, password, query and fragment, which may hold secrets. The same
 * for errors about URLs, which tend to quote them.
 */

const looksLikeUrl = /^([a-z][a-z0-9+.-]*:[/\\]|(wss?|https?):)/i
/** Shorter parts are not replaced: they occur in other words by chance. */
const leastSecret = 3

/**
 * Origin and path, or just the path. Any other text that is not a URL is not shown: its secrets could be anywhere.
 */
export const shownUrl = (text: string): string => {
  const url = parse(text)
  if (url !== undefined && url.host !== "") return `${url.protocol}//${url.host}${url.pathname}`
  return text.startsWith("/") ? text.split(/[?#]/, 1)[0] ?? "" : "(not a URL)"
}

/** The same for a name that may be a URL: other names stay as they are. */
export const shownName = (text: string): string => looksLikeUrl.test(text) ? shownUrl(text) : text

/** The URL to dial: `ws` refuses one with a fragment, which browsers drop. */
export const withoutFragment = (url: string): string => url.split("#", 1)[0] ?? ""

/**
 * Whether a client that dialled `from` may be redirected to `to`: only to a WebSocket, and from a secured one only to
 * another secured one.
 */
export const mayBeSentTo = (from: string, to: string): boolean => {
  const target = parse(to)?.protocol
  return target === "wss:" || (target === "ws:" && parse(from)?.protocol !== "wss:")
}

/**
 * An error as it may be shown as a cause: itself if the URL has no secrets, otherwise a copy without them: text, name
 * and code.
 */
export const shownCause = (cause: unknown, url: string): unknown => {
  if (secretsOf(url).length === 0) return cause
  const error = new Error(withoutUrl(messageOf(cause), url))
  const { code, name } = typeof cause === "object" && cause !== null ? cause as { code?: unknown; name?: unknown } : {}
  if (typeof name === "string") error.name = name
  // The stack would only show this function, which helps nobody.
  error.stack = `${error.name}: ${error.message}`
  return typeof code === "string" ? Object.assign(error, { code }) : error
}

/** An error's text without the parts of the URL that may not be shown. */
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

/** The secret parts of a URL, as written and as decoded. A text that is not a URL is one secret. */
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
