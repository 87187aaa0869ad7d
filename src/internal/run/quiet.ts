/** Whether anything is still under way, for a shutdown that waits until nothing is. */
import { Effect } from "effect"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Signal } from "../kit/signal.ts"
import type { Peer } from "../session/peer.ts"

export interface QuietOptions {
  readonly queue: MessageQueue["Service"]
  readonly peers: ReadonlyMap<string, Peer>
  readonly connected: ReadonlySet<Peer>
  /** Nothing is being delivered, and the queue is told of all acks. */
  readonly isDelivered: () => boolean
  /** Whether anybody takes incoming messages now; if not, waiting for them to be handled is pointless. */
  readonly handlesIncoming: () => boolean
  readonly now: () => number
  /** Notified whenever something was delivered, handled or closed. */
  readonly pulse: Signal
}

export const makeQuiet = (options: QuietOptions) => {
  const { connected, now, peers, pulse, queue } = options

  const isHandled = ({ incoming }: Peer): boolean => incoming.isHeld || (incoming.size === 0 && !incoming.isHandling)

  /**
   * Whether nothing waits to be delivered or handled for connected peers. Messages in a durable store may wait, unless
   * they are on their way; but all that was received must be handled here, or it will be handled again elsewhere.
   */
  const isQuiet = Effect.gen(function*() {
    if (!options.isDelivered() || appending > 0) return false
    for (const peer of queue.durable ? peers.values() : connected) {
      if (options.handlesIncoming() && !isHandled(peer)) return false
    }
    for (const peer of connected) {
      if (queue.durable) {
        if (peer.link?.flow?.idle === false) return false
        continue
      }
      const { messages } = yield* queue.size(peer.key)
      if (messages > 0) return false
    }
    return true
  }).pipe(Effect.catchCause(() => Effect.succeed(true)))

  let appending = 0
  /** Counts appends under way: what is being stored for connected peers must be flushed too. */
  const seen = <A, E>(session: string, append: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      if (peers.get(session)?.connected !== true) return append
      appending++
      return Effect.ensuring(
        append,
        Effect.sync(() => {
          appending--
          pulse.notify()
        })
      )
    })
  const { appendOnce } = queue
  /** The queue, for senders. */
  const senders: MessageQueue["Service"] = {
    ...queue,
    append: Object.assign(
      (...args: Parameters<typeof queue.append>) => seen(args[0], queue.append(...args)),
      { unsafe: queue.append.unsafe }
    ),
    appendOnce: appendOnce && ((...args) => seen(args[0], appendOnce(...args)))
  }

  /** Waits until `condition` holds or `until` has come, and checks whenever something happened. */
  const settled = Effect.fnUntraced(function*(condition: Effect.Effect<boolean>, until: number) {
    while (true) {
      if (yield* condition) return true
      const left = Math.ceil(until - now())
      if (left <= 0) return false
      // Even where the waiter itself can't be interrupted, as in a finalizer.
      yield* Effect.raceFirst(Effect.interruptible(pulse.wait), Effect.interruptible(Effect.sleep(left)))
    }
  })

  return { isQuiet, senders, settled }
}
