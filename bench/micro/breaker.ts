/**
 * The circuit breaker, by its public API: what an admit and a record cost while the circuit is closed. A session that
 * is well has no circuit in memory, an endpoint has one, with its window of calls.
 */
import { Context, Effect, Layer } from "effect"
import { CircuitBreaker } from "../../src/index.ts"
import { type Figure, measure, type MicroOptions, runAlone, type Sample } from "./measure.ts"

const chunk = 1_000
const circuits = { session: CircuitBreaker.session("c0ffee00"), endpoint: CircuitBreaker.endpoint("ws://127.0.0.1") }

export const breaker = (options: MicroOptions): Promise<ReadonlyArray<Figure>> =>
  measure({
    repetitions: options.repetitions,
    units: {
      "session: admit": "ns",
      "session: record": "ns",
      "session: stateUnsafe": "ns",
      "endpoint: admit": "ns",
      "endpoint: record": "ns",
      "endpoint: execute (admit, effect, record)": "ns"
    }
  }, () => run(Math.max(100, Math.round(1_000 * options.size))))

const run = (chunks: number): Promise<Sample> =>
  Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const context = yield* Layer.build(CircuitBreaker.layer())
    const breaker = Context.get(context, CircuitBreaker.CircuitBreaker)
    const session = yield* admitAndRecord(breaker, circuits.session, chunks)
    const state = stateNanos(breaker, circuits.session, chunks)
    const endpoint = yield* admitAndRecord(breaker, circuits.endpoint, chunks)
    const executed = yield* execute(breaker, circuits.endpoint, chunks)
    return {
      "session: admit": session.admit,
      "session: record": session.record,
      "session: stateUnsafe": state,
      "endpoint: admit": endpoint.admit,
      "endpoint: record": endpoint.record,
      "endpoint: execute (admit, effect, record)": executed
    }
  })))

const success: CircuitBreaker.Outcome = { _tag: "Success", latencyMillis: 1 }

/** Each alone, in ns: a thousand admits, then a thousand records of their permits. */
const admitAndRecord = Effect.fnUntraced(function*(breaker: CircuitBreaker.Interface, key: string, chunks: number) {
  let admitMillis = 0
  let recordMillis = 0
  const permits: Array<CircuitBreaker.Permit> = []
  for (let c = 0; c < chunks; c++) {
    const start = performance.now()
    for (let i = 0; i < chunk; i++) permits[i] = yield* breaker.admit(key)
    const admitted = performance.now()
    for (let i = 0; i < chunk; i++) yield* breaker.record(permits[i] as CircuitBreaker.Permit, success) // in bounds
    admitMillis += admitted - start
    recordMillis += performance.now() - admitted
  }
  return { admit: nanos(admitMillis, chunks), record: nanos(recordMillis, chunks) }
})

const execute = Effect.fnUntraced(function*(breaker: CircuitBreaker.Interface, key: string, chunks: number) {
  const call = breaker.execute(key)(Effect.void)
  const start = performance.now()
  for (let i = 0; i < chunk * chunks; i++) yield* call
  return nanos(performance.now() - start, chunks)
})

const stateNanos = (breaker: CircuitBreaker.Interface, key: string, chunks: number): number => {
  let closed = 0
  const start = performance.now()
  for (let i = 0; i < chunk * chunks; i++) if (breaker.stateUnsafe(key)._tag === "Closed") closed++
  const millis = performance.now() - start
  if (closed !== chunk * chunks) throw new Error("a circuit opened")
  return nanos(millis, chunks)
}

const nanos = (millis: number, chunks: number): number => millis * 1e6 / (chunk * chunks)

await runAlone(import.meta, "circuit breaker, closed", breaker)
