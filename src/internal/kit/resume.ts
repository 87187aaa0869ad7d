/** Who may resume a session: one rule for every store, and the resume token, of which stores get only the hash. */
import { hash, randomBytes, timingSafeEqual } from "node:crypto"
import type { AttachRequest } from "../../SessionRegistry.ts"
import { HandshakeError } from "../../WebSocketError.ts"

/** What a store keeps of a session's owner. */
interface ResumeRecord {
  readonly principal: string | undefined
  readonly tokenHash: string
  /** The token that `tokenHash` replaced: valid until the new one is used, since delivering that may have failed. */
  readonly previousTokenHash: string | undefined
}

export const makeToken = (): string => randomBytes(24).toString("base64url")

/** Tokens are 192 random bits, so a fast hash is as good as a slow one. */
export const hashToken = (token: string): string => hash("sha256", token, "base64url")

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
  if (presented !== undefined && (same(presented, record.tokenHash) || same(presented, record.previousTokenHash))) {
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

const same = (a: string, b: string | undefined): boolean => {
  if (b === undefined) return false
  const left = Buffer.from(a)
  const right = Buffer.from(b)
  return left.length === right.length && timingSafeEqual(left, right)
}
