/** `SessionRegistry` in memory. */
import { Effect } from "effect"
import type { StoredPosition } from "../../core/Inbox.ts"
import type { Interface, Options, SessionInfo } from "../../SessionRegistry.ts"
import { SessionRegistryError } from "../../WebSocketError.ts"
import * as Check from "../kit/options.ts"
import { refuseAttach, sessionsFull } from "../kit/resume.ts"
import * as Shapes from "../kit/shapes.ts"
import { steady } from "../kit/time.ts"
import { type MemorySession, MemorySessions } from "./memorySessions.ts"

export const makeMemory = Effect.fnUntraced(function*(options: Options) {
  Check.check(options, Shapes.registry)
  const now = yield* steady
  const retention = Check.millis("retention", options.retention, "10 minutes")
  const maxSessions = Check.count("maxSessions", options.maxSessions, 100_000)
  const sessions = new MemorySessions()

  /** Runs `use` on the session if this generation owns it. */
  const owned = (id: string, generation: number, use: (session: MemorySession) => void): Effect.Effect<boolean> =>
    Effect.sync(() => {
      const session = sessions.get(id)
      if (session?.generation !== generation) return false
      use(session)
      return true
    })

  const self: Interface = {
    durable: false,
    retentionMillis: retention,

    attach: (request) =>
      Effect.suspend(() => {
        const session = sessions.get(request.session)
        if (session === undefined) {
          return sessions.size < maxSessions
            ? Effect.succeed(sessions.create(request))
            : Effect.fail(sessionsFull(maxSessions))
        }
        const refused = refuseAttach(session, request)
        return refused === undefined ? Effect.succeed(sessions.attach(session, request)) : Effect.fail(refused)
      }),

    savePosition: (id, generation, position) =>
      Effect.flatMap(
        owned(id, generation, (session) => {
          // Two fibers may store one session's position: it must not go back.
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

    detach: (id, generation) => Effect.asVoid(owned(id, generation, (session) => sessions.detach(session, now()))),

    // All servers on this registry are in this process, so there is nothing to do.
    release: () => Effect.void,
    onWanted: () => Effect.void,

    expire: Effect.sync(() => {
      const at = now()
      return sessions.expire(at, at - retention)
    }),

    end: (id) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        if (session === undefined) return false
        sessions.end(session, now())
        return true
      }),

    expireNow: (id, generation) => owned(id, generation, (session) => sessions.end(session, now())),

    remove: (id) => Effect.sync(() => sessions.remove(id)),

    find: (id) =>
      Effect.sync(() => {
        const session = sessions.get(id)
        return session === undefined || session.ending ? undefined : infoOf(session, retention)
      }),

    sessionsOf: (principal, limit) =>
      Effect.sync(() =>
        sessions.of(principal).filter(({ ending }) => !ending)
          .sort((a, b) => seenAt(b) === seenAt(a) ? 0 : seenAt(b) - seenAt(a))
          .slice(0, limit)
          .map((session) => infoOf(session, retention))
      ),

    count: Effect.sync(() => sessions.counts())
  }
  return self
})

const fenced = (session: string, operation: string) =>
  Effect.fail(new SessionRegistryError({ session, operation, reason: "fenced" }))

const infoOf = (
  { detachedAt, generation, id, instance, principal }: MemorySession,
  retentionMillis: number
): SessionInfo => ({
  session: id,
  principal,
  generation,
  instance,
  attached: detachedAt === undefined,
  endsAtMillis: detachedAt === undefined ? undefined : detachedAt + retentionMillis
})

/** When the session was last connected: infinite while it still is. */
const seenAt = ({ detachedAt }: MemorySession): number => detachedAt ?? Infinity

/** Whether a position may follow the stored one. */
const isAhead = (position: StoredPosition, stored: StoredPosition | undefined): boolean =>
  stored === undefined || stored.epoch !== position.epoch || stored.handled < position.handled
