/** Appends that may have been done without anybody knowing, and how often to look for them. */

/** An append that failed may still be done a while later: it is looked for this often. */
const looks = 2

export class DoubtfulAppends {
  private readonly left = new Map<string, number>()

  note(session: string): void {
    this.left.set(session, looks)
  }

  /** The first of them, as many as this. */
  first(most: number): ReadonlyArray<string> {
    return [...this.left.keys()].slice(0, most)
  }

  /** These were looked at; those with looks left go to the end of the line. */
  looked(sessions: ReadonlyArray<string>): void {
    for (const session of sessions) {
      const left = (this.left.get(session) ?? 0) - 1
      this.left.delete(session)
      if (left > 0) this.left.set(session, left)
    }
  }
}
