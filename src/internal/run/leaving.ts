/** How sessions leave this side, for good or for another server, and who then settles their receipts. */
import { Effect } from "effect"
import type { OutboxPosition } from "../../core/Frame.ts"
import type { FateReason } from "../../core/Protocol.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import { MessageQueueError, type SessionRegistryError } from "../../WebSocketError.ts"
import type { Signal } from "../kit/signal.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Peer } from "../session/peer.ts"
import type { Peers } from "../session/peers.ts"
import type { Dead } from "../session/receipts.ts"
import { makeRemoteProgress } from "../session/remoteProgress.ts"
import type { Background } from "./background.ts"

export interface LeavingOptions {
  readonly queue: MessageQueue["Service"]
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing" | "tell">
  readonly peers: Peers
  readonly now: () => number
  readonly pulse: Signal
  readonly run: Background["run"]
  /** Gives up what the peer has received. */
  readonly forfeit: (peer: Peer) => void
  /** The session has a newer owner. */
  readonly onRefused: (peer: Peer, error: MessageQueueError | SessionRegistryError) => Effect.Effect<void>
}

export const makeLeaving = Effect.fnUntraced(function*(options: LeavingOptions) {
  const { deadLetters, forfeit, peers, queue } = options
  const deadHere = (session: string, epoch: string, offset: number): Dead | undefined => {
    const peer = peers.get(session)
    return peer?.epoch === epoch ? peer.receipts.deadAt(offset) : undefined
  }
  /** Waits for messages that others deliver; absent where the queue does not outlive this process. */
  const remoteProgress = queue.durable ? yield* makeRemoteProgress({ queue, now: options.now, deadHere }) : undefined
  if (remoteProgress !== undefined) deadLetters.tell(remoteProgress)

  /** The peer's outbox is open for it. */
  const opened = (peer: Peer, out: OutboxPosition): void =>
    peer.outgoing.opened(out, peer.own.generation, remoteProgress && ((epoch) => remoteProgress.of(peer.key, epoch)))

  const leaveReceipts = (peer: Peer): void => {
    if (remoteProgress !== undefined) peer.receipts.leaveTo(remoteProgress.of(peer.key, peer.epoch))
  }

  /** The session has another owner, or none. Nothing of it is kept here, and the store settles its receipts. */
  const forget = (peer: Peer): void => {
    if (remoteProgress === undefined || peers.get(peer.key) !== peer) return
    peers.delete(peer.key)
    forfeit(peer)
    peer.outgoing.moved()
    peer.link?.setSeen(undefined)
    leaveReceipts(peer)
    options.pulse.notify()
  }

  if (remoteProgress !== undefined) {
    yield* queue.onMoved((key, generation) => {
      const peer = peers.get(key)
      const outcome = peer?.own.opened(generation) ?? "nothing"
      if (peer === undefined || outcome === "nothing") return
      if (outcome === "forfeit") forfeit(peer) // the new owner is given it
      options.run(options.onRefused(peer, new MessageQueueError({ session: key, operation: "open", reason: "fenced" })))
    })
  }

  /** Sessions whose queues are being removed: receipts here learn what expires meanwhile. */
  const removing = new Map<string, Peer>()

  /** Ends a session at this side: its queue is emptied into dead letters. */
  const remove = Effect.fnUntraced(function*(peer: Peer, reason: FateReason) {
    peers.delete(peer.key)
    removing.set(peer.key, peer)
    const { epoch, maybeHandled, messages } = yield* queue.remove(peer.key).pipe(
      Effect.tapError(({ reason }) =>
        Effect.sync(() => {
          // Either it is tried again, which settles the receipts, or somebody else has removed it.
          if (reason !== "store") leaveReceipts(peer)
          else if (!peers.has(peer.key)) peers.set(peer.key, peer)
        })
      ),
      Effect.ensuring(Effect.sync(() => removing.delete(peer.key)))
    )
    yield* deadLetters.outgoing(peer.session, peer, epoch, messages, reason, maybeHandled)
  })

  return {
    remoteProgress,
    opened,
    forget,
    remove,
    /** The session's peer, even while its queue is being removed. */
    peerOf: (session: string): Peer | undefined => peers.get(session) ?? removing.get(session)
  }
})
