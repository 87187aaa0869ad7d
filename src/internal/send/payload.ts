/** A message as it goes on the wire: through its Schema, as JSON text, measured. */
import { pathText } from "../../core/Payload.ts"
import { utf8Length } from "../../core/utf8.ts"
import { PayloadError } from "../../WebSocketError.ts"
import type { Coder, Fault } from "../kit/schemas.ts"

interface Payload {
  readonly payload: string
  /** As UTF-8. */
  readonly bytes: number
}

export const payloadError = (session: string, detail: string): PayloadError =>
  new PayloadError({ direction: "encode", detail, session })

const faultyPayload = (session: string, { detail, path }: Fault): PayloadError => {
  const place = pathText(path)
  return new PayloadError({ direction: "encode", detail, session, ...(place === undefined ? {} : { path: place }) })
}

/** The error for a payload of more than `limitBytes`. */
export const tooLarge = (session: string, sizeBytes: number, limitBytes: number): PayloadError =>
  new PayloadError({
    direction: "encode",
    detail: `${sizeBytes} bytes are more than ${limitBytes}`,
    session,
    sizeBytes,
    limitBytes
  })

export type Serialize<Out> = (session: string, message: Out, limitBytes: number) => Payload | PayloadError

export const makeSerialize = <Out>({ encode }: Pick<Coder<Out>, "encode">): Serialize<Out> => {
  return (session, message, limitBytes) => {
    const payload = encode(message)
    if (typeof payload !== "string") return faultyPayload(session, payload)
    const bytes = utf8Length(payload)
    return bytes <= limitBytes ? { payload, bytes } : tooLarge(session, bytes, limitBytes)
  }
}
