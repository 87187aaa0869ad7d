/** The store in Redis keeps the laws of all stores. */
import { afterAll } from "@effect/vitest"
import { Effect, Exit, Layer, Scope } from "effect"
import { RedisStore } from "resilient-websocket/redis"
import { connectDriver, newPrefix } from "../support/redisDrivers.ts"
import { describeWithRedis } from "../support/redisServer.ts"
import { passTimeBeside, storeLaws } from "../support/storeLaws.ts"

describeWithRedis("Redis, one server", {}, (server) => {
  const scope = Scope.makeUnsafe()
  const beside = Effect.runSync(
    Effect.cached(Scope.provide(Effect.flatMap(server, (redis) => connectDriver(redis)), scope))
  )
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  storeLaws(
    "RedisStore",
    (options) =>
      Layer.unwrap(Effect.map(server, ({ url }) => RedisStore.layer({ ...options, url, prefix: newPrefix() }))),
    passTimeBeside(Effect.flatMap(beside, ({ clock }) => clock))
  )
})
