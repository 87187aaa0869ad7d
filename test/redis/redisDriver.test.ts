/** The driver of Redis stores: the laws on a server and on a cluster, and what happens when servers fail. */
import { Effect, Layer } from "effect"
import { RedisClient } from "resilient-websocket/redis"
import { makeRedisDriver, type RedisDriverOptions } from "../../src/redis/redisDriver.ts"
import { driverLaws, type MakePair } from "../support/driverLaws.ts"
import { describeWithRedis, describeWithRedisCluster, type RedisServer } from "../support/redisServer.ts"

let prefixes = 0

/** A prefix that no other test of this file has. */
const newPrefix = (): string => `test${++prefixes}`

/** A driver as a process of its own has it. */
const connect = (server: RedisServer, options: RedisDriverOptions = {}) =>
  Effect.flatMap(
    Layer.build(RedisClient.layer({ url: server.url })),
    (services) => Effect.provideContext(makeRedisDriver(options), services)
  )

const connectToCluster = (servers: ReadonlyArray<RedisServer>, options: RedisDriverOptions = {}) =>
  Effect.flatMap(
    Layer.build(RedisClient.layerCluster({ nodes: servers.map(({ url }) => url) })),
    (services) => Effect.provideContext(makeRedisDriver(options), services)
  )

describeWithRedis("Redis, one server", {}, (server) => {
  const make: MakePair = Effect.gen(function*() {
    const options = { prefix: newPrefix() }
    const redis = yield* server
    return { driver: yield* connect(redis, options), other: yield* connect(redis, options) }
  })
  driverLaws("Redis", make)
})

describeWithRedisCluster("Redis, a cluster", {}, (servers) => {
  const make: MakePair = Effect.gen(function*() {
    const options = { prefix: newPrefix() }
    const redis = yield* servers
    return { driver: yield* connectToCluster(redis, options), other: yield* connectToCluster(redis, options) }
  })
  driverLaws("Redis cluster", make)
})
