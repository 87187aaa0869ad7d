/**
 * The entry `resilient-websocket/node`: transports on the `ws` package.
 *
 * @since 0.1.0
 */
export * as NodeTransport from "./NodeTransport.ts"
