/** A line in which shares take turns, so that a share with few members is served soon. Pure. */
export class Rounds<A extends { readonly share: string }> {
  /** Shares in the order in which they are served; some may be empty. */
  private readonly shares = new Map<string, Set<A>>()
  private readonly places = new Map<A, Set<A>>()

  get size(): number {
    return this.places.size
  }

  /** Puts the member at the end of its share's line, unless it is already in line. */
  add(member: A): void {
    if (this.places.has(member)) return
    let share = this.shares.get(member.share)
    if (share === undefined) this.shares.set(member.share, share = new Set())
    share.add(member)
    this.places.set(member, share)
  }

  delete(member: A): void {
    this.places.get(member)?.delete(member)
    this.places.delete(member)
  }

  /** Takes the next member. After that it is the other shares' turn. */
  take(): A | undefined {
    for (const [name, share] of this.shares) {
      this.shares.delete(name)
      const member = share.values().next().value
      if (member === undefined) continue
      this.delete(member)
      if (share.size > 0) this.shares.set(name, share)
      return member
    }
    return undefined
  }
}
