/** Appends that may have been done without anybody knowing, and how often to look for them. */

/** How often to look: an append that failed may still be done a while later. */
const looks = 2

export class DoubtfulAppends {
  private readonly left = new Map<string, number>()

  note(session: string): void {
    this.left.set(session, looks)
  }

  /** The first `most` sessions. */
  first(most: number): ReadonlyArray<string> {
    return [...this.left.keys()].slice(0, most)
  }

  /** Counts a look at these; those with looks left go to the end of the line. */
  looked(sessions: ReadonlyArray<string>): void {
    for (const session of sessions) {
      const left = (this.left.get(session) ?? 0) - 1
      this.left.delete(session)
      if (left > 0) this.left.set(session, left)
    }
  }
}
