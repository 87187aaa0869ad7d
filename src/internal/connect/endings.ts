/**
 * What an ending means to a client: the error, whether it comes back, and after what pause (PROTOCOL.md §9.3, §9.4).
 * A connection can end, and so can an attempt to make one.
 */
import { Schema } from "effect"
import type { Reject } from "../../core/Frame.ts"
import { CloseCode, isDoubtful, isRetryable } from "../../core/Protocol.ts"
import type { Violation } from "../../core/Violation.ts"
import {
  ConnectError,
  type ConnectionTimeoutError,
  HandshakeError,
  ProtocolError,
  SessionNotFoundError,
  TransportError
} from "../../WebSocketError.ts"
import { jitteredMillis } from "../kit/backoff.ts"
import type { Ending } from "../run/connections.ts"

/**
 * - `again`: the client comes back
 * - `doubtful`: it comes back, but stops if this keeps happening: see {@link Doubts}
 * - `refused`: an HTTP server refused the client's credentials; it tries once more, with a fresh token
 * - `stop`: it waits until it is told to try again
 */
export type Verdict = "again" | "doubtful" | "refused" | "stop"

/** An error and what the client does about it. */
export interface Failure {
  readonly error: ConnectError
  readonly verdict: Verdict
}

const enoughRefusals = 2
const enoughDoubts = 5
/** The longest that a peer can make a client wait, in ms. */
const longestPauseMillis = 600_000
/** Request Timeout, Too Early, Too Many Requests. */
const passing = new Set([408, 425, 429])

/**
 * Counts failures in a row that may be temporary, as during a deployment, but are usually permanent: a path that does
 * not exist, or a hop that is not a WebSocket server.
 */
export class Doubts {
  private readonly patienceMillis: number
  private count = 0
  private since = 0

  /** Doubtful failures must go on for at least `patienceMillis` before the client stops. */
  constructor(patienceMillis: number) {
    this.patienceMillis = patienceMillis
  }

  /** Counts this verdict, and says whether the client has to stop. */
  isEnough(verdict: Verdict, now: number): boolean {
    if (verdict === "stop") return true
    if (verdict === "again") {
      this.clear()
      return false
    }
    if (this.count++ === 0) this.since = now
    return verdict === "refused"
      ? this.count >= enoughRefusals
      : this.count >= enoughDoubts && now - this.since >= this.patienceMillis
  }

  clear(): void {
    this.count = 0
  }
}

const protocolError = ({ code, detail }: Violation) => new ProtocolError({ code, detail })

/** Others have no meaning for a client: they are of stores that it does not have. */
export const isConnectError = Schema.is(ConnectError)

/** A violation before the welcome: the answer may come not from a server of this protocol, but from a temporary hop. */
export const breach = (violation: Violation): Failure => ({ error: protocolError(violation), verdict: "doubtful" })

/** A failure of the user's functions, the store or the circuit. */
export const failed = (error: ConnectError): Failure => ({
  error,
  verdict: error._tag === "resilient-websocket/HandshakeError"
    ? (error.retryable ? "again" : "stop")
    : error._tag === "resilient-websocket/ProtocolError" || error._tag === "resilient-websocket/SessionNotFoundError"
    ? "stop"
    : "again"
})

/** A failed dial. Its HTTP status, if there is one, says whether it is worth trying again. */
export const undialled = (error: TransportError | ConnectionTimeoutError): Failure => {
  const status = error._tag === "resilient-websocket/TransportError" ? error.status : undefined
  if (status === undefined || error._tag !== "resilient-websocket/TransportError") return { error, verdict: "again" }
  if (status === 401 || status === 403) {
    const reason = status === 401 ? "unauthorized" : "forbidden"
    return { error: new HandshakeError({ reason, detail: error.detail, retryable: false }), verdict: "refused" }
  }
  return { error, verdict: status >= 500 || passing.has(status) ? "again" : "doubtful" }
}

/** The error that a reject frame stands for. */
export const rejectionError = ({ code, detail, violation = code }: Reject): ConnectError => {
  switch (code) {
    case "unauthorized":
    case "forbidden":
    case "version":
    case "contract":
    case "replaced":
      return new HandshakeError({ reason: code, detail, retryable: false })
    case "overloaded":
    case "draining":
      return new HandshakeError({ reason: code, detail, retryable: true })
    case "protocol":
      return new ProtocolError({ code: violation, detail })
    default:
      return new TransportError({ operation: "receive", detail: `the server rejected: ${detail}` })
  }
}

const closedError = (code: number, reason: string) =>
  new TransportError({ operation: "receive", detail: `closed with ${code}${reason === "" ? "" : ` (${reason})`}` })

/** A close before the welcome that no reject frame explained. */
export const closedBeforeWelcome = (code: number, reason: string): Failure => {
  if (code === CloseCode.unauthorized) {
    return failed(rejectionError({ t: "reject", code: "unauthorized", detail: reason }))
  }
  if (!isRetryable(code)) return failed(new ProtocolError({ code: String(code), detail: reason }))
  return { error: closedError(code, reason), verdict: isDoubtful(code) ? "doubtful" : "again" }
}

/**
 * The end of a connection after its welcome. `isDoubted`: it ended soon, or at a message that has ended others before
 * and will end the next.
 */
export const lostAfterWelcome = (
  session: string,
  ending: Ending,
  rejected: ConnectError | undefined,
  isDoubted: boolean
): Failure => {
  const { code, reason } = ending
  const own = isConnectError(ending.error) ? ending.error : undefined
  const error = rejected ?? own ??
    (code === CloseCode.sessionEnded ? new SessionNotFoundError({ session }) : closedError(code, reason))
  if (!isRetryable(code)) return { error, verdict: "stop" }
  const { verdict } = failed(error)
  return { error, verdict: verdict === "again" && isDoubted && isDoubtful(code) ? "doubtful" : verdict }
}

/** Whether the end is no fault of the endpoint: it was intended, or somebody else has the session. */
export const isMeant = ({ code }: Ending): boolean =>
  code === CloseCode.draining || code === CloseCode.moved || code === CloseCode.replaced ||
  code === CloseCode.sessionEnded

export interface Backoff {
  readonly baseMillis: number
  readonly capMillis: number
}

/**
 * How long a client stays away. `part` is drawn from [0, 1). A drain names the window that its clients spread over; a
 * client that is drained right after every welcome also backs off as for any other failure.
 */
export const pauseMillis = (
  { baseMillis, capMillis }: Backoff,
  failures: number,
  part: number,
  drainWindow: number | undefined,
  error: ConnectError
): number => {
  const backoff = failures === 0 ? 0 : jitteredMillis(baseMillis, capMillis, failures, part)
  const spread = part * Math.min(drainWindow ?? 0, longestPauseMillis)
  return Math.max(backoff, spread, retryAfterOf(error))
}

/** The pause that an HTTP server asked for, within bounds. */
export const retryAfterOf = (error: ConnectError): number =>
  error._tag === "resilient-websocket/TransportError" ? Math.min(error.retryAfterMillis ?? 0, longestPauseMillis) : 0
