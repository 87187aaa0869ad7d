/** Laws of `Deduplicator`: publish keys. */
import { Deferred, Duration, Effect, Exit, Fiber, Option } from "effect"
import { Deduplicator, type Receipt } from "../Deduplicator.ts"
import { holds, law, oddTexts, PassTime, refused, same, type StoreLaw } from "./law.ts"

const scope = "scope"
const receipt = (messageId: string): Receipt => ({ messageId, epoch: "epoch", offset: 7, atMillis: 1_800_000_000_000 })

/** Claims a key that must be free. */
const claimed = Effect.fnUntraced(function*(key: string, fingerprint?: string) {
  const dedup = yield* Deduplicator
  const claim = yield* dedup.claim({ scope, key, fingerprint })
  yield* same(`the claim of ${key}`, claim._tag, "Claimed")
  return { scope, key, token: claim._tag === "Claimed" ? claim.token : "" }
})

/** Claims and commits. */
const committed = Effect.fnUntraced(function*(key: string, fingerprint?: string) {
  const dedup = yield* Deduplicator
  const claim = yield* claimed(key, fingerprint)
  yield* same(`the commit of ${key}`, yield* dedup.commit({ ...claim, receipt: receipt(key) }), true)
  return claim
})

const tagOf = Effect.fnUntraced(function*(key: string, fingerprint?: string) {
  const dedup = yield* Deduplicator
  return (yield* dedup.claim({ scope, key, fingerprint }))._tag
})

const claims: ReadonlyArray<StoreLaw> = [
  law(
    "a key is claimed, committed with a receipt, and known from then on",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const target = { scope, key: "k" }
      yield* same("a key nobody used", yield* dedup.lookup(target), Option.none())
      const claim = yield* claimed("k")
      yield* same("a key that is claimed", yield* dedup.lookup(target), Option.none())
      yield* same("the commit", yield* dedup.commit({ ...claim, receipt: receipt("k") }), true)
      yield* same("its receipt", yield* dedup.lookup(target), Option.some(receipt("k")))
      const again = yield* dedup.claim(target)
      yield* same("a retry", again, { _tag: "Duplicate", receipt: receipt("k") })
    })
  ),

  law(
    "of those that claim at once one gets the key",
    Effect.gen(function*() {
      const tags = yield* Effect.forEach([1, 2, 3, 4, 5], () => tagOf("k"), { concurrency: "unbounded" })
      yield* same("the claims", tags.toSorted(), ["Claimed", "InFlight", "InFlight", "InFlight", "InFlight"])
    })
  ),

  law(
    "a claim is a lease: when it ends the key is free, and its holder is too late",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const passTime = yield* PassTime
      const claim = yield* claimed("k")
      yield* passTime(400)
      const other = yield* dedup.claim({ scope, key: "k" })
      const left = other._tag === "InFlight" ? other.retryAfterMillis : -1
      yield* holds("the time left", left > 0 && left <= 600, "up to 600 ms", other)
      yield* passTime(700)
      const second = yield* claimed("k")
      yield* same("a late commit", yield* dedup.commit({ ...claim, receipt: receipt("late") }), false)
      yield* same("a late renewal", yield* dedup.renew(claim), false)
      yield* dedup.release(claim)
      yield* same("the key after a late release", yield* tagOf("k"), "InFlight")
      yield* same("the second one's commit", yield* dedup.commit({ ...second, receipt: receipt("k") }), true)
      yield* same("the receipt", yield* dedup.lookup({ scope, key: "k" }), Option.some(receipt("k")))
    }),
    { deduplicator: { lease: 1_000 } }
  ),

  law(
    "a lease that is renewed begins again",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const passTime = yield* PassTime
      const claim = yield* claimed("k")
      yield* passTime(700)
      yield* same("the renewal", yield* dedup.renew(claim), true)
      yield* same("a renewal by somebody else", yield* dedup.renew({ ...claim, token: "another" }), false)
      yield* passTime(700)
      yield* same("the key", yield* tagOf("k"), "InFlight")
      yield* same("the commit", yield* dedup.commit({ ...claim, receipt: receipt("k") }), true)
    }),
    { deduplicator: { lease: 1_000 } }
  ),

  law(
    "a key that is released is free; one that is committed, or somebody else's, is not released",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const claim = yield* claimed("k")
      yield* dedup.release({ ...claim, token: "another" })
      yield* same("the key after another's release", yield* tagOf("k"), "InFlight")
      yield* dedup.release(claim)
      yield* dedup.release(claim)
      const second = yield* committed("k")
      yield* dedup.release(second)
      yield* same("the key after a release that comes late", yield* tagOf("k"), "Duplicate")
    })
  ),

  law(
    "the same key with another fingerprint is a mismatch, if both have one",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      yield* claimed("held", "one")
      yield* committed("done", "one")
      yield* committed("bare")
      const other = (key: string) => dedup.claim({ scope, key, fingerprint: "two" })
      const held = yield* other("held")
      yield* same("a claimed key", [held._tag, "receipt" in held ? held.receipt : undefined], ["Mismatch", undefined])
      yield* same("a committed key", yield* other("done"), { _tag: "Mismatch", receipt: receipt("done") })
      yield* same("one without a fingerprint", (yield* other("bare"))._tag, "Duplicate")
      yield* same("the same fingerprint", yield* tagOf("done", "one"), "Duplicate")
      yield* same("no fingerprint", [yield* tagOf("held"), yield* tagOf("done")], ["InFlight", "Duplicate"])
    })
  ),

  law(
    "scope and key don't run into each other, whatever they are",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const targets = [
        ...oddTexts.map((text) => ({ scope: "scope", key: text })),
        ...oddTexts.map((text) => ({ scope: text, key: "key" })),
        { scope: "a:b", key: "c" },
        { scope: "a", key: "b:c" },
        { scope: "1", key: "1:a" },
        { scope: "1:1", key: "a" }
      ]
      for (const [i, target] of targets.entries()) {
        const claim = yield* dedup.claim(target)
        yield* same(`the claim of ${target.key} in ${target.scope}`, claim._tag, "Claimed")
        if (claim._tag !== "Claimed") continue
        yield* dedup.commit({ ...target, token: claim.token, receipt: receipt(`${i}`) })
      }
      for (const [i, target] of targets.entries()) {
        const found = yield* dedup.lookup(target)
        yield* same(`the receipt of ${target.key} in ${target.scope}`, found, Option.some(receipt(`${i}`)))
      }
    })
  ),

  law(
    "no more keys are in flight than maxKeys",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const first = yield* claimed("a")
      yield* claimed("b")
      const full = { _tag: "resilient-websocket/DeduplicationError", reason: "full", key: "c" }
      yield* refused("a third key", dedup.claim({ scope, key: "c" }), full)
      yield* same("one that is held", yield* tagOf("b"), "InFlight")
      yield* dedup.release(first)
      yield* same("the third key, when there is room", yield* tagOf("c"), "Claimed")
    }),
    { deduplicator: { maxKeys: 2 } }
  )
]

const windows: ReadonlyArray<StoreLaw> = [
  law(
    "a committed key is remembered for a window at least, and for two at most",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const passTime = yield* PassTime
      yield* same("the window", Duration.toMillis(yield* dedup.window), 2_000)
      yield* passTime(900)
      yield* committed("k")
      yield* passTime(1_800)
      yield* same("a retry within the window", yield* tagOf("k"), "Duplicate")
      yield* passTime(2_300)
      yield* dedup.rotate
      yield* same("the receipt after two", yield* dedup.lookup({ scope, key: "k" }), Option.none())
      yield* same("the keys kept then", (yield* dedup.stats).keys, 0)
      yield* same("a retry after two", yield* tagOf("k"), "Claimed")
    }),
    { deduplicator: { window: 2_000, retryHorizon: 1_000 } }
  ),

  law(
    "the window can be changed, also for keys held already, but not to less than anything may retry",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const passTime = yield* PassTime
      yield* committed("k")
      const isDefect = (window: number) => Effect.map(Effect.exit(dedup.setWindow(window)), Exit.hasDies)
      yield* same("a window that ends before retries do is a defect", yield* isDefect(900), true)
      yield* same("a window without end is a defect", yield* isDefect(Infinity), true)
      yield* dedup.setWindow(10_000)
      yield* same("the window", Duration.toMillis(yield* dedup.window), 10_000)
      yield* passTime(5_000)
      yield* same("a retry within the new one", yield* tagOf("k"), "Duplicate")
      yield* dedup.setWindow(1_500)
      yield* passTime(3_100)
      yield* same("a retry after the one after that", yield* tagOf("k"), "Claimed")
    }),
    { deduplicator: { window: 2_000, retryHorizon: 1_000 } }
  ),

  law(
    "stats tell what is kept, and what came of claims",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      yield* committed("a", "one")
      yield* claimed("b")
      yield* tagOf("a", "one")
      yield* tagOf("a", "two")
      yield* tagOf("b")
      const { claims, duplicates, inFlight, keys, mismatches } = yield* dedup.stats
      const expected = { claims: 2, duplicates: 1, inFlight: 1, keys: 1, mismatches: 1 }
      yield* same("the stats", { claims, duplicates, inFlight, keys, mismatches }, expected)
    })
  )
]

const once: ReadonlyArray<StoreLaw> = [
  law(
    "once runs an effect unless its key is committed, and knows the receipt of the one that ran",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      let runs = 0
      const effect = Effect.sync(() => `run ${++runs}`).pipe(
        dedup.once({ scope, key: "k", fingerprint: "one" }, receipt)
      )
      yield* same("the first time", yield* effect, { _tag: "Ran", value: "run 1", receipt: receipt("run 1") })
      yield* same("the second time", yield* effect, { _tag: "Duplicate", receipt: receipt("run 1") })
      yield* same("how often it ran", runs, 1)
      const other = Effect.succeed("x").pipe(dedup.once({ scope, key: "k", fingerprint: "two" }, receipt))
      yield* refused("another content", other, { _tag: "resilient-websocket/DeduplicationError", reason: "mismatch" })
    })
  ),

  law(
    "a key whose effect fails or is interrupted is free again, and in flight until then",
    Effect.gen(function*() {
      const dedup = yield* Deduplicator
      const request = { scope, key: "k" }
      const failure = { _tag: "Nothing" } as const
      yield* refused("a failure", Effect.fail(failure).pipe(dedup.once(request, receipt)), failure)

      const begun = yield* Deferred.make<void>()
      const forever = Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
      const fiber = yield* Effect.forkChild(forever.pipe(dedup.once(request, receipt)))
      yield* Deferred.await(begun)
      const inFlight = { _tag: "resilient-websocket/DeduplicationError", reason: "inFlight" }
      yield* refused("one that comes meanwhile", Effect.succeed("x").pipe(dedup.once(request, receipt)), inFlight)
      yield* Fiber.interrupt(fiber)
      const ran = yield* Effect.succeed("y").pipe(dedup.once(request, receipt))
      yield* same("one that comes then", ran._tag, "Ran")
    })
  )
]

export const deduplicatorLaws: ReadonlyArray<StoreLaw> = [...claims, ...windows, ...once]
