/**
 * SessionRegistry over a database driver, for several servers at once. A session's row is changed by compare-and-set;
 * its position is written by its owner's generation alone. A server that wants a session which another one still has
 * messages of asks for it first, and takes it by force only when there is no answer.
 */
import { Effect, Exit, Schema } from "effect"
import type { Attached, AttachRequest, Interface, Options, SessionInfo, StoredPosition } from "../../SessionRegistry.ts"
import { HandshakeError, SessionRegistryError } from "../../WebSocketError.ts"
import * as Check from "../kit/options.ts"
import { refuseAttach, sessionsFull } from "../kit/resume.ts"
import { makeBatcher } from "./batcher.ts"
import type { Calls } from "./calls.ts"
import { type StoreDriver, StoreError } from "./driver.ts"
import type { StoreHistory } from "./history.ts"
import type { Members } from "./members.ts"
import type { PositionOutcome, PositionRequest, SessionRow } from "./sessions.ts"
import { ifStorable, unstorable } from "./texts.ts"
import { makeWritten } from "./written.ts"

export interface StoredRegistryOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly members: Members
  readonly history: StoreHistory
  readonly registry: Options
  /** How long a server that wants a session waits for the one that has it. */
  readonly handoffTimeoutMillis: number
  /** How long after its last sign of life a node is remembered. */
  readonly forgetMillis: number
}

/** Compare-and-set is tried this often; others don't change one session for ever. */
const maxTries = 16
/** How often a server that wants a session looks whether it may have it. */
const lookMillis = 10
/** Sessions that one sweep takes at most. */
const sweepSize = 256
/** Whoever ends a session has this long for it, before another server is asked to. */
const endingMillis = 30_000
/** A hundred years. */
const longestMillis = 100 * 365 * 86_400_000
/** How long it is known that a session was ended: its retention, within these. */
const leastTombstoneMillis = 120_000
const mostTombstoneMillis = 86_400_000
/** How long the number of sessions is believed. */
const countMillis = 5_000

export const makeStoredRegistry = Effect.fnUntraced(function*(options: StoredRegistryOptions) {
  const { call, driver, history, members } = options
  const { node, now, steady } = members
  const retention = Check.millis("retention", options.registry.retention, "10 minutes")
  const maxSessions = Check.count("maxSessions", options.registry.maxSessions, 100_000)
  /** "For ever" is a number too, so that an end has a time. */
  const kept = Math.min(retention, longestMillis)
  const tombstoneMillis = Math.min(Math.max(kept, leastTombstoneMillis), mostTombstoneMillis)
  /** Being removed since their time was over: nobody is connected, and servers that were forget them by themselves. */
  const overdue = new Set<string>()
  const sweepMillis = Math.min(5_000, Math.max(100, retention / 20))
  let counted = { at: -Infinity, sessions: 0, attached: 0 }
  let sweptAt = steady()
  let listeners: ReadonlyArray<(session: string) => void> = []
  /** Sessions attached here, by generation, so that they can be claimed again after this node was taken for dead. */
  const here = new Map<string, number>()
  /** Sessions that are detached and not released: something of them may be handled here still. */
  const held = new Set<string>()

  const failed = (session: string, operation: string) => (error: StoreError) =>
    new SessionRegistryError({ session, operation, reason: "store", cause: error.cause })
  const fenced = (session: string, operation: string) =>
    new SessionRegistryError({ session, operation, reason: "fenced" })

  const find = (id: string) => ifStorable("findSession", [id], call("findSession", driver.findSession(id)))
  const put = (row: SessionRow) => call("putSession", driver.putSession(row))
  const written = makeWritten({
    driver,
    call,
    steady,
    hasTombstone: history.hasTombstone,
    onTaken: (session) => listeners.forEach((listener) => listener(session))
  })
  history.onChange(written.putBack)

  /** Changes a session's row, if `change` gives another one; looks again when somebody else has changed it. */
  const update = (
    id: string,
    change: (row: SessionRow) => Omit<SessionRow, "revision"> | undefined
  ): Effect.Effect<SessionRow | undefined, StoreError> => {
    const attempt = (tries: number): Effect.Effect<SessionRow | undefined, StoreError> =>
      Effect.flatMap(find(id), (row) => {
        const changed = row === undefined ? undefined : change(row)
        if (row === undefined || changed === undefined) return Effect.succeed(undefined)
        const next = { ...changed, revision: row.revision + 1 }
        return Effect.flatMap(put(next), (outcome) => {
          if (outcome._tag === "Stored") {
            written.changed(next)
            return Effect.succeed(next)
          }
          return tries < maxTries ? attempt(tries + 1) : Effect.fail(contended(id))
        })
      })
    return attempt(1)
  }

  const count = Effect.suspend(() => {
    if (steady() - counted.at < countMillis) return Effect.succeed(counted)
    return Effect.map(call("countSessions", driver.countSessions), (fresh) => {
      counted = { at: steady(), ...fresh }
      return counted
    })
  })

  /** What the store has lost of this server's sessions is put back before one counts as gone: absence is not an end. */
  const orPutBack = <A>(
    session: string,
    isMissing: (found: A) => boolean,
    effect: Effect.Effect<A, StoreError>
  ): Effect.Effect<A, StoreError> =>
    Effect.flatMap(effect, (found) =>
      isMissing(found) && written.has(session)
        ? Effect.flatMap(history.hasLost(session), (isLost) => isLost ? effect : Effect.succeed(found))
        : Effect.succeed(found))

  /** The row, after what the store has lost of it is put back: all of it, or its newest owner. */
  const findNewest = (session: string): Effect.Effect<SessionRow | undefined, StoreError> =>
    orPutBack(session, (row) => row === undefined || written.isLater(row), find(session))

  // --- attaching

  /** Higher than what was given out before, also if the store does not know of that any more. */
  const timely = (): number => Math.max(1, Math.floor(now()))

  const create = (request: AttachRequest): Effect.Effect<Attached | "again", StoreError | HandshakeError> =>
    Effect.gen(function*() {
      if ((yield* count).sessions >= maxSessions) return yield* sessionsFull(maxSessions)
      // Higher than of any session before it with the same id: servers may still hold things of that one.
      const generation = timely()
      const row: SessionRow = {
        id: request.session,
        principal: request.principal,
        tokenHash: request.nextTokenHash,
        previousTokenHash: undefined,
        generation,
        instance: request.instance,
        attempt: request.attempt ?? 0,
        node,
        detachedAt: undefined,
        wantedBy: undefined,
        ending: false,
        revision: 1
      }
      const outcome = yield* put(row)
      if (outcome._tag === "Conflict") return "again"
      written.attached(row)
      counted = { ...counted, sessions: counted.sessions + 1, attached: counted.attached + 1 }
      here.set(request.session, generation)
      members.kept.add(request.session)
      return { generation, known: false, position: undefined, replaced: false, current: false, here: false }
    })

  /** Asks the server that has the session for it. Whether it may be taken now: it was let go, or nobody answers. */
  const askFor = Effect.fnUntraced(function*(row: SessionRow, until: number) {
    const { node: owner } = row
    if (owner === undefined || owner === node) return true
    if (steady() >= until || !(yield* members.isAlive(owner))) return true
    if (row.wantedBy !== node) {
      const outcome = yield* put({ ...row, wantedBy: node, revision: row.revision + 1 })
      if (outcome._tag === "Conflict") return false
      yield* members.nudge(owner, row.id)
    }
    yield* Effect.sleep(lookMillis)
    return false
  })

  const take = (
    row: SessionRow,
    request: AttachRequest,
    generation: number
  ): Effect.Effect<Attached | "again", StoreError> => {
    const next: SessionRow = {
      ...row,
      tokenHash: request.nextTokenHash,
      previousTokenHash: request.tokenHash ?? row.tokenHash,
      generation,
      instance: request.instance,
      attempt: request.attempt ?? 0,
      node,
      detachedAt: undefined,
      wantedBy: undefined,
      revision: row.revision + 1
    }
    return Effect.flatMap(
      put(next),
      (outcome): Effect.Effect<Attached | "again", StoreError> => {
        if (outcome._tag === "Conflict") return Effect.succeed("again")
        const newest = written.newest(row)
        written.attached(next)
        if (row.node === node) members.kept.add(row.id)
        here.set(row.id, generation)
        held.delete(row.id)
        const replaced = row.detachedAt === undefined && row.instance !== request.instance
        const position = outcome.position === undefined ? Exit.succeed(undefined) : readPosition(outcome.position)
        if (Exit.isFailure(position)) {
          return Effect.fail(new StoreError("attach", new Error(`the position of session ${row.id} is damaged`)))
        }
        return Effect.succeed({
          generation,
          known: true,
          position: later(position.value, newest?.position),
          replaced,
          current: request.tokenHash === row.tokenHash,
          here: row.node === node || newest !== undefined
        })
      }
    )
  }

  const attach = Effect.fnUntraced(function*(request: AttachRequest) {
    const until = steady() + options.handoffTimeoutMillis
    const refusedText = unstorable("attach", request.instance, request.principal)
    if (refusedText !== undefined) return yield* Effect.fail(refusedText)
    let tries = 0
    let isDoubtful = false
    while (tries < maxTries) {
      const row = yield* findNewest(request.session)
      const refused = row === undefined ? undefined : refuseAttach(row, request)
      // Who has a token had a session, though perhaps not under this id: one that is unknown is made anew under another.
      const isUnknown = row === undefined ? request.tokenHash !== undefined : refused?.reason === "unauthorized"
      if (isUnknown && (yield* history.look)) {
        if (isDoubtful) return yield* perhapsLost
        // The store may have lost the session, or its newest token; here it is put back by now, elsewhere soon.
        isDoubtful = true
        continue
      }
      if (refused !== undefined) return yield* refused
      if (row !== undefined && !(yield* askFor(row, until))) continue // ends with `until`
      tries++
      const attached = yield* row === undefined
        ? create(request)
        : take(row, request, Math.max(row.generation + 1, timely()))
      if (attached !== "again") return attached
    }
    return yield* Effect.fail(contended(request.session))
  })

  // --- positions

  const saveAll = (requests: ReadonlyArray<PositionRequest>) => call("savePositions", driver.savePositions(requests))
  const savePositions = yield* makeBatcher<PositionRequest, PositionOutcome>({
    name: "savePosition",
    maxBatch: 1_024,
    run: saveAll,
    aside: { keyOf: ({ session }) => session, isLocked: (outcome) => outcome === "Locked", run: saveAll }
  })
  // The epoch is the client's own.
  const save = (request: PositionRequest) => ifStorable("savePosition", [request.epoch], savePositions(request))

  const requestOf = (
    session: string,
    generation: number,
    position: StoredPosition,
    strict: boolean
  ): PositionRequest => ({
    session,
    generation,
    position: JSON.stringify(position),
    epoch: position.epoch ?? "",
    handled: position.handled,
    strict
  })

  const accept =
    (session: string, operation: string, strict: boolean) =>
    (outcome: PositionOutcome | undefined): Effect.Effect<void, SessionRegistryError> => {
      if (outcome === "Saved" || (outcome === "Behind" && !strict)) return Effect.void
      return Effect.fail(fenced(session, operation))
    }

  const isInTransaction = driver.transaction?.isOpen ?? Effect.succeed(false)

  // --- ends

  const bury = (session: string): Effect.Effect<boolean, StoreError> =>
    Effect.suspend(() => {
      const until = now() + (overdue.delete(session) ? leastTombstoneMillis : tombstoneMillis)
      return call("deleteSession", driver.deleteSession(session, { at: now(), until }))
    })

  /** From here on nobody attaches to it, and whoever owned it is fenced. Due again if it is not removed in time. */
  const ended = (row: SessionRow): Omit<SessionRow, "revision"> => ({
    ...row,
    generation: row.ending ? row.generation : row.generation + 1,
    ending: true,
    node: undefined,
    wantedBy: undefined,
    detachedAt: now() - kept + endingMillis
  })

  /** Sessions of nodes that are dead begin their retention when those were last seen. */
  const sweepDead = Effect.gen(function*() {
    for (const [dead, seenAt] of yield* members.dead) {
      const rows = yield* call("sessionsOf", driver.sessionsOf(dead, sweepSize))
      yield* Effect.forEach(rows, ({ id }) =>
        Effect.flatMap(
          update(
            id,
            (row) => row.node === dead ? { ...row, node: undefined, detachedAt: row.detachedAt ?? seenAt } : undefined
          ),
          // Should it live after all, it takes its sessions back.
          (row) => row === undefined ? Effect.void : members.nudge(dead, id)
        ), { concurrency: 16, discard: true })
      // More than fit into one sweep: the next tick goes on.
      if (rows.length === sweepSize) sweptAt = -Infinity
      // What it was appending may be tried until then, and must be known to be done.
      else if (seenAt < now() - options.forgetMillis) yield* call("forgetNode", driver.forgetNode(dead))
    }
  })

  /** What is attached here is so still, though others may have taken this node for dead. */
  const reclaim = (ids: Iterable<string>) =>
    Effect.forEach(
      ids,
      (id) =>
        update(id, (row) =>
          row.generation === here.get(id) && !row.ending && (row.detachedAt !== undefined || row.node !== node)
            ? { ...row, node, detachedAt: undefined }
            : undefined),
      { concurrency: 16, discard: true }
    )

  const expire = Effect.gen(function*() {
    if (steady() - sweptAt < sweepMillis) return []
    sweptAt = steady()
    overdue.clear() // those of before are removed by now, or will be by others
    written.sweep()
    yield* sweepDead
    const due = now() - kept
    const found: Array<string> = []
    const rows = yield* call("detachedBefore", driver.detachedBefore(due, sweepSize))
    // More than fit into one sweep: the next tick goes on.
    if (rows.length === sweepSize) sweptAt = -Infinity
    yield* Effect.forEach(rows, ({ id }) =>
      Effect.map(
        update(id, (row) => row.detachedAt !== undefined && row.detachedAt <= due ? ended(row) : undefined),
        (row) => {
          if (row === undefined) return
          overdue.add(id)
          found.push(id)
        }
      ), { concurrency: 16, discard: true })
    return found
  })

  members.onRejoin(Effect.suspend(() => reclaim([...here.keys()])))

  const hear = (session: string): Effect.Effect<void, StoreError> =>
    Effect.flatMap(find(session), (row) => {
      if (row === undefined) return Effect.void
      if (row.wantedBy !== undefined && row.node === node) {
        for (const listener of listeners) listener(session)
        return Effect.void
      }
      return row.node !== node && row.generation === here.get(session) ? reclaim([session]) : Effect.void
    })

  members.onNudges((sessions) =>
    Effect.suspend(() => {
      const mine = sessions.filter((session) => here.has(session) || held.has(session))
      return Effect.ignore(Effect.forEach(mine, hear, { concurrency: 16, discard: true }))
    })
  )

  const ownUpdate = (
    session: string,
    generation: number,
    operation: string,
    change: (row: SessionRow) => Omit<SessionRow, "revision"> | undefined
  ) =>
    Effect.mapError(
      Effect.asVoid(update(session, (row) => row.generation === generation ? change(row) : undefined)),
      failed(session, operation)
    )

  const infoOf = (row: SessionRow): SessionInfo => ({
    session: row.id,
    principal: row.principal,
    generation: row.generation,
    instance: row.instance,
    attached: row.detachedAt === undefined,
    endsAtMillis: row.detachedAt === undefined ? undefined : row.detachedAt + retention,
    here: row.node === node
  })

  /** The session is this server's in this generation, and others know it: they may have taken it for dead meanwhile. */
  const confirm = (session: string, generation: number): Effect.Effect<boolean, StoreError> =>
    Effect.flatMap(findNewest(session), (row) => {
      if (row === undefined || row.ending || row.generation !== generation) return Effect.succeed(false)
      if (row.node === node) return Effect.succeed(true)
      const isAttached = here.get(session) === generation
      return Effect.map(
        update(session, (now) =>
          now.generation !== generation || now.ending
            ? undefined
            : { ...now, node, detachedAt: isAttached ? undefined : now.detachedAt }),
        (changed) => changed !== undefined
      )
    })

  /**
   * The same from within an application's transaction, on its connection: waiting there could be for what it holds itself.
   * What can't be known now fails it, and the handler is run again.
   */
  const confirmInside = (session: string, generation: number): Effect.Effect<boolean> =>
    Effect.match(find(session), {
      onFailure: () => false,
      onSuccess: (row) => row !== undefined && !row.ending && row.generation === generation
    })

  const self: Interface = {
    durable: true,

    confirm: {
      isSure: members.isSure,
      session: (session, generation) =>
        Effect.flatMap(
          Effect.mapError(
            Effect.flatMap(isInTransaction, (isInside) =>
              isInside
                ? confirmInside(session, generation)
                : Effect.andThen(members.sure, confirm(session, generation))),
            failed(session, "confirm")
          ),
          (isOwn) => isOwn ? Effect.void : Effect.fail(fenced(session, "confirm"))
        )
    },
    retentionMillis: retention,

    attach: (request) =>
      Effect.mapError(
        attach(request),
        (error) => error._tag === "StoreError" ? failed(request.session, "attach")(error) : error
      ),

    savePosition: (session, generation, position) => {
      const request = requestOf(session, generation, position, false)
      return Effect.flatMap(
        Effect.mapError(
          orPutBack(session, (outcome) => outcome === "Missing", save(request)),
          failed(session, "savePosition")
        ),
        (outcome) => {
          if (outcome === "Saved") written.saved(request)
          return accept(session, "savePosition", false)(outcome)
        }
      )
    },

    commitPosition: (session, generation, position) => {
      const request = requestOf(session, generation, position, true)
      return Effect.flatMap(isInTransaction, (isOpen) =>
        Effect.flatMap(
          Effect.mapError(
            isOpen ? Effect.map(driver.savePositions([request]), ([outcome]) => outcome) : save(request),
            failed(session, "commitPosition")
          ),
          accept(session, "commitPosition", true)
        ))
    },

    detach: (session, generation) =>
      Effect.suspend(() => {
        if (here.get(session) === generation) {
          here.delete(session)
          held.add(session)
          members.kept.delete(session)
          written.left(session, now())
        }
        return ownUpdate(session, generation, "detach", (row) =>
          row.detachedAt === undefined ? { ...row, detachedAt: now() } : undefined)
      }),

    release: (session, generation) =>
      Effect.suspend(() => {
        held.delete(session)
        written.released(session, generation)
        return ownUpdate(session, generation, "release", (row) =>
          row.node === node
            ? { ...row, node: undefined, wantedBy: undefined, detachedAt: row.detachedAt ?? now() }
            : undefined)
      }),

    onWanted: (listener) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          listeners = [...listeners, listener]
        }),
        () =>
          Effect.sync(() => {
            listeners = listeners.filter((other) => other !== listener)
          })
      ),

    expire: Effect.mapError(expire, failed("", "expire")),

    // One that the store has lost is ended all the same, so that nobody puts it back.
    end: (session) =>
      Effect.mapError(
        Effect.flatMap(Effect.andThen(findNewest(session), update(session, ended)), (row) =>
          row === undefined ? Effect.as(bury(session), false) : Effect.succeed(true)),
        failed(session, "end")
      ),

    expireNow: (session, generation) =>
      Effect.mapError(
        Effect.map(
          update(session, (row) => row.generation === generation && !row.ending ? ended(row) : undefined),
          (row) => {
            if (row !== undefined) overdue.add(session)
            return row !== undefined
          }
        ),
        failed(session, "expireNow")
      ),

    remove: (session) =>
      Effect.suspend(() => {
        here.delete(session)
        held.delete(session)
        written.forget(session)
        return Effect.map(
          Effect.mapError(bury(session), failed(session, "remove")),
          (isRemoved) => {
            if (isRemoved) counted = { ...counted, sessions: Math.max(0, counted.sessions - 1) }
            return isRemoved
          }
        )
      }),

    find: (session) =>
      Effect.map(
        Effect.mapError(
          findNewest(session),
          failed(session, "find")
        ),
        (row) => row === undefined || row.ending ? undefined : infoOf(row)
      ),

    sessionsOf: (principal, limit) =>
      ifStorable("sessionsOf", [principal], call("sessionsOfPrincipal", driver.sessionsOfPrincipal(principal, limit)))
        .pipe(
          Effect.map((rows) => (rows ?? []).map(infoOf)),
          Effect.mapError(failed("", "sessionsOf"))
        ),

    count: Effect.map(Effect.mapError(count, failed("", "count")), ({ attached, sessions }) => ({ sessions, attached }))
  }
  return self
})

/** It comes back, and by then whoever has issued its token has put that back; if nobody has, it is lost. */
const perhapsLost = new HandshakeError({
  reason: "overloaded",
  detail: "the store may have lost the session, or its newest resume token",
  retryable: true
})

const contended = (id: string) => new StoreError("attach", new Error(`others change session ${id} all the time`))

const Offset = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** A position as this library stored it. */
const Position = Schema.fromJsonString(Schema.Struct({
  epoch: Schema.NullOr(Schema.String),
  received: Offset,
  handled: Offset,
  failed: Schema.Array(Schema.Tuple([Offset, Schema.Literals(["failed", "undecodable"])])),
  pending: Schema.Struct({ messages: Offset, bytes: Offset }),
  told: Schema.optionalKey(Schema.Boolean),
  newcomer: Schema.optionalKey(Schema.Boolean)
}))

/** The one that is further on in the same log: the store may have lost what this server wrote. */
const later = (
  stored: StoredPosition | undefined,
  written: PositionRequest | undefined
): StoredPosition | undefined => {
  if (written === undefined) return stored
  if (stored !== undefined && (stored.epoch !== written.epoch || written.handled <= stored.handled)) return stored
  const position = readPosition(written.position)
  return Exit.isSuccess(position) ? position.value : stored
}

const readPosition: (text: string) => Exit.Exit<StoredPosition, unknown> = Schema.decodeUnknownExit(Position)
