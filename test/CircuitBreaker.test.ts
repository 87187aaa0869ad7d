import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Deferred, Effect, Exit, Fiber, Layer, Random, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as CircuitBreaker from "../src/CircuitBreaker.ts"

const A = CircuitBreaker.session("a")
const B = CircuitBreaker.session("b")
const URL = CircuitBreaker.endpoint("wss://example.org")
const success: CircuitBreaker.Outcome = { _tag: "Success" }
const failure: CircuitBreaker.Outcome = { _tag: "Failure" }
const ignored: CircuitBreaker.Outcome = { _tag: "Ignored" }
const trip: CircuitBreaker.Outcome = { _tag: "Failure", trip: true }

/** Draws no jitter: every opening lasts its full delay, 1 s the first time. */
const noJitter = Layer.succeed(Random.Random, { nextDoubleUnsafe: () => 0, nextIntUnsafe: () => 0 })

const withBreaker = <A, E, R>(
  use: (breaker: CircuitBreaker.Interface) => Effect.Effect<A, E, R>,
  options?: CircuitBreaker.Options
) => Effect.flatMap(CircuitBreaker.make(options), use).pipe(Effect.provide(noJitter))

const failTimes = (breaker: CircuitBreaker.Interface, key: string, times: number) =>
  Effect.repeat(breaker.report(key, failure), { times: times - 1 })

const tagOf = (breaker: CircuitBreaker.Interface, key: string) => breaker.stateUnsafe(key)._tag

/** Collects the tags of a key's states, from now on, in the background. */
const watchTags = Effect.fnUntraced(function*(breaker: CircuitBreaker.Interface, key: string) {
  const seen: Array<string> = []
  yield* breaker.changes(key).pipe(
    Stream.runForEach((state) => Effect.sync(() => seen.push(state._tag))),
    Effect.forkScoped({ startImmediately: true })
  )
  return seen
})

/** What a fiber's exit is so far. */
const polled = (fiber: Fiber.Fiber<unknown, unknown>): string => {
  const exit = fiber.pollUnsafe()
  return exit === undefined ? "waiting" : exit._tag
}

describe("CircuitBreaker", () => {
  describe("tripping", () => {
    it.effect("opens a session after five failures in a row, and no other", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* failTimes(breaker, A, 4)
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "Closed", consecutiveFailures: 4 })
        yield* breaker.admit(A)
        yield* breaker.report(A, failure)
        const error = yield* Effect.flip(breaker.admit(A))
        assert.deepStrictEqual(
          [error.circuit, error.state, error.retryAfterMillis, error.reason],
          [A, "Open", 1_000, "5 failures in a row"]
        )
        yield* breaker.admit(B)
        assert.strictEqual(tagOf(breaker, B), "Closed")
      })))

    it.effect("starts counting again after a success", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* failTimes(breaker, A, 4)
        yield* breaker.report(A, success)
        yield* failTimes(breaker, A, 4)
        assert.strictEqual(tagOf(breaker, A), "Closed")
      })))

    it.effect("opens at once when told to", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.record(yield* breaker.admit(A), trip)
        assert.strictEqual(tagOf(breaker, A), "Open")
      })))

    it.effect("opens an endpoint when half of ten calls failed", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        for (let i = 0; i < 9; i++) yield* breaker.report(URL, i % 2 === 0 ? failure : success)
        assert.strictEqual(tagOf(breaker, URL), "Closed")
        yield* breaker.report(URL, success)
        assert.strictEqual(tagOf(breaker, URL), "Open")
      })))

    it.effect("does not count an endpoint's failures from before a long idle time", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        for (let i = 0; i < 9; i++) yield* breaker.report(URL, i % 2 === 0 ? failure : success)
        yield* TestClock.adjust("1 hour")
        yield* breaker.report(URL, success)
        yield* breaker.report(URL, failure)
        assert.deepStrictEqual(breaker.stateUnsafe(URL), { _tag: "Closed", consecutiveFailures: 1 })
      })))

    it.effect("opens an endpoint that has become slow, where slow is defined", () =>
      withBreaker(
        Effect.fnUntraced(function*(breaker) {
          const call = Effect.sleep("2 seconds").pipe(breaker.execute(URL))
          for (let i = 0; i < 10; i++) {
            const fiber = yield* Effect.forkChild(call, { startImmediately: true })
            yield* TestClock.adjust("2 seconds")
            yield* Fiber.join(fiber)
          }
          const state = breaker.stateUnsafe(URL)
          assert.strictEqual(state._tag === "Open" ? state.reason : "", "10 of 10 calls were slow")
        }),
        { endpoint: { slowCall: "2 seconds", slowRatio: 0.8, window: "1 minute" } }
      ))
  })

  describe("recovering", () => {
    it.effect("moves on by itself while nobody calls", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const seen = yield* watchTags(breaker, A)
        yield* breaker.report(A, trip)
        yield* TestClock.adjust("999 millis")
        assert.deepStrictEqual(seen, ["Closed", "Open"])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(seen, ["Closed", "Open", "HalfOpen"])
      })))

    it.effect("moves a circuit on in time that opened while another's longer opening was waited for", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const seen = yield* watchTags(breaker, B)
        yield* breaker.report(A, { _tag: "Failure", trip: true, retryAfterMillis: 60_000 })
        yield* TestClock.adjust("10 seconds")
        yield* breaker.report(B, trip)
        yield* TestClock.adjust("1 seconds")
        assert.deepStrictEqual(seen, ["Closed", "Open", "HalfOpen"])
        assert.strictEqual(tagOf(breaker, A), "Open")
      })))

    it.effect("ends an opening by itself that was lengthened", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const seen = yield* watchTags(breaker, A)
        yield* breaker.report(A, trip)
        yield* breaker.report(A, { _tag: "Failure", retryAfterMillis: 5_000 })
        yield* TestClock.adjust("4999 millis")
        assert.deepStrictEqual(seen, ["Closed", "Open", "Open"])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(seen, ["Closed", "Open", "Open", "HalfOpen"])
      })))

    it.effect("reads the state from the clock, also when the timer is late", () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const breaker = yield* CircuitBreaker.make().pipe(Effect.provide(noJitter), Scope.provide(scope))
        yield* breaker.report(A, trip)
        yield* Scope.close(scope, Exit.void) // no timer any more
        yield* TestClock.adjust("1 seconds")
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "HalfOpen", inFlight: 0, permits: 1 })
      }))

    it.effect("has a timer that can be run again after it died", () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const breaker = yield* CircuitBreaker.make().pipe(Effect.provide(noJitter), Scope.provide(scope))
        yield* breaker.report(A, trip)
        yield* Scope.close(scope, Exit.void)
        const waiter = yield* Effect.forkChild(breaker.awaitAdmission(A), { startImmediately: true })
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(polled(waiter), "waiting")
        yield* Effect.forkChild(breaker.worker, { startImmediately: true })
        assert.isTrue((yield* Fiber.join(waiter)).probe)
      }))

    it.effect("closes on a successful probe, and admits one probe at a time", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        yield* TestClock.adjust("1 seconds")
        const probe = yield* breaker.admit(A)
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "HalfOpen", inFlight: 1, permits: 1 })
        const error = yield* Effect.flip(breaker.admit(A))
        assert.deepStrictEqual([error.state, error.retryAfterMillis], ["HalfOpen", 30_000])
        yield* breaker.record(probe, success)
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "Closed", consecutiveFailures: 0 })
      })))

    it.effect("opens for twice as long after a failed probe", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        yield* TestClock.adjust("1 seconds")
        yield* breaker.record(yield* breaker.admit(A), failure)
        assert.deepStrictEqual(breaker.stateUnsafe(A), {
          _tag: "Open",
          untilMillis: 3_000,
          consecutiveOpenings: 2,
          reason: "probe failed"
        })
      })))

    it.effect("takes an overdue probe for failed while nobody calls, and its late outcome for nothing", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const seen = yield* watchTags(breaker, A)
        yield* breaker.report(A, trip)
        yield* TestClock.adjust("1 seconds")
        const probe = yield* breaker.admit(A)
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual(seen, ["Closed", "Open", "HalfOpen", "HalfOpen", "Open"])
        yield* breaker.record(probe, success)
        assert.strictEqual(tagOf(breaker, A), "Open")
      })))

    it.effect("takes a probe for overdue in time, also when the circuit would still be open", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const seen = yield* watchTags(breaker, A)
        yield* breaker.report(A, { _tag: "Failure", trip: true, retryAfterMillis: 600_000 })
        yield* breaker.probe(A)
        yield* breaker.admit(A)
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(seen.at(-1), "Open")
      })))

    it.effect("frees a probe's place when the outcome is ignored, and stays half-open", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        yield* TestClock.adjust("1 seconds")
        yield* breaker.record(yield* breaker.admit(A), ignored)
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "HalfOpen", inFlight: 0, permits: 1 })
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(tagOf(breaker, A), "HalfOpen")
        assert.isTrue((yield* breaker.admit(A)).probe)
      })))

    it.effect("ignores outcomes of calls from before a transition", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const permits = yield* Effect.replicateEffect(breaker.admit(A), 12)
        for (const permit of permits.slice(0, 5)) yield* breaker.record(permit, failure)
        const opened = breaker.stateUnsafe(A)
        for (const permit of permits.slice(5, 9)) yield* breaker.record(permit, success)
        assert.strictEqual(breaker.stateUnsafe(A), opened)
        yield* TestClock.adjust("1 seconds")
        yield* breaker.record(permits[9] ?? (yield* breaker.admit(A)), failure)
        assert.strictEqual(tagOf(breaker, A), "HalfOpen")
        yield* breaker.record(yield* breaker.admit(A), success)
        yield* breaker.record(permits[10] ?? (yield* breaker.admit(A)), trip)
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "Closed", consecutiveFailures: 0 })
      })))

    it.effect("makes an open circuit half-open when a probe is asked for, and leaves a closed one alone", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        yield* breaker.probe(A)
        assert.strictEqual(tagOf(breaker, A), "HalfOpen")
        yield* breaker.report(B, failure)
        yield* breaker.probe(B)
        assert.strictEqual(tagOf(breaker, B), "Closed")
      })))

    it.effect("forgets a key's history on reset, also of calls still out", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const permit = yield* breaker.admit(A)
        yield* failTimes(breaker, A, 4)
        yield* breaker.reset(A)
        yield* breaker.record(permit, trip)
        yield* failTimes(breaker, A, 4)
        assert.strictEqual(tagOf(breaker, A), "Closed")
      })))

    it.effect("draws each opening from its whole range, the same for the same seed", () => {
      const openings = CircuitBreaker.make().pipe(
        Effect.flatMap(Effect.fnUntraced(function*(breaker) {
          const lengths: Array<number> = []
          for (let i = 0; i < 300; i++) {
            const key = CircuitBreaker.session(String(i))
            yield* breaker.report(key, trip)
            yield* breaker.probe(key)
            yield* breaker.report(key, failure) // the second opening: up to 2 s
            const state = breaker.stateUnsafe(key)
            if (state._tag === "Open") lengths.push(state.untilMillis)
          }
          return lengths
        })),
        Effect.scoped,
        Random.withSeed("jitter")
      )
      return Effect.gen(function*() {
        const lengths = yield* openings
        assert.strictEqual(lengths.length, 300)
        assert.isAtLeast(Math.min(...lengths), 100)
        assert.isAtMost(Math.max(...lengths), 2_000)
        // Jitter of only some percent, or none, would leave quarters empty.
        for (const from of [0, 500, 1_000, 1_500]) {
          assert.isAbove(lengths.filter((length) => length > from && length <= from + 500).length, 40)
        }
        assert.deepStrictEqual(yield* openings, lengths)
      })
    })
  })

  describe("awaitAdmission", () => {
    it.effect("admits at once when there is nothing to wait for, and remembers nothing", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        assert.isFalse((yield* breaker.awaitAdmission(A)).probe)
        assert.strictEqual((yield* breaker.stats).circuits, 0)
      })))

    it.effect("is woken by the timer, one waiter for each probe", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        const first = yield* Effect.forkChild(breaker.awaitAdmission(A), { startImmediately: true })
        const second = yield* Effect.forkChild(breaker.awaitAdmission(A), { startImmediately: true })
        yield* TestClock.adjust("999 millis")
        assert.deepStrictEqual([polled(first), polled(second)], ["waiting", "waiting"])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual([polled(first), polled(second)], ["Success", "waiting"])
        yield* breaker.record(yield* Fiber.join(first), success)
        assert.isFalse((yield* Fiber.join(second)).probe)
        assert.strictEqual((yield* breaker.stats).rejected, 0)
      })))

    it.effect("is woken when a probe's place is freed, by reset and by release", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const waiting = Effect.forkChild(breaker.awaitAdmission(A), { startImmediately: true })
        yield* breaker.report(A, trip)
        yield* breaker.probe(A)
        const probe = yield* breaker.admit(A)
        const afterIgnored = yield* waiting
        yield* breaker.record(probe, ignored)
        assert.isTrue((yield* Fiber.join(afterIgnored)).probe)
        const afterReset = yield* waiting
        yield* breaker.reset(A)
        assert.isFalse((yield* Fiber.join(afterReset)).probe)
        yield* breaker.report(A, trip)
        const afterDisable = yield* waiting
        yield* breaker.disable(A, "maintenance")
        assert.isFalse((yield* Fiber.join(afterDisable)).probe)
      })))

    it.effect("fails when the circuit is isolated, before or while it waits", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        const waiter = yield* Effect.forkChild(Effect.flip(breaker.awaitAdmission(A)), { startImmediately: true })
        yield* breaker.isolate(A, "banned")
        const error = yield* Fiber.join(waiter)
        assert.deepStrictEqual([error.state, error.reason, error.retryAfterMillis], ["Isolated", "banned", undefined])
        assert.strictEqual((yield* Effect.flip(breaker.awaitAdmission(A))).state, "Isolated")
      })))

    it.effect("can be interrupted, even in an uninterruptible region, and leaves no waiter", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.isolate(A, "keeps nothing else")
        yield* breaker.release(A)
        yield* breaker.report(A, trip)
        const waiter = yield* Effect.forkChild(Effect.uninterruptible(breaker.awaitAdmission(A)), {
          startImmediately: true
        })
        yield* Fiber.interrupt(waiter)
        yield* TestClock.adjust("1 seconds")
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "HalfOpen", inFlight: 0, permits: 1 })
        yield* breaker.reset(A)
        assert.strictEqual((yield* breaker.stats).circuits, 0)
      })))
  })

  describe("execute", () => {
    it.effect("records failures and defects, and rejects without running", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        let runs = 0
        const call = (effect: Effect.Effect<never, string>) =>
          Effect.sync(() => runs++).pipe(Effect.andThen(effect), breaker.execute(A), Effect.exit)
        for (let i = 0; i < 3; i++) yield* call(Effect.fail("no"))
        for (let i = 0; i < 2; i++) yield* call(Effect.die("broken"))
        assert.strictEqual(tagOf(breaker, A), "Open")
        yield* call(Effect.fail("no"))
        assert.strictEqual(runs, 5)
        assert.strictEqual((yield* breaker.stats).rejected, 1)
      })))

    it.effect("passes values and typed errors through", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        assert.strictEqual(yield* Effect.succeed(42).pipe(breaker.execute(A)), 42)
        assert.strictEqual(yield* Effect.fail("no" as const).pipe(breaker.execute(A), Effect.flip), "no")
      })))

    it.effect("ignores an interrupt and frees the probe's place", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        yield* breaker.probe(A)
        const fiber = yield* Effect.never.pipe(breaker.execute(A), Effect.forkChild({ startImmediately: true }))
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "HalfOpen", inFlight: 1, permits: 1 })
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "HalfOpen", inFlight: 0, permits: 1 })
      })))

    it.effect("lets the caller say what an exit means, and frees the place when that throws", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const busy = Effect.fail({ retryAfterMillis: 5_000 }).pipe(
          breaker.execute(A, {
            classify: (exit) => {
              const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
              return error?._tag === "Some" ? { _tag: "Failure", trip: true, ...error.value } : ignored
            }
          })
        )
        yield* Effect.flip(busy)
        const state = breaker.stateUnsafe(A)
        assert.strictEqual(state._tag === "Open" ? state.untilMillis : 0, 5_000)
        yield* breaker.probe(A)
        const thrown = yield* Effect.succeed(1).pipe(
          breaker.execute(A, {
            classify: () => {
              throw new Error("bug")
            }
          }),
          Effect.exit
        )
        assert.isTrue(Exit.hasDies(thrown))
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "HalfOpen", inFlight: 0, permits: 1 })
      })))
  })

  describe("overrides", () => {
    it.effect("isolate rejects everything until released, whatever succeeds", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const permit = yield* breaker.admit(A)
        yield* breaker.isolate(A, "banned")
        yield* breaker.record(permit, success)
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(breaker.stateUnsafe(A), { _tag: "Isolated", reason: "banned" })
        assert.strictEqual((yield* Effect.flip(breaker.admit(A))).state, "Isolated")
        yield* breaker.release(A)
        yield* breaker.admit(A)
        assert.strictEqual((yield* breaker.stats).circuits, 0)
      })))

    it.effect("disable admits everything, and release shows what was recorded meanwhile", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.disable(A, "maintenance")
        const seen = yield* breaker.changes(A).pipe(
          Stream.take(2),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        for (let i = 0; i < 5; i++) yield* breaker.record(yield* breaker.admit(A), failure)
        yield* breaker.admit(A)
        yield* breaker.release(A)
        const state = breaker.stateUnsafe(A)
        assert.strictEqual(state._tag === "Open" ? state.reason : "", "5 failures in a row")
        assert.deepStrictEqual((yield* Fiber.join(seen)).map(({ _tag }) => _tag), ["Disabled", "Open"])
      })))

    it.effect("an open circuit moves on under an override", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(A, trip)
        yield* breaker.isolate(A, "banned")
        yield* TestClock.adjust("1 seconds")
        yield* breaker.release(A)
        assert.strictEqual(tagOf(breaker, A), "HalfOpen")
      })))
  })

  describe("watching", () => {
    it.effect("transitions tell what happened to every circuit, and why", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const seen = yield* breaker.transitions.pipe(
          Stream.take(5),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        yield* failTimes(breaker, A, 5)
        yield* TestClock.adjust("1 seconds")
        yield* breaker.record(yield* breaker.admit(A), success)
        yield* breaker.isolate(B, "banned")
        yield* breaker.release(B)
        assert.deepStrictEqual(yield* Fiber.join(seen), [
          { key: A, from: "Closed", to: "Open", atMillis: 0, reason: "5 failures in a row" },
          { key: A, from: "Open", to: "HalfOpen", atMillis: 1_000, reason: "open time elapsed" },
          { key: A, from: "HalfOpen", to: "Closed", atMillis: 1_000, reason: "probe succeeded" },
          { key: B, from: "Closed", to: "Isolated", atMillis: 1_000, reason: "banned" },
          { key: B, from: "Isolated", to: "Closed", atMillis: 1_000, reason: "released" }
        ])
        assert.deepStrictEqual((yield* breaker.stats).transitions, { opened: 1, halfOpened: 1, closed: 1 })
      })))

    it.effect("a consumer that falls behind loses the oldest, and holds nobody up", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const gate = yield* Deferred.make<void>()
        const last = CircuitBreaker.session("9999")
        const seen = yield* breaker.transitions.pipe(
          Stream.tap(() => Deferred.await(gate)),
          Stream.takeUntil(({ key }) => key === last),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        for (let i = 0; i < 10_000; i++) yield* breaker.report(CircuitBreaker.session(String(i)), trip)
        yield* Deferred.succeed(gate, undefined)
        // What it had taken already, and what waited for it.
        assert.isAtMost((yield* Fiber.join(seen)).length, 2 * 1_024)
      })))

    it.effect("streams end with the breaker's scope", () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const breaker = yield* Scope.provide(CircuitBreaker.make(), scope)
        const changes = yield* Effect.forkChild(Stream.runCollect(breaker.changes(A)), { startImmediately: true })
        const transitions = yield* Effect.forkChild(Stream.runCollect(breaker.transitions), { startImmediately: true })
        yield* breaker.isolate(A, "end")
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual((yield* Fiber.join(changes)).map(({ _tag }) => _tag), ["Closed", "Isolated"])
        assert.strictEqual((yield* Fiber.join(transitions)).length, 1)
      }))

    it.effect("counts the circuits in each state", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(CircuitBreaker.session("open"), trip)
        yield* breaker.report(CircuitBreaker.session("halfOpen"), trip)
        yield* breaker.probe(CircuitBreaker.session("halfOpen"))
        yield* breaker.report(CircuitBreaker.session("failing"), failure)
        yield* breaker.isolate(A, "banned")
        yield* breaker.disable(B, "maintenance")
        yield* Effect.flip(breaker.admit(A))
        const { policies, ...stats } = yield* breaker.stats
        assert.strictEqual(policies.session.consecutiveFailures, 5)
        assert.deepStrictEqual(stats, {
          circuits: 5,
          open: 1,
          halfOpen: 1,
          isolated: 1,
          disabled: 1,
          transitions: { opened: 2, halfOpened: 1, closed: 0 },
          rejected: 1
        })
      })))
  })

  describe("memory", () => {
    it.effect("a healthy session costs nothing", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        for (let i = 0; i < 100; i++) {
          const key = CircuitBreaker.session(String(i))
          yield* breaker.record(yield* breaker.admit(key), success)
          yield* Effect.void.pipe(breaker.execute(key))
          yield* breaker.report(key, ignored)
          yield* breaker.reset(key)
        }
        assert.strictEqual((yield* breaker.stats).circuits, 0)
        assert.strictEqual(breaker.stateUnsafe(A), breaker.stateUnsafe(B))
      })))

    it.effect("returns to no circuits when all have recovered and nobody watches", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        const watcher = yield* breaker.changes(A).pipe(
          Stream.runDrain,
          Effect.forkChild({ startImmediately: true })
        )
        for (const key of [A, B, URL]) yield* breaker.report(key, trip)
        yield* TestClock.adjust("1 seconds")
        for (const key of [A, B, URL]) yield* breaker.record(yield* breaker.admit(key), success)
        assert.strictEqual((yield* breaker.stats).circuits, 1)
        yield* Fiber.interrupt(watcher)
        assert.strictEqual((yield* breaker.stats).circuits, 0)
      })))

    it.effect("forgets an idle endpoint when its window has emptied", () =>
      withBreaker(Effect.fnUntraced(function*(breaker) {
        yield* breaker.report(URL, success)
        assert.strictEqual((yield* breaker.stats).circuits, 1)
        yield* TestClock.adjust("31 seconds")
        assert.strictEqual((yield* breaker.stats).circuits, 0)
      })))
  })

  describe("options", () => {
    it.effect("come from Config", () =>
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.CircuitBreaker
        yield* breaker.report(A, failure)
        assert.strictEqual(tagOf(breaker, A), "Closed")
        yield* breaker.report(A, failure)
        assert.strictEqual(tagOf(breaker, A), "Open")
      }).pipe(
        Effect.provide(CircuitBreaker.layerConfig({
          session: { consecutiveFailures: Config.Int("FAILURES"), openBase: Config.Duration("BASE") }
        })),
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ FAILURES: 2, BASE: "2 seconds" })))
      ))

    it.effect("out of range are a defect that names the option", () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(Effect.scoped(CircuitBreaker.make({ endpoint: { failureRatio: 2 } })))
        assert.match(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", /endpoint\.failureRatio/)
      }))
  })
})
