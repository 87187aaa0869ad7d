/**
 * Effects to promises: the runtime, failures as they are, aborts. They run on the services of one `ManagedRuntime`, and
 * an `AbortSignal` becomes an interrupt. This folder is the one place of the library that runs effects.
 */
import {
  Cause,
  Config,
  Context,
  Effect,
  Exit,
  type Fiber,
  Layer,
  Logger,
  ManagedRuntime,
  References,
  Scheduler
} from "effect"
import { AsyncLocalStorage } from "node:async_hooks"
import { longestTimer } from "../internal/kit/options.ts"
import { AtWork } from "../internal/run/closing.ts"
import { CurrentWork } from "../internal/session/work.ts"
import * as WebSocketError from "../WebSocketError.ts"
import { guarded } from "./emitter.ts"
import { ConfigError } from "./errors.ts"
import type { CommonOptions, LogEntry } from "./options.ts"

/** Resolves with what `map` makes of the effect's value: at once, when the effect is done at once. */
export type Run = <A, B>(effect: Effect.Effect<A, unknown>, map: (value: A) => B, signal?: AbortSignal) => Promise<B>

/**
 * A loop that awaits what is done at once is one long row of microtasks, in which no socket is read or written: every so
 * many, the loop is made to let the others have a turn, as Effect does with a fiber.
 */
const enoughAtOnce = 512

/** The context of a user's handler, there and in what it awaits and starts. */
const atWork = new AsyncLocalStorage<Context.Context<never>>()

/** Calls a handler that runs in this context: what it sends, by whichever call, is known to be its. */
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
      if (signal?.aborted === true) abort() // by what the call itself did
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
 * Effect's own scheduler, by another name: under its own, what was sent leaves in a microtask (`internal/signal.ts`), which
 * comes before the next line of who awaits the send, so that each message would have a frame, and a system call, of its own.
 * Under this one it leaves with all that was sent in the same turn of the event loop.
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

/** Runs what is done at once. */
export const runSync = <A>(effect: Effect.Effect<A, unknown>): A => {
  const exit = Effect.runSyncExit(effect)
  if (Exit.isSuccess(exit)) return exit.value
  throw faultOf(exit.cause, undefined)
}

/** Says what a user's function did that it should not, in the log. Does not throw. */
export class Reporter {
  services: Context.Context<never> = Context.empty()

  readonly warn = (message: string, cause: unknown): void => {
    Effect.runForkWith(this.services)(Effect.logWarning(message, Cause.fail(cause)))
  }
}

export interface Running<R> {
  readonly services: Context.Context<R>
  readonly run: Run
  /** Releases everything; is done with waiting for that after `millis`. */
  readonly dispose: (millis: number) => Promise<void>
}

/** Builds the services of a layer. What can't be built is thrown as a typed error, and nothing is left behind. */
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

/** What `fallbackSend`, and a store that is closed, are given at least, in ms. */
export const leastEndMillis = 1_000

/** After a shutdown that had `leftMillis` left: waits for what the user's functions still do, and releases everything. */
export const finish = async (
  running: Pick<Running<never>, "dispose">,
  settled: Promise<void>,
  leftMillis: number
): Promise<void> => {
  await atMost(settled, Math.max(leastEndMillis, leftMillis))
  await running.dispose(leastEndMillis)
}

/** Waits for it, but no longer than `millis`. */
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

/** What is thrown for a cause: the failure itself; or the signal's reason, if it was that which ended the effect. */
const faultOf = (cause: Cause.Cause<unknown>, signal: AbortSignal | undefined): unknown =>
  signal?.aborted === true && Cause.hasInterruptsOnly(cause) ? signal.reason : typed(Cause.squash(cause))

/** Errors of ours as they are, wrong options as one, and what a database's client says at the start as its store's. */
const typed = (error: unknown): unknown => {
  if (error instanceof Config.ConfigError) {
    return new ConfigError(error.cause.message, { cause: error })
  }
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
    void guarded(() => log(entry), () => {}) // there is nobody to tell
  })
