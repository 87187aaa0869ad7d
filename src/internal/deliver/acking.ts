/**
 * From the peers' acks to the queue, to dead letters and to receipts. At once where the queue can, else in the
 * background, so that no delivery waits for it: for each session one at a time, and what comes meanwhile is told
 * together after that.
 */
import { type Cause, Effect, Exit } from "effect"
import { encode } from "../../core/Codec.ts"
import type { AckResult } from "../../core/Outbox.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { type RareLog, wordsOf } from "../kit/rareLog.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import { type Ack, merge, type Peer } from "../session/peer.ts"
import { makeLanes } from "./lanes.ts"

export interface AckingOptions {
  readonly queue: MessageQueue["Service"]
  readonly recorder: Recorder
  readonly rare: RareLog
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly now: () => number
  readonly markDirty: (peer: Peer) => void
  /** The queue has another owner for the session, or does not know it. */
  readonly onFenced: (peer: Peer, error: MessageQueueError) => Effect.Effect<void>
  /** Runs `retry` after a pause that grows with the number of failures in a row. */
  readonly later: (failures: number, retry: () => void) => void
  readonly onDefect: (peer: Peer, cause: Cause.Cause<never>) => void
  /** An ack is over, one way or the other. */
  readonly onEnd: () => void
}

/** Acks under way at once. A store commits many together, so there are more than of reads. */
const maxAcking = 1_024

type Settling<E = never> = Effect.fn.Return<void, E>

export const makeAcking = Effect.fnUntraced(function*(options: AckingOptions) {
  const { deadLetters, now, queue, recorder } = options
  const lanes = yield* makeLanes(maxAcking)

  /** What follows from an ack that the queue has taken. */
  const settled = function*(peer: Peer, epoch: string, ack: Ack, result: AckResult): Settling {
    const { failed, handled } = ack
    // Offsets of an outbox that was replaced meanwhile mean nothing in the new one.
    const current = peer.epoch === epoch ? peer : undefined
    recorder.count("messagesAcknowledged", result.released)
    if (result.newestEnqueuedAt !== undefined) recorder.handledAfter(now() - result.newestEnqueuedAt)
    for (const { message, reason } of result.failed) {
      yield* deadLetters.outgoing(peer.session, current, epoch, [message], reason, 0)
    }
    if (current === undefined) return
    // Cumulative: while the socket takes nothing, the newest stands for all.
    if (failed.length > 0) current.control = [encode({ t: "seen", o: handled })]
    current.acked = Math.max(current.acked, handled)
    current.receipts.handled(handled)
  }

  const putBack = (peer: Peer, epoch: string, ack: Ack): void => {
    if (peer.epoch === epoch) peer.pendingAck = merge(ack, peer.pendingAck)
  }

  const onFailure = (
    peer: Peer,
    epoch: string,
    generation: number,
    ack: Ack,
    error: MessageQueueError
  ): Effect.Effect<void> => {
    putBack(peer, epoch, ack)
    if (error.reason === "store") {
      options.later(++peer.ackFailures, () => {
        peer.acking = undefined
        tellInBackground(peer)
      })
      return Effect.sync(() =>
        options.rare.warn("acks", `acks of session ${peer.session} are put off: ${wordsOf(error)}`)
      )
    }
    peer.acking = undefined
    // What an older generation is refused is no fault of the newer one that has taken over meanwhile.
    if (peer.generation === generation) return options.onFenced(peer, error)
    return Effect.sync(() => options.markDirty(peer))
  }

  const tellInBackground = (peer: Peer): void => {
    const { epoch, generation, pendingAck: ack } = peer
    if (ack === undefined) return
    peer.pendingAck = undefined
    peer.acking = ack
    const told = Effect.matchEffect(queue.ack(peer.key, generation, ack.handled, ack.failed), {
      onFailure: (error) => onFailure(peer, epoch, generation, ack, error),
      onSuccess: (result) => {
        peer.ackFailures = 0
        return Effect.map(Effect.gen(() => settled(peer, epoch, ack, result)), () => {
          peer.acking = undefined
          tellInBackground(peer)
          // A queue that gives out only so much may have more to give now.
          if (peer.control.length > 0 || peer.stalled === "window") options.markDirty(peer)
        })
      }
    })
    lanes.run(told, (exit) => {
      if (Exit.isFailure(exit)) {
        peer.acking = undefined
        putBack(peer, epoch, ack)
        options.onDefect(peer, exit.cause)
      }
      options.onEnd()
    })
  }

  /** Tells the queue what waits to be told, there and then if it can. */
  const tell = function*(peer: Peer): Settling {
    const { acking, epoch, pendingAck } = peer
    if (acking !== undefined || pendingAck === undefined) return
    const result = queue.ack.unsafe?.(peer.key, peer.generation, pendingAck.handled, pendingAck.failed)
    if (result === undefined) return tellInBackground(peer)
    peer.pendingAck = undefined
    yield* settled(peer, epoch, pendingAck, result)
  }

  /** The same, waiting until the queue has it. */
  const tellAll = function*(peer: Peer): Settling<MessageQueueError> {
    const { acking, epoch, pendingAck } = peer
    const ack = merge(acking, pendingAck) // what is on its way does no harm twice
    if (ack === undefined) return
    peer.pendingAck = undefined
    const { failed, handled } = ack
    const result = queue.ack.unsafe?.(peer.key, peer.generation, handled, failed) ?? (yield* Effect.onError(
      queue.ack(peer.key, peer.generation, handled, failed),
      () => Effect.sync(() => putBack(peer, epoch, ack))
    ))
    yield* settled(peer, epoch, ack, result)
  }

  return { tell, tellAll: (peer: Peer) => Effect.gen(() => tellAll(peer)), isBusy: lanes.isBusy }
})
