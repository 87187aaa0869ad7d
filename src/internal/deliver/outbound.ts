/**
 * Which sessions have something to send, when an ack leaves, and the one worker for both. So a session costs no fiber,
 * and what is appended in one turn of the event loop leaves in one frame. Where a session has to wait for the store, a fiber of its
 * own does, for that time, and nobody else waits with it.
 */
import { Cause, Effect, Exit, type Latch } from "effect"
import { Deque } from "../../core/Deque.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { type RareLog, wordsOf } from "../kit/rareLog.ts"
import { makeSignal, type Signal } from "../kit/signal.ts"
import type { Peer } from "../session/peer.ts"
import { makeLanes } from "./lanes.ts"

type Flushing = Effect.fn.Return<void, MessageQueueError>

export interface OutboundOptions {
  readonly queue: MessageQueue["Service"]
  readonly peers: ReadonlyMap<string, Peer>
  readonly flush: (peer: Peer) => Flushing
  readonly rare: RareLog
  /** The queue has another owner for the session, or does not know it. */
  readonly onRefused: (peer: Peer, error: MessageQueueError) => Effect.Effect<void>
  /** Runs `retry` after a pause that grows with the number of failures in a row. */
  readonly later: (failures: number, retry: () => void) => void
  /** What else keeps the worker from being idle. */
  readonly isBusy: () => boolean
  readonly now: () => number
  /** Notified whenever something was sent. */
  readonly pulse: Signal
  /** While it is closed, the worker rests. */
  readonly gate: Latch.Latch
}

export const makeOutbound = Effect.fnUntraced(function*(options: OutboundOptions) {
  const { flush, gate, now, peers, pulse } = options
  /** Each peer is in it once. */
  const dirty = new Deque<Peer>()
  const work = yield* makeSignal
  let appends = 0
  let isParked = false
  let flushedAt = 0
  const lanes = yield* makeLanes(maxWaiting)
  /** A defect that ends the worker, which is restarted: where it was met, nobody could be told. */
  let defect: Cause.Cause<never> | undefined

  const markDirty = (peer: Peer): void => {
    if (peer.outgoing.wake()) dirty.pushBack(peer)
    work.notify()
  }

  /** For acks: nobody waits for them as for a message, and a process with many connections reads those first. */
  const markAckDue = (peer: Peer): void => {
    if (!peer.outgoing.wake()) return
    dirty.pushBack(peer)
    work.notifyLater()
  }

  /** The peer is not forgotten, and the worker dies of it. */
  const die = (peer: Peer, cause: Cause.Cause<never>): void => {
    if (Cause.hasInterruptsOnly(cause)) return
    defect ??= cause
    markDirty(peer)
  }

  /** A store that fails is asked again later; an owner that lost its session lets go of it. */
  const onError = (peer: Peer, generation: number, error: MessageQueueError): Effect.Effect<void> => {
    // What an older generation is refused is no fault of the newer one that has taken over meanwhile.
    if (peer.own.refused("queue", generation) === "again") return Effect.sync(() => markDirty(peer))
    if (error.reason !== "store") return options.onRefused(peer, error)
    options.later(peer.outgoing.flushFailed(), () => markDirty(peer))
    return Effect.sync(() =>
      options.rare.warn("delivery", `delivery to session ${peer.session} is put off: ${wordsOf(error)}`)
    )
  }

  /** Goes on with a flush that has to wait for `first`, and for whatever it comes to. */
  const waitFor = (peer: Peer, steps: Flushing, first: Effect.Effect<unknown, MessageQueueError>): void => {
    const { outgoing, own: { generation } } = peer
    outgoing.flushWaits()
    const rest = Effect.matchEffect(Effect.gen(() => goOn(steps, first)), {
      onFailure: (error) => onError(peer, generation, error),
      onSuccess: () => {
        outgoing.flushSucceeded()
        return Effect.void
      }
    })
    lanes.run(rest, (exit) => {
      if (outgoing.flushEnded()) {
        dirty.pushBack(peer)
        work.notify()
      }
      if (Exit.isFailure(exit)) die(peer, exit.cause)
      pulse.notify()
    })
  }

  /** Sends here and now, as far as nothing has to be waited for. Does not throw. */
  const flushNow = (peer: Peer): void => {
    peer.outgoing.flushBegan()
    flushedAt = now()
    try {
      const steps = flush(peer)
      const step = steps.next()
      if (step.done === true) pulse.notify()
      else waitFor(peer, steps, step.value)
    } catch (thrown) {
      die(peer, Cause.die(thrown))
    }
  }

  /**
   * When nothing else was sent in this millisecond, and nothing is on its way to this peer, a message need not wait for
   * the worker; but the answer of a handler waits for the ack of what it answers.
   */
  const mayGoNow = (peer: Peer): boolean =>
    gate.isOpen()
      ? isParked && peer.outgoing.isAtRest && !peer.incoming.isHandling && peer.link?.flow?.idle !== false &&
        now() > flushedAt
      : !peer.outgoing.isFlushing // nobody else would send it

  yield* options.queue.onAppend((key) => {
    appends++
    const peer = peers.get(key)
    peer?.outgoing.addressed()
    // Who has no connection is marked when it has one.
    if (peer?.link === undefined) return
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
  const flushDirty = Effect.sync(() => {
    for (let left = dirty.size; left > 0; left--) {
      const peer = dirty.popFront()
      // One whose flush made it dirty and then had to wait comes back when that has ended.
      if (peer?.outgoing.isFlushing === false) flushNow(peer)
    }
  })

  const loop = Effect.gen(function*() {
    while (true) {
      if (defect !== undefined) {
        const cause = defect
        defect = undefined
        yield* Effect.failCause(cause)
      }
      if (dirty.size === 0) {
        isParked = true
        yield* work.wait
        isParked = false
      }
      if (!gate.isOpen()) yield* gate.await
      if (isBusy(0)) yield* gather
      appends = 0
      yield* flushDirty
    }
  })

  return {
    markDirty,
    markAckDue,
    die,
    loop,
    isIdle: () => dirty.size === 0 && !lanes.isBusy() && !options.isBusy()
  }
})

/** Does `first`, then the rest of what it is a step of. */
const goOn = function*(steps: Flushing, first: Effect.Effect<unknown, MessageQueueError>): Flushing {
  let step = steps.next(yield* first)
  while (step.done !== true) step = steps.next(yield* step.value)
}

/** Sessions that wait for the store at once; the others wait in line. */
const maxWaiting = 256

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
