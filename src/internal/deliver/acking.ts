/**
 * From the peers' acks to the queue, to dead letters and to receipts. The queue is told at once if it can answer
 * synchronously, otherwise in the background, so that no delivery waits for it: one ack at a time for each session.
 * Acks that come meanwhile are told together afterwards.
 */
import { type Cause, Effect, Exit } from "effect"
import { encode } from "../../core/Codec.ts"
import type { AckResult } from "../../core/Outbox.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { type RareLog, wordsOf } from "../kit/rareLog.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Ack } from "../session/outgoing.ts"
import type { Peer } from "../session/peer.ts"
import { makePool } from "./pool.ts"

export interface AckingOptions {
  readonly queue: MessageQueue["Service"]
  readonly recorder: Recorder
  readonly rare: RareLog
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly now: () => number
  readonly markDirty: (peer: Peer) => void
  /** The queue says that the session has another owner, or does not know the session. */
  readonly onRefused: (peer: Peer, error: MessageQueueError) => Effect.Effect<void>
  /** Runs `retry` after a pause that grows with the number of failures in a row. */
  readonly later: (failures: number, retry: () => void) => void
  readonly onDefect: (peer: Peer, cause: Cause.Cause<never>) => void
  /** An ack has been told, or has failed. */
  readonly onEnd: () => void
}

/** Acks under way at once. More than sessions that wait to read, since a store commits many acks together. */
const maxAcking = 1_024

type Settling<E = never> = Effect.fn.Return<void, E>

export const makeAcking = Effect.fnUntraced(function*(options: AckingOptions) {
  const { deadLetters, now, queue, recorder } = options
  const pool = yield* makePool(maxAcking)

  /** Does what follows an ack that the queue has taken. */
  const settled = function*(peer: Peer, epoch: string, ack: Ack, result: AckResult): Settling {
    const { failed, handled } = ack
    // If the outbox was replaced meanwhile, the ack's offsets mean nothing in the new one.
    const current = peer.outgoing.epoch === epoch ? peer : undefined
    recorder.count("messagesAcknowledged", result.released)
    if (result.newestEnqueuedAt !== undefined) recorder.handledAfter(now() - result.newestEnqueuedAt)
    for (const { message, reason } of result.failed) {
      yield* deadLetters.outgoing(peer.session, current, epoch, [message], reason, 0)
    }
    if (current === undefined) return
    if (failed.length > 0) current.link?.setSeen(encode({ t: "seen", o: handled }))
    current.outgoing.settled(handled)
  }

  const onFailure = (
    peer: Peer,
    epoch: string,
    generation: number,
    ack: Ack,
    error: MessageQueueError
  ): Effect.Effect<void> => {
    const { outgoing } = peer
    outgoing.putBack(epoch, ack)
    if (error.reason === "store") {
      options.later(outgoing.ackFailed(), () => {
        outgoing.ackEnded()
        tellInBackground(peer)
      })
      return Effect.sync(() =>
        options.rare.warn("acks", `acks of session ${peer.session} are put off: ${wordsOf(error)}`)
      )
    }
    outgoing.ackEnded()
    // If a newer generation has taken over meanwhile, a refusal of the older one says nothing about it.
    if (peer.own.refused("queue", generation) === "ask") return options.onRefused(peer, error)
    return Effect.sync(() => options.markDirty(peer))
  }

  const tellInBackground = (peer: Peer): void => {
    const { outgoing, own: { generation } } = peer
    const { epoch } = outgoing
    const ack = outgoing.ackBegan()
    if (ack === undefined) return
    const told = Effect.matchEffect(queue.ack(peer.key, generation, ack.handled, ack.failed), {
      onFailure: (error) => onFailure(peer, epoch, generation, ack, error),
      onSuccess: (result) => {
        outgoing.ackSucceeded()
        return Effect.map(Effect.gen(() => settled(peer, epoch, ack, result)), () => {
          outgoing.ackEnded()
          tellInBackground(peer)
          // A queue that bounds what is out unacknowledged may have more to give now.
          if (peer.link?.hasSeen === true || peer.link?.stalled === "window") options.markDirty(peer)
        })
      }
    })
    pool.run(told, (exit) => {
      if (Exit.isFailure(exit)) {
        outgoing.ackEnded()
        outgoing.putBack(epoch, ack)
        options.onDefect(peer, exit.cause)
      }
      options.onEnd()
    })
  }

  /** Tells the queue the waiting ack, synchronously if it can answer so. */
  const tell = function*(peer: Peer): Settling {
    const { outgoing } = peer
    const { ackToTell: ack, epoch } = outgoing
    if (ack === undefined) return
    const result = queue.ack.unsafe?.(peer.key, peer.own.generation, ack.handled, ack.failed)
    if (result === undefined) return tellInBackground(peer)
    outgoing.ackTaken()
    yield* settled(peer, epoch, ack, result)
  }

  /** Tells the queue everything it may not know yet, and waits until it has it. */
  const tellAll = function*(peer: Peer): Settling<MessageQueueError> {
    const { outgoing } = peer
    const { epoch, untold: ack } = outgoing
    if (ack === undefined) return
    outgoing.ackTaken()
    const { failed, handled } = ack
    const result = queue.ack.unsafe?.(peer.key, peer.own.generation, handled, failed) ?? (yield* Effect.onError(
      queue.ack(peer.key, peer.own.generation, handled, failed),
      () => Effect.sync(() => outgoing.putBack(epoch, ack))
    ))
    yield* settled(peer, epoch, ack, result)
  }

  return { tell, tellAll: (peer: Peer) => Effect.gen(() => tellAll(peer)), isBusy: pool.isBusy }
})
