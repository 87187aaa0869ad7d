/** How a peer that is turned away learns why: the reject frame, and the close code that goes with it. */
import type { Reject } from "../../core/Frame.ts"
import { CloseCode, closeCodeOf, type RejectCode } from "../../core/Protocol.ts"
import { beginning } from "../../core/Text.ts"
import type { Violation } from "../../core/Violation.ts"
import { ProtocolError, type WebSocketError } from "../../WebSocketError.ts"

/** Of the text for people in a reject. */
const maxDetailBytes = 1_024

export const rejection = (error: WebSocketError): { readonly code: number; readonly reject: Reject } => {
  const code = rejectCodeOf(error)
  // The peer makes an error of its own from code and detail.
  const detail = error._tag === "HandshakeError" || error._tag === "ProtocolError" ? error.detail : error.message
  const closeCode = error._tag === "ConnectionTimeoutError" ? CloseCode.handshakeTimeout : closeCodeOf[code]
  const violation = error._tag === "ProtocolError" ? { violation: error.code } : {}
  // A hook's detail may be of any length, but before the handshake a peer takes only small frames.
  return { code: closeCode, reject: { t: "reject", code, ...violation, detail: beginning(detail, maxDetailBytes) } }
}

/** A client's breach of the protocol. */
export const protocolError = (violation: Violation, session?: string) =>
  new ProtocolError({ code: violation.code, detail: violation.detail, ...(session === undefined ? {} : { session }) })

const rejectCodeOf = (error: WebSocketError): RejectCode => {
  if (error._tag === "ProtocolError") return "protocol"
  if (error._tag !== "HandshakeError") return "internal"
  // A hook that could not decide, as what it asks is down, turns nobody away for good.
  if (error.retryable && error.reason !== "draining") return "overloaded"
  return error.reason === "invalid" ? "protocol" : error.reason
}
