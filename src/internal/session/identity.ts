/** What the authentication hook gets and returns, and the check of what it returns. */
import type { Redacted } from "effect"
import { Headers } from "effect/http"
import { idRule, isId, isText } from "../../core/Text.ts"
import type { Request } from "../../Transport.ts"
import { HandshakeError } from "../../WebSocketError.ts"
import { type Names, wrongName } from "../kit/options.ts"
import { plainText } from "./tokens.ts"

/**
 * What the authentication hook gets. `url` is as received, with any secrets in it. `headers` are Effect's: logged or
 * inspected, they don't show `authorization`, `cookie` and what else `Headers.CurrentRedactedNames` says.
 */
export interface Handshake extends Request {
  readonly headers: Headers.Headers
  /** The token of the hello frame, else of `Authorization: Bearer`, else of the query `?token=`. */
  readonly token: Redacted.Redacted | undefined
  /** The session that the peer wants to resume. */
  readonly session: string | undefined
  /** Whether the peer speaks no `resilient.v1`. */
  readonly plain: boolean
}

/**
 * What the authentication hook returns. A `Redacted`, such as the handshake's token, is unwrapped. Its content is not
 * secret from then on: sessions and principals are shown.
 */
export interface Identity<Data = unknown> {
  /** The session of this peer; if left out, the peer resumes its own session or gets a new one. */
  readonly session?: string | Redacted.Redacted | undefined
  /** Who the peer is; only the principal that created a session can resume it. */
  readonly principal?: string | Redacted.Redacted | undefined
  /** For the handlers: their context has it as `data`. */
  readonly data?: Data | undefined
  /** No such field: `never` catches a session given under the wrong name. The right one is `session`. */
  readonly sessionId?: never
}

/** The name of a contract, and its version if it has one. */
export interface ContractName {
  readonly id: string
  readonly version?: string | undefined
}

/** Why a client of `theirs` can't be served by a server of `ours`; undefined if it can, or nobody can tell. */
export const contractFault = (
  ours: ContractName | undefined,
  theirs: ContractName | undefined
): HandshakeError | undefined => {
  if (ours === undefined || theirs === undefined) return undefined
  const isSame = ours.id === theirs.id &&
    (ours.version === undefined || theirs.version === undefined || ours.version === theirs.version)
  if (isSame) return undefined
  const detail = `this is a server of ${contractText(ours)}, and the client is one of ${contractText(theirs)}`
  return new HandshakeError({ reason: "contract", detail, retryable: false })
}

const contractText = ({ id, version }: ContractName): string => version === undefined ? id : `${id} ${version}`

export const handshakeOf = (request: Request, rest: Omit<Handshake, keyof Request>): Handshake => ({
  ...request,
  headers: Headers.fromInput(request.headers),
  ...rest
})

/** The identity as plain strings. */
export interface Name {
  readonly session?: string | undefined
  readonly principal?: string | undefined
  readonly data?: unknown
}

const names: Names<Name> = { session: true, principal: true, data: true }

export const badSession = new HandshakeError({
  reason: "invalid",
  detail: `a session id has ${idRule}`,
  retryable: false
})
const badPrincipal = new HandshakeError({
  reason: "invalid",
  detail: "a principal is well-formed Unicode without U+0000, and not empty",
  retryable: false
})

/** Returns anything that is not an object as it is, so that `identityFault` can report it. */
export const nameOf = (identity: Identity): Name =>
  typeof identity === "object" && identity !== null
    ? { ...identity, session: plainText(identity.session), principal: plainText(identity.principal) }
    : identity

/**
 * What is wrong with an identity from the hook or from a registered connection: something that the peer could not be
 * told or the store could not keep. Unknown fields are refused: a misspelt `session` would give everybody a random one.
 */
export const identityFault = (identity: Name): HandshakeError | undefined => {
  const wrong = wrongName(identity, names, "field")
  if (wrong !== undefined) return misspelt(wrong)
  const { principal, session } = identity
  if (session !== undefined && !isId(session)) return badSession
  return principal === undefined || isText(principal) ? undefined : badPrincipal
}

/** Retryable: the mistake is the program's, and may be fixed when the peer comes back. */
const misspelt = (fault: string) =>
  new HandshakeError({ reason: "invalid", detail: `what authenticate returned: ${fault}`, retryable: true })
