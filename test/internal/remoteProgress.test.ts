/** What became of messages that were sent to a session which this server had not, and perhaps has by now. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Option, Result } from "effect"
import { MessageQueue } from "../../src/index.ts"
import { steadyOf } from "../../src/internal/kit/time.ts"
import { Tracked } from "../../src/internal/session/receipts.ts"
import { makeRemoteProgress } from "../../src/internal/session/remoteProgress.ts"
import * as H from "../support/harness.ts"

describe("remoteProgress", () => {
  it.effect("believe what this server has given up itself, where the store says only that the client is past it", () =>
    Effect.gen(function*() {
      const plain = yield* Effect.provide(MessageQueue.MessageQueue, yield* H.makeStore())
      const queue = { ...plain, progress: () => Effect.succeed([{ epoch: "E", acked: 5, dead: [] }]) }
      const remoteProgress = yield* makeRemoteProgress({
        queue,
        now: steadyOf(yield* Clock.Clock),
        deadHere: (session, epoch, offset) =>
          session === "s" && epoch === "E" && offset === 3 ? { reason: "expired", maybeHandled: false } : undefined
      })
      yield* Effect.forkScoped(remoteProgress.loop)
      const settled = yield* Effect.forEach([3, 4], (offset) => {
        const tracked = new Tracked(offset)
        tracked.leaveTo(remoteProgress.of("s", "E"))
        return Effect.forkChild(Effect.result(tracked.settled("s", `E-${offset}`)), { startImmediately: true })
      })
      yield* H.advanceUntil("both are settled", () => settled.every((fiber) => fiber.pollUnsafe() !== undefined))
      const [third, fourth] = yield* Effect.forEach(settled, Fiber.join)
      assert.deepInclude(third?._tag === "Failure" ? third.failure : undefined, { reason: "expired" })
      assert.strictEqual(fourth?._tag, "Success")
    }))

  it.effect("are told at once what this server gives up, and not of messages at the same offset of another outbox", () =>
    Effect.gen(function*() {
      const queue = yield* Effect.provide(MessageQueue.MessageQueue, yield* H.makeStore())
      const now = steadyOf(yield* Clock.Clock)
      const remoteProgress = yield* makeRemoteProgress({ queue, now, deadHere: () => undefined })
      const settled = yield* Effect.forEach([["E", 3], ["F", 3], ["E", 4]] as const, ([epoch, offset]) => {
        const tracked = new Tracked(offset)
        tracked.leaveTo(remoteProgress.of("s", epoch))
        return Effect.forkChild(Effect.result(tracked.settled("s", `${epoch}-${offset}`)), { startImmediately: true })
      })
      remoteProgress.dying("s", "E")?.(3, { reason: "expired", maybeHandled: false })
      assert.isUndefined(remoteProgress.dying("s", "G"), "nobody waits for those")
      yield* H.advanceUntil("the first is settled", () => settled[0]?.pollUnsafe() !== undefined)
      const [own, other, later] = settled.map((fiber) => fiber.pollUnsafe())
      const dead = own !== undefined && Exit.isSuccess(own) ? Result.getFailure(own.value) : Option.none()
      assert.deepInclude(Option.getOrUndefined(dead), { reason: "expired", maybeHandled: false })
      assert.isUndefined(other)
      assert.isUndefined(later)
      assert.strictEqual(remoteProgress.size(), 2)
    }))
})
