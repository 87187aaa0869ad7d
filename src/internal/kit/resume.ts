/** Who may resume a session: one rule for every store, and the resume token, of which stores get only the hash. */
import { sha256 } from "@noble/hashes/sha2.js"
import { Base64Url } from "effect/encoding"
import type { AttachRequest } from "../../SessionRegistry.ts"
import { HandshakeError } from "../../WebSocketError.ts"

/** What a store keeps of a session's owner. */
interface ResumeRecord {
  readonly principal: string | undefined
  readonly tokenHash: string
  /** The token that `tokenHash` replaced: valid until the new one is used, since delivering that may have failed. */
  readonly previousTokenHash: string | undefined
}

/** Base64url of 192 random bits. */
export const makeToken = (): string => Base64Url.encode(crypto.getRandomValues(new Uint8Array(24)))

/**
 * Base64url of the SHA-256. Tokens are random, so a fast hash is as good as a slow one. Not by `node:crypto`, which
 * browsers lack, and not by Web Crypto, which would make every handshake wait.
 */
export const hashToken = (token: string): string => Base64Url.encode(sha256(new TextEncoder().encode(token)))

/** What a store keeps of a session to decide who may attach. */
export interface AttachRecord extends ResumeRecord {
  readonly instance: string
  readonly attempt: number
  readonly ending: boolean
}

/**
 * Why an attach to this session is refused; undefined if it is allowed. An attempt that a later one of the same client
 * has overtaken must not use up the later one's token.
 */
export const refuseAttach = (record: AttachRecord, request: AttachRequest): HandshakeError | undefined => {
  const refused = refuseResume(record, request)
  if (refused !== undefined) return refused
  if (record.ending) {
    return new HandshakeError({ reason: "overloaded", detail: "the session is just ending", retryable: true })
  }
  if (request.instance === record.instance && request.attempt !== undefined && request.attempt < record.attempt) {
    return new HandshakeError({ reason: "replaced", detail: "a later attempt has the session", retryable: false })
  }
  return undefined
}

/** Why a request may not have this session; undefined if it may. */
const refuseResume = (record: ResumeRecord, request: AttachRequest): HandshakeError | undefined => {
  if (record.principal !== request.principal) {
    return new HandshakeError({ reason: "forbidden", detail: "the session belongs to somebody else", retryable: false })
  }
  if (request.authorized) return undefined
  const presented = request.tokenHash
  // In no constant time: hashes that are alike at their beginnings tell nothing of the tokens.
  if (presented !== undefined && (presented === record.tokenHash || presented === record.previousTokenHash)) {
    return undefined
  }
  return new HandshakeError({ reason: "unauthorized", detail: "wrong resume token", retryable: false })
}

export const sessionsFull = (maxSessions: number): HandshakeError =>
  new HandshakeError({
    reason: "overloaded",
    detail: `${maxSessions} sessions already`,
    retryable: true,
    bound: maxSessions
  })
