/**
 * Unhandled messages kept as text while memory is scarce. They are those whose parsed value takes many times the memory
 * of their text, and are parsed again when their turn comes, a few at once. Without that, a hundred small frames with
 * slow handlers could take gigabytes.
 */
import { Effect } from "effect"
import { utf8Length } from "../../core/utf8.ts"
import { memoryOf, messageBytes } from "../kit/weight.ts"
import type { Delivery } from "../session/incoming.ts"

/** Less is not worth it, in bytes. */
const worthPacking = 64 * 1024
/** The most that a value is estimated to take for each unit of its text, in bytes: that of `[[[…]]]`. */
const maxBytesAUnit = 40

class Packed {
  readonly text: string
  /** The memory that its value will take … */
  readonly bytes: number
  /** … at most, as it was never parsed. */
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

/** Packs the delivery's value if that is worth it. Returns what the delivery takes, in bytes. */
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
 * A plain peer's text, to be parsed when its turn comes: a megabyte of small objects takes a tenth of a second to parse
 * and pack. What it will take is not known, only what it can.
 */
export const packText = (text: string): unknown => new Packed(text, text.length * maxBytesAUnit, true)

export const isWorthPacking = (bytes: number): boolean => bytes >= worthPacking

/** Plain peers send JSON or any other text: what is not JSON is the text itself. */
export const parsePlain = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

export const isPacked = (delivery: Delivery): boolean => delivery.kind !== "gap" && delivery.value instanceof Packed

/** Unpacks values of at most `maxBytes` at once, or a single one. */
export const makeUnpacking = (maxBytes: number) => {
  /** What is unpacked and not done with. */
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
        // Later, not here: each that is done lets the next one go.
        resume(Effect.yieldNow)
      }
      if (waiting.size === 0 && fits(bytes)) return go()
      waiting.set(delivery, { bytes, go })
      return Effect.sync(() => void waiting.delete(delivery))
    })

  /** It is done with, one way or the other. */
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
