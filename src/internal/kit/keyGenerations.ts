/** Keys that expire in O(1): the structures behind the memory `Deduplicator`. Pure: the time is passed in. */

/**
 * A map that forgets its keys after a while in O(1), by two generations: keys are written to the current one and read
 * from both, and every `windowMillis` the previous one is dropped whole. So a key lives between one and two windows,
 * and costs no timestamp, no timer and no sweep.
 *
 * Rotation is lazy. Call `advance` with the time before reading or writing: it catches up with any idle time.
 *
 * A generation holds at most `maxKeys`, so both together twice that: call `rotateIfFull` before `set`. It keeps the
 * bound by rotating early. Nothing else shortens a key's life below a window.
 */
export class KeyGenerations<V> {
  readonly maxKeys: number
  private current = new Map<string, V>()
  private previous = new Map<string, V>()
  private rotatedAt: number
  private window: number

  constructor(windowMillis: number, maxKeys: number, now: number) {
    this.window = windowMillis
    this.maxKeys = maxKeys
    this.rotatedAt = now
  }

  get size(): number {
    return this.current.size + this.previous.size
  }

  /** How many keys the current generation holds: these count against `maxKeys`. */
  get currentSize(): number {
    return this.current.size
  }

  get windowMillis(): number {
    return this.window
  }

  /** When `advance` will next have something to do; `Infinity` when there is nothing to forget. */
  get rotatesAt(): number {
    return this.size === 0 ? Infinity : this.rotatedAt + this.window
  }

  get(key: string): V | undefined {
    return this.current.get(key) ?? this.previous.get(key)
  }

  set(key: string, value: V): void {
    this.previous.delete(key)
    this.current.set(key, value)
  }

  /** Drops the generations whose time is over. Returns whether it dropped any. */
  advance(now: number): boolean {
    const elapsed = now - this.rotatedAt
    if (elapsed < this.window) {
      // The clock went back: count the window from here, or nothing would be forgotten until the clock caught up.
      if (elapsed < 0) this.rotatedAt = now
      return false
    }
    // Nothing was written after rotatedAt + window without a rotation, so after two windows both are over.
    this.rotate(now - (elapsed % this.window))
    if (elapsed >= 2 * this.window) this.previous = new Map()
    return true
  }

  /**
   * Rotates early when the current generation and `held` other keys (not written yet, but promised a place) fill
   * `maxKeys`. Returns whether it did, and so forgot keys before their time.
   */
  rotateIfFull(held: number, now: number): boolean {
    if (this.current.size + held < this.maxKeys) return false
    this.rotate(now)
    return true
  }

  /** From now on keys live for this window; keys already held live at least one such window from when they came. */
  setWindow(windowMillis: number, now: number): void {
    this.advance(now)
    this.window = windowMillis
    // A shorter window may be over already. Then everything in `previous` is older than it, but what is in `current`
    // may have come a moment ago and needs a whole window.
    if (now - this.rotatedAt >= windowMillis) this.rotate(now)
  }

  private rotate(at: number): void {
    this.previous = this.current
    this.current = new Map()
    this.rotatedAt = at
  }
}

/** The result of a claim: that of `claim` of the `Deduplicator`, in plain values. */
export type Claimed<Receipt> =
  | { readonly _tag: "Claimed"; readonly token: string; readonly early: boolean }
  | { readonly _tag: "InFlight"; readonly retryAfterMillis: number }
  | { readonly _tag: "Duplicate"; readonly receipt: Receipt }
  | { readonly _tag: "Mismatch"; readonly receipt: Receipt | undefined }
  | { readonly _tag: "Full" }

interface Held {
  readonly token: string
  readonly until: number
  readonly fingerprint: string | undefined
}

interface Done<Receipt> {
  readonly receipt: Receipt
  readonly fingerprint: string | undefined
}

/**
 * Keys that are claimed for a while, then committed with a receipt and remembered for a window, or released.
 * Everything is O(1) amortised.
 */
export class ClaimTable<Receipt> {
  private readonly done: KeyGenerations<Done<Receipt>>
  // Insertion order is the order in which leases end: all are equally long, and a key claimed again is inserted anew.
  private readonly held = new Map<string, Held>()
  readonly leaseMillis: number
  private lastToken = 0

  constructor(options: {
    readonly windowMillis: number
    readonly leaseMillis: number
    readonly maxKeys: number
    readonly now: number
  }) {
    this.done = new KeyGenerations(options.windowMillis, options.maxKeys, options.now)
    this.leaseMillis = options.leaseMillis
  }

  get windowMillis(): number {
    return this.done.windowMillis
  }

  /** How many keys are committed, and how many claimed, as of the last `advance`. */
  get sizes(): { readonly keys: number; readonly inFlight: number } {
    return { keys: this.done.size, inFlight: this.held.size }
  }

  /** Forgets keys whose window is over, and claims whose lease is over. All timed operations below do this first. */
  advance(now: number): void {
    this.done.advance(now)
    for (const [key, claim] of this.held) {
      if (claim.until > now) return
      this.held.delete(key)
    }
  }

  claim(key: string, fingerprint: string | undefined, now: number): Claimed<Receipt> {
    this.advance(now)
    const done = this.done.get(key)
    if (done !== undefined) {
      if (differ(done.fingerprint, fingerprint)) return { _tag: "Mismatch", receipt: done.receipt }
      return { _tag: "Duplicate", receipt: done.receipt }
    }
    const held = this.held.get(key)
    if (held !== undefined) {
      if (differ(held.fingerprint, fingerprint)) return { _tag: "Mismatch", receipt: undefined }
      return { _tag: "InFlight", retryAfterMillis: held.until - now }
    }
    if (!this.hasRoom) return { _tag: "Full" }
    const early = this.done.rotateIfFull(this.held.size, now)
    const token = String(++this.lastToken)
    this.held.set(key, { token, until: now + this.leaseMillis, fingerprint })
    return { _tag: "Claimed", token, early }
  }

  /** Restarts the lease, if the key is still held under this token. */
  renew(key: string, token: string, now: number): boolean {
    this.advance(now)
    const held = this.held.get(key)
    if (held?.token !== token) return false
    this.held.delete(key)
    this.held.set(key, { ...held, until: now + this.leaseMillis })
    return true
  }

  /** Returns whether the key was still held under this token; only then is it committed. */
  commit(key: string, token: string, receipt: Receipt, now: number): boolean {
    this.advance(now)
    const held = this.held.get(key)
    if (held?.token !== token) return false
    this.held.delete(key)
    this.done.set(key, { receipt, fingerprint: held.fingerprint })
    return true
  }

  release(key: string, token: string): void {
    if (this.held.get(key)?.token === token) this.held.delete(key)
  }

  lookup(key: string, now: number): Receipt | undefined {
    this.advance(now)
    return this.done.get(key)?.receipt
  }

  setWindow(windowMillis: number, now: number): void {
    this.done.setWindow(windowMillis, now)
  }

  // Rotating makes room only by forgetting committed keys: with most keys in flight, it would soon forget all of those.
  private get hasRoom(): boolean {
    const { currentSize, maxKeys } = this.done
    return this.held.size <= currentSize || this.held.size + currentSize < maxKeys
  }
}

const differ = (a: string | undefined, b: string | undefined): boolean => a !== undefined && b !== undefined && a !== b
