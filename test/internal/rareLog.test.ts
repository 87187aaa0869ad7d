import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Logger } from "effect"
import { TestClock } from "effect/testing"
import { inWords, makeRareLog } from "../../src/internal/kit/rareLog.ts"

/** What is logged, line by line. */
const withLines = <A, E, R>(use: (lines: Array<string>) => Effect.Effect<A, E, R>) => {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ message }) => void lines.push([message].flat().map(String).join(" ")))
  return Effect.provide(use(lines), Logger.layer([logger]))
}

describe("rareLog", () => {
  it.effect("logs a few lines of a kind, counts the others, and says how many there were", () =>
    withLines((lines) =>
      Effect.gen(function*() {
        const log = yield* makeRareLog
        for (let n = 1; n <= 1_000; n++) log.warn("knock", `knock ${n}`)
        log.error("ring", "ring")
        assert.deepStrictEqual(lines, ["knock 1", "knock 2", "knock 3", "knock 4", "knock 5", "ring"])
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(lines.slice(6), ["knock 1000 (the last of 995 more like this)"])
        log.warn("knock", "knock again")
        assert.strictEqual(lines[7], "knock again")
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(lines.length, 8)
      })
    ))

  it.effect("writes one line, however many the text has, and not more than fits on one", () =>
    withLines((lines) =>
      Effect.gen(function*() {
        const log = yield* makeRareLog
        log.warn("text", `not JSON\r\n[fatal] all is lost\u2028\u0000${"x".repeat(10_000)}`)
        assert.match(lines[0] ?? "", /^not JSON \[fatal\] all is lost x+…$/)
        assert.isBelow(lines[0]?.length ?? 0, 600)
      })
    ))

  it.effect("a failure in words has its causes and no stack", () =>
    Effect.sync(() => {
      const error = new TypeError("the store failed", { cause: new Error("ECONNREFUSED") })
      assert.strictEqual(inWords(Cause.fail(error)), "TypeError: the store failed; Error: ECONNREFUSED")
      const loop: Error & { cause?: unknown } = new Error("round")
      loop.cause = loop
      assert.isBelow(inWords(Cause.die(loop)).length, 100)
    }))
})
