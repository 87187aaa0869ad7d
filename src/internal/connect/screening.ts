/** Turns connections away before their handshake, by their request, and reports those that a transport refused. */
import { Effect } from "effect"
import { subprotocol } from "../../core/Protocol.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection, Refusal } from "../../Transport.ts"
import { HandshakeError, TransportError } from "../../WebSocketError.ts"
import type { RareLog } from "../kit/rareLog.ts"
import { type AllowedOrigins, makeOriginCheck } from "../session/origins.ts"
import { rejection } from "./rejection.ts"

/**
 * Checks a connection that somebody else accepted, and closes it if it may not be taken over. It can only check the
 * parts of the request that were handed over.
 */
export const makeScreening = (allowedOrigins: AllowedOrigins | undefined) => {
  const refusedOrigin = makeOriginCheck(allowedOrigins)
  const faultOf = ({ protocol, request }: Connection): HandshakeError | TransportError | undefined => {
    const offered = request.headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim()) ?? []
    if (protocol !== subprotocol && offered.includes(subprotocol)) {
      const chosen = protocol === "" ? "none" : protocol
      const detail = `${subprotocol} was offered, and the socket's server chose ${chosen}: see webSocketServerOptions`
      return new TransportError({ operation: "register", detail })
    }
    const detail = refusedOrigin(request)
    return detail === undefined ? undefined : new HandshakeError({ reason: "forbidden", detail, retryable: false })
  }
  return (connection: Connection): Effect.Effect<void, HandshakeError | TransportError> =>
    Effect.suspend(() => {
      const fault = faultOf(connection)
      if (fault === undefined) return Effect.void
      const { code, reject } = rejection(fault)
      connection.close(code, reject.detail)
      return Effect.fail(fault)
    })
}

/** Counts what a transport refuses, and logs what an operator should know. */
export const makeOnRefused = (recorder: Recorder, log: RareLog) => ({ detail, reason }: Refusal): void => {
  if (reason !== "server") recorder.count("connectionsRefused")
  if (reason === "server" || reason === "descriptors") return log.error(reason, `the transport failed: ${detail}`)
  if (reason === "full" || reason === "origin" || reason === "taken") log.warn(reason, `refused: ${detail}`)
}
