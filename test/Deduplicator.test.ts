import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Deferred, Duration, Effect, Exit, Fiber, Logger, Option, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as Deduplicator from "../src/Deduplicator.ts"
import { DeduplicationError } from "../src/WebSocketError.ts"
import * as H from "./support/harness.ts"

const A = { scope: "orders", key: "a" }
const B = { scope: "orders", key: "b" }
const receipt: Deduplicator.Receipt = { messageId: "m1", epoch: "e1", offset: 1, atMillis: 5 }
const other: Deduplicator.Receipt = { messageId: "m2", epoch: "e1", offset: 2, atMillis: 6 }

const withDeduplicator = <A, E, R>(
  use: (dedup: Deduplicator.Interface) => Effect.Effect<A, E, R>,
  options?: Deduplicator.Options
) => Effect.flatMap(Deduplicator.makeMemory(options), use)

/** Claims, and fails the test unless that succeeds. */
const token = (dedup: Deduplicator.Interface, request: Deduplicator.ClaimRequest) =>
  Effect.map(dedup.claim(request), (claim) => {
    assert.strictEqual(claim._tag, "Claimed")
    return claim._tag === "Claimed" ? claim.token : ""
  })

const claimAndCommit = Effect.fnUntraced(function*(
  dedup: Deduplicator.Interface,
  request: Deduplicator.ClaimRequest,
  result = receipt
) {
  const { key, scope } = request
  assert.isTrue(yield* dedup.commit({ scope, key, token: yield* token(dedup, request), receipt: result }))
})

describe("Deduplicator", () => {
  describe("claim, commit, release", () => {
    it.effect("gives the receipt back for a key that was committed", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* claimAndCommit(dedup, A)
        assert.deepStrictEqual(yield* dedup.claim(A), { _tag: "Duplicate", receipt })
        assert.deepStrictEqual(yield* dedup.lookup(A), Option.some(receipt))
        assert.deepStrictEqual(yield* dedup.lookup(B), Option.none())
      })))

    it.effect("lets only one claimant do it at a time, and tells the others how long to wait", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* token(dedup, A)
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* dedup.claim(A), { _tag: "InFlight", retryAfterMillis: 20_000 })
        yield* token(dedup, B)
      })))

    it.effect("frees a released key at once, and never remembers it", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* dedup.release({ ...A, token: yield* token(dedup, A) })
        assert.deepStrictEqual(yield* dedup.lookup(A), Option.none())
        yield* token(dedup, A)
      })))

    it.effect("frees a key when its lease ends, and fences the late commit and release", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        const late = yield* token(dedup, A)
        yield* TestClock.adjust("30 seconds")
        const second = yield* token(dedup, A)
        assert.isFalse(yield* dedup.commit({ ...A, token: late, receipt: other }))
        yield* dedup.release({ ...A, token: late })
        assert.strictEqual((yield* dedup.claim(A))._tag, "InFlight")
        assert.isTrue(yield* dedup.commit({ ...A, token: second, receipt }))
        assert.isFalse(yield* dedup.commit({ ...A, token: late, receipt: other }))
        assert.deepStrictEqual(yield* dedup.claim(A), { _tag: "Duplicate", receipt })
      })))

    it.effect("refuses a commit after the lease, also when nobody else has claimed the key", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        const late = yield* token(dedup, A)
        yield* TestClock.adjust("30 seconds")
        assert.isFalse(yield* dedup.commit({ ...A, token: late, receipt }))
      })))

    it.effect("keeps scopes apart, whatever the strings contain", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        const targets = [
          ["a:b", "c"],
          ["a", "b:c"],
          ["a:b:c", ""],
          ["", "a:b:c"],
          ["3:a", "b"],
          ["1", "abcdefghijk"],
          ["abcdefghijk", ""]
        ]
        for (const [offset, [scope = "", key = ""]] of targets.entries()) {
          yield* claimAndCommit(dedup, { scope, key }, { ...receipt, offset })
        }
        for (const [offset, [scope = "", key = ""]] of targets.entries()) {
          assert.deepStrictEqual(yield* dedup.lookup({ scope, key }), Option.some({ ...receipt, offset }))
        }
      })))

    const Text = Schema.Array(Schema.Literals(["a", ":", "1", "2"])).check(Schema.isMaxLength(3))
    it.effect.prop(
      "never takes two targets for one",
      { a: Schema.Tuple([Text, Text]), b: Schema.Tuple([Text, Text]) },
      ({ a, b }) =>
        withDeduplicator(Effect.fnUntraced(function*(dedup) {
          const target = ([scope, key]: typeof a) => ({ scope: scope.join(""), key: key.join("") })
          yield* claimAndCommit(dedup, target(a))
          const same = target(a).scope === target(b).scope && target(a).key === target(b).key
          assert.strictEqual(Option.isSome(yield* dedup.lookup(target(b))), same)
        })),
      { arbitrary: { runs: 1_000 } }
    )
  })

  describe("fingerprints", () => {
    const request = (fingerprint?: string) => ({ ...A, fingerprint })

    it.effect("tell when a committed key is used for something else", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* claimAndCommit(dedup, request("x"))
        assert.deepStrictEqual(yield* dedup.claim(request("y")), { _tag: "Mismatch", receipt })
        assert.deepStrictEqual(yield* dedup.claim(request("x")), { _tag: "Duplicate", receipt })
      })))

    it.effect("tell when a key in flight is used for something else", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* token(dedup, request("x"))
        assert.deepStrictEqual(yield* dedup.claim(request("y")), { _tag: "Mismatch", receipt: undefined })
        assert.strictEqual((yield* dedup.claim(request("x")))._tag, "InFlight")
      })))

    it.effect("are compared only when both sides have one", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* claimAndCommit(dedup, request("x"))
        assert.strictEqual((yield* dedup.claim(request()))._tag, "Duplicate")
        yield* claimAndCommit(dedup, B)
        assert.strictEqual((yield* dedup.claim({ ...B, fingerprint: "x" }))._tag, "Duplicate")
      })))
  })

  describe("window", () => {
    it.effect("remembers a key for one window at least and two at most, without any rotation from outside", () =>
      withDeduplicator(
        Effect.fnUntraced(function*(dedup) {
          yield* TestClock.adjust("55 seconds")
          yield* claimAndCommit(dedup, A)
          yield* TestClock.adjust("60 seconds")
          assert.strictEqual((yield* dedup.claim(A))._tag, "Duplicate")
          yield* TestClock.adjust("60 seconds")
          yield* token(dedup, A)
        }),
        { window: "1 minute" }
      ))

    it.effect("forgets everything after a long idle time", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* claimAndCommit(dedup, A)
        yield* token(dedup, B)
        yield* TestClock.adjust("1 day")
        yield* dedup.rotate
        const { inFlight, keys } = yield* dedup.stats
        assert.deepStrictEqual({ inFlight, keys }, { inFlight: 0, keys: 0 })
      })))

    it.effect("can be shortened without forgetting what came a moment ago", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* claimAndCommit(dedup, A)
        yield* TestClock.adjust("14 minutes")
        yield* claimAndCommit(dedup, B)
        yield* dedup.setWindow("1 minute")
        assert.deepStrictEqual(yield* dedup.window, Duration.minutes(1))
        yield* TestClock.adjust("59 seconds")
        assert.strictEqual((yield* dedup.claim(B))._tag, "Duplicate")
        yield* TestClock.adjust("1 seconds")
        assert.deepStrictEqual(yield* dedup.lookup(A), Option.none())
      })))

    it.effect("can be lengthened for keys already held", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        yield* claimAndCommit(dedup, A)
        yield* dedup.setWindow("1 day")
        yield* TestClock.adjust("23 hours")
        assert.strictEqual((yield* dedup.claim(A))._tag, "Duplicate")
      })))
  })

  describe("bounds", () => {
    /** What is logged while an effect runs. */
    const logsOf = <A, E, R>(effect: Effect.Effect<A, E, R>) => {
      const logs: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => logs.push(`${logLevel} ${String(message)}`))
      return Effect.as(effect.pipe(Effect.provide(Logger.layer([logger]))), logs)
    }

    it.effect("forget the older keys early when there are too many, count it and warn", () =>
      Effect.gen(function*() {
        const logs = yield* logsOf(withDeduplicator(
          Effect.fnUntraced(function*(dedup) {
            for (let i = 0; i < 30; i++) {
              yield* claimAndCommit(dedup, { scope: "s", key: String(i) })
              assert.isAtMost((yield* dedup.stats).keys, 20)
            }
            assert.strictEqual((yield* dedup.stats).earlyRotations, 2)
            assert.deepStrictEqual(yield* dedup.lookup({ scope: "s", key: "9" }), Option.none())
            assert.deepStrictEqual(yield* dedup.lookup({ scope: "s", key: "10" }), Option.some(receipt))
          }),
          { maxKeys: 10 }
        ))
        assert.deepStrictEqual(
          logs,
          Array.from({ length: 2 }, () =>
            "Warn more than 10 keys in a deduplication window: older ones are forgotten early")
        )
      }))

    it.effect("refuse claims when too many are in flight, until one is done or its lease ends", () =>
      withDeduplicator(
        Effect.fnUntraced(function*(dedup) {
          const first = yield* token(dedup, { scope: "s", key: "1" })
          yield* token(dedup, { scope: "s", key: "2" })
          const error = yield* Effect.flip(dedup.claim({ scope: "s", key: "3" }))
          assert.deepStrictEqual([error.scope, error.key, error.reason], ["s", "3", "full"])
          assert.strictEqual((yield* dedup.claim({ scope: "s", key: "1" }))._tag, "InFlight")
          yield* dedup.release({ scope: "s", key: "1", token: first })
          yield* token(dedup, { scope: "s", key: "3" })
          yield* Effect.flip(dedup.claim({ scope: "s", key: "4" }))
          yield* TestClock.adjust("30 seconds")
          yield* token(dedup, { scope: "s", key: "4" })
        }),
        { maxKeys: 2 }
      ))
  })

  describe("once", () => {
    it.effect("runs an effect once, and gives later callers the receipt", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        let runs = 0
        const publish = Effect.sync(() => ++runs).pipe(dedup.once(A, (offset) => ({ ...receipt, offset })))
        assert.deepStrictEqual(yield* publish, { _tag: "Ran", value: 1, receipt })
        assert.deepStrictEqual(yield* publish, { _tag: "Duplicate", receipt })
        assert.strictEqual(runs, 1)
      })))

    it.effect("does not mark what failed, died or was interrupted", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        const once = dedup.once(A, () => receipt)
        assert.strictEqual(yield* Effect.flip(once(Effect.fail("no"))), "no")
        assert.isTrue(Exit.hasDies(yield* Effect.exit(once(Effect.die("bug")))))
        const fiber = yield* Effect.forkChild(once(Effect.never), { startImmediately: true })
        assert.strictEqual((yield* dedup.claim(A))._tag, "InFlight")
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* once(Effect.succeed("at last")))._tag, "Ran")
      })))

    it.effect("commits when the interrupt comes after the effect succeeded", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        const done = yield* Deferred.make<void>()
        const fiber = yield* Effect.void.pipe(
          dedup.once(A, () => receipt),
          Effect.andThen(Deferred.succeed(done, undefined)),
          Effect.andThen(Effect.never),
          Effect.forkChild({ startImmediately: true })
        )
        yield* Deferred.await(done)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* dedup.lookup(A), Option.some(receipt))
      })))

    it.effect("fails with what stands in its way", () =>
      withDeduplicator(Effect.fnUntraced(function*(dedup) {
        const once = (fingerprint: string) => Effect.void.pipe(dedup.once({ ...A, fingerprint }, () => receipt))
        const held = yield* token(dedup, { ...A, fingerprint: "x" })
        const inFlight = yield* Effect.flip(once("x"))
        assert.deepStrictEqual([inFlight.reason, inFlight.retryAfterMillis], ["inFlight", 30_000])
        yield* dedup.commit({ ...A, token: held, receipt })
        const mismatch = yield* Effect.flip(once("y"))
        assert.deepStrictEqual([mismatch.scope, mismatch.key, mismatch.reason], ["orders", "a", "mismatch"])
      })))

    it.effect("fails with the effect's failure alone, also when the store can't release the key", () =>
      Effect.gen(function*() {
        const memory = yield* Deduplicator.makeMemory()
        const broken = new DeduplicationError({ ...A, reason: "store" })
        const dedup = Deduplicator.make({ ...memory, release: () => Effect.fail(broken) })
        const exit = yield* Effect.fail("no").pipe(dedup.once(A, () => receipt), Effect.exit)
        assert.deepStrictEqual(exit, Exit.fail("no"))
      }))
  })

  it.effect("counts what it did", () =>
    withDeduplicator(Effect.fnUntraced(function*(dedup) {
      yield* claimAndCommit(dedup, { ...A, fingerprint: "x" })
      yield* token(dedup, B)
      yield* dedup.claim(A)
      yield* dedup.claim({ ...A, fingerprint: "y" })
      assert.deepStrictEqual(yield* dedup.stats, {
        keys: 1,
        inFlight: 1,
        claims: 2,
        duplicates: 1,
        mismatches: 1,
        earlyRotations: 0,
        windowMillis: 900_000
      })
    })))

  describe("options", () => {
    const messageOf = (options: Deduplicator.Options) =>
      Effect.map(H.mistake(Deduplicator.makeMemory(options)), ({ message }) => message)

    it.effect("a window that is shorter than the retry horizon is a defect", () =>
      Effect.gen(function*() {
        assert.match(
          yield* messageOf({ window: "5 minutes", retryHorizon: "15 minutes" }),
          /window must be at least the retry horizon, 900000 ms: .*got "5 minutes"/
        )
        const dedup = yield* Deduplicator.makeMemory({ window: "15 minutes", retryHorizon: "15 minutes" })
        assert.include((yield* H.mistake(dedup.setWindow("14 minutes"))).message, "14 minutes")
        assert.deepStrictEqual(yield* dedup.window, Duration.minutes(15))
      }))

    it.effect("must be positive, finite and whole", () =>
      Effect.gen(function*() {
        assert.match(yield* messageOf({ window: "Infinity" }), /window/)
        assert.match(yield* messageOf({ window: 0 }), /window/)
        assert.match(yield* messageOf({ lease: -1 }), /lease/)
        assert.match(yield* messageOf({ maxKeys: 0 }), /maxKeys/)
        assert.match(yield* messageOf({ maxKeys: 1.5 }), /maxKeys/)
        assert.match(yield* messageOf({ retryHorizon: Number.NaN }), /retryHorizon/)
      }))

    it.effect("come from Config", () =>
      Effect.gen(function*() {
        const dedup = yield* Deduplicator.Deduplicator
        assert.deepStrictEqual(yield* dedup.window, Duration.minutes(3))
      }).pipe(
        Effect.provide(Deduplicator.layerMemoryConfig({ window: Config.Duration("WINDOW") })),
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ WINDOW: "3 minutes" })))
      ))
  })

  describe("contentKey", () => {
    it("is the same for the same content for ever", () => {
      // The values that cyrb53's author publishes for "revenue" with seeds 0 and 1.
      assert.strictEqual(Deduplicator.contentKey("revenue"), "8309097637345594-8697026808958300-7")
    })

    it("differs for contents that differ a little, also in length or order only", () => {
      const contents = new Set([""])
      for (let i = 0; i < 20_000; i++) {
        contents.add(JSON.stringify({ id: i, amount: i % 100 }))
        contents.add(JSON.stringify({ id: i % 100, amount: i }))
        contents.add("\0".repeat(i % 500))
        contents.add(`${"é".repeat(i % 300)}${i}`)
      }
      assert.strictEqual(new Set([...contents].map(Deduplicator.contentKey)).size, contents.size)
    })

    it("spreads over all bits of both parts", () => {
      const counts = Array.from({ length: 106 }, () => 0)
      for (let i = 0; i < 4_000; i++) {
        const [first = "", second = ""] = Deduplicator.contentKey(`message ${i}`).split("-")
        const bits = [first, second].map((part) => Number(part).toString(2).padStart(53, "0")).join("")
        for (let bit = 0; bit < counts.length; bit++) counts[bit] = (counts[bit] ?? 0) + Number(bits[bit])
      }
      for (const count of counts) {
        assert.isAbove(count, 1_800)
        assert.isBelow(count, 2_200)
      }
    })
  })
})
