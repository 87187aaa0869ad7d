/** The driver of Redis stores keeps the laws, on a server and on a cluster. */
import { Effect } from "effect"
import { driverLaws, type MakePair } from "../support/driverLaws.ts"
import { connectDriver, connectDriverToCluster, newPrefix } from "../support/redisDrivers.ts"
import { describeWithRedisCluster, describeWithRedisKeys } from "../support/redisServer.ts"

const forgetting = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('HSET', key, 'i', '-') end"

describeWithRedisKeys("Redis, one server", (keys) => {
  const make: MakePair = Effect.gen(function*() {
    const redis = yield* keys
    const options = { prefix: redis.newPrefix() }
    const forget = (session: string) =>
      Effect.asVoid(redis.command("EVAL", forgetting, "0", `{${options.prefix}:*}:o:${session}`))
    return { driver: yield* connectDriver(redis, options), other: yield* connectDriver(redis, options), forget }
  })
  driverLaws("Redis", make, { histories: true })
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
