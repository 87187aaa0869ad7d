/**
 * A small seeded generator of pseudo-random numbers: the same seed words give the same sequence on every machine.
 * Not for secrets.
 */

export interface Prng {
  /** A number in [0, 1). */
  readonly next: () => number
  /** A whole number from `min` to `max`, both included. */
  readonly between: (min: number, max: number) => number
  /** Exponentially distributed with mean 1: the gaps between events that know nothing of each other. */
  readonly exponential: () => number
}

/** SplitMix32's finalizer (Steele, Lea and Flood 2014): spreads near-by seeds over all of 32 bits. */
const scramble = (word: number): number => {
  let z = (word + 0x9e3779b9) | 0
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
  return (z ^ (z >>> 15)) >>> 0
}

/**
 * A generator seeded by words of 32 bits, of which the order matters: `make(seed, n)` is an independent sequence
 * for each n, which makes "the nth fault" a function of the seed whatever happened before it.
 */
export const make = (...seed: ReadonlyArray<number>): Prng => {
  // sfc32 (Doty-Humphrey, PractRand): 128 bits of state, the last word a counter, hence no short cycles.
  const state = new Uint32Array([0, 0, 0, 1])
  let hash = 0
  for (const word of seed) hash = scramble(hash ^ (word >>> 0))
  for (let i = 0; i < 3; i++) state[i] = hash = scramble(hash)
  let [a = 0, b = 0, c = 0, counter = 0] = state
  const word = (): number => {
    const t = (a + b + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + t | 0
    return t >>> 0
  }
  for (let i = 0; i < 12; i++) word()
  const next = () => word() / 2 ** 32
  return {
    next,
    between: (min, max) => min + Math.floor(next() * (max - min + 1)),
    exponential: () => -Math.log(1 - next())
  }
}
