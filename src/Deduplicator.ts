/**
 * Remembers publish keys, so that what is sent twice is accepted once.
 *
 * A key is claimed, and committed with a receipt when its effect succeeded or released when it failed. A claim is a
 * lease: if its holder dies, the key is free again when the lease ends, and a late commit is refused. Claiming a
 * committed key gives the receipt back, so the retry of a producer that missed the answer succeeds.
 *
 * **Gotchas.** The window is the whole guarantee. A retry that comes more than a window after the commit is accepted
 * again: keep the window longer than anything may retry (`retryHorizon` checks it). And unless the effect and the
 * commit are one transaction, a crash between them forgets the key.
 *
 * @since 0.1.0
 */
import { type Config, Context, Duration, Effect, Layer, Option, Schema } from "effect"
import { ClaimTable } from "./internal/kit/keyGenerations.ts"
import * as Check from "./internal/kit/options.ts"
import * as Shapes from "./internal/kit/shapes.ts"
import { steady } from "./internal/kit/time.ts"
import { checkWindow, horizonMillis } from "./internal/kit/windows.ts"
import { DeduplicationError } from "./WebSocketError.ts"

/**
 * What became of the message that was published under a key.
 *
 * @since 0.1.0
 * @category models
 */
export const Receipt = Schema.Struct({
  messageId: Schema.String,
  epoch: Schema.String,
  offset: Schema.Number,
  atMillis: Schema.Number
})
/** The type of {@link Receipt}. @since 0.1.0 @category models */
export type Receipt = typeof Receipt.Type

/**
 * A key and the scope it is unique in. Any two strings will do; ("a:b", "c") and ("a", "b:c") are different.
 *
 * @since 0.1.0
 * @category models
 */
export interface Target {
  readonly scope: string
  readonly key: string
}

/**
 * A key to claim. The `fingerprint` stands for the content, for example its {@link contentKey}: the same key with
 * another fingerprint is a mistake and gets a `Mismatch`. It is compared only when both claims have one.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClaimRequest extends Target {
  readonly fingerprint?: string | undefined
}

/**
 * What a claim came to.
 *
 * - `Claimed`: do it, then commit or release with this token before the lease ends.
 * - `InFlight`: somebody is doing it. Ask again when their lease ends, at the latest.
 * - `Duplicate`: it has been done, with this result.
 * - `Mismatch`: the key was used with another fingerprint. Has the receipt if that was committed.
 *
 * @since 0.1.0
 * @category models
 */
export type Claim =
  | { readonly _tag: "Claimed"; readonly token: string; readonly leaseMillis: number }
  | { readonly _tag: "InFlight"; readonly retryAfterMillis: number }
  | { readonly _tag: "Duplicate"; readonly receipt: Receipt }
  | { readonly _tag: "Mismatch"; readonly receipt?: Receipt | undefined }

/**
 * What `once` did: ran the effect, or found that it had run before.
 *
 * @since 0.1.0
 * @category models
 */
export type Once<A> =
  | { readonly _tag: "Ran"; readonly value: A; readonly receipt: Receipt }
  | { readonly _tag: "Duplicate"; readonly receipt: Receipt }

/**
 * `keys` are committed and remembered, `inFlight` claimed now; the others are totals. `earlyRotations` counts how often
 * keys were forgotten before their window had passed, because there were too many: if it grows, raise `maxKeys`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly keys: number
  readonly inFlight: number
  readonly claims: number
  readonly duplicates: number
  readonly mismatches: number
  readonly earlyRotations: number
  readonly windowMillis: number
}

/**
 * What a store must provide; {@link make} adds `once`.
 *
 * @since 0.1.0
 * @category services
 */
export interface Store {
  /** Asks for permission to do what the key stands for. Fails with reason `full` when too many keys are in flight. */
  readonly claim: (request: ClaimRequest) => Effect.Effect<Claim, DeduplicationError>
  /** It takes longer: the lease starts again. False if the lease was lost. */
  readonly renew: (claim: Target & { readonly token: string }) => Effect.Effect<boolean, DeduplicationError>
  /** It was done. False if the lease was lost: it ended, so somebody else may have done it too. */
  readonly commit: (
    claim: Target & { readonly token: string; readonly receipt: Receipt }
  ) => Effect.Effect<boolean, DeduplicationError>
  /** It was not done: the key is free again. Does nothing if the lease was lost. */
  readonly release: (claim: Target & { readonly token: string }) => Effect.Effect<void, DeduplicationError>
  /** The receipt of a committed key. */
  readonly lookup: (target: Target) => Effect.Effect<Option.Option<Receipt>, DeduplicationError>
  /** How long a committed key is remembered at least; twice that at most. */
  readonly window: Effect.Effect<Duration.Duration>
  /** Changes the window, even for keys already held. A defect if it is not finite, or shorter than the retry horizon. */
  readonly setWindow: (window: Duration.Input) => Effect.Effect<void>
  /**
   * Forgets keys whose window is over. Every access does too: call it now and then to free memory in an idle process.
   */
  readonly rotate: Effect.Effect<void>
  readonly stats: Effect.Effect<Stats>
}

/**
 * What can be done with publish keys.
 *
 * @since 0.1.0
 * @category services
 */
export interface Interface extends Store {
  /**
   * Runs an effect unless its key is committed; a failure or interrupt releases the key. Fails with reason `inFlight`
   * or `mismatch` if the claim says so. The effect should finish within the lease.
   */
  readonly once: <A>(
    request: ClaimRequest,
    toReceipt: (value: A) => Receipt
  ) => <E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<Once<A>, E | DeduplicationError, R>
}

/**
 * The deduplicator of publish keys.
 *
 * **Example** (Accepting an order once)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Deduplicator } from "resilient-websocket"
 *
 * const order = { id: "order-17", item: "tea" }
 * const accept = Effect.succeed({ messageId: "m1", epoch: "e1", offset: 1, atMillis: 0 })
 *
 * const program = Effect.gen(function*() {
 *   const dedup = yield* Deduplicator.Deduplicator
 *   const request = { scope: "orders", key: order.id, fingerprint: Deduplicator.contentKey(JSON.stringify(order)) }
 *   const publish = accept.pipe(dedup.once(request, (receipt) => receipt))
 *   const first = yield* publish
 *   const retry = yield* publish
 *   return [first._tag, retry._tag] // ["Ran", "Duplicate"]
 * }).pipe(Effect.provide(Deduplicator.layerMemory()))
 * ```
 *
 * @since 0.1.0
 * @category services
 */
export class Deduplicator extends Context.Service<Deduplicator, Interface>()("resilient-websocket/Deduplicator") {}

/**
 * Makes the service of a store.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (store: Store): Interface => ({
  ...store,
  once: (request, toReceipt) => (self) =>
    Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
      const { key, scope } = request
      const claim = yield* store.claim(request)
      switch (claim._tag) {
        case "Duplicate":
          return { _tag: "Duplicate", receipt: claim.receipt }
        case "Mismatch":
          return yield* new DeduplicationError({ scope, key, reason: "mismatch" })
        case "InFlight":
          return yield* new DeduplicationError({
            scope,
            key,
            reason: "inFlight",
            retryAfterMillis: claim.retryAfterMillis
          })
      }
      const { token } = claim
      const { receipt, value } = yield* restore(self).pipe(
        Effect.map((value) => ({ value, receipt: toReceipt(value) })),
        Effect.onError(() => Effect.ignore(store.release({ scope, key, token }), { log: "Warn" }))
      )
      if (!(yield* store.commit({ scope, key, token, receipt }))) {
        yield* Effect.logWarning(`the lease of key ${key} in ${scope} ended before its commit: it may be done twice`)
      }
      return { _tag: "Ran", value, receipt }
    }))
})

/**
 * Bounds of a deduplicator in memory. All have defaults.
 *
 * @since 0.1.0
 * @category options
 */
export interface Options {
  /** How long a committed key is remembered at least; twice that at most. Finite. Default 15 minutes. */
  readonly window?: Duration.Input | undefined
  /** How long a claim lasts without a commit or release. Finite. Default 30 seconds. */
  readonly lease?: Duration.Input | undefined
  /**
   * How many keys a window may hold, those in flight included. Beyond that, older ones are forgotten early, with a
   * warning; or, while most are in flight, claims are refused as `full`. The previous window's keys are kept too, so
   * there are at most twice as many. Default 1,000,000, which takes up to about 0.5 GB.
   */
  readonly maxKeys?: number | undefined
  /**
   * The longest time after which anything may still retry: message TTL plus session retention. Default: not checked.
   */
  readonly retryHorizon?: Duration.Input | undefined
}

/**
 * Makes a deduplicator in this process's memory. An option that is out of range is a defect, as is a window that is
 * shorter than the retry horizon.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeMemory: (options?: Options) => Effect.Effect<Interface> = Effect.fnUntraced(function*(
  options?: Options
): Effect.fn.Return<Interface> {
  Check.check(options, Shapes.deduplicator)
  const retryHorizon = horizonMillis(options?.retryHorizon)
  const window = checkWindow(options?.window ?? "15 minutes", retryHorizon)
  const lease = Check.millis("lease", options?.lease, "30 seconds")
  const maxKeys = Check.count("maxKeys", options?.maxKeys, 1_000_000)
  const now = yield* steady
  const table = new ClaimTable<Receipt>({ windowMillis: window, leaseMillis: lease, maxKeys, now: now() })
  const totals = { claims: 0, duplicates: 0, mismatches: 0, earlyRotations: 0 }

  const claim = (request: ClaimRequest): Effect.Effect<Claim, DeduplicationError> => {
    const { fingerprint, key, scope } = request
    const result = table.claim(combine(request), fingerprint, now())
    switch (result._tag) {
      case "Full":
        return Effect.fail(new DeduplicationError({ scope, key, reason: "full" }))
      case "Duplicate":
        totals.duplicates++
        return Effect.succeed(result)
      case "Mismatch":
        totals.mismatches++
        return Effect.succeed(result)
      case "InFlight":
        return Effect.succeed(result)
      case "Claimed": {
        totals.claims++
        const claimed = Effect.succeed<Claim>({ _tag: "Claimed", token: result.token, leaseMillis: table.leaseMillis })
        if (!result.early) return claimed
        totals.earlyRotations++
        const warning = `more than ${maxKeys} keys in a deduplication window: older ones are forgotten early`
        return Effect.andThen(Effect.logWarning(warning), claimed)
      }
    }
  }

  return make({
    claim: (request) => Effect.suspend(() => claim(request)),
    commit: (request) =>
      Effect.sync(() => {
        const { atMillis, epoch, messageId, offset } = request.receipt
        // A copy: what else the caller's object may hold must not live as long as the window.
        return table.commit(combine(request), request.token, { messageId, epoch, offset, atMillis }, now())
      }),
    renew: (request) => Effect.sync(() => table.renew(combine(request), request.token, now())),
    release: (request) => Effect.sync(() => table.release(combine(request), request.token)),
    lookup: (target) => Effect.sync(() => Option.fromUndefinedOr(table.lookup(combine(target), now()))),
    window: Effect.sync(() => Duration.millis(table.windowMillis)),
    setWindow: (input) => Effect.sync(() => table.setWindow(checkWindow(input, retryHorizon), now())),
    rotate: Effect.sync(() => table.advance(now())),
    stats: Effect.sync(() => {
      table.advance(now())
      return { ...table.sizes, ...totals, windowMillis: table.windowMillis }
    })
  })
})

/**
 * Scope and key as one string: the length says where the scope ends. `join` makes a flat string, where `+` would make
 * a rope, and a slice would keep the whole message it was cut from alive (V8; 430 bytes a key instead of 77).
 */
const combine = ({ key, scope }: Target): string => [scope.length, scope, key].join(":")

/**
 * Deduplication in this process's memory: exact while the process lives. An option that is out of range is a
 * defect, as is a window that is shorter than the retry horizon.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options?: Options): Layer.Layer<Deduplicator> =>
  Layer.effect(Deduplicator, makeMemory(options))

/**
 * `layerMemory` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemoryConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<Deduplicator, Config.ConfigError> => Check.fromConfig(options, layerMemory)

/**
 * A key made of the content, to deduplicate by it. The same on every platform and in every version.
 *
 * **Gotchas.** If two different contents have one key, the second is dropped. By chance that happens to a pair of
 * equally long contents once in about 2^100; among a million keys, once in about 2^61. But the hash (two cyrb53 with
 * different seeds, and the length) is not cryptographic: whoever chooses the contents can make two collide. If
 * strangers choose them, choose the keys yourself.
 *
 * @since 0.1.0
 * @category keys
 */
export const contentKey = (payload: string): string =>
  [cyrb53(payload, 0), cyrb53(payload, 1), payload.length].join("-") // decimal: in base 36 V8 takes eight times as long

/** cyrb53 by bryc, public domain: 53 bits over UTF-16 code units, two multiplicative lanes mixed as in Murmur 3. */
const cyrb53 = (text: string, seed: number): number => {
  let a = 0xdeadbeef ^ seed
  let b = 0x41c6ce57 ^ seed
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    a = Math.imul(a ^ unit, 2654435761)
    b = Math.imul(b ^ unit, 1597334677)
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909)
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909)
  return 4294967296 * (2097151 & b) + (a >>> 0)
}
