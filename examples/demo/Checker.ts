/**
 * The independent judge of a run: from what senders were told was accepted and what handlers saw, and from nothing
 * else, it finds what was lost, handled twice, out of order or changed. It imports nothing, least of all the library.
 *
 * **Details**
 *
 * Message i of a stream always has the same text ({@link StreamCheck.text}), so nothing of what was sent need be
 * kept: a stream costs one bit a message. Streams start at different lines, so that a message that strays into
 * another stream has the wrong text there.
 */

export type Direction = "toServer" | "toClient"

export type FindingKind = "lost" | "duplicated" | "reordered" | "corrupted"

export interface Finding {
  readonly kind: FindingKind
  readonly direction: Direction
  readonly stream: string
  /** The message's number in its stream; of a range, the first. */
  readonly index: number
  readonly detail: string
}

/** Numbers of messages. */
export interface Tally {
  /** Accepted from the sender. */
  readonly sent: number
  /** Calls of the handler. */
  readonly handled: number
  /** Sent, and never handled. */
  readonly lost: number
  /** Handled again: calls beyond the first. */
  readonly duplicated: number
  /** Handled for the first time, after a later one had been. */
  readonly reordered: number
  /** Handled with another text than was sent, or never sent. */
  readonly corrupted: number
}

export interface Verdict {
  /** Nothing was lost, duplicated, reordered or corrupted. */
  readonly ok: boolean
  readonly toServer: Tally
  readonly toClient: Tally
  readonly total: Tally
  /** The first findings, at most `maxFailures`. */
  readonly failures: ReadonlyArray<Finding>
}

export interface Options {
  /** The lines that messages are made of, at least one. */
  readonly lines: ReadonlyArray<string>
  /** The highest number of messages in one stream, which bounds its memory (a bit each). Default 10,000,000. */
  readonly maxPerStream?: number | undefined
  /** How many findings are kept in detail. Default 10. */
  readonly maxFailures?: number | undefined
}

/** One session's messages in one direction. */
export interface StreamCheck {
  /** What message `index` (from 0) says. */
  readonly text: (index: number) => string
  /** The next `count` messages, in order, were accepted from the sender. Default 1. */
  readonly sent: (count?: number) => void
  /** A handler was given this. */
  readonly handled: (index: number, text: string) => void
}

export interface Checker {
  /** The check of one stream: the same one for the same names. */
  readonly stream: (direction: Direction, name: string) => StreamCheck
  /** Cheap, for showing progress; what is lost is only known at the end. */
  readonly progress: (direction: Direction) => { readonly sent: number; readonly handled: number }
  /** To be asked when all is over. */
  readonly verdict: () => Verdict
}

interface StreamState {
  readonly direction: Direction
  readonly name: string
  /** The line of message 0. */
  readonly start: number
  sent: number
  handled: number
  /** Distinct messages handled; their numbers are the bits of `seen`. */
  distinct: number
  highest: number
  seen: Uint32Array
  duplicated: number
  reordered: number
  corrupted: number
}

/** A checker that has seen nothing. Throws a `RangeError` if there are no lines. */
export const make = (options: Options): Checker => {
  const { lines, maxFailures = 10, maxPerStream = 10_000_000 } = options
  if (lines.length === 0) throw new RangeError("a checker needs at least one line")
  const streams = new Map<string, StreamCheck>()
  const states: Array<StreamState> = []
  const failures: Array<Finding> = []

  const textAt = (state: StreamState, index: number): string => lines[(state.start + index) % lines.length] ?? ""

  const report = (state: StreamState, kind: FindingKind, index: number, detail: string) => {
    if (failures.length < maxFailures) {
      failures.push({ kind, direction: state.direction, stream: state.name, index, detail })
    }
  }

  const handled = (state: StreamState, index: number, text: string) => {
    state.handled++
    if (!Number.isInteger(index) || index < 0 || index >= maxPerStream) {
      state.corrupted++
      return report(state, "corrupted", index, `no such message: number ${index}`)
    }
    if (isSeen(state, index)) {
      state.duplicated++
      return report(state, "duplicated", index, "handled again")
    }
    mark(state, index)
    state.distinct++
    const expected = textAt(state, index)
    if (text !== expected) {
      state.corrupted++
      report(state, "corrupted", index, `got ${excerpt(text)} instead of ${excerpt(expected)}`)
    }
    if (index < state.highest) {
      state.reordered++
      report(state, "reordered", index, `handled after message ${state.highest}`)
    } else {
      state.highest = index
    }
  }

  const open = (direction: Direction, name: string): StreamCheck => {
    const state: StreamState = {
      direction,
      name,
      start: hash(`${direction} ${name}`) % lines.length,
      sent: 0,
      handled: 0,
      distinct: 0,
      highest: -1,
      seen: new Uint32Array(32),
      duplicated: 0,
      reordered: 0,
      corrupted: 0
    }
    states.push(state)
    return {
      text: (index) => textAt(state, index),
      sent: (count = 1) => {
        state.sent += count
      },
      handled: (index, text) => handled(state, index, text)
    }
  }

  return {
    stream: (direction, name) => {
      const key = `${direction} ${name}`
      const known = streams.get(key)
      if (known !== undefined) return known
      const stream = open(direction, name)
      streams.set(key, stream)
      return stream
    },
    progress: (direction) => {
      let sent = 0
      let handled = 0
      for (const state of states) {
        if (state.direction !== direction) continue
        sent += state.sent
        handled += state.handled
      }
      return { sent, handled }
    },
    verdict: () => {
      const tally = { toServer: emptyTally, toClient: emptyTally }
      const late: Array<Finding> = []
      for (const state of states) {
        const strays = straysOf(state)
        const lost = state.sent - (state.distinct - strays)
        tally[state.direction] = add(tally[state.direction], { ...state, lost, corrupted: state.corrupted + strays })
        if (late.length >= maxFailures) continue
        const { direction, name: stream } = state
        if (strays > 0) {
          const detail = `${strays} handled with numbers that were never sent`
          late.push({ kind: "corrupted", direction, stream, index: state.sent, detail })
        }
        if (lost > 0) {
          const { first, last } = firstGap(state)
          const detail = `never handled: ${first === last ? first : `${first} to ${last}`}, ${lost} in all`
          late.push({ kind: "lost", direction, stream, index: first, detail })
        }
      }
      const total = add(tally.toServer, tally.toClient)
      return {
        ...tally,
        total,
        ok: total.lost + total.duplicated + total.reordered + total.corrupted === 0,
        failures: [...failures, ...late].slice(0, maxFailures)
      }
    }
  }
}

const emptyTally: Tally = { sent: 0, handled: 0, lost: 0, duplicated: 0, reordered: 0, corrupted: 0 }

const add = (a: Tally, b: Tally): Tally => ({
  sent: a.sent + b.sent,
  handled: a.handled + b.handled,
  lost: a.lost + b.lost,
  duplicated: a.duplicated + b.duplicated,
  reordered: a.reordered + b.reordered,
  corrupted: a.corrupted + b.corrupted
})

const isSeen = (state: StreamState, index: number): boolean =>
  ((state.seen[index >>> 5] ?? 0) & (1 << (index & 31))) !== 0

const mark = (state: StreamState, index: number): void => {
  const word = index >>> 5
  if (word >= state.seen.length) {
    const larger = new Uint32Array(Math.max(word + 1, state.seen.length * 2))
    larger.set(state.seen)
    state.seen = larger
  }
  state.seen[word] = (state.seen[word] ?? 0) | (1 << (index & 31))
}

/** How many messages were handled though the stream never had so many. */
const straysOf = (state: StreamState): number => {
  let strays = 0
  for (let i = state.sent; i <= state.highest; i++) if (isSeen(state, i)) strays++
  return strays
}

const firstGap = (state: StreamState): { readonly first: number; readonly last: number } => {
  let first = 0
  while (isSeen(state, first)) first++
  let last = first
  while (last + 1 < state.sent && !isSeen(state, last + 1)) last++
  return { first, last }
}

/** FNV-1a, 32 bits. */
const hash = (text: string): number => {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return value >>> 0
}

const excerpt = (text: unknown): string => {
  if (typeof text !== "string") return String(text)
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text)
}
