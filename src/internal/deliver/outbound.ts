/**
 * Which sessions have something to send, when an ack leaves, and the one worker for both.
 * So a session costs no fiber, and what is appended in one turn of the event loop leaves in one frame. A session that has
 * to wait for the store does so in a fiber of its own, and holds up no other.
 */
import { Cause, Effect, Exit, type Latch } from "effect"
import { Deque } from "../../core/Deque.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { type RareLog, wordsOf } from "../kit/rareLog.ts"
import { makeSignal, type Signal } from "../kit/signal.ts"
import type { Peer } from "../session/peer.ts"
import { makePool, type Pool } from "./pool.ts"

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
  /** Whether anything else keeps the worker from being idle. */
  readonly isBusy: () => boolean
  readonly now: () => number
  /** Notified whenever something was sent. */
  readonly pulse: Signal
  /** While it is closed, the worker rests. */
  readonly gate: Latch.Latch
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

export const makeOutbound = Effect.fnUntraced(function*(options: OutboundOptions) {
  const outbound = new Outbound(options, yield* makeSignal, yield* makePool(maxWaiting))
  yield* options.queue.onAppend(outbound.appended)
  return outbound
})

class Outbound {
  private readonly options: OutboundOptions
  private readonly work: Signal
  private readonly pool: Pool
  private readonly now: () => number
  /** Each peer is in it once. */
  private readonly dirty = new Deque<Peer>()
  private appends = 0
  private isParked = false
  private flushedAt = 0
  /** A defect met where it could not be reported: it ends the worker, which is restarted. */
  private defect: Cause.Cause<never> | undefined

  constructor(options: OutboundOptions, work: Signal, pool: Pool) {
    this.options = options
    this.work = work
    this.pool = pool
    this.now = options.now
  }

  readonly markDirty = (peer: Peer): void => {
    if (peer.outgoing.wake()) this.dirty.pushBack(peer)
    this.work.notify()
  }

  /** For acks: they are less urgent than messages, and a process with many connections reads those first. */
  readonly markAckDue = (peer: Peer): void => {
    if (!peer.outgoing.wake()) return
    this.dirty.pushBack(peer)
    this.work.notifyLater()
  }

  /** Remembers the peer, and lets the worker die of the defect. */
  die(peer: Peer, cause: Cause.Cause<never>): void {
    if (Cause.hasInterruptsOnly(cause)) return
    this.defect ??= cause
    this.markDirty(peer)
  }

  /** Retries later when the store failed; lets go of the session when it is lost. */
  private onError(peer: Peer, generation: number, error: MessageQueueError): Effect.Effect<void> {
    // A refusal of an older generation says nothing about the newer one that has taken over.
    if (peer.own.refused("queue", generation) === "again") return Effect.sync(() => this.markDirty(peer))
    if (error.reason !== "store") return this.options.onRefused(peer, error)
    this.options.later(peer.outgoing.flushFailed(), () => this.markDirty(peer))
    return Effect.sync(() =>
      this.options.rare.warn("delivery", `delivery to session ${peer.session} is put off: ${wordsOf(error)}`)
    )
  }

  /** Goes on with a flush that must wait, for `first` and for whatever comes after. */
  private waitFor(peer: Peer, steps: Flushing, first: Effect.Effect<unknown, MessageQueueError>): void {
    const { outgoing, own: { generation } } = peer
    outgoing.flushWaits()
    const rest = Effect.matchEffect(Effect.gen(() => goOn(steps, first)), {
      onFailure: (error) => this.onError(peer, generation, error),
      onSuccess: () => {
        outgoing.flushSucceeded()
        return Effect.void
      }
    })
    this.pool.run(rest, (exit) => {
      if (outgoing.flushEnded()) {
        this.dirty.pushBack(peer)
        this.work.notify()
      }
      if (Exit.isFailure(exit)) this.die(peer, exit.cause)
      this.options.pulse.notify()
    })
  }

  /** Sends at once, as far as that needs no waiting. Does not throw. */
  private flushNow(peer: Peer): void {
    peer.outgoing.flushBegan()
    this.flushedAt = this.now()
    try {
      const steps = this.options.flush(peer)
      const step = steps.next()
      if (step.done === true) this.options.pulse.notify()
      else this.waitFor(peer, steps, step.value)
    } catch (thrown) {
      this.die(peer, Cause.die(thrown))
    }
  }

  /**
   * When nothing else was sent in this millisecond, and nothing is on its way to this peer, a message need not wait for
   * the worker; but the answer of a handler waits for the ack of what it answers.
   */
  private mayGoNow(peer: Peer): boolean {
    return this.options.gate.isOpen()
      ? this.isParked && peer.outgoing.isAtRest && !peer.incoming.isHandling && peer.link?.flow?.idle !== false &&
        this.now() > this.flushedAt
      : !peer.outgoing.isFlushing // nobody else would send it
  }

  /** Something was appended to the outbox of this session. */
  readonly appended = (key: string): void => {
    this.appends++
    const peer = this.options.peers.get(key)
    peer?.outgoing.addressed()
    // A peer without a connection is marked when it gets one.
    if (peer?.link === undefined) return
    if (this.mayGoNow(peer)) this.flushNow(peer)
    else this.markDirty(peer)
  }

  private isBusy(before: number): boolean {
    return this.appends - before >= busySenders && this.appends < enoughForFrame * this.dirty.size
  }

  /** Lets senders that are writing to many sessions go on for a while, so that each session gets one larger frame. */
  private readonly gather = Effect.gen({ self: this }, function*() {
    const since = this.now()
    let before = 0
    while (this.isBusy(before) && this.now() - since < Math.max(leastGathering, this.dirty.size * millisToWrite)) {
      before = this.appends
      yield* Effect.yieldNow
    }
  })

  /** One round over those with something to do; who joins meanwhile is for the next round. */
  private readonly flushDirty = Effect.sync(() => {
    for (let left = this.dirty.size; left > 0; left--) {
      const peer = this.dirty.popFront()
      // A peer whose flush has to wait comes back when that has ended.
      if (peer?.outgoing.isFlushing === false) this.flushNow(peer)
    }
  })

  readonly loop = Effect.gen({ self: this }, function*() {
    while (true) {
      if (this.defect !== undefined) {
        const cause = this.defect
        this.defect = undefined
        yield* Effect.failCause(cause)
      }
      if (this.dirty.size === 0) {
        this.isParked = true
        yield* this.work.wait
        this.isParked = false
      }
      if (!this.options.gate.isOpen()) yield* this.options.gate.await
      if (this.isBusy(0)) yield* this.gather
      this.appends = 0
      yield* this.flushDirty
    }
  })

  readonly isIdle = (): boolean => this.dirty.size === 0 && !this.pool.isBusy() && !this.options.isBusy()
}

/** Runs `first`, then the rest of its generator. */
const goOn = function*(steps: Flushing, first: Effect.Effect<unknown, MessageQueueError>): Flushing {
  let step = steps.next(yield* first)
  while (step.done !== true) step = steps.next(yield* step.value)
}
