/**
 * What every store must do: laws to try a store of your own by, with any test framework or none.
 *
 * **Details.** A law is an effect. It gets a new, empty store, made by your layer with the law's options, and fails
 * with a {@link LawViolation} that says what was expected and what came. The laws are those of the doc comments of
 * `MessageQueue`, `SessionRegistry` and `Deduplicator`; `MemoryStore` and the durable stores keep all of them.
 *
 * **Gotchas.** They test one process with one store. Try on the real thing that commits survive a crash, and that
 * several processes don't get in each other's way.
 *
 * **Example** (With Vitest)
 *
 * ```ts
 * import { it } from "@effect/vitest"
 * import { TestClock } from "effect/testing"
 * import { MemoryStore } from "resilient-websocket"
 * import { StoreLaws } from "resilient-websocket/testing"
 *
 * for (const law of StoreLaws.all) {
 *   it.effect(law.name, () => StoreLaws.check(law, { layer: MemoryStore.layer, passTime: TestClock.adjust }))
 * }
 * ```
 *
 * @since 0.1.0
 */
import { Effect, type Layer } from "effect"
import type * as MemoryStore from "../MemoryStore.ts"
import { deduplicatorLaws } from "./deduplicatorLaws.ts"
import { deliveryLaws } from "./deliveryLaws.ts"
import { PassTime, type Services, type StoreLaw } from "./law.ts"
import { queueLaws } from "./queueLaws.ts"
import { registryLaws } from "./registryLaws.ts"

export { LawViolation, PassTime, type Services, type StoreLaw } from "./law.ts"

/**
 * All laws. Run each on a store of its own.
 *
 * @since 0.1.0
 * @category laws
 */
export const all: ReadonlyArray<StoreLaw> = [...queueLaws, ...deliveryLaws, ...registryLaws, ...deduplicatorLaws]

/**
 * The store that is tested.
 *
 * @since 0.1.0
 * @category models
 */
export interface Subject<E, R> {
  /** Makes a new store that shares nothing with any other; called once for each law. */
  readonly layer: (options: MemoryStore.Options) => Layer.Layer<Services, E, R>
  /** Lets this many milliseconds pass, for the store and for Effect's clock. At most 10 s at a time. */
  readonly passTime: (millis: number) => Effect.Effect<void>
}

/**
 * Tests a store by a law.
 *
 * @since 0.1.0
 * @category laws
 */
export const check = <E, R>(law: StoreLaw, subject: Subject<E, R>) =>
  law.law.pipe(
    Effect.provideService(PassTime, subject.passTime),
    Effect.provide(subject.layer(law.options), { local: true })
  )
