/**
 * The entry `resilient-websocket/redis`: stores that servers share through Redis.
 *
 * @since 0.1.0
 */
export * as RedisClient from "./RedisClient.ts"
export * as RedisStore from "./RedisStore.ts"
