/** The memory layer of SessionRegistry. */
import { Clock, Effect } from "effect"
import { Deque } from "../core/Deque.ts"
import type { InboxPosition } from "../core/Frame.ts"
import type { Attached, AttachRequest, Interface, Options } from "../SessionRegistry.ts"
import { HandshakeError, SessionRegistryError } from "../WebSocketError.ts"
import * as Option from "./options.ts"
import { refuseResume } from "./resume.ts"

interface Session {
  readonly id: string
  readonly principal: string | undefined
  tokenHash: string
  previousTokenHash: string | undefined
  generation: number
  instance: string
  position: InboxPosition | undefined
  /** Undefined while attached. */
  detachedAt: number | undefined
}

export const makeMemory = Effect.fnUntraced(function*(options: Options) {
  const clock = yield* Clock.Clock
  const retention = Option.millis("retention", options.retention, "10 minutes")
  const maxSessions = Option.count("maxSessions", options.maxSessions, 100_000)
  const sessions = new Map<string, Session>()
  // All have one retention, so who detached first ends first; entries of sessions that attached again are skipped.
  const detached = new Deque<{ readonly session: Session; readonly at: number }>()
  let attached = 0

  const create = (request: AttachRequest): Attached => {
    sessions.set(request.session, {
      id: request.session,
      principal: request.principal,
      tokenHash: request.nextTokenHash,
      previousTokenHash: undefined,
      generation: 1,
      instance: request.instance,
      position: undefined,
      detachedAt: undefined
    })
    attached++
    return { generation: 1, known: false, position: undefined, replaced: false }
  }

  const attach = (session: Session, request: AttachRequest): Attached => {
    if (session.detachedAt !== undefined) attached++
    const replaced = session.detachedAt === undefined && session.instance !== request.instance
    session.previousTokenHash = request.tokenHash ?? session.tokenHash
    session.tokenHash = request.nextTokenHash
    session.generation++
    session.instance = request.instance
    session.detachedAt = undefined
    return { generation: session.generation, known: true, position: session.position, replaced }
  }

  const remove = (session: Session): void => {
    if (session.detachedAt === undefined) attached--
    sessions.delete(session.id)
  }

  const self: Interface = {
    durable: false,
    retentionMillis: retention,

    attach: (request) =>
      Effect.suspend(() => {
        const session = sessions.get(request.session)
        if (session === undefined) {
          return sessions.size < maxSessions
            ? Effect.succeed(create(request))
            : Effect.fail(
              new HandshakeError({ reason: "overloaded", detail: `${maxSessions} sessions already`, retryable: true })
            )
        }
        const refused = refuseResume(session, request)
        return refused === undefined ? Effect.succeed(attach(session, request)) : Effect.fail(refused)
      }),

    savePosition: (id, generation, position) =>
      Effect.suspend(() => {
        const session = sessions.get(id)
        if (session === undefined || session.generation !== generation) {
          return Effect.fail(new SessionRegistryError({ session: id, operation: "savePosition", reason: "fenced" }))
        }
        // Two fibers may store one session's position; what was handled stays handled.
        const { position: stored } = session
        if (stored?.epoch === position.epoch && stored.handled > position.handled) return Effect.void
        session.position = position
        return Effect.void
      }),

    detach: (id, generation) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        if (session === undefined || session.generation !== generation || session.detachedAt !== undefined) return
        const at = clock.currentTimeMillisUnsafe()
        session.detachedAt = at
        attached--
        detached.pushBack({ session, at })
      }),

    expire: Effect.sync(() => {
      const due = clock.currentTimeMillisUnsafe() - retention
      const ended: Array<string> = []
      while (true) {
        const oldest = detached.front()
        if (oldest === undefined || oldest.at > due) return ended
        detached.popFront()
        const { at, session } = oldest
        if (session.detachedAt !== at || sessions.get(session.id) !== session) continue
        remove(session)
        ended.push(session.id)
      }
    }),

    remove: (id) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        if (session === undefined) return false
        remove(session)
        return true
      }),

    find: (id) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        if (session === undefined) return undefined
        const { detachedAt, generation, instance, principal } = session
        return {
          session: id,
          principal,
          generation,
          instance,
          attached: detachedAt === undefined,
          endsAtMillis: detachedAt === undefined ? undefined : detachedAt + retention
        }
      }),

    count: Effect.sync(() => ({ sessions: sessions.size, attached }))
  }
  return self
})
