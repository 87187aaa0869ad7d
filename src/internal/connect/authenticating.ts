/** Finds out who a peer is, from the user's hook or its socket's registration, within the handshake's time. */
import { Effect, Exit } from "effect"
import type { Request } from "../../Transport.ts"
import type { ConnectionTimeoutError, HandshakeError } from "../../WebSocketError.ts"
import type { RareLog } from "../kit/rareLog.ts"
import { type Handshake, handshakeOf, identityFault, type Name } from "../session/identity.ts"
import { redacted } from "../session/tokens.ts"

export interface AuthenticatingOptions {
  readonly authenticate: (handshake: Handshake) => Effect.Effect<Name, HandshakeError>
  readonly rare: RareLog
  readonly timeoutMillis: number
  /** The error when the time is up. */
  readonly late: ConnectionTimeoutError
}

/** The session that a connection is registered for, or how to find it out. If undefined, the hook decides. */
export type Wanted = string | undefined | Effect.Effect<string | undefined, HandshakeError>

export type Authenticating = ReturnType<typeof makeAuthenticating>

export const makeAuthenticating = (options: AuthenticatingOptions) => {
  const authenticate = (
    request: Request,
    auth: string | undefined,
    session: string | undefined,
    plain: boolean
  ): Effect.Effect<Name, HandshakeError | ConnectionTimeoutError> => {
    const token = redacted(auth ?? tokenOf(request))
    return Effect.flatMap(inTime(options.authenticate(handshakeOf(request, { token, session, plain }))), (checked) => {
      const fault = identityFault(checked)
      if (fault === undefined) return Effect.succeed(checked)
      options.rare.error("identity", fault.detail)
      return Effect.fail(fault)
    })
  }

  /** The session that a connection was registered for. Finding it out may take as long as the hook. */
  const nameOf = (
    wanted: Wanted
  ): Effect.Effect<string | undefined, HandshakeError | ConnectionTimeoutError> => {
    if (!Effect.isEffect(wanted)) return Effect.succeed(wanted)
    return Effect.flatMap(inTime(wanted), (session) => {
      const fault = identityFault({ session })
      return fault === undefined ? Effect.succeed(session) : Effect.fail(fault)
    })
  }

  const inTime = <A>(
    answer: Effect.Effect<A, HandshakeError>
  ): Effect.Effect<A, HandshakeError | ConnectionTimeoutError> =>
    Exit.isExit(answer) ? answer : Effect.timeoutOrElse(answer, { // nothing to wait for
      duration: options.timeoutMillis,
      orElse: () => Effect.fail(options.late)
    })

  return { authenticate, nameOf }
}

const tokenOf = (request: Request): string | undefined => {
  const bearer = /^Bearer (.+)$/i.exec(request.headers["authorization"] ?? "")?.[1]
  return bearer ?? new URLSearchParams(request.url.split("?")[1] ?? "").get("token") ?? undefined
}
