/**
 * Who gives way when there is no room for a newcomer: a member of the largest share, if the newcomer's is smaller.
 * Everything takes constant time, except for a heap of shares. Pure.
 */
import { DeadlineHeap } from "../kit/deadlineHeap.ts"

/** Whether a member may have to give way, and how soon; undefined for never. */
export type Spare = "first" | "next" | undefined

/** A member's share and standing. Only its crowd writes them. */
export interface Member {
  share: string
  spare: Spare
}

/** The members of one share. */
class Group<A extends Member> {
  readonly name: string
  size = 0
  /** Members that may give way, the longest there first. Made with the first one. */
  first: Set<A> | undefined
  next: Set<A> | undefined
  /** Its place in the ranking: minus its size when it was ranked; 0 while it is not ranked. */
  rankedAt = 0

  constructor(name: string) {
    this.name = name
  }

  put(member: A, spare: Spare): void {
    this.remove(member)
    member.spare = spare
    if (spare === "first") (this.first ??= new Set()).add(member)
    else if (spare === "next") (this.next ??= new Set()).add(member)
  }

  remove(member: A): void {
    if (member.spare === "first") this.first?.delete(member)
    else if (member.spare === "next") this.next?.delete(member)
    member.spare = undefined
  }
}

export class Crowd<A extends Member> {
  /** Each share's group, or its only member: most shares have just one. */
  private readonly groups = new Map<string, Group<A> | A>()
  /** Groups with a member that may give way, the largest first. A lone member never has to. */
  private readonly ranking = new DeadlineHeap<Group<A>>((group, at) =>
    group.rankedAt === at && this.groups.get(group.name) === group
  )
  /** Computes a member's current standing. */
  private readonly standing: (member: A) => Spare
  private total = 0

  constructor(standing: (member: A) => Spare) {
    this.standing = standing
  }

  get size(): number {
    return this.total
  }

  /** How many shares there are. */
  get shares(): number {
    return this.groups.size
  }

  sizeOf(share: string): number {
    const group = this.groups.get(share)
    if (group === undefined) return 0
    return group instanceof Group ? group.size : 1
  }

  add(member: A, share: string): void {
    member.share = share
    member.spare = undefined
    const before = this.groups.get(share)
    this.total++
    if (before === undefined) this.groups.set(share, member)
    else (before instanceof Group ? before : this.groupOf(before)).size++
    this.place(member)
  }

  delete(member: A): void {
    const group = this.groups.get(member.share)
    if (group === undefined) return
    if (!(group instanceof Group)) {
      if (group !== member) return
      member.spare = undefined
      this.total--
      this.groups.delete(member.share)
      return
    }
    group.remove(member)
    group.size--
    this.total--
    if (group.size === 0) this.groups.delete(group.name)
    else this.rank(group)
  }

  /** A member's standing changed. Calling this is optional for one that may no longer give way: `givesWay` checks. */
  place(member: A): void {
    const group = this.groups.get(member.share)
    if (group instanceof Group) {
      group.put(member, this.standing(member))
      this.rank(group)
    } else if (group === member) member.spare = this.standing(member)
  }

  /**
   * Who gives way to one more member of this share, if any. Only if this share is then still no larger than the other.
   */
  givesWay(share: string): A | undefined {
    while (true) {
      const group = this.largest()
      if (group === undefined || this.sizeOf(share) + 2 > group.size) return undefined
      const member = spareOf(group)
      if (member === undefined) continue
      if (this.standing(member) === member.spare) return member
      this.place(member)
    }
  }

  private largest(): Group<A> | undefined {
    while (true) {
      const group = this.ranking.popDue(Infinity)
      if (group === undefined) return undefined
      group.rankedAt = 0
      this.rank(group)
      if (group.rankedAt !== 0) return group
    }
  }

  private rank(group: Group<A>): void {
    const at = spareOf(group) === undefined ? 0 : -group.size
    if (at === group.rankedAt) return
    group.rankedAt = at
    if (at !== 0) this.ranking.push(at, group)
  }

  /** Makes a group for a share whose only member gets company. */
  private groupOf(member: A): Group<A> {
    const group = new Group<A>(member.share)
    group.size = 1
    group.put(member, member.spare)
    this.groups.set(group.name, group)
    return group
  }
}

const spareOf = <A extends Member>({ first, next }: Group<A>): A | undefined => firstOf(first) ?? firstOf(next)

const firstOf = <A>(set: Set<A> | undefined): A | undefined => set?.values().next().value
