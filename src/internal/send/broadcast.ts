/** One message to the queues of many sessions: serialized once, and each queue shares the text. */
import { Effect, Exit } from "effect"
import type { Broadcast, BroadcastFailure } from "../../Message.ts"
import type { Appended, MessageQueue, NewMessage } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import {
  type MessageQueueError,
  PayloadError,
  type QueueOverflowError,
  SessionNotFoundError
} from "../../WebSocketError.ts"
import type { Peer } from "../session/peer.ts"
import { notFoundIn, RemoteSession, type Target } from "../session/remote.ts"
import { type Serialize, tooLarge } from "./payload.ts"
import type { OnDropped } from "./sending.ts"

export interface BroadcastOptions<Out> {
  readonly queue: MessageQueue["Service"]
  readonly recorder: Recorder
  readonly serialize: Serialize<Out>
  readonly maxPayload: number
  readonly peers: ReadonlyMap<string, Peer>
  /** The session here or elsewhere; undefined if it can only be here, and is not. */
  readonly find: (session: string) => Target | undefined
  readonly onDropped: OnDropped
}

/**
 * After this many sessions the delivery worker gets a turn, so that the first session can have the message before the
 * last one's queue does.
 */
const turn = 128

export const makeBroadcast = <Out>(options: BroadcastOptions<Out>) => {
  const { find, peers, queue, recorder } = options

  return Effect.fnUntraced(function*(
    message: Out,
    sessions: Iterable<string> | undefined,
    details: Pick<NewMessage, "trace" | "ttlMillis">
  ): Effect.fn.Return<Broadcast, PayloadError> {
    const serialized = options.serialize("", message, options.maxPayload)
    if (serialized instanceof PayloadError) return yield* serialized
    const { bytes, payload } = serialized
    const batch = [{ payload, bytes, id: undefined, ...details }]
    let accepted = 0
    let skipped = 0
    const failures: Array<BroadcastFailure> = []
    const waiting: Array<Effect.Effect<void>> = []

    const count = (peer: Target, { dropped, epoch, first }: Appended): Effect.Effect<void> => {
      if (first === undefined) skipped++
      else accepted++
      if (first === undefined || dropped.length > 0) recorder.count("queueOverflows")
      return dropped.length === 0 ? Effect.void : options.onDropped(peer, epoch, dropped)
    }

    const fail = (session: string, error: BroadcastFailure["error"]): Effect.Effect<void> =>
      Effect.sync(() => {
        if (error._tag === "resilient-websocket/QueueOverflowError") recorder.count("queueOverflows")
        failures.push({ session, error })
      })

    const append = (peer: Target): Effect.Effect<void> =>
      Effect.matchEffect(queue.append(peer.key, batch), {
        onSuccess: (appended) => count(peer, appended),
        onFailure: (error: MessageQueueError | QueueOverflowError) =>
          fail(peer.session, peer instanceof RemoteSession ? notFoundIn(error) : error)
      })

    const give = (session: string): Effect.Effect<void> => {
      const peer = find(session)
      if (peer === undefined) return fail(session, new SessionNotFoundError({ session }))
      if (bytes > peer.peerMaxPayload) return fail(session, tooLarge(session, bytes, peer.peerMaxPayload))
      const appended = queue.append.unsafe?.(peer.key, batch)
      return appended === undefined ? append(peer) : count(peer, appended)
    }

    let served = 0
    for (const session of sessions === undefined ? [...peers.keys()] : new Set(sessions)) {
      const effect = give(session)
      // A queue that is full, or in a store, must not make the others wait.
      if (!Exit.isExit(effect)) waiting.push(effect)
      if (++served % turn === 0) yield* Effect.yieldNow
    }
    yield* Effect.forEach(waiting, (effect) => effect, { concurrency: "unbounded", discard: true })
    return { accepted, skipped, failures }
  })
}
