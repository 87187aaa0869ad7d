/**
 * Connections to Redis for the store, as Effect's `Redis` service: to one server, or to a cluster.
 *
 * **Details**
 *
 * Both use the npm package `redis` (node-redis). Broken connections are made anew as long as the layer lives, even when
 * the network went silent (`NodeRedis` of `@effect/platform-node` leaves that to TCP, and knows no cluster). Meanwhile
 * commands wait within node-redis's `commandOptions.timeout` (5 s), at most `commandsQueueMaxLength` of them (10,000).
 * Building the layer fails if Redis can't be reached.
 *
 * The store works with any other `Redis` service too, `NodeRedis.layer` for one.
 *
 * @since 0.1.0
 */
import { Context, Deferred, Effect, Layer, Queue, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { createClient, createCluster } from "redis"
import { jitteredMillis } from "../internal/kit/backoff.ts"
import * as Check from "../internal/kit/options.ts"

type Client = ReturnType<typeof createClient>
type Cluster = ReturnType<typeof createCluster>

/**
 * The options of node-redis's `createClient`: `url`, `username`, `password`, `database`, `socket`, `commandOptions`….
 *
 * Defaults that differ from node-redis's: `pingInterval` 5 s with `socket.socketTimeout` 15 s, so that a silent
 * connection is given up; `socket.reconnectStrategy` from 0 to 2 s with full jitter, for ever; `commandsQueueMaxLength`
 * 10,000.
 *
 * @since 0.1.0
 * @category models
 */
export type ClientOptions = NonNullable<Parameters<typeof createClient>[0]>

/**
 * Where a cluster is, and how to connect to it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClusterOptions {
  /**
   * URLs of some of the cluster's nodes. One of them must be reachable at the start; the others are found through it.
   * User, password and TLS of the first URL are used for all.
   */
  readonly nodes: ReadonlyArray<string>
  /** Options for the connections to all nodes, as for one server. */
  readonly defaults?: Omit<ClientOptions, "url" | "database"> | undefined
  /** Other options of node-redis's `createCluster`, such as `nodeAddressMap`. */
  readonly cluster?: Omit<Parameters<typeof createCluster>[0], "rootNodes" | "defaults"> | undefined
}

/** @internal The shape of a cluster's options; those of connections are node-redis's. */
export const clusterShape: Check.Shape<ClusterOptions> = {
  nodes: Check.iterable,
  defaults: Check.object,
  cluster: Check.object
}

/**
 * A server that holds data: the single one, or a master of the cluster.
 *
 * @since 0.1.0
 * @category models
 */
export interface Server {
  readonly address: string
  readonly send: Redis.Redis["Service"]["send"]
}

const keyless = new Set(["SCRIPT", "PUBLISH", "CONFIG", "INFO", "TIME", "PING", "DBSIZE", "FLUSHALL", "CLUSTER"])

/**
 * The servers behind the `Redis` service, for what must be asked of each.
 *
 * @since 0.1.0
 * @category services
 */
export class RedisClient extends Context.Service<RedisClient, {
  readonly servers: Effect.Effect<ReadonlyArray<Server>, Redis.RedisError>
}>()("resilient-websocket/redis/RedisClient") {}

/**
 * `Redis` on one server.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: ClientOptions = {}): Layer.Layer<Redis.Redis | RedisClient, Redis.RedisError> =>
  Layer.effectContext(make(options))

/**
 * `Redis` on a cluster. Commands go to the node that has their key, through redirections and failovers. `Redis.reserve`
 * fails: a reserved connection could reach only one node.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerCluster = (options: ClusterOptions): Layer.Layer<Redis.Redis | RedisClient, Redis.RedisError> =>
  Layer.effectContext(makeCluster(options))

const make = Effect.fnUntraced(function*(options: ClientOptions) {
  const report = yield* makeReport
  const client = yield* openClient(options, report)
  const send = sendTo(client)
  const redis = yield* Redis.make({
    send,
    subscribe: Effect.fnUntraced(function*(channel, onMessage) {
      const subscriber = yield* openClient(options, report)
      const gaveUp = yield* Deferred.make<void, Redis.RedisError>()
      subscriber.on("error", (cause) => {
        if (!subscriber.isOpen) Deferred.doneUnsafe(gaveUp, Effect.fail(failed(cause)))
      })
      yield* attempt(() => subscriber.subscribe(channel, (message, from) => onMessage({ channel: from, message })))
      return Deferred.await(gaveUp)
    }),
    connect: Effect.gen(function*() {
      const reserved = createClient({ ...options, socket: { ...options.socket, reconnectStrategy: false } })
      const close = Effect.sync(() => reserved.destroy())
      reserved.on("error", report)
      yield* Effect.onError(attempt(() => reserved.connect()), () => close)
      return { send: sendTo(reserved), close }
    })
  })
  const address = options.url === undefined ? "the Redis server" : hostOf(options.url)
  return Context.make(Redis.Redis, redis).pipe(
    Context.add(RedisClient, { servers: Effect.succeed([{ address, send }]) })
  )
})

const makeCluster = Effect.fnUntraced(function*(options: ClusterOptions) {
  yield* Effect.try({ try: () => Check.check(options, clusterShape), catch: failed })
  const { cluster: others, defaults, nodes } = options
  const report = yield* makeReport
  const connecting = persistent({ ...credentialsOf(nodes[0]), ...defaults })
  const cluster = yield* open(
    () =>
      createCluster({
        topologyRefreshOnReconnectionAttemptStrategy: 1_000,
        ...others,
        rootNodes: nodes.map((url) => ({ url })),
        defaults: connecting.options
      }),
    report
  )
  cluster.on("node-error", report)
  yield* attempt(() => cluster.connect())
  connecting.begin()

  const redis = yield* Redis.make({
    send: sendToCluster(cluster),
    subscribe: (channel, onMessage) => {
      const listener = (message: string | Uint8Array, from: string | Uint8Array) =>
        onMessage({ channel: String(from), message: String(message) })
      return Effect.acquireRelease(
        attempt(() => cluster.subscribe(channel, listener)),
        () => soon(() => cluster.unsubscribe(channel, listener)),
        { interruptible: true }
      ).pipe(Effect.as(Effect.never))
    },
    connect: Effect.fail(failed(new Error("no connection can be reserved on a Redis cluster")))
  })
  const servers = Effect.suspend(() =>
    Effect.forEach(cluster.masters, (master) =>
      Effect.map(
        attempt(async () => cluster.nodeClient(master)),
        (client): Server => ({ address: master.address, send: sendTo(client) })
      ))
  )
  return Context.make(Redis.Redis, redis).pipe(Context.add(RedisClient, { servers }))
})

// --- connections that come back

type Report = (cause: unknown) => void

const failed = (cause: unknown) => new Redis.RedisError({ cause })

const attempt = <A>(run: () => Promise<A>): Effect.Effect<A, Redis.RedisError> =>
  Effect.tryPromise({ try: run, catch: failed })

/** For the end of a scope: does not wait long, as the server may be gone. */
const soon = (run: () => Promise<unknown>): Effect.Effect<void> =>
  attempt(run).pipe(Effect.timeout("1 second"), Effect.ignore)

/** A client for as long as the scope is open; closing it may take a second. */
const open = <
  A extends Pick<Client | Cluster, "close" | "destroy"> & { on(event: "error", listener: Report): unknown }
>(
  create: () => A,
  report: Report
): Effect.Effect<A, Redis.RedisError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () => {
        const client = create()
        // An "error" event without a listener ends the process.
        client.on("error", report)
        return client
      },
      catch: failed
    }),
    (client) => Effect.andThen(soon(() => client.close()), Effect.sync(() => client.destroy()))
  )

const openClient = Effect.fnUntraced(function*(options: ClientOptions, report: Report) {
  const connecting = persistent(options)
  const client = yield* open(() => createClient(connecting.options), report)
  yield* attempt(() => client.connect())
  connecting.begin()
  return client
})

/** Options for a connection that is made anew for ever once `begin` was called; before that, a failure is final. */
const persistent = (options: ClientOptions) => {
  let begun = false
  const reconnectStrategy = (retries: number, cause: Error): number | Error =>
    begun ? jitteredMillis(100, 2_000, Math.min(retries + 1, 10), Math.random()) : cause
  return {
    begin: () => {
      begun = true
    },
    options: {
      pingInterval: 5_000,
      commandsQueueMaxLength: 10_000,
      ...options,
      socket: { socketTimeout: 15_000, reconnectStrategy, ...options.socket }
    }
  }
}

/** Logs what clients report, as a warning; repetitions only at the debug level. */
const makeReport = Effect.gen(function*() {
  const reported = yield* Queue.sliding<unknown>(16)
  let before = ""
  yield* Queue.take(reported).pipe(
    Effect.flatMap((cause) => {
      const text = String(cause)
      const isNew = text !== before
      before = text
      return isNew ? Effect.logWarning("Redis connection:", cause) : Effect.logDebug("Redis connection:", cause)
    }),
    Effect.forever,
    Effect.forkScoped
  )
  return (cause: unknown): void => void Queue.offerUnsafe(reported, cause)
})

// --- commands

type Send = Redis.Redis["Service"]["send"]

// Replies depend on the command, so the caller names their type.
const sendTo = (client: { sendCommand<A>(args: ReadonlyArray<string>): Promise<A> }): Send => (command, ...args) =>
  attempt(() => client.sendCommand([command, ...args]))

const sendToCluster = (cluster: Cluster): Send => <A>(command: string, ...args: ReadonlyArray<string>) =>
  attempt(() => cluster.sendCommand(firstKey(command, args), false, [command, ...args]) as Promise<A>)

/** The key by which a cluster finds the node of a command. */
const firstKey = (command: string, [first, keys, key]: ReadonlyArray<string>): string | undefined => {
  const name = command.toUpperCase()
  if (name.startsWith("EVAL") || name.startsWith("FCALL")) return keys === "0" ? undefined : key
  return keyless.has(name) ? undefined : first
}

const hostOf = (url: string): string => URL.parse(url)?.host ?? "the Redis server"

const credentialsOf = (url: string | undefined): ClientOptions => {
  const parsed = URL.parse(url ?? "")
  if (parsed === null) return {}
  return {
    ...(parsed.username === "" ? {} : { username: decodeURIComponent(parsed.username) }),
    ...(parsed.password === "" ? {} : { password: decodeURIComponent(parsed.password) }),
    ...(parsed.protocol === "rediss:" ? { socket: { tls: true } } : {})
  }
}
