import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { makeMessageStream } from "../../src/internal/handle/messageStream.ts"

describe("a message that is handed off", () => {
  it.effect("and withdrawn, as another server has its session, is given to nobody, and does not wait either", () =>
    Effect.gen(function*() {
      const messageStream = yield* makeMessageStream<{ readonly n: number }>()
      for (let n = 0; n < 500; n++) {
        const offering = yield* Effect.forkChild(messageStream.offer({ n }), { startImmediately: true })
        yield* Fiber.interrupt(offering)
      }
      const kept = yield* Effect.forkChild(messageStream.offer({ n: 500 }), { startImmediately: true })
      const [first] = yield* Stream.runCollect(Stream.take(messageStream.stream, 1))
      assert.deepStrictEqual(first, { n: 500 })
      yield* Fiber.interrupt(kept)
    }))
})
