/**
 * Runs effects as promises: makes the runtime, throws failures as they are, and turns aborts into interrupts. All
 * effects of a manager or client run on one `ManagedRuntime`. Only this folder of the library runs effects.
 */
import { Cause, Context, Effect, Exit, type Fiber, Layer, Logger, ManagedRuntime, References, Scheduler } from "effect"
import { AsyncLocalStorage } from "node:async_hooks"
import { longestTimer, OptionError } from "../internal/kit/options.ts"
import { AtWork } from "../internal/run/closing.ts"
import { CurrentWork } from "../internal/session/work.ts"
import * as WebSocketError from "../WebSocketError.ts"
import { guarded } from "./emitter.ts"
import { ConfigError } from "./errors.ts"
import type { CommonOptions, LogEntry } from "./options.ts"

/** Runs an effect, and resolves with `map` of its value. If the effect is done at once, `map` runs synchronously. */
export type Run = <A, B>(effect: Effect.Effect<A, unknown>, map: (value: A) => B, signal?: AbortSignal) => Promise<B>

/**
 * After this many effects that were done at once, the caller waits for the next turn of the event loop. Otherwise, a
 * loop of awaited sends would be one long row of microtasks, in which no socket is read or written.
 */
const enoughAtOnce = 512

/** The context of a user's handler, known in the handler and in everything that it awaits or starts. */
const atWork = new AsyncLocalStorage<Context.Context<never>>()

/** Calls a handler in this context, so that whatever it sends, by any call, is known to be the handler's. */
export const asHandler = <A>(context: Context.Context<never>, call: () => A): A => atWork.run(context, call)

export const runWith = (services: Context.Context<never>): Run => {
  const forkOutside = Effect.runForkWith(services)
  const inHandler = Context.add(services, AtWork, true)
  const forkInHandler = Effect.runForkWith(inHandler)
  return (effect, map, signal) => {
    if (signal?.aborted === true) return Promise.reject(signal.reason)
    const handler = atWork.getStore()
    const work = handler === undefined ? undefined : Context.get(handler, CurrentWork)
    const fork = handler === undefined
      ? forkOutside
      : work === undefined
      ? forkInHandler
      : Effect.runForkWith(Context.add(inHandler, CurrentWork, work))
    const fiber = fork(effect)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) {
      return Exit.isSuccess(exit) && ++doneAtOnce % enoughAtOnce === 0
        ? inNextTurn(map(exit.value))
        : settle(exit, map, signal)
    }
    return new Promise((resolve) => {
      const abort = () => fiber.interruptUnsafe()
      signal?.addEventListener("abort", abort, { once: true })
      if (signal?.aborted === true) abort() // the effect itself may have aborted it
      fiber.addObserver((exit) => {
        signal?.removeEventListener("abort", abort)
        resolve(settle(exit, map, signal))
      })
    })
  }
}
let doneAtOnce = 0

const inNextTurn = <A>(value: A): Promise<A> => new Promise((resolve) => setImmediate(resolve, value))

/**
 * Wraps Effect's scheduler, so that messages leave with all others sent in the same turn of the event loop. Under
 * Effect's own class they leave in a microtask (`internal/kit/signal.ts`), before the code that awaits the send goes
 * on, so that each message would need a frame and a system call of its own.
 */
class TurnScheduler implements Scheduler.Scheduler {
  private readonly scheduler = new Scheduler.MixedScheduler()
  readonly executionMode = "async"

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return this.scheduler.shouldYield(fiber)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return this.scheduler.makeDispatcher()
  }
}

/** Runs a synchronous effect. */
export const runSync = <A>(effect: Effect.Effect<A, unknown>): A => {
  const exit = Effect.runSyncExit(effect)
  if (Exit.isSuccess(exit)) return exit.value
  throw faultOf(exit.cause, undefined)
}

/** Logs what a user's function did wrong. Does not throw. */
export class Reporter {
  services: Context.Context<never> = Context.empty()

  readonly warn = (message: string, cause: unknown): void => {
    Effect.runForkWith(this.services)(Effect.logWarning(message, Cause.fail(cause)))
  }
}

export interface Running<R> {
  readonly services: Context.Context<R>
  readonly run: Run
  /** Releases everything, but waits for that no longer than `millis`. */
  readonly dispose: (millis: number) => Promise<void>
}

/** Builds the services of a layer. If that fails, throws a typed error and leaves nothing behind. */
export const start = async <R, E>(
  layer: Layer.Layer<R, E>,
  { log, logLevel }: Pick<CommonOptions<never, never>, "log" | "logLevel">,
  reporter: Reporter,
  signal?: AbortSignal
): Promise<Running<R>> => {
  const references = Layer.mergeAll(
    Layer.succeed(Scheduler.Scheduler, new TurnScheduler()),
    log === undefined ? Layer.empty : Logger.layer(log === false ? [] : [loggerOf(log)]),
    logLevel === undefined ? Layer.empty : Layer.succeed(References.MinimumLogLevel, logLevel)
  )
  const runtime = ManagedRuntime.make(Layer.provideMerge(layer, references))
  const exit = await runtime.runPromiseExit(Effect.context<R>(), { signal })
  if (Exit.isFailure(exit)) {
    await runtime.dispose()
    throw faultOf(exit.cause, signal)
  }
  const services = exit.value
  reporter.services = services
  return {
    services,
    run: runWith(services),
    dispose: (millis) => atMost(runtime.dispose(), millis)
  }
}

/** The least time that `fallbackSend`, and closing the store, get at a shutdown, in ms. */
export const leastEndMillis = 1_000

/** Waits for the user's functions after a shutdown that had `leftMillis` left, and releases everything. */
export const finish = async (
  running: Pick<Running<never>, "dispose">,
  settled: Promise<void>,
  leftMillis: number
): Promise<void> => {
  await atMost(settled, Math.max(leastEndMillis, leftMillis))
  await running.dispose(leastEndMillis)
}

const atMost = (promise: Promise<unknown>, millis: number): Promise<void> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.min(millis, longestTimer))
  })
  return Promise.race([promise.then(() => {}), late]).finally(() => clearTimeout(timer))
}

const settle = <A, B>(
  exit: Exit.Exit<A, unknown>,
  map: (value: A) => B,
  signal: AbortSignal | undefined
): Promise<B> => Exit.isSuccess(exit) ? Promise.resolve(map(exit.value)) : Promise.reject(faultOf(exit.cause, signal))

/** What to throw for a cause: the signal's reason if the signal ended the effect, otherwise the failure itself. */
const faultOf = (cause: Cause.Cause<unknown>, signal: AbortSignal | undefined): unknown =>
  signal?.aborted === true && Cause.hasInterruptsOnly(cause) ? signal.reason : typed(Cause.squash(cause))

/** Turns mistaken options into our errors, and errors of a database's client into a `MessageQueueError`. */
const typed = (error: unknown): unknown => {
  if (error instanceof OptionError) return new ConfigError(error.message, { cause: error })
  if (isDatabaseError(error)) {
    return new WebSocketError.MessageQueueError({ session: "", operation: "start", reason: "store", cause: error })
  }
  return error
}

const isDatabaseError = (error: unknown): boolean =>
  typeof error === "object" && error !== null && "_tag" in error &&
  (error._tag === "SqlError" || error._tag === "RedisError")

const loggerOf = (log: (entry: LogEntry) => void) =>
  Logger.make<unknown, void>(({ cause, date, logLevel, message }) => {
    const entry = {
      level: logLevel as LogEntry["level"], // nothing is logged at `All` or `None`
      message: (Array.isArray(message) ? message : [message]).map(String).join(" "),
      cause: cause.reasons.length === 0 ? undefined : Cause.pretty(cause),
      at: date
    }
    void guarded(() => log(entry), () => {}) // a failing logger can't be logged
  })
