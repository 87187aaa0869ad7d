/**
 * The log of what peers cause: one line each, without a stack, and only a limited number of each kind. The log says how
 * many lines were left out.
 */
import { Cause, Effect, FiberSet, type Scope } from "effect"

export interface RareLog {
  /** Logs a line, or counts it as left out. `kind` is the program's: peers can't make new ones. */
  readonly warn: (kind: string, message: string) => void
  readonly error: (kind: string, message: string) => void
}

interface Round {
  lines: number
  leftOut: number
  latest: string
}

/** For each kind, this many lines, and one that says how many were left out … */
const maxLines = 5
/** … in this time, in ms. */
const roundMillis = 10_000

const maxLength = 500
const maxCauses = 5

export const makeRareLog: Effect.Effect<RareLog, never, Scope.Scope> = Effect.gen(function*() {
  const run = yield* FiberSet.makeRuntime<never>()
  const rounds = new Map<string, Round>()

  const finish = (kind: string, log: Log): Effect.Effect<void> =>
    Effect.suspend(() => {
      const round = rounds.get(kind)
      rounds.delete(kind)
      return round === undefined || round.leftOut === 0
        ? Effect.void
        : log(`${round.latest} (the last of ${round.leftOut} more like this)`)
    })

  const tell = (kind: string, message: string, log: Log): void => {
    const round = rounds.get(kind)
    const line = oneLine(message)
    if (round !== undefined && ++round.lines > maxLines) {
      round.leftOut++
      round.latest = line
      return
    }
    if (round === undefined) {
      rounds.set(kind, { lines: 1, leftOut: 0, latest: "" })
      run(Effect.andThen(Effect.sleep(roundMillis), finish(kind, log)))
    }
    run(log(line))
  }

  return {
    warn: (kind, message) => tell(kind, message, Effect.logWarning),
    error: (kind, message) => tell(kind, message, Effect.logError)
  }
})

type Log = (message: string) => Effect.Effect<void>

/** Removes line breaks: in a peer's text, they could fake other lines of the log. */
const oneLine = (message: string): string => {
  const line = message.slice(0, maxLength).replace(/[\p{Cc}\u2028\u2029]+/gu, " ")
  return message.length > maxLength ? `${line}…` : line
}

/** A failure in words, without any stacks. */
export const inWords = (cause: Cause.Cause<unknown>): string => wordsOf(Cause.squash(cause))

/** An error in words, with its causes. */
export const wordsOf = (error: unknown): string => {
  const words: Array<string> = []
  for (let next = error, depth = 0; next !== undefined && depth < maxCauses; depth++) {
    words.push(next instanceof Error ? `${next.name}: ${next.message}` : String(next))
    next = next instanceof Error ? next.cause : undefined
  }
  return words.join("; ")
}
