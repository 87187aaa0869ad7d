/**
 * How the driver speaks with Redis: scripts and commands on Effect's `Redis`, each within a time limit. Failures become
 * {@link StoreError}. Apart from RedisClient.ts, the only file that knows `effect/persistence`.
 */
import { Cause, Duration, Effect, Queue, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { fullJitter } from "../internal/kit/backoff.ts"
import { StoreError } from "../internal/store/driver.ts"

/** A script that takes keys (all of one hash slot) and arguments, and answers with texts and arrays of texts. */
type LuaScript = ReturnType<typeof luaScript>

/** Make each script once: the client keeps its SHA by identity. */
export const luaScript = (lua: string) =>
  Redis.script((keys: ReadonlyArray<string>, args: ReadonlyArray<string>) => [...keys, ...args], {
    lua,
    numberOfKeys: (keys) => keys.length
  }).withReturnType<unknown>()

/** One run of a script. */
export interface Call<A> {
  /** Named in errors. */
  readonly operation: string
  readonly script: LuaScript
  readonly keys: ReadonlyArray<string>
  readonly args: ReadonlyArray<string>
  /** Reads the reply; may throw if the reply is nonsense. */
  readonly decode: (reply: unknown) => A
}

export interface Connection {
  readonly call: <A>(call: Call<A>) => Effect.Effect<A, StoreError>
  /** Gives a command of the `Redis` service its time limit, and its error the operation. */
  readonly limit: <A>(operation: string, effect: Effect.Effect<A, Redis.RedisError>) => Effect.Effect<A, StoreError>
  readonly send: (operation: string, command: string, ...args: ReadonlyArray<string>) => Effect.Effect<
    unknown,
    StoreError
  >
  /**
   * Until the scope closes, calls `listener` when it has subscribed to the channel, and after messages on it (once for
   * those that come together). When that fails or the client gives up, subscribes again after a while.
   */
  readonly listen: (channel: string, listener: () => void) => Effect.Effect<void, never, Scope.Scope>
}

/** Pauses between failed subscriptions. */
const resubscribe = fullJitter(100, 2_000)

/** The connection, on the context's `Redis` service. A command that takes longer than `commandTimeout` fails. */
export const makeConnection = Effect.fnUntraced(function*(commandTimeout: Duration.Duration) {
  const redis = yield* Redis.Redis

  const limit = <A>(operation: string, effect: Effect.Effect<A, Redis.RedisError>): Effect.Effect<A, StoreError> =>
    effect.pipe(
      Effect.mapError((error) => new StoreError(operation, error.cause)),
      Effect.timeoutOrElse({
        duration: commandTimeout,
        orElse: () =>
          Effect.fail(
            new StoreError(
              operation,
              new Cause.TimeoutError(`Redis did not answer within ${Duration.format(commandTimeout)}`)
            )
          )
      })
    )

  const call = <A>({ args, decode, keys, operation, script }: Call<A>): Effect.Effect<A, StoreError> => {
    // A lone surrogate has no bytes of its own, and Redis holds bytes: two such texts would become one.
    if (!keys.every(isWellFormed) || !args.every(isWellFormed)) {
      return Effect.fail(new StoreError(operation, new TypeError("a text with a lone surrogate can't be stored")))
    }
    return Effect.flatMap(
      limit(operation, redis.eval(script)(keys, args)),
      (reply) => Effect.try({ try: () => decode(reply), catch: (cause) => new StoreError(operation, cause) })
    )
  }

  const listenOnce = (channel: string, listener: () => void) =>
    Effect.scoped(
      Effect.gen(function*() {
        const messages = yield* redis.subscribe(channel)
        while (true) {
          // Also at the start, for what came before the subscription.
          listener()
          yield* Queue.takeAll(messages)
        }
      })
    )

  const connection: Connection = {
    call,
    limit,
    send: (operation, command, ...args) => limit(operation, redis.send(command, ...args)),
    listen: (channel, listener) =>
      listenOnce(channel, listener).pipe(
        Effect.ignoreCause,
        Effect.repeat(resubscribe),
        Effect.forkScoped,
        Effect.asVoid
      )
  }
  return connection
})

const isWellFormed = (text: string): boolean => text.isWellFormed()
