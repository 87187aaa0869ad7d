/** What there is to know of a `WebSocketServer` that somebody else builds: types, without Effect. */
import type { ServerOptions } from "ws"
import type { AllowedOrigins } from "../internal/session/origins.ts"

/**
 * What a program's own `WebSocketServer` is given.
 *
 * @since 0.1.0
 * @category options
 */
export type OwnServerOptions = Required<
  Pick<ServerOptions, "perMessageDeflate" | "maxPayload" | "handleProtocols" | "verifyClient" | "WebSocket">
>

/**
 * What such a server is to take.
 *
 * @since 0.1.0
 * @category options
 */
export interface WebSocketServerOptions {
  /** Largest payload, in bytes; as in the options of the server or manager. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /** Which pages may connect, by the `Origin` that browsers send; others are answered with 403. Default `"own"`. */
  readonly allowedOrigins?: AllowedOrigins | undefined
}
