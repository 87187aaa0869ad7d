/**
 * The entry `resilient-websocket/testing/node`: a TCP proxy that breaks connections.
 *
 * @since 0.1.0
 */
export * as FaultProxy from "./FaultProxy.ts"
