/**
 * Unhandled messages kept as text while memory is scarce. This is for messages whose parsed value takes many times the
 * memory of their text. They are parsed again when their turn comes, a few at a time. Otherwise a hundred small frames,
 * each waiting for a slow handler, could take gigabytes.
 */
import { Effect } from "effect"
import { utf8Length } from "../../core/utf8.ts"
import { memoryOf, messageBytes } from "../kit/weight.ts"
import type { Delivery } from "../session/incoming.ts"

/** Values that take less than this are not packed, in bytes. */
const worthPacking = 64 * 1024
/** The most that a value can take for each UTF-16 unit of its text, as estimated, in bytes: `[[[…]]]`. */
const maxBytesAUnit = 40

class Packed {
  readonly text: string
  /** Memory that the value will take, in bytes … */
  readonly bytes: number
  /** … at most, since it was never parsed. */
  readonly isGuess: boolean

  constructor(text: string, bytes: number, isGuess: boolean) {
    this.text = text
    this.bytes = bytes
    this.isGuess = isGuess
  }

  get packedBytes(): number {
    return messageBytes + (utf8Length(this.text) === this.text.length ? 1 : 2) * this.text.length
  }
}

/** Packs the delivery's value if that is worth it. Returns the memory that the delivery takes, in bytes. */
export const pack = (delivery: Delivery): number => {
  if (delivery.kind === "gap") return messageBytes
  if (delivery.value instanceof Packed) return delivery.value.packedBytes
  const bytes = memoryOf(delivery.value)
  if (bytes < worthPacking || typeof delivery.value === "string") return messageBytes + bytes
  const packed = new Packed(JSON.stringify(delivery.value), bytes, false)
  const { packedBytes } = packed
  if (packedBytes * 2 > bytes) return messageBytes + bytes
  delivery.value = packed
  return packedBytes
}

/**
 * A plain peer's text, parsed only when its turn comes: a megabyte of small objects takes 100 ms to parse and pack. The
 * memory it will take is not known, only an upper bound.
 */
export const packText = (text: string): unknown => new Packed(text, text.length * maxBytesAUnit, true)

export const isWorthPacking = (bytes: number): boolean => bytes >= worthPacking

/** Plain peers send JSON or any other text: text that is not JSON is its own value. */
export const parsePlain = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

export const isPacked = (delivery: Delivery): boolean => delivery.kind !== "gap" && delivery.value instanceof Packed

/** Unpacks values of at most `maxBytes` at a time, or a single larger one. */
export const makeUnpacking = (maxBytes: number) => {
  /** Unpacked deliveries that are not done, with their sizes. */
  const sizes = new Map<Delivery, number>()
  let unpacked = 0
  const waiting = new Map<Delivery, { readonly bytes: number; readonly go: () => void }>()

  const fits = (bytes: number): boolean => unpacked === 0 || unpacked + bytes <= maxBytes

  const take = (delivery: Delivery): void => {
    if (delivery.kind === "gap" || !(delivery.value instanceof Packed)) return
    const { bytes, isGuess, text } = delivery.value
    delivery.value = parsePlain(text)
    const taken = isGuess ? memoryOf(delivery.value) : bytes
    unpacked += taken
    sizes.set(delivery, taken)
  }

  /** Unpacks the delivery when there is room. */
  const unpack = (delivery: Delivery): Effect.Effect<void> =>
    Effect.callback((resume) => {
      const bytes = delivery.kind !== "gap" && delivery.value instanceof Packed ? delivery.value.bytes : 0
      const go = () => {
        take(delivery)
        // Not synchronously: each delivery that is done starts the next, which would nest without end.
        resume(Effect.yieldNow)
      }
      if (waiting.size === 0 && fits(bytes)) return go()
      waiting.set(delivery, { bytes, go })
      return Effect.sync(() => void waiting.delete(delivery))
    })

  /** The delivery is handled, or given up. */
  const done = (delivery: Delivery): void => {
    if (sizes.size === 0) return
    unpacked -= sizes.get(delivery) ?? 0
    if (!sizes.delete(delivery)) return
    for (const [next, { bytes, go }] of waiting) {
      if (!fits(bytes)) return
      waiting.delete(next)
      go()
    }
  }

  return { unpack, done }
}
