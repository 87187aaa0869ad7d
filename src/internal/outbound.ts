/**
 * Which sessions have something to send, and the worker that sends it: one for all, so that a session costs no fiber,
 * and what is appended in one turn of the event loop leaves in one frame.
 */
import { Effect } from "effect"
import { Deque } from "../core/Deque.ts"
import type { MessageQueue } from "../MessageQueue.ts"
import type { MessageQueueError } from "../WebSocketError.ts"
import type { Peer } from "./peer.ts"
import { makeSignal, type Signal } from "./signal.ts"

type Flushing = Effect.fn.Return<void, MessageQueueError>

export interface OutboundOptions {
  readonly queue: MessageQueue["Service"]
  readonly peers: ReadonlyMap<string, Peer>
  readonly flush: (peer: Peer) => Flushing
  readonly onError: (peer: Peer, error: MessageQueueError) => Effect.Effect<void>
  readonly now: () => number
  /** Notified whenever something was sent. */
  readonly pulse: Signal
}

export const makeOutbound = Effect.fnUntraced(function*(options: OutboundOptions) {
  const { flush, now, peers, pulse } = options
  /** Each peer is in it once. */
  const dirty = new Deque<Peer>()
  const work = yield* makeSignal
  let appends = 0
  let isParked = false
  let flushing: { readonly peer: Peer; readonly generation: number } | undefined
  let flushedAt = 0
  /** What `flushNow` began and could not end. */
  let begun: (() => Flushing) | undefined

  const markDirty = (peer: Peer): void => {
    if (!peer.dirty) {
      peer.dirty = true
      dirty.pushBack(peer)
    }
    work.notify()
  }

  /** For acks: nobody waits for them as for a message, and a process with many connections reads those first. */
  const markAckDue = (peer: Peer): void => {
    if (peer.dirty) return
    peer.dirty = true
    dirty.pushBack(peer)
    work.notifyLater()
  }

  const begin = (peer: Peer): Flushing => {
    peer.dirty = false
    flushing = { peer, generation: peer.generation }
    flushedAt = now()
    return flush(peer)
  }

  const end = (): void => {
    flushing = undefined
    pulse.notify()
  }

  /** Sends here and now; if the queue needs an effect for it, the worker goes on with that. */
  const flushNow = (peer: Peer): void => {
    const steps = begin(peer)
    try {
      const step = steps.next()
      if (step.done === true) return end()
      begun = () => goOn(steps, step.value)
    } catch (defect) {
      begun = () => goOn(steps, Effect.die(defect)) // the worker's, not the sender's
    }
    work.notify()
  }

  /**
   * When nothing else was sent in this millisecond, and nothing is on its way to this peer, a message need not wait for
   * the worker; but the answer of a handler waits for the ack of what it answers.
   */
  const mayGoNow = (peer: Peer): boolean =>
    isParked && begun === undefined && !peer.dirty && !peer.handling && peer.core.flow?.idle !== false &&
    now() > flushedAt

  yield* options.queue.onAppend((key) => {
    appends++
    const peer = peers.get(key)
    // Who has no connection is marked when it has one.
    if (peer?.connection === undefined) return
    if (mayGoNow(peer)) flushNow(peer)
    else markDirty(peer)
  })

  const isBusy = (before: number): boolean => appends - before >= busySenders && appends < enoughForFrame * dirty.size

  /** Lets senders that are writing to many sessions go on for a while, so that each session gets one larger frame. */
  const gather = Effect.gen(function*() {
    const since = now()
    let before = 0
    while (isBusy(before) && now() - since < Math.max(leastGathering, dirty.size * millisToWrite)) {
      before = appends
      yield* Effect.yieldNow
    }
  })

  /** Once through those that have something to do; who comes in meanwhile is for the next round. */
  const flushDirty = Effect.gen(function*() {
    if (begun !== undefined) {
      const goesOn = begun()
      begun = undefined
      yield* goesOn
      end()
    }
    for (let left = dirty.size; left > 0; left--) {
      const peer = dirty.popFront()
      if (peer === undefined) return
      yield* begin(peer)
      end()
    }
  })

  const onError = (error: MessageQueueError): Effect.Effect<void> => {
    if (flushing === undefined) return Effect.void
    const { generation, peer } = flushing
    flushing = undefined
    // What an older generation is refused is no fault of the newer one that has taken over meanwhile.
    return peer.generation === generation ? options.onError(peer, error) : Effect.sync(() => markDirty(peer))
  }

  const loop = Effect.gen(function*() {
    // A defect in the middle of a peer must not forget it.
    if (flushing !== undefined) markDirty(flushing.peer)
    while (true) {
      if (dirty.size === 0 && begun === undefined) {
        isParked = true
        yield* work.wait
        isParked = false
      }
      if (isBusy(0)) yield* gather
      appends = 0
      yield* Effect.catch(flushDirty, onError)
    }
  })

  return { markDirty, markAckDue, loop, isIdle: () => dirty.size === 0 && flushing === undefined }
})

/** Does `first`, then the rest of what it is a step of. */
const goOn = function*(steps: Flushing, first: Effect.Effect<unknown, MessageQueueError>): Flushing {
  let step = steps.next(yield* first)
  while (step.done !== true) step = steps.next(yield* step.value)
}

/**
 * Senders are busy when they append so often in a turn of the event loop. Then a session's next frame may wait until
 * there are so many messages for each, but no longer than it would take to write to them all, or a few ms. Who sends
 * less, or to few sessions, waits for nothing.
 */
const busySenders = 256
const enoughForFrame = 32
const leastGathering = 10
/** What a frame and its ack cost, in ms: system calls, mostly. */
const millisToWrite = 0.03
