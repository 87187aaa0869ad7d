/**
 * Which sessions have something to send, when an ack leaves, and the one worker for both. A session thus costs no
 * fiber, and what is appended in one turn of the event loop leaves in one frame. A session that has to wait for the
 * store gets a fiber for that time, so that no other session waits with it.
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
  /** The queue says that the session has another owner, or does not know the session. */
  readonly onRefused: (peer: Peer, error: MessageQueueError) => Effect.Effect<void>
  /** Runs `retry` after a pause that grows with the number of failures in a row. */
  readonly later: (failures: number, retry: () => void) => void
  /** Whether anything else keeps the worker from being idle. */
  readonly isBusy: () => boolean
  readonly now: () => number
  /** Notified whenever something was sent. */
  readonly pulse: Signal
  /** The worker rests while the gate is closed. */
  readonly gate: Latch.Latch
}

/** How many sessions may wait for the store at once; the others wait in line. */
const maxWaiting = 256
/**
 * Senders are busy when they append this often in a turn of the event loop. Then a session's next frame may wait until
 * there are `enoughForFrame` messages for each session in line, but no longer than it would take to write to them all,
 * or `leastGathering` ms. Senders that send less, or to few sessions, wait for nothing.
 */
const busySenders = 256
const enoughForFrame = 32
const leastGathering = 10
/** What a frame and its ack cost, in ms: mostly system calls. */
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
  /** Holds each peer at most once. */
  private readonly dirty = new Deque<Peer>()
  private appends = 0
  private isParked = false
  private flushedAt = 0
  /** A defect to end the worker with, which is then restarted: the code that met it had nobody to tell. */
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

  /** For acks, which are less urgent than messages: a process with many connections first reads those. */
  readonly markAckDue = (peer: Peer): void => {
    if (!peer.outgoing.wake()) return
    this.dirty.pushBack(peer)
    this.work.notifyLater()
  }

  /** Ends the worker with this defect. The peer stays in line. */
  die(peer: Peer, cause: Cause.Cause<never>): void {
    if (Cause.hasInterruptsOnly(cause)) return
    this.defect ??= cause
    this.markDirty(peer)
  }

  /** If the store failed, it is asked again later. If the session was lost to another owner, it is given up. */
  private onError(peer: Peer, generation: number, error: MessageQueueError): Effect.Effect<void> {
    // If a newer generation has taken over meanwhile, a refusal of the older one says nothing about it.
    if (peer.own.refused("queue", generation) === "again") return Effect.sync(() => this.markDirty(peer))
    if (error.reason !== "store") return this.options.onRefused(peer, error)
    this.options.later(peer.outgoing.flushFailed(), () => this.markDirty(peer))
    return Effect.sync(() =>
      this.options.rare.warn("delivery", `delivery to session ${peer.session} is put off: ${wordsOf(error)}`)
    )
  }

  /** Continues a flush in a fiber: it has to wait for `first`, and perhaps for more after it. */
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

  /** Sends synchronously until it has to wait for something. Does not throw. */
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
   * If nothing else was sent in this millisecond and nothing is on its way to this peer, a message need not wait for
   * the worker. A handler's answer does wait, to leave together with the ack of what it answers.
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

  /** Lets senders that write to many sessions continue for a while, so that each session gets one larger frame. */
  private readonly gather = Effect.gen({ self: this }, function*() {
    const since = this.now()
    let before = 0
    while (this.isBusy(before) && this.now() - since < Math.max(leastGathering, this.dirty.size * millisToWrite)) {
      before = this.appends
      yield* Effect.yieldNow
    }
  })

  /** Goes once through the peers in line; those that join meanwhile are for the next round. */
  private readonly flushDirty = Effect.sync(() => {
    for (let left = this.dirty.size; left > 0; left--) {
      const peer = this.dirty.popFront()
      // A peer whose flush made it dirty again and now waits comes back when that flush has ended.
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

/** Runs `first`, then the remaining steps. */
const goOn = function*(steps: Flushing, first: Effect.Effect<unknown, MessageQueueError>): Flushing {
  let step = steps.next(yield* first)
  while (step.done !== true) step = steps.next(yield* step.value)
}
