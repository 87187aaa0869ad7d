/** The options of a `ws` server whose sockets are registered with a manager. */
import { OptionError } from "../internal/kit/options.ts"
import * as NodeTransport from "../node/NodeTransport.ts"
import type { OwnServerOptions, WebSocketServerOptions } from "../node/ownServers.ts"
import { ConfigError } from "./errors.ts"

/**
 * Options for the `WebSocketServer` whose sockets a manager gets. With them, the subprotocol `resilient.v1` is chosen
 * wherever it stands among those offered, `maxPayloadBytes` (default 1 MiB, as in the manager's options) limits frames,
 * pages of other origins get a 403 (`allowedOrigins`, default `"own"`), nothing is compressed, and no socket's error
 * ends the process. Throws a `ConfigError` for invalid options.
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
