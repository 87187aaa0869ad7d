import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer } from "effect"
import { Deduplicator, MemoryStore } from "resilient-websocket"
import * as H from "./support/harness.ts"

const windowOf = (options?: MemoryStore.Options) =>
  Effect.gen(function*() {
    const deduplicator = yield* Deduplicator.Deduplicator
    return Duration.toMillis(yield* deduplicator.window)
  }).pipe(Effect.provide(MemoryStore.layer(options)))

describe("MemoryStore", () => {
  it.effect("remembers publish keys for 15 minutes, or for as long as their messages may be retried", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* windowOf(), 15 * 60_000)
      assert.strictEqual(yield* windowOf({ queue: { ttl: "1 hour" } }), 70 * 60_000)
      assert.strictEqual(yield* windowOf({ registry: { retention: "1 second" } }), 15 * 60_000)
      assert.strictEqual(yield* windowOf({ queue: { ttl: Infinity } }), 15 * 60_000)
    }))

  it.effect("refuses a window that a late retry would outlive", () =>
    Effect.gen(function*() {
      assert.include((yield* H.mistake(windowOf({ deduplicator: { window: "14 minutes" } }))).message, "14 minutes")
    }))

  it.effect("says which option is wrong", () =>
    Effect.gen(function*() {
      for (
        const [options, name] of [
          [{ queue: { maxMessages: 0 } }, "maxMessages"],
          [{ queue: { ttl: -1 } }, "ttl"],
          [{ registry: { retention: "soon" as "1 second" } }, "retention"],
          [{ breaker: { endpoint: { failureRatio: 2 } } }, "failureRatio"]
        ] as const
      ) {
        assert.include((yield* H.mistake(Effect.scoped(Layer.build(MemoryStore.layer(options))))).message, name)
      }
    }))
})
