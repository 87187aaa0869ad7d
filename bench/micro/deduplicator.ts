/** The deduplicator in memory, by its public API: how many publish keys it takes a second, and what a key costs. */
import { Context, Effect, Layer } from "effect"
import { Deduplicator } from "../../src/index.ts"
import { type Figure, measure, type MicroOptions, runAlone, type Sample } from "./measure.ts"

/** The bytes of a key are told at this many, whatever the size of the run: a map's tables grow in steps. */
const keys = 1_000_000
const chunk = 10_000
const payload = "x".repeat(128)

export const deduplicator = (options: MicroOptions): Promise<ReadonlyArray<Figure>> =>
  measure({
    repetitions: Math.max(1, Math.round(options.repetitions * Math.min(1, 2 * options.size))),
    units: {
      "claim and commit a new key": "per second",
      "claim a known key": "per second",
      "contentKey of 128 bytes": "ns",
      "heap at 1,000,000 keys": "bytes/key"
    },
    warmUp: () => run(100_000)
  }, () => run(keys))

const run = (count: number): Promise<Sample> =>
  Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const context = yield* Layer.build(Deduplicator.layerMemory({ maxKeys: 2 * keys }))
    const dedup = Context.get(context, Deduplicator.Deduplicator)
    const heapBefore = heapUsed()
    const committed = yield* timed(count, (from) => publish(dedup, from))
    const heapAfter = heapUsed()
    const known = yield* timed(Math.min(count, 200_000), (from) => republish(dedup, from))
    const { keys: held } = yield* dedup.stats
    if (held !== count) return yield* Effect.die(new Error(`${held} of ${count} keys are held`))
    return {
      "claim and commit a new key": committed,
      "claim a known key": known,
      "contentKey of 128 bytes": 1e9 / (yield* timed(200_000, () => Effect.sync(hashes))),
      "heap at 1,000,000 keys": (heapAfter - heapBefore) / count
    }
  })))

const scope = "c0ffee00-session"

/** As the server does it for `send(session, message, { id })`; what becomes of the strings is part of the cost. */
const publish = Effect.fnUntraced(function*(dedup: Deduplicator.Interface, from: number) {
  for (let i = from; i < from + chunk; i++) {
    const key = `order-${i}`
    const claim = yield* dedup.claim({ scope, key, fingerprint: fingerprintOf(i) })
    if (claim._tag !== "Claimed") return yield* Effect.die(new Error(claim._tag))
    const receipt = { messageId: key, epoch: scope, offset: i, atMillis: 1_763_950_000_000 + i }
    yield* dedup.commit({ scope, key, token: claim.token, receipt })
  }
})

const republish = Effect.fnUntraced(function*(dedup: Deduplicator.Interface, from: number) {
  for (let i = from; i < from + chunk; i++) {
    const claim = yield* dedup.claim({ scope, key: `order-${i}`, fingerprint: fingerprintOf(i) })
    if (claim._tag !== "Duplicate") return yield* Effect.die(new Error(claim._tag))
  }
})

/** As long as a `contentKey`, and cheaper: that has a line of its own. */
const fingerprintOf = (i: number): string => `${4_000_000_000_000_000 + i}-${5_000_000_000_000_000 + i}-128`

const hashes = (): void => {
  for (let i = 0; i < chunk; i++) Deduplicator.contentKey(payload)
}

/** Operations a second, of `count` in chunks. */
const timed = Effect.fnUntraced(function*<E>(count: number, run: (from: number) => Effect.Effect<void, E>) {
  const start = performance.now()
  for (let from = 0; from < count; from += chunk) yield* run(from)
  return count * 1_000 / (performance.now() - start)
})

const heapUsed = (): number => {
  if (globalThis.gc === undefined) return Number.NaN
  globalThis.gc()
  globalThis.gc()
  return process.memoryUsage().heapUsed
}

await runAlone(import.meta, "deduplicator", deduplicator)
