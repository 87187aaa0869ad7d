/** Which fault comes next: a pure function of a seed. */
import * as Prng from "./prng.ts"

/**
 * What a proxy does at random: `cut`, a connection ends in the middle of its bytes; `stall`, nothing of a connection
 * passes for a time; `halfOpen`, its bytes vanish; `refuse`, new connections are destroyed for a time.
 *
 * @since 0.1.0
 * @category models
 */
export type FaultKind = "cut" | "stall" | "halfOpen" | "refuse"

/**
 * A fault at random. `victim` in [0, 1) picks a connection, `at` in [0, 1) a byte of the next chunk; `n` counts from 0.
 *
 * @since 0.1.0
 * @category models
 */
export type Fault =
  /** Both sides are closed (or reset) in the middle of a chunk, whose rest is lost. */
  | { readonly kind: "cut"; readonly n: number; readonly victim: number; readonly at: number; readonly reset: boolean }
  /** Nothing is read or written, either way, for `millis`; then everything goes on. */
  | { readonly kind: "stall"; readonly n: number; readonly victim: number; readonly millis: number }
  /** From the middle of a chunk on, bytes are swallowed both ways; the sockets stay open. */
  | { readonly kind: "halfOpen"; readonly n: number; readonly victim: number; readonly at: number }
  /** New connections are destroyed at once for `millis`. */
  | { readonly kind: "refuse"; readonly n: number; readonly millis: number }

/**
 * How often each kind comes, as weights: they need not add up to anything.
 *
 * @since 0.1.0
 * @category models
 */
export type Mix = Readonly<Record<FaultKind, number>>

/**
 * Mostly cuts.
 *
 * @since 0.1.0
 * @category constants
 */
export const defaultMix: Mix = { cut: 70, stall: 15, halfOpen: 5, refuse: 10 }

/**
 * The nth fault (from 0) under a seed.
 *
 * @since 0.1.0
 * @category faults
 */
export const planFault = (seed: number, n: number, mix: Mix = defaultMix, kind?: FaultKind): Fault => {
  const random = Prng.make(seed, n)
  // Every number is drawn in this order whatever the kind, so that an overridden kind shifts nothing.
  const drawn = pickKind(mix, random.next())
  const victim = random.next()
  const at = random.next()
  const reset = random.next() < 0.3
  const stallMillis = random.between(50, 800)
  const refuseMillis = random.between(50, 500)
  switch (kind ?? drawn) {
    case "cut":
      return { kind: "cut", n, victim, at, reset }
    case "stall":
      return { kind: "stall", n, victim, millis: stallMillis }
    case "halfOpen":
      return { kind: "halfOpen", n, victim, at }
    case "refuse":
      return { kind: "refuse", n, millis: refuseMillis }
  }
}

const pickKind = (mix: Mix, point: number): FaultKind => {
  let left = point * (mix.cut + mix.stall + mix.halfOpen + mix.refuse)
  if ((left -= mix.cut) < 0) return "cut"
  if ((left -= mix.stall) < 0) return "stall"
  if ((left -= mix.halfOpen) < 0) return "halfOpen"
  return "refuse"
}
