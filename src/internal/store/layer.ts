/** The services of a stored server, made from a driver: what SqliteStore, PostgresStore and RedisStore share. */
import { Context, Duration, Effect, Layer, type Scope } from "effect"
import * as CircuitBreaker from "../../CircuitBreaker.ts"
import { Deduplicator, type Options as DeduplicatorOptions } from "../../Deduplicator.ts"
import { MessageQueue, type Options as QueueOptions } from "../../MessageQueue.ts"
import { type Options as RegistryOptions, SessionRegistry } from "../../SessionRegistry.ts"
import { MessageQueueError } from "../../WebSocketError.ts"
import * as Check from "../kit/options.ts"
import * as Shapes from "../kit/shapes.ts"
import { checkWindow, deduplicatorOptions, horizonMillis } from "../kit/windows.ts"
import { makeCalls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"
import { makeHistory } from "./history.ts"
import { makeMembers } from "./members.ts"
import { makeStoredDeduplicator, type Windows } from "./storedDeduplicator.ts"
import { makeStoredQueue } from "./storedQueue.ts"
import { makeStoredRegistry } from "./storedRegistry.ts"

/**
 * What the durable stores have in common: the bounds and times of their services, and how they deal with the database.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoreOptions {
  /**
   * Bounds, TTL and overflow policy of the outboxes. The bounds on all outboxes together are kept to within seconds.
   */
  readonly queue?: QueueOptions | undefined
  /** Window and bounds of the publish keys. */
  readonly deduplicator?: DeduplicatorOptions | undefined
  /** Retention and number of sessions; the number is kept to within seconds. */
  readonly registry?: RegistryOptions | undefined
  /**
   * When circuits open, and for how long; the store's own circuit is one of the endpoints. An endpoint's `openCap` is 5
   * seconds by default here, so that a database that is back is soon used again.
   */
  readonly breaker?: CircuitBreaker.Options | undefined
  /** How long one call of the database may take before it counts as failed. Default 5 s. */
  readonly callTimeout?: Duration.Input | undefined
  /**
   * How long a send waits for its commit, tries included. After that it fails with a `MessageQueueError` that says
   * whether it may be stored all the same. Default 10 s.
   */
  readonly appendTimeout?: Duration.Input | undefined
  /**
   * How long a server waits for another one to let go of a session whose client has come here. After that it takes the
   * session by force. Default 2 s.
   */
  readonly handoffTimeout?: Duration.Input | undefined
  /** A server that has not shown itself in the database for this long counts as dead. Default 5 s. */
  readonly nodeTimeout?: Duration.Input | undefined
  /** How often a server looks for news from other servers when no nudge came. Default 1 s. */
  readonly pollInterval?: Duration.Input | undefined
  /** Bytes of messages kept in memory for sending, in all sessions together. Default 64 MiB. */
  readonly cacheBytes?: number | undefined
}

export type Services =
  | MessageQueue
  | Deduplicator
  | SessionRegistry
  | CircuitBreaker.CircuitBreaker

/** Each store adds its own. */
export const storeShape: Check.Shape<StoreOptions> = {
  ...Shapes.memoryStore,
  callTimeout: Check.duration,
  appendTimeout: Check.duration,
  handoffTimeout: Check.duration,
  nodeTimeout: Check.duration,
  pollInterval: Check.duration,
  cacheBytes: Check.whole()
}

type MakeDriver<R> = Effect.Effect<StoreDriver, StoreError, R>

/** The layer of a store's services. `lanes` is how many commits may be under way at once. */
export const layerOf = <R>(
  makeDriver: MakeDriver<R>,
  lanes: number,
  options: StoreOptions
): Layer.Layer<Services, MessageQueueError, Exclude<R, Scope.Scope>> =>
  Layer.provideMerge(
    Layer.effectContext(build(makeDriver, lanes, options)),
    CircuitBreaker.layer({ ...options.breaker, endpoint: { openCap: "5 seconds", ...options.breaker?.endpoint } })
    // The breaker and the scope are provided, which the compiler can't see in a generic R.
  ) as Layer.Layer<Services, MessageQueueError, Exclude<R, Scope.Scope>>

const build = Effect.fnUntraced(function*<R>(makeDriver: MakeDriver<R>, lanes: number, options: StoreOptions) {
  const breaker = yield* CircuitBreaker.CircuitBreaker
  const dedup = deduplicatorOptions(options)
  const retryHorizonMillis = horizonMillis(dedup.retryHorizon)
  const windows: Windows = {
    windowMillis: checkWindow(dedup.window ?? "15 minutes", retryHorizonMillis),
    retryHorizonMillis,
    maxKeys: Check.count("maxKeys", dedup.maxKeys, 1_000_000)
  }
  const leaseMillis = Check.millis("lease", dedup.lease, "30 seconds")
  const nodeTimeoutMillis = Check.millis("nodeTimeout", options.nodeTimeout, "5 seconds")
  const appendTimeoutMillis = Check.millis("appendTimeout", options.appendTimeout, "10 seconds")
  const handoffTimeoutMillis = Check.millis("handoffTimeout", options.handoffTimeout, "2 seconds")
  const timeoutMillis = Check.millis("callTimeout", options.callTimeout, "5 seconds")
  const pollMillis = Check.millis("pollInterval", options.pollInterval, "1 second")
  const cacheBytes = Check.count("cacheBytes", options.cacheBytes, 64 * 1024 * 1024)

  const driver = yield* Effect.mapError(makeDriver, notStarted)
  return yield* Effect.gen(function*() {
    for (const warning of yield* driver.warnings) yield* Effect.logWarning(`the store ${driver.name}: ${warning}`)
    const call = yield* makeCalls({ breaker, name: driver.name, timeoutMillis })
    const members = yield* makeMembers({ driver, call, pollMillis, nodeTimeoutMillis, handoffTimeoutMillis })
    const history = yield* makeHistory({ driver, call, now: members.now, pollMillis, hasOthers: members.hasOthers })
    const keys = { windowMillis: () => windows.windowMillis, maxKeys: windows.maxKeys }
    const queue = yield* makeStoredQueue({
      driver,
      call,
      members,
      history,
      queue: options.queue ?? {},
      lanes,
      appendTimeoutMillis,
      cacheBytes,
      keys
    })
    const registry = yield* makeStoredRegistry({
      driver,
      call,
      members,
      history,
      registry: options.registry ?? {},
      handoffTimeoutMillis,
      forgetMillis: nodeTimeoutMillis + appendTimeoutMillis + timeoutMillis + 60_000
    })
    const deduplicator = yield* makeStoredDeduplicator({ driver, call, members, windows, leaseMillis })
    return Context.make(MessageQueue, queue).pipe(
      Context.add(SessionRegistry, registry),
      Context.add(Deduplicator, deduplicator)
    )
  }).pipe(Effect.mapError(notStarted))
})

/** A store that can't be reached at the start is an error at once. */
const notStarted = (error: StoreError): MessageQueueError =>
  new MessageQueueError({ session: "", operation: "start", reason: "store", cause: error.cause })
