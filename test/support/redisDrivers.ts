/** Drivers on the Redis servers of tests, each with connections of its own, as a process has them. */
import { Effect, Layer } from "effect"
import { RedisClient } from "resilient-websocket/redis"
import { makeRedisDriver, type RedisDriverOptions } from "../../src/redis/redisDriver.ts"
import type { RedisServer } from "./redisServer.ts"

let prefixes = 0

/** A prefix that no other test of this process has. */
export const newPrefix = (): string => `test${++prefixes}`

export const connectDriver = Effect.fnUntraced(function*(
  server: Pick<RedisServer, "url">,
  options: RedisDriverOptions = {},
  client: RedisClient.ClientOptions = {}
) {
  const services = yield* Layer.build(RedisClient.layer({ url: server.url, ...client }))
  return yield* Effect.provideContext(makeRedisDriver(options), services)
})

export const connectDriverToCluster = Effect.fnUntraced(function*(
  servers: ReadonlyArray<RedisServer>,
  options: RedisDriverOptions = {}
) {
  const services = yield* Layer.build(RedisClient.layerCluster({ nodes: servers.map(({ url }) => url) }))
  return yield* Effect.provideContext(makeRedisDriver(options), services)
})
