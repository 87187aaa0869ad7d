/**
 * How a session becomes this server's: made anew, or taken from the server that has it.
 * That server is asked first; the session is taken by force only when there is no answer.
 */
import { Effect, Exit } from "effect"
import type { Attached, AttachRequest } from "../../SessionRegistry.ts"
import { HandshakeError } from "../../WebSocketError.ts"
import { refuseAttach, sessionsFull } from "../kit/resume.ts"
import { StoreError } from "./driver.ts"
import type { RegistryParts } from "./registryParts.ts"
import { contended, maxTries } from "./sessionRows.ts"
import type { SessionRow } from "./sessions.ts"
import { later, readPosition } from "./storedPositions.ts"
import { unstorable } from "./texts.ts"

export interface AttachingOptions {
  readonly maxSessions: number
  /** How long a server that wants a session waits for the one that has it. */
  readonly handoffTimeoutMillis: number
}

/** How often a server that wants a session looks whether the session is free. */
const lookMillis = 10

export const makeAttaching = (parts: RegistryParts, { handoffTimeoutMillis, maxSessions }: AttachingOptions) => {
  const { history, members, rows } = parts
  const { now, steady } = members
  const create = makeCreate(parts, maxSessions)
  const take = makeTake(parts)

  /**
   * Asks the server that has the session to let it go. True when the session may be taken: it was let go, or nobody
   * answers.
   */
  const askFor = Effect.fnUntraced(function*(row: SessionRow, until: number) {
    const { node: owner } = row
    if (owner === undefined || owner === members.node) return true
    if (steady() >= until || !(yield* members.isAlive(owner))) return true
    if (row.wantedBy !== members.node) {
      const outcome = yield* rows.put({ ...row, wantedBy: members.node, revision: row.revision + 1 })
      if (outcome._tag === "Conflict") return false
      yield* members.nudge(owner, row.id)
    }
    yield* Effect.sleep(lookMillis)
    return false
  })

  return Effect.fnUntraced(function*(request: AttachRequest): Effect.fn.Return<Attached, StoreError | HandshakeError> {
    const until = steady() + handoffTimeoutMillis
    const refusedText = unstorable("attach", request.instance, request.principal)
    if (refusedText !== undefined) return yield* Effect.fail(refusedText)
    let tries = 0
    let isDoubtful = false
    while (tries < maxTries) {
      const row = yield* rows.findNewest(request.session)
      const refused = row === undefined ? undefined : refuseAttach(row, request)
      // A client with a token had a session, though perhaps not under this id: an unknown one is made anew under
      // another id.
      const isUnknown = row === undefined ? request.tokenHash !== undefined : refused?.reason === "unauthorized"
      if (isUnknown && (yield* history.look)) {
        if (isDoubtful) return yield* perhapsLost
        // The store may have lost the session, or its newest token. What this server knows is put back by now; other
        // servers put back theirs soon.
        isDoubtful = true
        continue
      }
      if (refused !== undefined) return yield* refused
      if (row !== undefined && !(yield* askFor(row, until))) continue // `until` ends this
      tries++
      const attached = yield* row === undefined
        ? create(request)
        : take(row, request, Math.max(row.generation + 1, timely(now())))
      if (attached !== "again") return attached
    }
    return yield* Effect.fail(contended(request.session))
  })
}

/** Higher than any generation given out before, even one that the store has lost. */
const timely = (now: number): number => Math.max(1, Math.floor(now))

const makeCreate = ({ count, members, own, rows, written }: RegistryParts, maxSessions: number) =>
  Effect.fnUntraced(function*(
    request: AttachRequest
  ): Effect.fn.Return<Attached | "again", StoreError | HandshakeError> {
    if ((yield* count.get).sessions >= maxSessions) return yield* sessionsFull(maxSessions)
    // Higher than the generation of any earlier session with this id: servers may still hold things of that one.
    const generation = timely(members.now())
    const row: SessionRow = {
      id: request.session,
      principal: request.principal,
      tokenHash: request.nextTokenHash,
      previousTokenHash: undefined,
      generation,
      instance: request.instance,
      attempt: request.attempt ?? 0,
      node: members.node,
      detachedAt: undefined,
      wantedBy: undefined,
      ending: false,
      revision: 1
    }
    const outcome = yield* rows.put(row)
    if (outcome._tag === "Conflict") return "again"
    written.attached(row)
    count.added()
    own.attach(request.session, generation)
    members.kept.add(request.session)
    return { generation, known: false, position: undefined, replaced: false, current: false, here: false }
  })

const makeTake = ({ members: { kept, node }, own, rows, written }: RegistryParts) =>
  Effect.fnUntraced(function*(
    row: SessionRow,
    request: AttachRequest,
    generation: number
  ): Effect.fn.Return<Attached | "again", StoreError> {
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
    const outcome = yield* rows.put(next)
    if (outcome._tag === "Conflict") return "again"
    const newest = written.newest(row)
    written.attached(next)
    if (row.node === node) kept.add(row.id)
    own.attach(row.id, generation)
    const replaced = row.detachedAt === undefined && row.instance !== request.instance
    const position = outcome.position === undefined ? Exit.succeed(undefined) : readPosition(outcome.position)
    if (Exit.isFailure(position)) {
      return yield* Effect.fail(new StoreError("attach", new Error(`the position of session ${row.id} is damaged`)))
    }
    return {
      generation,
      known: true,
      position: later(position.value, newest?.position),
      replaced,
      current: request.tokenHash === row.tokenHash,
      here: row.node === node || newest !== undefined
    }
  })

/**
 * The client comes back. By then the server that issued its token has put the session back; if none has, it is lost.
 */
const perhapsLost = new HandshakeError({
  reason: "overloaded",
  detail: "the store may have lost the session, or its newest resume token",
  retryable: true
})
