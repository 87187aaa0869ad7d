/**
 * Everything that servers keep, in Redis (7.0 or newer) or a Redis Cluster: queue, deduplicator, sessions. Any number
 * of servers share it. A session resumes on whichever its client reaches, even if its last server is gone.
 *
 * **Details.** Each session's messages are the entries of one stream; all keys of a session are in one hash slot.
 *
 * **Gotchas.** What Redis loses is lost: in a crash of Redis with `appendfsync everysec`, up to a second; in a
 * failover, what was not replicated; under an eviction policy `allkeys-…`, anything. The store warns of such settings
 * at the start. There are no transactions with your own data: make handlers idempotent by `messageId`.
 *
 * @since 0.1.0
 */
import { type Config, Layer } from "effect"
import type { Redis } from "effect/persistence"
import * as Check from "../internal/kit/options.ts"
import { layerOf, type Services, type StoreOptions, storeShape } from "../internal/store/layer.ts"
import type { MessageQueueError } from "../WebSocketError.ts"
import * as RedisClient from "./RedisClient.ts"
import { makeRedisDriver, type RedisDriverOptions } from "./redisDriver.ts"

export type { Services, StoreOptions } from "../internal/store/layer.ts"

/**
 * How the store uses its Redis, without saying which one.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientOptions extends StoreOptions {
  /** The prefix of all keys, so that several stores can share a Redis. Without braces. Default `rws`. */
  readonly prefix?: RedisDriverOptions["prefix"]
  /**
   * How many hash slots the data is spread over, and so over at most how many masters of a cluster; from 1 to 1,024. It
   * can't be changed once there is data. Default: what the data has; for new data 16 on a cluster and 1 on a single
   * server.
   */
  readonly partitions?: RedisDriverOptions["partitions"]
}

/**
 * Which Redis, and how the store uses it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends ClientOptions {
  /** `redis://` or `rediss://`, with user and password if needed. Default `redis://localhost:6379`. */
  readonly url?: string | undefined
  /** Other options of the connection, as in node-redis. */
  readonly client?: Omit<RedisClient.ClientOptions, "url"> | undefined
}

/**
 * Which cluster, and how the store uses it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClusterOptions extends ClientOptions {
  /** Its nodes, and the connections to them. */
  readonly cluster: RedisClient.ClusterOptions
}

/** How many commits are under way at once. */
const lanes = 2

/**
 * The store in one Redis server, or in the master that a proxy or sentinel leads to.
 *
 * **Example**
 *
 * ```ts
 * import { RedisStore } from "resilient-websocket/redis"
 *
 * const Store = RedisStore.layer({ url: "redis://redis.internal:6379", queue: { ttl: "1 hour" } })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<
  Services | Redis.Redis | RedisClient.RedisClient,
  MessageQueueError | Redis.RedisError
> =>
  Check.checkedLayer(options, { ...shape, url: Check.nonEmpty, client: Check.object }, () =>
    Layer.provideMerge(
      layerClient(Check.pick(options, shape)),
      RedisClient.layer({ ...options.client, ...(options.url === undefined ? {} : { url: options.url }) })
    ))

const shape: Check.Shape<ClientOptions> = { ...storeShape, prefix: Check.text, partitions: Check.whole() }

/**
 * `layer` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<
  Services | Redis.Redis | RedisClient.RedisClient,
  MessageQueueError | Redis.RedisError | Config.ConfigError
> => Check.fromConfig(options, layer)

/**
 * The store in a Redis Cluster.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerCluster = (options: ClusterOptions): Layer.Layer<
  Services | Redis.Redis | RedisClient.RedisClient,
  MessageQueueError | Redis.RedisError
> =>
  Check.checkedLayer(
    options,
    { ...shape, cluster: Check.nested(RedisClient.clusterShape) },
    () => Layer.provideMerge(layerClient(Check.pick(options, shape)), RedisClient.layerCluster(options.cluster))
  )

/**
 * The store on any `Redis` service of the program.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerClient = (
  options?: ClientOptions
): Layer.Layer<Services, MessageQueueError, Redis.Redis> =>
  Check.checkedLayer(options, shape, () =>
    layerOf(
      makeRedisDriver({
        prefix: options?.prefix,
        partitions: options?.partitions,
        commandTimeout: options?.callTimeout ?? "5 seconds"
      }),
      lanes,
      options ?? {}
    ))
