/**
 * `MessageQueue` over a driver: its operations, and what can be asked of it. What is appended is committed before
 * anybody is told. What is read comes from memory where it can. What fails half-way is found out at the next look.
 */
import { Effect } from "effect"
import { defaultMessageId, type ReadLimit } from "../../core/Outbox.ts"
import type { Interface, Located } from "../../MessageQueue.ts"
import * as Check from "../kit/options.ts"
import { type AppendingOptions, makeAppending } from "./appending.ts"
import { makeExpiring } from "./expiring.ts"
import type { GivenUp } from "./givingUp.ts"
import { startLooks } from "./looks.ts"
import { makeOpening } from "./opening.ts"
import { isSwept } from "./outboxes.ts"
import { makeOwnLogs } from "./ownLogs.ts"
import { orStoreFailed, refuse, storeFailed } from "./queueFailures.ts"
import { makeQueueParts, type QueueParts, type QueuePartsOptions } from "./queueParts.ts"
import { makeRemoving } from "./removing.ts"
import { makeStoredAcks } from "./storedAcks.ts"
import { makeStoredReads } from "./storedReads.ts"
import { ifStorable } from "./texts.ts"

export interface StoredQueueOptions extends QueuePartsOptions {
  readonly lanes: number
  readonly appendTimeoutMillis: number
  readonly keys: AppendingOptions["keys"]
}

export const makeStoredQueue = Effect.fnUntraced(function*(options: StoredQueueOptions) {
  const { appendTimeoutMillis, keys, lanes, queue } = options
  const ttlMillis = Check.millis("ttl", queue.ttl, "5 minutes")
  const suspendTimeoutMillis = Check.millis("suspendTimeout", queue.suspendTimeout, Infinity)
  const parts = yield* makeQueueParts(options)
  const { onAppend, onMoved, tail } = parts
  const ownLogs = makeOwnLogs(parts)
  const { owning } = ownLogs
  const appending = yield* makeAppending({ parts, lanes, ttlMillis, suspendTimeoutMillis, appendTimeoutMillis, keys })
  const acks = yield* makeStoredAcks(parts, appending)
  const { read, readUnsafe } = makeStoredReads(parts, ownLogs)
  const open = yield* makeOpening(parts)
  const remove = makeRemoving(parts, appending, acks)
  yield* startLooks(parts)

  const self: Interface = {
    durable: true,

    open: (session, generation, share) =>
      Effect.mapError(open(session, generation, share), orStoreFailed(session, "open")),

    append: appending.append,
    appendOnce: appending.appendOnce,

    read: Object.assign(
      (session: string, generation: number, after: number, limit: ReadLimit) =>
        owning(session, generation, "read", (log) => read(log, after, limit)),
      { unsafe: readUnsafe }
    ),

    ack: (session, generation, upTo, failed) =>
      owning(session, generation, "ack", (log) => acks.ack(log, upTo, failed)),

    recover: (session, generation, last) =>
      owning(
        session,
        generation,
        "recover",
        (log) =>
          Effect.map(tail.settle(log, last), (state) => ({ epoch: state.epoch, acked: state.acked, last: state.last }))
      ),

    giveBackSent: (session, generation) =>
      owning(session, generation, "giveBackSent", (log) => {
        const given = ownLogs.giveUp(log, (messages) =>
          messages.flatMap((message): ReadonlyArray<GivenUp> =>
            message.offset <= log.sent ? [{ reason: "fresh", message }] : []
          ))
        return Effect.map(given, (all) =>
          all.map(({ message }) =>
            message
          ))
      }),

    remove: (session) => Effect.mapError(remove(session), orStoreFailed(session, "remove")),

    expire: makeExpiring(parts, ownLogs, acks),

    ...questions(parts),

    onAppend: (listener) => onAppend.add(listener),
    onMoved: (listener) => onMoved.add(listener),

    stats: Effect.sync(() => ({ ...parts.totals.stats(), suspended: appending.suspended(), lost: tail.total() }))
  }
  return self
})

/** What anybody may ask of an outbox. */
const questions = (
  { call, driver, logs, reader: { readAll } }: QueueParts
): Pick<Interface, "find" | "size" | "progress"> => ({
  find: (session, messageId) =>
    Effect.mapError(readAll(session), storeFailed(session, "find")).pipe(
      Effect.map((all): Located | undefined => {
        const found = all?.messages.find((message) =>
          (message.id ?? defaultMessageId(all.state.epoch, message.offset)) === messageId
        )
        if (found === undefined) return undefined
        const { enqueuedAt, offset } = found
        return { state: offset <= (logs.get(session)?.sent ?? 0) ? "sent" : "waiting", offset, enqueuedAt }
      })
    ),

  size: (session) =>
    Effect.suspend(() => {
      const log = logs.get(session)
      if (log !== undefined) return Effect.succeed({ messages: log.messages, bytes: log.bytes })
      return Effect.flatMap(
        Effect.mapError(
          ifStorable("outboxes", [session], call("outboxes", driver.outboxes([session]))),
          storeFailed(session, "size")
        ),
        ([state]) =>
          state === undefined
            ? Effect.fail(refuse(session, "size", "unknownSession"))
            : Effect.succeed({ messages: state.messages, bytes: state.bytes })
      )
    }),

  progress: (requests) =>
    Effect.gen(function*() {
      const states = yield* call("outboxes", driver.outboxes(requests.map(({ session }) => session)))
      const bySession = new Map(states.map((state) => [state.session, state]))
      return yield* Effect.forEach(requests, ({ after, session }) => {
        const state = bySession.get(session)
        if (state === undefined) return Effect.succeed(undefined)
        const { acked, epoch, last } = state
        return Effect.map(
          call("fates", driver.fates(session, after + 1, Math.max(after + 1, last))),
          (stored) => {
            const dead = stored.filter((fate) => !isSwept(fate))
            const beside = logs.get(session)?.fatesBeside(epoch, after, dead) ?? []
            // Swept fates come last, so that fates still known win over them.
            return { epoch, acked, dead: [...dead, ...beside, ...stored.filter(isSwept)] }
          }
        )
      }, { concurrency: 8 })
    }).pipe(Effect.mapError(storeFailed("", "progress")))
})
