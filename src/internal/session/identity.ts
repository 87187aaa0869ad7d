/** What the authentication hook learns and says, and which texts can be the id of a session. */
import type { Redacted } from "effect"
import { idRule, isId, isText } from "../../core/Text.ts"
import type { Request } from "../../Transport.ts"
import { HandshakeError } from "../../WebSocketError.ts"
import { type Names, wrongName } from "../kit/options.ts"
import { plainText } from "./tokens.ts"

/** What the authentication hook is told. `url` and `headers` are as they came, with whatever secrets they hold. */
export interface Handshake extends Request {
  /** The token of the hello frame, else of `Authorization: Bearer`, else of the query `?token=`. */
  readonly token: Redacted.Redacted | undefined
  /** The session that the peer wants to resume. */
  readonly session: string | undefined
  /** Whether the peer speaks no `resilient.v1`. */
  readonly plain: boolean
}

/**
 * What the authentication hook says. A `Redacted`, such as the handshake's token, is taken for what it holds: which is no
 * secret from then on, as sessions and principals are shown.
 */
export interface Identity {
  /** The session of this peer; without one, it resumes its own or gets a new one. */
  readonly session?: string | Redacted.Redacted | undefined
  /** Who it is; a session can only be resumed by the principal that created it. */
  readonly principal?: string | Redacted.Redacted | undefined
  /** No such field: it is called `session`. The type makes a mistaken name an error. */
  readonly sessionId?: never
}

/** The same in plain words. */
export interface Name {
  readonly session?: string | undefined
  readonly principal?: string | undefined
}

const names: Names<Name> = { session: true, principal: true }

/** Anything else stays as it is, for `identityFault` to name. */
export const nameOf = (identity: Identity): Name =>
  typeof identity === "object" && identity !== null
    ? { ...identity, session: plainText(identity.session), principal: plainText(identity.principal) }
    : identity

/**
 * What is wrong with what the hook, or who registers a connection, says of a peer: else the peer could not be told, or
 * the store not keep it. A field that there is not is refused, as a misspelt `session` would give everybody a random one.
 */
export const identityFault = (identity: Name): HandshakeError | undefined => {
  const wrong = wrongName(identity, names, "field")
  if (wrong !== undefined) return misspelt(wrong)
  const { principal, session } = identity
  if (session !== undefined && !isId(session)) return badSession
  return principal === undefined || isText(principal) ? undefined : badPrincipal
}

/** The program's own mistake, which it will mend: the peer may come back. */
const misspelt = (fault: string) =>
  new HandshakeError({ reason: "invalid", detail: `what authenticate returned: ${fault}`, retryable: true })

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
