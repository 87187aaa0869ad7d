/**
 * The entry `resilient-websocket/promise`: the library for programs without Effect. It offers promises, plain values,
 * functions and events, on the same services.
 *
 * @since 0.1.0
 */
export type { AllowedOrigins } from "../internal/session/origins.ts"
export type { OwnServerOptions, WebSocketServerOptions } from "../node/ownServers.ts"
export type * from "./clientOptions.ts"
export * from "./errors.ts"
export type * from "./managerOptions.ts"
export type * from "./models.ts"
export type * from "./options.ts"
export * from "./ResilientClient.ts"
export * from "./ResilientWebSocketManager.ts"
export * from "./servers.ts"
