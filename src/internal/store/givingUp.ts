/**
 * Gives up stored messages: they become gaps in their outbox, and go back to the caller to become dead letters. None is
 * reported twice and none forgotten, even when the store fails after giving them up.
 */
import { Effect, Exit, type Random } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { FateReason, GapReason } from "../../core/Protocol.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"
import type { Chunk, Fate, Gap, GiveUpRequest, OutboxState } from "./outboxes.ts"
import type { Contents, OutboxReader } from "./outboxReader.ts"

export interface GivenUp {
  readonly reason: FateReason
  readonly message: OutboxMessage
}

/** A message that was being given up when something failed: nobody has been told. */
export interface Doubt extends GivenUp {
  /** If the message was given up, its fate has this time, which no other try has. */
  readonly at: number
  /** Whether it is known to be given up. */
  readonly isCertain: boolean
}

/** Doubts of one outbox. Several tries may run at once: each takes all there are, and puts back what is left. */
export interface Doubts {
  readonly take: () => Array<Doubt>
  readonly put: (left: ReadonlyArray<Doubt>) => void
}

/** Others may change an outbox meanwhile: it is read again, at most this often. */
const maxLooks = 16
/**
 * Every millisecond has this many parts, and each server has one as its own; a time of today has no digits for more.
 */
const shares = 4_096

/** Doubts of many outboxes. */
export class DoubtLedger<Key> {
  private readonly held = new Map<Key, ReadonlyArray<Doubt>>()

  has(key: Key): boolean {
    return this.held.has(key)
  }

  keys(): ReadonlyArray<Key> {
    return [...this.held.keys()]
  }

  take(key: Key): Array<Doubt> {
    const doubts = this.held.get(key)
    this.held.delete(key)
    return doubts === undefined ? [] : [...doubts]
  }

  of(key: Key): Doubts {
    return {
      take: () => this.take(key),
      put: (left) => {
        if (left.length > 0) this.held.set(key, [...this.held.get(key) ?? [], ...left])
      }
    }
  }
}

export interface GiveUpOptions {
  readonly session: string
  /** When given, only the owner of this generation may give up. */
  readonly generation: number | undefined
  /** Holds what earlier tries left untold; this try leaves its own there if it fails. */
  readonly doubts: Doubts
  /** Which messages to give up; undefined gives up none, and refuses. */
  readonly pick: (messages: ReadonlyArray<OutboxMessage>, state: OutboxState) => ReadonlyArray<GivenUp> | undefined
  /** Whether to make the outbox's earliest expiry exact again. */
  readonly settlesExpiry: boolean
}

export type GiveUpResult =
  | { readonly given: ReadonlyArray<GivenUp>; readonly state: OutboxState }
  | "fenced"
  | "missing"
  | "refused"
  | "busy"

/** A random part of a millisecond. Two servers rarely draw the same; none gets part 0, which belongs to acks. */
export const shareOf = (random: (typeof Random.Random)["Service"]): number =>
  (1 + Math.floor(random.nextDoubleUnsafe() * (shares - 1))) / shares

/** Times of tries, each used once: several tries may be under way at the same time, here and at other servers. */
class Stamps {
  private readonly share: number
  /** When each outbox was last tried, for outboxes that could be tried again in the same millisecond. */
  private readonly last = new Map<string, number>()

  /** `share` is this server's own part of a millisecond, see {@link shareOf}. */
  constructor(share: number) {
    this.share = share
  }

  next(session: string, now: number): number {
    const time = Math.floor(now) + this.share
    for (const [other, last] of this.last) {
      if (last >= time) break
      this.last.delete(other)
    }
    const at = Math.max(time, (this.last.get(session) ?? -Infinity) + 1)
    this.last.delete(session) // to the end
    this.last.set(session, at)
    return at
  }
}

export interface GivingUpOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly now: () => number
  /** This server's own part of a millisecond, see {@link shareOf}. */
  readonly share: number
  readonly reader: OutboxReader
  /** The fates of an outbox that is gone. */
  readonly gone: (session: string) => ReadonlyArray<Fate>
  /** A message is certainly given up. */
  readonly onGivenUp: (message: OutboxMessage) => void
}

export type GivingUp = ReturnType<typeof makeGivingUp>

export const makeGivingUp = (options: GivingUpOptions) => {
  const { call, driver, now, reader: { readAll } } = options

  const stamps = new Stamps(options.share)

  /** How many tries are under way, by session. */
  const trying = new Map<string, number>()
  const count = (session: string, change: number): void => {
    const tries = (trying.get(session) ?? 0) + change
    if (tries > 0) trying.set(session, tries)
    else trying.delete(session)
  }

  /**
   * Gives up the outbox's messages that `pick` names, leaving gaps; reads it again when others have changed it
   * meanwhile. Also reports what an earlier try left untold.
   */
  const giveUp = (wanted: GiveUpOptions): Effect.Effect<GiveUpResult, StoreError> =>
    Effect.suspend(() => {
      count(wanted.session, 1)
      const { generation, pick, session, settlesExpiry } = wanted
      const doubts = wanted.doubts.take()
      const reported: Array<GivenUp> = []
      /** Reported when this try succeeds, and still in doubt when it fails. */
      const report = (given: ReadonlyArray<GivenUp>): void => {
        for (const one of given) {
          reported.push(one)
          options.onGivenUp(one.message)
        }
      }
      const certain = (): ReadonlyArray<Doubt> =>
        reported.map(({ message, reason }) => ({ message, reason, at: 0, isCertain: true }))
      const attempt = Effect.gen(function*(): Effect.fn.Return<GiveUpResult, StoreError> {
        for (let look = 0; look < maxLooks; look++) {
          const all = yield* readAll(session)
          for (const doubt of doubts.length === 0 ? [] : yield* confirmed(options, session, doubts)) {
            if (doubt.isCertain) reported.push(doubt)
            else report([doubt])
          }
          doubts.length = 0
          if (all === undefined) return "missing"
          const { messages, state } = all
          if (generation !== undefined && state.generation !== generation) return "fenced"
          const given = pick(messages, state)
          if (given === undefined) return "refused"
          const expiresAt = settlesExpiry ? earliestExpiry(messages, given) : state.expiresAt
          if (given.length === 0 && expiresAt === state.expiresAt) return { given: reported, state }
          const at = stamps.next(session, now())
          const picked = given.map(({ message, reason }): Doubt => ({ message, reason, at, isCertain: false }))
          doubts.push(...picked)
          const outcome = yield* call("giveUp", driver.giveUp(requestOf(wanted, all, picked, expiresAt)))
          doubts.length = 0
          if (outcome._tag === "Fenced") return "fenced"
          if (outcome._tag === "Missing") return "missing"
          if (outcome._tag === "Conflict") continue
          report(given)
          if (settlesExpiry && look < maxLooks - 1) {
            // Messages appended since the read may expire earlier than the expiry just written.
            const [after] = yield* call("outboxes", driver.outboxes([session]))
            if (after !== undefined && after.last !== state.last) continue
          }
          return { given: reported, state: { ...state, revision: outcome.revision, expiresAt } }
        }
        return "busy"
      })
      return Effect.onExit(attempt, (exit) =>
        Effect.sync(() => {
          count(session, -1)
          const isTold = Exit.isSuccess(exit) && typeof exit.value !== "string"
          wanted.doubts.put(isTold ? doubts : [...certain(), ...doubts])
        }))
    })

  return { giveUp, isTrying: (session: string): boolean => trying.has(session) }
}

/** The doubts that this server has given up after all: others may have given up the same messages meanwhile. */
const confirmed = (
  { gone, reader: { readFates } }: Pick<GivingUpOptions, "gone" | "reader">,
  session: string,
  doubts: ReadonlyArray<Doubt>
): Effect.Effect<ReadonlyArray<Doubt>, StoreError> => {
  if (doubts.every(({ isCertain }) => isCertain)) return Effect.succeed(doubts)
  const offsets = doubts.map(({ message }) => message.offset)
  return Effect.map(
    readFates(session, offsets),
    (stored) => {
      const fates = [...stored, ...gone(session)]
      return doubts.filter(({ at, isCertain, message: { offset } }) =>
        isCertain || fates.some((fate) => fate.first <= offset && offset <= fate.end && fate.at === at)
      )
    }
  )
}

/** What the store is asked to do: the gaps to add, and what they replace. */
const requestOf = (
  { session, generation, settlesExpiry }: GiveUpOptions,
  { chunks, gaps, state }: Contents,
  picked: ReadonlyArray<Doubt>,
  expiresAt: number
): GiveUpRequest => {
  const added = picked.map(({ message, reason }): Gap => ({
    first: message.offset,
    end: message.offset,
    reason: gapReasonOf(reason)
  }))
  const merged = mergeGaps(gaps, added, state.acked)
  return {
    session,
    revision: state.revision,
    generation,
    removeGaps: merged.removed,
    addGaps: merged.added,
    removeChunks: coveredChunks(chunks, merged.all, state.acked),
    fates: picked.map(({ at, message, reason }): Fate => ({
      first: message.offset,
      end: message.offset,
      reason,
      maybeHandled: reason === "fresh",
      at
    })),
    expiresAt: settlesExpiry ? expiresAt : undefined
  }
}

const gapReasonOf = (reason: FateReason): GapReason =>
  reason === "expired" || reason === "overflow" || reason === "fresh" ? reason : "sessionEnded"

/** When the first of the remaining messages expires. */
const earliestExpiry = (messages: ReadonlyArray<OutboxMessage>, picked: ReadonlyArray<GivenUp>): number => {
  const gone = new Set(picked.map(({ message }) => message))
  let earliest = Infinity
  for (const message of messages) if (!gone.has(message)) earliest = Math.min(earliest, message.expiresAt)
  return earliest
}

/** The gaps with the new ones added; neighbours with the same reason become one. */
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

/** `last` of the chunks in which everything is acked or in gaps. */
const coveredChunks = (chunks: ReadonlyArray<Chunk>, gaps: ReadonlyArray<Gap>, acked: number): ReadonlyArray<number> =>
  chunks.filter(({ first, last }) => {
    let next = Math.max(first, acked + 1)
    for (const gap of gaps) if (gap.first <= next && gap.end >= next) next = gap.end + 1
    return next > last
  }).map(({ last }) => last)
