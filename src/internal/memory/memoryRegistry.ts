/** `SessionRegistry` in memory. */
import { Effect } from "effect"
import type { StoredPosition } from "../../core/Inbox.ts"
import type { Attached, AttachRequest, Interface, Options, SessionInfo } from "../../SessionRegistry.ts"
import { SessionRegistryError } from "../../WebSocketError.ts"
import * as Check from "../kit/options.ts"
import { refuseAttach, sessionsFull } from "../kit/resume.ts"
import * as Shapes from "../kit/shapes.ts"
import { steady } from "../kit/time.ts"

interface Session {
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

export const makeMemory = Effect.fnUntraced(function*(options: Options) {
  Check.check(options, Shapes.registry)
  const now = yield* steady
  const retention = Check.millis("retention", options.retention, "10 minutes")
  const maxSessions = Check.count("maxSessions", options.maxSessions, 100_000)
  const sessions = new Map<string, Session>()
  /** Most principals have one session, and there it is without a set. */
  const byPrincipal = new Map<string, Session | Set<Session>>()
  // All have one retention, so who detached first ends first.
  const detached = new Set<Session>()
  /** Those that end and wait for `remove`, and since when somebody is about it: the longest first. */
  const ended = new Map<Session, number>()
  let attached = 0
  let ending = 0

  const create = (request: AttachRequest): Attached => {
    const session: Session = {
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
    sessions.set(request.session, session)
    if (session.principal !== undefined) index(session, session.principal)
    attached++
    return { generation: 1, known: false, position: undefined, replaced: false, current: false }
  }

  const index = (session: Session, principal: string): void => {
    const others = byPrincipal.get(principal)
    if (others === undefined) byPrincipal.set(principal, session)
    else if (others instanceof Set) others.add(session)
    else byPrincipal.set(principal, new Set([others, session]))
  }

  const unindex = (session: Session, principal: string): void => {
    const known = byPrincipal.get(principal)
    if (known instanceof Set) known.delete(session)
    if (known === session || (known instanceof Set && known.size === 0)) byPrincipal.delete(principal)
  }

  const indexed = (principal: string): Array<Session> => {
    const known = byPrincipal.get(principal)
    return known === undefined ? [] : known instanceof Set ? [...known] : [known]
  }

  const attach = (session: Session, request: AttachRequest): Attached => {
    if (session.detachedAt !== undefined) attached++
    detached.delete(session)
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

  /** From here on it is as good as gone, and waits for `remove`. */
  const end = (session: Session): void => {
    if (session.detachedAt === undefined) attached--
    const at = now()
    session.detachedAt ??= at
    session.generation++
    session.ending = true
    ending++
    detached.delete(session)
    ended.set(session, at)
  }

  const fenced = (session: string, operation: string) =>
    Effect.fail(new SessionRegistryError({ session, operation, reason: "fenced" }))

  /** Runs `use` on the session if this generation owns it. */
  const owned = (id: string, generation: number, use: (session: Session) => void): Effect.Effect<boolean> =>
    Effect.sync(() => {
      const session = sessions.get(id)
      if (session?.generation !== generation) return false
      use(session)
      return true
    })

  const infoOf = ({ detachedAt, generation, id, instance, principal }: Session): SessionInfo => ({
    session: id,
    principal,
    generation,
    instance,
    attached: detachedAt === undefined,
    endsAtMillis: detachedAt === undefined ? undefined : detachedAt + retention
  })

  const self: Interface = {
    durable: false,
    retentionMillis: retention,

    attach: (request) =>
      Effect.suspend(() => {
        const session = sessions.get(request.session)
        if (session === undefined) {
          return sessions.size < maxSessions
            ? Effect.succeed(create(request))
            : Effect.fail(sessionsFull(maxSessions))
        }
        const refused = refuseAttach(session, request)
        return refused === undefined ? Effect.succeed(attach(session, request)) : Effect.fail(refused)
      }),

    savePosition: (id, generation, position) =>
      Effect.flatMap(
        owned(id, generation, (session) => {
          // Two fibers may store one session's position; what was handled stays handled.
          const { position: stored } = session
          if (stored?.epoch === position.epoch && stored.handled > position.handled) return
          session.position = position
        }),
        (done) => done ? Effect.void : fenced(id, "savePosition")
      ),

    commitPosition: (id, generation, position) =>
      Effect.suspend(() => {
        const session = sessions.get(id)
        if (session?.generation !== generation || !isAhead(position, session.position)) {
          return fenced(id, "commitPosition")
        }
        session.position = position
        return Effect.void
      }),

    detach: (id, generation) =>
      Effect.asVoid(owned(id, generation, (session) => {
        if (session.detachedAt !== undefined) return
        const at = now()
        session.detachedAt = at
        attached--
        detached.add(session)
      })),

    // What is in this process's memory is in every server's.
    release: () => Effect.void,
    onWanted: () => Effect.void,

    expire: Effect.sync(() => {
      const at = now()
      const due: Array<string> = []
      for (const [session, since] of ended) {
        if (since > at - againMillis) break // those that are put last again, too
        ended.delete(session)
        ended.set(session, at)
        due.push(session.id)
      }
      for (const session of detached) {
        if ((session.detachedAt ?? at) > at - retention) break
        end(session)
        due.push(session.id)
      }
      return due
    }),

    end: (id) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        if (session === undefined) return false
        if (!session.ending) end(session)
        return true
      }),

    expireNow: (id, generation) =>
      Effect.map(
        owned(id, generation, (session) => {
          if (!session.ending) end(session)
        }),
        (done) => done
      ),

    remove: (id) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        if (session === undefined) return false
        if (session.ending) ending--
        else if (session.detachedAt === undefined) attached--
        sessions.delete(id)
        if (session.principal !== undefined) unindex(session, session.principal)
        detached.delete(session)
        ended.delete(session)
        return true
      }),

    find: (id) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        return session === undefined || session.ending ? undefined : infoOf(session)
      }),

    sessionsOf: (principal, limit) =>
      Effect.sync(() =>
        indexed(principal).filter(({ ending }) => !ending)
          .sort((a, b) => seenAt(b) === seenAt(a) ? 0 : seenAt(b) - seenAt(a))
          .slice(0, limit)
          .map(infoOf)
      ),

    count: Effect.sync(() => ({ sessions: sessions.size - ending, attached }))
  }
  return self
})

/** Who was given an ended session and did not remove it in this time, in ms, failed: somebody is given it again. */
const againMillis = 10_000

/** When it was there last: those who are, last of all. */
const seenAt = ({ detachedAt }: Session): number => detachedAt ?? Infinity

/** Whether a position may follow the stored one. */
const isAhead = (position: StoredPosition, stored: StoredPosition | undefined): boolean =>
  stored === undefined || stored.epoch !== position.epoch || stored.handled < position.handled
