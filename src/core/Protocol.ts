/** The protocol's constants: names, limits, all close codes, reject codes. PROTOCOL.md says what each means on the wire. */

/** The WebSocket subprotocol that both sides must negotiate (PROTOCOL.md §2). */
export const subprotocol = "resilient.v1"

/** The version that hello and welcome carry (§3). */
export const version = 1

/** Bulk frames are filled up to this size, so that a control frame never waits behind more than one of them (§5). */
export const bulkFrameBytes = 64 * 1024

/** Bytes handed to a socket and not taken by it, above which nothing but control frames is handed over (§5). */
export const highWaterBytes = 256 * 1024

/** How long an orderly close may take before the socket is destroyed, in ms (§9). */
export const closeGraceMillis = 2_000

/** How deep a message may nest; deeper ones overflow the stack of code that walks them (§5). */
export const maxDepth = 64

/** Longest session id, instance id, message id and token, in UTF-16 units (§3). */
export const maxIdLength = 256

/** Longest authentication token, in bytes of UTF-8 (§3): a signed token with many claims fits, and the hello around it. */
export const maxAuthBytes = 8192

/** What a frame may cost beyond the largest payload: its envelope and the ids of one message (§5). */
export const envelopeBytes = 4096

/** What the unconfirmed failures of one ack may take, in bytes: 1,024 without words of their own fit (§6.4). */
export const maxFailureBytes = 33 * 1024

/** The longest words of a rejection, in bytes of UTF-8 (§6.4). */
export const maxRejectionBytes = 512

/** Text of a WebSocket close, in bytes of UTF-8 (RFC 6455 §5.5). */
export const maxCloseReasonBytes = 123

/** Default largest payload, in bytes of its JSON text as UTF-8. */
export const defaultMaxPayloadBytes = 1024 * 1024

/** Default window that a receiver grants. */
export const defaultWindow: Window = { messages: 1024, bytes: 4 * 1024 * 1024 }

/** Times and counts on the wire are whole and finite (§3): at most ten years, and what a double counts exactly. */
export const maxWireMillis = 10 * 365 * 86_400_000
export const wireMillis = (millis: number): number => Math.min(Math.ceil(millis), maxWireMillis)
export const wireCount = (count: number): number => Math.min(count, Number.MAX_SAFE_INTEGER)

/** What a receiver lets the sender have in flight: sent and not yet handled (§6). */
export interface Window {
  readonly messages: number
  readonly bytes: number
}

/**
 * Close codes by range (§9): 4000–4499 mean come back, 4500–4999 mean stop. A client needs no table to know which.
 */
export const CloseCode = {
  normal: 1000,
  draining: 4000,
  heartbeatTimeout: 4001,
  ackTimeout: 4002,
  flushTimeout: 4003,
  handshakeTimeout: 4004,
  overloaded: 4005,
  internal: 4006,
  idle: 4007,
  moved: 4008,
  replaced: 4500,
  unauthorized: 4501,
  forbidden: 4502,
  protocol: 4503,
  version: 4504,
  sessionEnded: 4505,
  contract: 4506
} as const

/** Whether a client should come back after this close code. Codes below 4000 are the network's or a proxy's. */
export const isRetryable = (code: number): boolean => code < 4500

/**
 * Codes of the WebSocket layer, or of a hop's policy, that blame a frame of the side that gets them: protocol error,
 * unsupported data, not UTF-8, policy, too big. The same frame would meet the same fate again (§9.3).
 */
export const isDoubtful = (code: number): boolean =>
  code === 1002 || code === 1003 || code === 1007 || code === 1008 || code === tooBig

/** A WebSocket close code (RFC 6455 §7.4.1): a frame was too big for the side that closes. */
export const tooBig = 1009

/** Why a peer was turned away; each has a close code (§9). */
export type RejectCode =
  | "protocol"
  | "version"
  | "contract"
  | "unauthorized"
  | "forbidden"
  | "overloaded"
  | "draining"
  | "replaced"
  | "internal"

export const closeCodeOf: Readonly<Record<RejectCode, number>> = {
  protocol: CloseCode.protocol,
  version: CloseCode.version,
  contract: CloseCode.contract,
  unauthorized: CloseCode.unauthorized,
  forbidden: CloseCode.forbidden,
  overloaded: CloseCode.overloaded,
  draining: CloseCode.draining,
  replaced: CloseCode.replaced,
  internal: CloseCode.internal
}

/** Why offsets will never come (§7). */
export type GapReason = "expired" | "overflow" | "fresh" | "sessionEnded"

/** Why a message that was received was not handled (§6). */
export type FailureReason = "failed" | "undecodable" | Rejection

/** The application rejected the message, with words of its own for the sender: at most {@link maxRejectionBytes}. */
export type Rejection = `rejected:${string}`

/** Why a message that was accepted was given up. */
export type FateReason =
  | FailureReason
  | GapReason
  | "tooLarge"
  | "shutdown"
  | "skipped"
  | "volatile"

/** Why a session could not be resumed (§4). */
export type FreshReason = "new" | "unknownSession" | "unknownEpoch" | "peerStateLost" | "positionLost"
