/**
 * The entry `resilient-websocket`: exactly-once, in-order messages over WebSockets that keep breaking.
 *
 * @since 0.1.0
 */
export * as CircuitBreaker from "./CircuitBreaker.ts"
export * as Contract from "./Contract.ts"
export * as Deduplicator from "./Deduplicator.ts"
export * as MemoryStore from "./MemoryStore.ts"
export * as Message from "./Message.ts"
export * as MessageQueue from "./MessageQueue.ts"
export * as Metrics from "./Metrics.ts"
export * as ResilientClient from "./ResilientClient.ts"
export * as ResilientServer from "./ResilientServer.ts"
export * as ResilientSocket from "./ResilientSocket.ts"
export * as SessionRegistry from "./SessionRegistry.ts"
export * as Transport from "./Transport.ts"
export * as WebSocketError from "./WebSocketError.ts"
