/**
 * Stores in Redis.
 *
 * @since 0.2.0
 */
export * as RedisClient from "./RedisClient.ts"
export * as RedisStore from "./RedisStore.ts"
