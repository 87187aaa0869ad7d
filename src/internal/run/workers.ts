/** The background workers of server and client, each supervised: delivery, receipts from elsewhere, the chores. */
import { Effect, type Latch } from "effect"
import type { Deduplicator } from "../../Deduplicator.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { WebSocketError } from "../../WebSocketError.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Peer } from "../session/peer.ts"
import { doChores } from "./chores.ts"
import { supervise, type Worker } from "./supervisor.ts"

export interface WorkersOptions {
  readonly worker: Omit<Worker, "name" | "loop">
  readonly queue: MessageQueue["Service"]
  readonly deduplicator: Deduplicator["Service"]
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly delivery: Effect.Effect<unknown>
  /** Asks what became of messages that other servers deliver. */
  readonly remoteProgress: Effect.Effect<unknown> | undefined
  readonly heartbeat: Effect.Effect<void, WebSocketError>
  /** The store's work at intervals. It may hang, so it must not hold up the clock. */
  readonly sweep: Effect.Effect<void, WebSocketError> | undefined
  readonly isHere: (session: string) => boolean
  /** The session's peer, even while its queue is being removed. */
  readonly peerOf: (session: string) => Peer | undefined
  readonly tickMillis: number
  readonly expiryMillis: number
  /** While it is closed, the chores rest. */
  readonly gate: Latch.Latch
}

export const startWorkers = Effect.fnUntraced(function*(options: WorkersOptions) {
  const { deadLetters, queue, remoteProgress, sweep, tickMillis, worker } = options

  /** Messages whose time to live is over. */
  const expiry = Effect.gen(function*() {
    const due = yield* Effect.catch(queue.expire(options.isHere), (error) => Effect.as(putOff(error), []))
    for (const { epoch, messages, reason = "expired", session } of due) {
      const peer = options.peerOf(session)
      const sender = peer?.epoch === epoch ? peer : undefined
      yield* deadLetters.outgoing(peer?.session ?? session, sender, epoch, messages, reason, 0)
    }
  })

  yield* supervise({ ...worker, name: "delivery", loop: options.delivery })
  if (remoteProgress !== undefined) yield* supervise({ ...worker, name: "remoteProgress", loop: remoteProgress })
  yield* doChores([
    { ...worker, name: "heartbeat", loop: options.heartbeat, everyMillis: tickMillis },
    ...(sweep === undefined
      ? []
      : [{ ...worker, name: "sessions", loop: Effect.catch(sweep, putOff), everyMillis: tickMillis }]),
    { ...worker, name: "expiry", loop: expiry, everyMillis: options.expiryMillis },
    { ...worker, name: "deduplicator", loop: options.deduplicator.rotate, everyMillis: options.expiryMillis }
  ], options.gate)
})

/** A store that is down is no fault of the worker: the next round asks it again. */
const putOff = (error: WebSocketError) => Effect.logWarning("a sweep is put off", error)
