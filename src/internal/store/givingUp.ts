/**
 * Gives up stored messages: they become gaps in their outbox, and go back to the caller to become dead letters. None is
 * reported twice, and none forgotten, also when the store fails after it has done it.
 */
import { Effect } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { GapReason } from "../../core/Protocol.ts"
import type { DeadLetterReason } from "../../WebSocketError.ts"
import type { Calls } from "./calls.ts"
import type { Chunk, Fate, Gap, OutboxState, StoreDriver, StoreError } from "./driver.ts"
import type { OutboxReader } from "./outboxReader.ts"

export interface GivenUp {
  readonly reason: DeadLetterReason
  readonly message: OutboxMessage
}

export interface GiveUpOptions {
  readonly session: string
  /** When given: only for the owner of this generation. */
  readonly generation: number | undefined
  /** Messages of earlier tries of which it is not known whether they were given up; kept for later tries. */
  readonly doubts: Array<GivenUp>
  /** Which messages; undefined gives up none, and refuses. */
  readonly pick: (messages: ReadonlyArray<OutboxMessage>, state: OutboxState) => ReadonlyArray<GivenUp> | undefined
  /** Whether the outbox's earliest expiry is to be made exact again. */
  readonly settlesExpiry: boolean
}

export type GiveUpResult =
  | { readonly given: ReadonlyArray<GivenUp>; readonly state: OutboxState }
  | "fenced"
  | "missing"
  | "refused"
  | "busy"

/** Others may change an outbox meanwhile: it is looked at again, this often at most. */
const maxLooks = 16

export const makeGivingUp = (options: {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly now: () => number
  readonly reader: OutboxReader
  /** A message is given up for certain. */
  readonly onGivenUp: (message: OutboxMessage) => void
}) => {
  const { call, driver, now, reader: { readAll } } = options

  /**
   * Gives up those messages of the outbox that `pick` names, leaving gaps. `maxLooks` times, as others may change it
   * meanwhile. What was given up and never reported, because the store failed just then, is reported now.
   */
  return Effect.fnUntraced(function*(request: GiveUpOptions): Effect.fn.Return<GiveUpResult, StoreError> {
    const { doubts, generation, pick, session, settlesExpiry } = request
    const reported: Array<GivenUp> = []
    const report = (given: GivenUp): void => {
      reported.push(given)
      options.onGivenUp(given.message)
    }
    for (let look = 0; look < maxLooks; look++) {
      const all = yield* readAll(session)
      if (all === undefined) return "missing"
      const { chunks, gaps, messages, state } = all
      if (generation !== undefined && state.generation !== generation) return "fenced"
      // Those in doubt that are gaps now were given up; the others are still there.
      for (const doubt of doubts.splice(0)) {
        const { offset } = doubt.message
        if (gaps.some(({ end, first }) => first <= offset && offset <= end)) report(doubt)
      }
      const picked = pick(messages, state)
      if (picked === undefined) return "refused"
      const expiresAt = settlesExpiry ? earliestExpiry(messages, picked) : state.expiresAt
      if (picked.length === 0 && expiresAt === state.expiresAt) return { given: reported, state }
      doubts.push(...picked)
      const merged = mergeGaps(
        gaps,
        picked.map(({ message, reason }): Gap => ({
          first: message.offset,
          end: message.offset,
          reason: gapReasonOf(reason)
        })),
        state.acked
      )
      const outcome = yield* call(
        "giveUp",
        driver.giveUp({
          session,
          revision: state.revision,
          generation,
          removeGaps: merged.removed,
          addGaps: merged.added,
          removeChunks: coveredChunks(chunks, merged.all, state.acked),
          fates: picked.map(({ message, reason }): Fate => ({
            first: message.offset,
            end: message.offset,
            reason,
            maybeHandled: reason === "fresh",
            at: now()
          })),
          expiresAt: settlesExpiry ? expiresAt : undefined
        })
      )
      if (outcome._tag === "Fenced") return "fenced"
      if (outcome._tag === "Missing") return "missing"
      if (outcome._tag === "Conflict") continue
      doubts.length = 0
      for (const given of picked) report(given)
      if (settlesExpiry && look < maxLooks - 1) {
        // What was appended since the look may expire earlier than what was just written says.
        const [after] = yield* call("outboxes", driver.outboxes([session]))
        if (after !== undefined && after.last !== state.last) continue
      }
      return { given: reported, state: { ...state, revision: outcome.revision, expiresAt } }
    }
    return "busy"
  })
}

const gapReasonOf = (reason: DeadLetterReason): GapReason =>
  reason === "expired" || reason === "overflow" || reason === "fresh" ? reason : "sessionEnded"

/** When the first of the messages that are left expires. */
const earliestExpiry = (messages: ReadonlyArray<OutboxMessage>, picked: ReadonlyArray<GivenUp>): number => {
  const gone = new Set(picked.map(({ message }) => message))
  let earliest = Infinity
  for (const message of messages) if (!gone.has(message)) earliest = Math.min(earliest, message.expiresAt)
  return earliest
}

/** The gaps with new ones among them, neighbours with one reason made one. */
const mergeGaps = (gaps: ReadonlyArray<Gap>, added: ReadonlyArray<Gap>, acked: number) => {
  const sorted = [...gaps, ...added].sort((a, b) => a.first - b.first)
  const all: Array<Gap> = []
  for (const gap of sorted) {
    if (gap.end <= acked) continue
    const previous = all[all.length - 1]
    if (previous !== undefined && previous.reason === gap.reason && previous.end + 1 === gap.first) {
      all[all.length - 1] = { ...previous, end: gap.end }
    } else all.push(gap)
  }
  const isIn = (list: ReadonlyArray<Gap>, gap: Gap): boolean =>
    list.some((other) => other.first === gap.first && other.end === gap.end && other.reason === gap.reason)
  return {
    all,
    added: all.filter((gap) => !isIn(gaps, gap)),
    removed: gaps.filter((gap) => !isIn(all, gap)).map(({ first }) => first)
  }
}

/** `last` of chunks of which nothing is left but what is acked or in gaps. */
const coveredChunks = (chunks: ReadonlyArray<Chunk>, gaps: ReadonlyArray<Gap>, acked: number): ReadonlyArray<number> =>
  chunks.filter(({ first, last }) => {
    let next = Math.max(first, acked + 1)
    for (const gap of gaps) if (gap.first <= next && gap.end >= next) next = gap.end + 1
    return next > last
  }).map(({ last }) => last)
