/** Checks the options of sends. It runs at each send that has any, so it checks by name, at almost no cost. */
import * as Check from "../internal/kit/options.ts"
import { payloadError } from "../internal/send/payload.ts"
import type * as Message from "../Message.ts"
import type { PayloadError } from "../WebSocketError.ts"
import type { BroadcastOptions, SendOptions } from "./managerOptions.ts"
import type { Waiting } from "./models.ts"
import type { ReliableSendOptions, SendAllOptions } from "./options.ts"
import { isSignal } from "./shapes.ts"

export const sendNames: Check.Names<SendOptions> = { critical: true, id: true, ttl: true, signal: true }
export const sendAllNames: Check.Names<SendAllOptions> = { ttl: true, signal: true }
export const broadcastNames: Check.Names<BroadcastOptions> = {
  ttl: true,
  sessions: true,
  principal: true,
  signal: true
}
const reliableNames: Check.Names<ReliableSendOptions> = { id: true, ttl: true, volatile: true, signal: true }

interface Given extends Waiting {
  readonly critical?: boolean | undefined
}

/** What is wrong with the options, except for those that the send itself checks. */
export const faultOf = (
  options: Given | undefined,
  names: Readonly<Record<string, true>>
): PayloadError | undefined => {
  if (options === undefined) return undefined
  const wrong = Check.wrongName(options, names)
  if (wrong !== undefined) return payloadError("", wrong)
  const { critical, signal } = options
  if (signal !== undefined && !isSignal(signal)) return payloadError("", "option signal must be an AbortSignal")
  if (critical === undefined || typeof critical === "boolean") return undefined
  return payloadError("", "option critical must be true or false")
}

/** Checks the options of a client's send or a handler's reply, then sends. */
export const sending = <A>(
  options: ReliableSendOptions | undefined,
  send: (options: Message.SendOptions | undefined, signal: AbortSignal | undefined) => Promise<A>
): Promise<A> => {
  if (options === undefined) return send(undefined, undefined)
  const fault = faultOf(options, reliableNames)
  if (fault !== undefined) return Promise.reject(fault)
  const { signal, ...given } = options
  return send(given, signal)
}
