/** A breach of the protocol by the peer, as a value: no frame can throw. */
export class Violation {
  readonly t = "violation"
  readonly code: ViolationCode
  readonly detail: string

  constructor(code: ViolationCode, detail: string) {
    this.code = code
    this.detail = detail
  }
}

/**
 * - `malformed`: not JSON, not a known frame, or a field of the wrong type or range
 * - `tooLarge`, `tooDeep`: over the limits of §5
 * - `unexpected`: a frame that this side does not take now
 * - `future`: an offset, position or ack beyond what exists
 * - `regress`: an ack below an earlier one
 * - `window`: more in flight than was granted
 */
export type ViolationCode = "malformed" | "tooLarge" | "tooDeep" | "unexpected" | "future" | "regress" | "window"
