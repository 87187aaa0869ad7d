/** A message as it goes on the wire: through its Schema, as JSON text, measured. */
import { Exit, type Schema } from "effect"
import { utf8Length } from "../core/utf8.ts"
import { PayloadError } from "../WebSocketError.ts"
import { makeEncoder } from "./schemas.ts"

export interface Payload {
  readonly payload: string
  /** As UTF-8. */
  readonly bytes: number
}

export const payloadError = (session: string, detail: string): PayloadError =>
  new PayloadError({ direction: "encode", detail, session })

/** What is wrong with a payload that has more than `limitBytes`. */
export const tooLarge = (session: string, sizeBytes: number, limitBytes: number): PayloadError =>
  new PayloadError({
    direction: "encode",
    detail: `${sizeBytes} bytes are more than ${limitBytes}`,
    session,
    sizeBytes,
    limitBytes
  })

export type Serialize<Out> = (session: string, message: Out, limitBytes: number) => Payload | PayloadError

export const makeSerialize = <Out>(schema: Schema.Codec<Out, unknown>): Serialize<Out> => {
  const encode = makeEncoder(schema)
  return (session, message, limitBytes) => {
    const encoded = encode(message)
    if (Exit.isFailure(encoded)) return payloadError(session, String(Exit.getCause(encoded)))
    let payload: string | undefined
    try {
      payload = JSON.stringify(encoded.value)
    } catch (cause) {
      return payloadError(session, cause instanceof Error ? cause.message : String(cause))
    }
    if (payload === undefined) return payloadError(session, "JSON has no form for it")
    const bytes = utf8Length(payload)
    return bytes <= limitBytes ? { payload, bytes } : tooLarge(session, bytes, limitBytes)
  }
}
