/** Clients' tokens: how hooks get them, which ones can be sent, and the errors of a renewal. */
import { Effect, Redacted } from "effect"
import { authRule, isAuth } from "../../core/Text.ts"
import { HandshakeError } from "../../WebSocketError.ts"

export const forbidden = new HandshakeError({
  reason: "forbidden",
  detail: "the renewed token is somebody else's",
  retryable: false
})

export const renewalTimeout = new HandshakeError({
  reason: "overloaded",
  detail: "the renewed token could not be checked in time",
  retryable: true
})

/** A token as hooks get it: redacted, so that no log shows it by accident. */
export const redacted = (token: string | undefined): Redacted.Redacted | undefined =>
  token === undefined ? undefined : Redacted.make(token, { label: "token" })

export const plainText = (text: string | Redacted.Redacted | undefined): string | undefined =>
  Redacted.isRedacted(text) ? Redacted.value(text) : text

/** A token that no server takes fails here, before the server would see a breach of the protocol. */
export const checkedToken = (token: string | undefined): Effect.Effect<string | undefined, HandshakeError> =>
  token === undefined || isAuth(token)
    ? Effect.succeed(token)
    : Effect.fail(new HandshakeError({ reason: "invalid", detail: `a token has ${authRule}`, retryable: false }))
