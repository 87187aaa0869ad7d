/**
 * `SessionRegistry` over a driver, for several servers: attaching, handing over, positions, retention. A session's row
 * is changed by compare-and-set; only its owner's generation writes its position. A server that wants a session asks
 * the server that still has messages of it, and takes it by force only when there is no answer.
 */
import { Effect } from "effect"
import type { Interface, Options, SessionInfo } from "../../SessionRegistry.ts"
import * as Check from "../kit/options.ts"
import { makeAttaching } from "./attaching.ts"
import { makeHolding } from "./holding.ts"
import { fenced, registryFailed } from "./registryFailures.ts"
import { makeRegistryParts, type RegistryPartsOptions } from "./registryParts.ts"
import { makeSessionEnds } from "./sessionEnds.ts"
import type { SessionRow } from "./sessions.ts"
import { makeStoredPositions } from "./storedPositions.ts"
import { ifStorable } from "./texts.ts"

export interface StoredRegistryOptions extends RegistryPartsOptions {
  readonly registry: Options
  /** How long a server that wants a session waits for the one that has it. */
  readonly handoffTimeoutMillis: number
  /** How long after its last sign of life a node is remembered. */
  readonly forgetMillis: number
}

export const makeStoredRegistry = Effect.fnUntraced(function*(options: StoredRegistryOptions) {
  const { forgetMillis, handoffTimeoutMillis } = options
  const retention = Check.millis("retention", options.registry.retention, "10 minutes")
  const maxSessions = Check.count("maxSessions", options.registry.maxSessions, 100_000)
  const parts = makeRegistryParts(options)
  const { call, count, driver, members, onWanted, rows } = parts
  const ends = makeSessionEnds(parts, { retentionMillis: retention, forgetMillis })
  const attach = makeAttaching(parts, { maxSessions, handoffTimeoutMillis })
  const positions = yield* makeStoredPositions(parts)
  const holding = makeHolding(parts)

  const infoOf = (row: SessionRow): SessionInfo => ({
    session: row.id,
    principal: row.principal,
    generation: row.generation,
    instance: row.instance,
    attached: row.detachedAt === undefined,
    endsAtMillis: row.detachedAt === undefined ? undefined : row.detachedAt + retention,
    here: row.node === members.node
  })

  const self: Interface = {
    durable: true,

    confirm: {
      isSure: members.isSure,
      session: (session, generation) =>
        Effect.flatMap(
          Effect.mapError(
            Effect.flatMap(positions.isInTransaction, (isInside) =>
              isInside
                ? holding.confirmInside(session, generation)
                : Effect.andThen(members.sure, holding.confirm(session, generation))),
            registryFailed(session, "confirm")
          ),
          (isOwn) => isOwn ? Effect.void : Effect.fail(fenced(session, "confirm"))
        )
    },
    retentionMillis: retention,

    attach: (request) =>
      Effect.mapError(
        attach(request),
        (error) => error._tag === "StoreError" ? registryFailed(request.session, "attach")(error) : error
      ),

    savePosition: positions.save,
    commitPosition: positions.commit,

    detach: (session, generation) =>
      Effect.mapError(holding.detach(session, generation), registryFailed(session, "detach")),

    release: (session, generation) =>
      Effect.mapError(holding.release(session, generation), registryFailed(session, "release")),

    onWanted: (listener) => onWanted.add(listener),

    expire: Effect.mapError(ends.expire, registryFailed("", "expire")),
    end: (session) => Effect.mapError(ends.end(session), registryFailed(session, "end")),
    expireNow: (session, generation) =>
      Effect.mapError(ends.expireNow(session, generation), registryFailed(session, "expireNow")),
    remove: (session) => Effect.mapError(ends.remove(session), registryFailed(session, "remove")),

    find: (session) =>
      Effect.map(
        Effect.mapError(rows.findNewest(session), registryFailed(session, "find")),
        (row) => row === undefined || row.ending ? undefined : infoOf(row)
      ),

    sessionsOf: (principal, limit) =>
      ifStorable("sessionsOf", [principal], call("sessionsOfPrincipal", driver.sessionsOfPrincipal(principal, limit)))
        .pipe(
          Effect.map((rows) => (rows ?? []).map(infoOf)),
          Effect.mapError(registryFailed("", "sessionsOf"))
        ),

    count: Effect.mapError(count.get, registryFailed("", "count"))
  }
  return self
})
