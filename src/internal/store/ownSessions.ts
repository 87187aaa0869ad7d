/** The sessions that this server has, by its own knowledge alone. */
export class OwnSessions {
  /** Sessions attached here, by generation, so that they can be claimed again after this node was taken for dead. */
  private readonly here = new Map<string, number>()
  /** Sessions that are detached and not released: handlers here may still be at work on them. */
  private readonly held = new Set<string>()

  has(session: string): boolean {
    return this.here.has(session) || this.held.has(session)
  }

  isAttached(session: string, generation: number): boolean {
    return this.here.get(session) === generation
  }

  allAttached(): ReadonlyArray<string> {
    return [...this.here.keys()]
  }

  attach(session: string, generation: number): void {
    this.here.set(session, generation)
    this.held.delete(session)
  }

  /** Whether it was attached in this generation. */
  detach(session: string, generation: number): boolean {
    if (!this.isAttached(session, generation)) return false
    this.here.delete(session)
    this.held.add(session)
    return true
  }

  release(session: string): void {
    this.held.delete(session)
  }

  forget(session: string): void {
    this.here.delete(session)
    this.held.delete(session)
  }
}
