/**
 * The laws of stores on the services of each stored layer: over a database in memory, and over the real ones. What the
 * drivers below do by themselves is tried by `driverLaws`.
 */
import { Effect, Layer } from "effect"
import { join } from "node:path"
import { PostgresStore } from "resilient-websocket/postgres"
import { RedisStore } from "resilient-websocket/redis"
import { SqliteStore } from "resilient-websocket/sqlite"
import { layerOf } from "../../src/internal/store/layer.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"
import { passTime, patient } from "../support/patience.ts"
import { connectTo, describeWithDatabase, emptySchema, newSchema } from "../support/postgresServer.ts"
import { newPrefix } from "../support/redisDrivers.ts"
import { describeWithRedisCluster, describeWithRedisKeys } from "../support/redisServer.ts"
import { storeLaws } from "../support/storeLaws.ts"
import { temporaryDirectory } from "../support/temporary.ts"

storeLaws("MemoryDriver", (options) => layerOf(Effect.sync(() => makeMemoryDriver(makeMemoryDatabase())), 2, options))
storeLaws("SqliteStore", (options) =>
  Layer.unwrap(
    Effect.map(temporaryDirectory, (directory) => SqliteStore.layer({ ...options, filename: join(directory, "db") }))
  ))

describeWithDatabase("PostgreSQL", (server) => {
  const schema = newSchema()
  storeLaws("PostgresStore", (options) =>
    Layer.unwrap(Effect.gen(function*() {
      const { database, host, port, username } = yield* server
      const emptied = Layer.effectDiscard(Effect.flatMap(connectTo(yield* server), (sql) => emptySchema(sql, schema)))
      const store = PostgresStore.layer({ ...options, ...patient, schema, host, port, username, database })
      return Layer.provide(store, emptied)
    })), passTime)
})

describeWithRedisKeys("Redis", (keys) => {
  storeLaws("RedisStore", (options) =>
    Layer.unwrap(
      Effect.map(keys, ({ newPrefix, url }) => RedisStore.layer({ ...options, ...patient, url, prefix: newPrefix() }))
    ), passTime)
})

describeWithRedisCluster("a Redis cluster", {}, (servers) => {
  storeLaws("RedisStore on a cluster", (options) =>
    Layer.unwrap(Effect.map(servers, (all) =>
      RedisStore.layerCluster({
        ...options,
        ...patient,
        cluster: { nodes: all.map(({ url }) => url) },
        prefix: newPrefix()
      }))), passTime)
})
