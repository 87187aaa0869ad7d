/** Events and dead letters that nobody reads in time are lost from the oldest on, by number and by memory. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Schema, Stream } from "effect"
import { makeEvents } from "../../src/internal/kit/events.ts"
import { makeCoder } from "../../src/internal/kit/schemas.ts"
import { makeDeadLetters } from "../../src/internal/session/deadLetters.ts"
import { makeRecorder } from "../../src/Metrics.ts"

describe("events", () => {
  it.effect("reach a listener in order, from its subscription on, and end with their scope", () =>
    Effect.gen(function*() {
      const events = yield* Effect.scoped(Effect.gen(function*() {
        const events = yield* makeEvents<number>({ replay: 2 })
        for (const n of [1, 2, 3]) events.publish(n)
        const fiber = yield* Effect.forkChild(Stream.runCollect(events.stream), { startImmediately: true })
        for (const n of [4, 5]) events.publish(n)
        return { events, fiber }
      }))
      assert.deepStrictEqual([...yield* Fiber.join(events.fiber)], [2, 3, 4, 5])
      assert.deepStrictEqual([...yield* Stream.runCollect(events.events.stream)], [4, 5])
    }))

  it.effect("that are large are kept while there is memory, and the newest always", () =>
    Effect.gen(function*() {
      const events = yield* makeEvents<string>({ replay: 100, maxBytes: 1_000, bytesOf: ({ length }) => length })
      for (let n = 0; n < 10; n++) events.publish(String(n).repeat(300))
      const kept = yield* Stream.runCollect(Stream.take(events.stream, 3))
      assert.deepStrictEqual([...kept].map((text) => text[0]), ["7", "8", "9"])
      events.publish("x".repeat(2_000))
      assert.deepStrictEqual([...yield* Stream.runCollect(Stream.take(events.stream, 1))], ["x".repeat(2_000)])
    }))
})

describe("dead letters", () => {
  const letter = { session: "s", messageId: "m", reason: "undecodable", detail: undefined, cause: undefined } as const

  it.effect("of large messages take 16 MiB, kept for whoever comes late", () =>
    Effect.gen(function*() {
      const recorder = yield* makeRecorder
      const letters = yield* makeDeadLetters<unknown, unknown>({
        outgoing: makeCoder(Schema.Unknown, Context.empty()),
        recorder
      })
      const payload = "x".repeat(1024 * 1024)
      for (let n = 0; n < 1_000; n++) {
        yield* letters.incoming({ ...letter, message: undefined, payload: `${n} ${payload}` })
      }
      const kept: Array<string> = []
      const reader = yield* Effect.forkChild(
        Stream.runForEach(letters.stream, ({ payload }) => Effect.sync(() => void kept.push(String(payload)))),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      yield* Fiber.interrupt(reader)
      assert.isAtMost(kept.length, 8)
      assert.isTrue(kept.at(-1)?.startsWith("999 "))
      assert.strictEqual(recorder.totals.deadLetters, 1_000)
    }))

  it.effect("of small ones are 1,024", () =>
    Effect.gen(function*() {
      const letters = yield* makeDeadLetters<unknown, unknown>({
        outgoing: makeCoder(Schema.Unknown, Context.empty()),
        recorder: yield* makeRecorder
      })
      for (let n = 0; n < 3_000; n++) yield* letters.incoming({ ...letter, message: undefined, payload: { n } })
      const kept = [...yield* Stream.runCollect(Stream.take(letters.stream, 1_024))]
      assert.deepStrictEqual(kept.at(0)?.payload, { n: 3_000 - 1_024 })
      assert.deepStrictEqual(kept.at(-1)?.payload, { n: 2_999 })
    }))
})
