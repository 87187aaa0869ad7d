/** The driver of Redis stores keeps the laws, on a server and on a cluster. */
import { Effect } from "effect"
import { driverLaws, type MakePair } from "../support/driverLaws.ts"
import { connectDriver, connectDriverToCluster, newPrefix } from "../support/redisDrivers.ts"
import { describeWithRedis, describeWithRedisCluster } from "../support/redisServer.ts"

describeWithRedis("Redis, one server", {}, (server) => {
  const make: MakePair = Effect.gen(function*() {
    const options = { prefix: newPrefix() }
    const redis = yield* server
    return { driver: yield* connectDriver(redis, options), other: yield* connectDriver(redis, options) }
  })
  driverLaws("Redis", make)
})

describeWithRedisCluster("Redis, a cluster of three", {}, (servers) => {
  const make: MakePair = Effect.gen(function*() {
    const options = { prefix: newPrefix() }
    const redis = yield* servers
    return {
      driver: yield* connectDriverToCluster(redis, options),
      other: yield* connectDriverToCluster(redis, options)
    }
  })
  driverLaws("Redis cluster", make, { runs: 10 })
})
