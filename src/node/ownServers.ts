/** Types for a `WebSocketServer` that somebody else builds, without Effect. */
import type { ServerOptions } from "ws"
import type { AllowedOrigins } from "../internal/session/origins.ts"

/**
 * The options for a program's own `WebSocketServer`.
 *
 * @since 0.1.0
 * @category options
 */
export type OwnServerOptions = Required<
  Pick<ServerOptions, "perMessageDeflate" | "maxPayload" | "handleProtocols" | "verifyClient" | "WebSocket">
>

/**
 * What a program's own `WebSocketServer` accepts.
 *
 * @since 0.1.0
 * @category options
 */
export interface WebSocketServerOptions {
  /** The largest payload, in bytes; the same as in the options of the server or manager. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /** Which pages may connect, by the `Origin` that browsers send; others get a 403. Default `"own"`. */
  readonly allowedOrigins?: AllowedOrigins | undefined
}
