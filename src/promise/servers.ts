/** What a `ws` server is given whose sockets are registered. */
import { OptionError } from "../internal/kit/options.ts"
import * as NodeTransport from "../node/NodeTransport.ts"
import type { OwnServerOptions, WebSocketServerOptions } from "../node/ownServers.ts"
import { ConfigError } from "./errors.ts"

/**
 * Options for the `WebSocketServer` whose sockets a manager is given: the subprotocol `resilient.v1` is chosen wherever it
 * stands among those offered, frames are bounded by `maxPayloadBytes` (default 1 MiB, as in the manager's options), pages
 * of other origins are answered with 403 (`allowedOrigins`, default `"own"`), nothing is compressed, and no socket's error
 * ends the process. Throws a `ConfigError` for options that can't be.
 *
 * **Example**
 *
 * ```ts
 * import { webSocketServerOptions } from "resilient-websocket/promise"
 * import { WebSocketServer } from "ws"
 *
 * const server = new WebSocketServer({ ...webSocketServerOptions(), port: 8080, host: "127.0.0.1" })
 * ```
 *
 * @since 0.1.0
 * @category options
 */
export const webSocketServerOptions = (
  options?: WebSocketServerOptions
): OwnServerOptions => {
  try {
    return NodeTransport.webSocketServerOptions(options)
  } catch (fault) {
    throw fault instanceof OptionError ? new ConfigError(fault.message) : fault
  }
}
