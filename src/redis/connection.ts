/**
 * How the driver speaks with Redis: scripts and commands on Effect's `Redis`, each within a time limit. Failures become
 * {@link StoreError}. Beside RedisClient.ts the only file that knows `effect/persistence`.
 */
import { Cause, Duration, Effect, Queue, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { fullJitter } from "../internal/kit/backoff.ts"
import { StoreError } from "../internal/store/driver.ts"

/** A script that takes keys (all of one hash slot) and arguments, and answers with texts and arrays of texts. */
type LuaScript = ReturnType<typeof luaScript>

/** Scripts are made once: the client keeps their SHA, by identity. */
export const luaScript = (lua: string) =>
  Redis.script((keys: ReadonlyArray<string>, args: ReadonlyArray<string>) => [...keys, ...args], {
    lua,
    numberOfKeys: (keys) => keys.length
  }).withReturnType<unknown>()

/** One run of a script. */
export interface Call<A> {
  /** For errors. */
  readonly operation: string
  readonly script: LuaScript
  readonly keys: ReadonlyArray<string>
  readonly args: ReadonlyArray<string>
  /** Reads the reply; may throw if that is nonsense. */
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
   * those that come together). Subscribes again, after a while, if that failed or the client gave up.
   */
  readonly listen: (channel: string, listener: () => void) => Effect.Effect<void, never, Scope.Scope>
}

/** Waits between subscriptions that failed. */
const resubscribe = fullJitter(100, 2_000)

/** The connection on the `Redis` service of the context. A command that takes longer than `commandTimeout` fails. */
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
    // Redis holds bytes, and a lone surrogate has none: two such texts would become one.
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
          // At the start too, for what came before the subscription.
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
