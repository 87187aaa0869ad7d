/** What server and client have alike before anything else: services, a scope of their own, options of the engine. */
import { Effect, Scope } from "effect"
import { CircuitBreaker } from "../../CircuitBreaker.ts"
import { Deduplicator } from "../../Deduplicator.ts"
import type { Incoming } from "../../Message.ts"
import { MessageQueue } from "../../MessageQueue.ts"
import { makeRecorder } from "../../Metrics.ts"
import { makeMessageStream } from "../handle/messageStream.ts"
import { makeRareLog } from "../kit/rareLog.ts"
import { Closing } from "../run/closing.ts"
import type { EngineOptions } from "../run/engine.ts"
import { intensityOf } from "../run/settings.ts"

export const makeBasis = Effect.fnUntraced(function*<In>() {
  const queue = yield* MessageQueue
  const deduplicator = yield* Deduplicator
  const breaker = yield* CircuitBreaker
  const recorder = yield* makeRecorder
  // A scope of its own, so that it can end before its owner does.
  const scope = yield* Scope.fork(yield* Effect.scope)
  const rare = yield* makeRareLog.pipe(Scope.provide(scope))
  const messageStream = yield* makeMessageStream<Incoming<In>>().pipe(Scope.provide(scope))
  const closing = new Closing(messageStream.isConsuming)
  const hooks = { rare, onDropped: (events: number) => recorder.count("hooksDropped", events) }
  return { queue, deduplicator, breaker, recorder, scope, rare, hooks, messageStream, closing }
})

type Parts = Pick<
  EngineOptions<never>,
  "queue" | "deduplicator" | "breaker" | "recorder" | "rare" | "deadLetters" | "times" | "intake"
>

/** The part of an engine's options that is the same for both. */
export const engineOptionsOf = (
  { breaker, deadLetters, deduplicator, intake, options, queue, rare, recorder, times }: Parts & {
    readonly options: { readonly restartIntensity?: Parameters<typeof intensityOf>[0] }
  }
): Parts & Pick<EngineOptions<never>, "intensity"> => ({
  queue,
  deduplicator,
  breaker,
  recorder,
  rare,
  deadLetters,
  times,
  intake,
  intensity: intensityOf(options.restartIntensity)
})
