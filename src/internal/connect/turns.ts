/**
 * Limits the handshakes that begin in one turn of the event loop, so that newcomers don't delay everybody else. The
 * rest stand in a line in which shares take turns.
 */
import { Rounds } from "../bounds/rounds.ts"

interface Waiting {
  readonly share: string
  readonly begin: () => void
}

/** `later` runs a task in the next turn. */
export const makeTurns = (perTurn: number, later: (task: () => void) => void) => {
  const inLine = new Rounds<Waiting>()
  let begun = 0

  const next = (): void => {
    begun = 0
    try {
      while (begun < perTurn) {
        const waiting = inLine.take()
        if (waiting === undefined) break
        begun++
        waiting.begin()
      }
    } finally { // one that throws must not hold up the rest
      if (begun > 0) later(next)
    }
  }

  /** Calls `begin` now, or in a later turn. */
  return (share: string, begin: () => void): void => {
    if (begun >= perTurn) return inLine.add({ share, begin })
    if (begun++ === 0) later(next)
    begin()
  }
}
