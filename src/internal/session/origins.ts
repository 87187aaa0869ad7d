/** Which pages may connect: the rule for the `Origin` that every browser sends with an upgrade. */
import { fail } from "../kit/options.ts"
import type { Request } from "./models.ts"

/**
 * Which pages may connect. Browsers send the page's `Origin` with every upgrade, along with the user's cookies,
 * whosever page it is. Peers that send no `Origin` are not browsers, and are not checked.
 *
 * - `"own"`: the origin has the host and port that the peer connects to, as its `Host` header says.
 * - A list of origins, such as `https://shop.example`, with or without a port. `"null"` stands for files and sandboxes.
 * - A function of the origin as sent; anything but a returned `true` refuses, a throw included.
 * - `"any"`: any page.
 */
export type AllowedOrigins =
  | "own"
  | "any"
  | ReadonlyArray<string>
  | ((origin: string, request: Request) => boolean)

/** The answer to an upgrade that a refused origin asked for. */
export const refusedOriginAnswer = { status: 403, text: "This origin may not connect.\n" } as const

/** Throws if the option is invalid. */
export const checkOrigins = (_name: string, value: unknown): void => {
  ruleOf(value as AllowedOrigins) // throws if it can't make a rule
}

/** Why a peer that sent this request may not connect; undefined if it may. */
export type OriginCheck = (request: Request) => string | undefined

export const makeOriginCheck = (option: AllowedOrigins | undefined): OriginCheck => {
  const isAllowed = ruleOf(option === undefined ? "own" : option)
  if (isAllowed === undefined) return () => undefined
  return (request) => {
    // Version 8 of the WebSocket protocol, which `ws` accepts too, has another name for the header.
    const origin = request.headers["origin"] ?? request.headers["sec-websocket-origin"]
    if (origin === undefined || isAllowed(origin, request)) return undefined
    return `pages of the origin ${JSON.stringify(origin.slice(0, 200))} may not connect: see allowedOrigins`
  }
}

type Rule = (origin: string, request: Request) => boolean

const ruleOf = (option: AllowedOrigins): Rule | undefined => {
  if (option === "any") return undefined
  if (option === "own") return isOwn
  if (typeof option === "function") return guarded(option)
  if (!Array.isArray(option)) return fail("allowedOrigins", option, `"own", "any", a list of origins or a function`)
  const allowed = new Set(option.map(listed))
  return (origin) => {
    const key = keyOf(origin)
    return key !== undefined && allowed.has(key)
  }
}

/** Only `true` is a yes: a promise is truthy, too. */
const guarded = (rule: Rule): Rule => (origin, request) => {
  try {
    return rule(origin, request) === true
  } catch {
    return false
  }
}

const listed = (origin: unknown): string => {
  const key = typeof origin === "string" ? keyOf(origin) : undefined
  return key ?? fail("allowedOrigins", origin, `a list of origins such as https://shop.example, or "any"`)
}

/** Only http and https pages can be the host's own. Behind a proxy that changes `Host`, use a list instead. */
const isOwn: Rule = (origin, { headers }) => {
  const { host } = headers
  const page = parse(origin)
  if (page === undefined || host === undefined || !/^https?:$/.test(page.protocol)) return false
  // Parsed with the origin's scheme, so that a default port is left out of both.
  return page.host === parse(`${page.protocol}//${host}`)?.host
}

const keyOf = (origin: string): string | undefined => {
  if (origin === "null") return origin
  const page = parse(origin)
  return page === undefined ? undefined : `${page.protocol}//${page.host}`
}

/** Scheme, host and port and nothing else: no user, path, or second origin from joined headers. */
const parse = (origin: string): { readonly protocol: string; readonly host: string } | undefined => {
  if (!/^[a-z][a-z0-9+.-]*:\/\/[^\s/\\?#@,]+$/i.test(origin) || !URL.canParse(origin)) return undefined
  const { host, protocol } = new URL(origin)
  return { protocol, host: host.toLowerCase() } // `URL` lowers the case only for http and the like
}
