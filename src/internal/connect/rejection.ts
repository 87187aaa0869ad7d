/** Tells a peer why it is turned away: makes the reject frame and the close code that goes with it. */
import type { Reject } from "../../core/Frame.ts"
import { CloseCode, closeCodeOf, type RejectCode } from "../../core/Protocol.ts"
import { beginning } from "../../core/Text.ts"
import type { Violation } from "../../core/Violation.ts"
import { ProtocolError, type WebSocketError } from "../../WebSocketError.ts"

/** The most bytes of a reject's `detail`. */
const maxDetailBytes = 1_024

export const rejection = (error: WebSocketError): { readonly code: number; readonly reject: Reject } => {
  const code = rejectCodeOf(error)
  // The peer makes its own error from code and detail, so these two need only the detail.
  const detail =
    error._tag === "resilient-websocket/HandshakeError" || error._tag === "resilient-websocket/ProtocolError"
      ? error.detail
      : error.message
  const closeCode = error._tag === "resilient-websocket/ConnectionTimeoutError"
    ? CloseCode.handshakeTimeout
    : closeCodeOf[code]
  const violation = error._tag === "resilient-websocket/ProtocolError" ? { violation: error.code } : {}
  // A hook's detail can have any length, but frames before the welcome are bounded.
  return { code: closeCode, reject: { t: "reject", code, ...violation, detail: beginning(detail, maxDetailBytes) } }
}

/** The error for a client that broke the protocol. */
export const protocolError = (violation: Violation, session?: string) =>
  new ProtocolError({ code: violation.code, detail: violation.detail, ...(session === undefined ? {} : { session }) })

const rejectCodeOf = (error: WebSocketError): RejectCode => {
  if (error._tag === "resilient-websocket/ProtocolError") return "protocol"
  if (error._tag !== "resilient-websocket/HandshakeError") return "internal"
  // A hook that could not decide, as when its database is down, must not turn anybody away for good.
  if (error.retryable && error.reason !== "draining") return "overloaded"
  return error.reason === "invalid" ? "protocol" : error.reason
}
