/** All sessions in memory: by id and by principal, which ones are attached, and which end next. */
import type { StoredPosition } from "../../core/Inbox.ts"
import type { Attached, AttachRequest } from "../../SessionRegistry.ts"

export interface MemorySession {
  readonly id: string
  readonly principal: string | undefined
  tokenHash: string
  previousTokenHash: string | undefined
  generation: number
  instance: string
  attempt: number
  position: StoredPosition | undefined
  /** Undefined while attached. */
  detachedAt: number | undefined
  ending: boolean
}

/** An ended session that was not removed within this time of being handed out is handed out again, in ms. */
const againMillis = 10_000

export class MemorySessions {
  private readonly sessions = new Map<string, MemorySession>()
  private readonly principals = new Principals()
  /** In order of detachment. All have the same retention, so the first detached ends first. */
  private readonly detached = new Set<MemorySession>()
  /** Ending sessions that wait for `remove`, and when each was last handed out for it: the longest ago first. */
  private readonly ended = new Map<MemorySession, number>()
  private attached = 0
  private ending = 0

  get size(): number {
    return this.sessions.size
  }

  counts(): { readonly sessions: number; readonly attached: number } {
    return { sessions: this.sessions.size - this.ending, attached: this.attached }
  }

  get(id: string): MemorySession | undefined {
    return this.sessions.get(id)
  }

  of(principal: string): ReadonlyArray<MemorySession> {
    return this.principals.of(principal)
  }

  create(request: AttachRequest): Attached {
    const session: MemorySession = {
      id: request.session,
      principal: request.principal,
      tokenHash: request.nextTokenHash,
      previousTokenHash: undefined,
      generation: 1,
      instance: request.instance,
      attempt: request.attempt ?? 0,
      position: undefined,
      detachedAt: undefined,
      ending: false
    }
    this.sessions.set(request.session, session)
    this.principals.add(session)
    this.attached++
    return { generation: 1, known: false, position: undefined, replaced: false, current: false }
  }

  attach(session: MemorySession, request: AttachRequest): Attached {
    if (session.detachedAt !== undefined) this.attached++
    this.detached.delete(session)
    const replaced = session.detachedAt === undefined && session.instance !== request.instance
    const current = request.tokenHash === session.tokenHash
    session.previousTokenHash = request.tokenHash ?? session.tokenHash
    session.tokenHash = request.nextTokenHash
    session.generation++
    session.instance = request.instance
    session.attempt = request.attempt ?? 0
    session.detachedAt = undefined
    return { generation: session.generation, known: true, position: session.position, replaced, current }
  }

  detach(session: MemorySession, at: number): void {
    if (session.detachedAt !== undefined) return
    session.detachedAt = at
    this.attached--
    this.detached.add(session)
  }

  /** From now on the session counts as gone, and waits for `remove`. */
  end(session: MemorySession, at: number): void {
    if (session.ending) return
    if (session.detachedAt === undefined) this.attached--
    session.detachedAt ??= at
    session.generation++
    session.ending = true
    this.ending++
    this.detached.delete(session)
    this.ended.set(session, at)
  }

  /** Ends sessions detached by `detachedBy`. Returns their ids, and those that have waited too long for `remove`. */
  expire(at: number, detachedBy: number): Array<string> {
    const due: Array<string> = []
    for (const [session, since] of this.ended) {
      if (since > at - againMillis) break // also ends the loop at sessions put last just now
      this.ended.delete(session)
      this.ended.set(session, at)
      due.push(session.id)
    }
    for (const session of this.detached) {
      if ((session.detachedAt ?? at) > detachedBy) break
      this.end(session, at)
      due.push(session.id)
    }
    return due
  }

  /** Returns whether there was such a session. */
  remove(id: string): boolean {
    const session = this.sessions.get(id)
    if (session === undefined) return false
    if (session.ending) this.ending--
    else if (session.detachedAt === undefined) this.attached--
    this.sessions.delete(id)
    this.principals.delete(session)
    this.detached.delete(session)
    this.ended.delete(session)
    return true
  }
}

/** The sessions of each principal. Most have only one, which is stored without a set. */
class Principals {
  private readonly sessions = new Map<string, MemorySession | Set<MemorySession>>()

  of(principal: string): ReadonlyArray<MemorySession> {
    const known = this.sessions.get(principal)
    return known === undefined ? [] : known instanceof Set ? [...known] : [known]
  }

  add(session: MemorySession): void {
    const { principal } = session
    if (principal === undefined) return
    const others = this.sessions.get(principal)
    if (others === undefined) this.sessions.set(principal, session)
    else if (others instanceof Set) others.add(session)
    else this.sessions.set(principal, new Set([others, session]))
  }

  delete(session: MemorySession): void {
    const { principal } = session
    if (principal === undefined) return
    const known = this.sessions.get(principal)
    if (known instanceof Set) known.delete(session)
    if (known === session || (known instanceof Set && known.size === 0)) this.sessions.delete(principal)
  }
}
