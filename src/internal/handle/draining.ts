/**
 * From a session's line to the handlers, and the position that is stored before an ack. A fiber hands deliveries to the
 * handler one by one, and stores how far they are handled before that is acknowledged.
 */
import { Effect, Exit } from "effect"
import { payloadFault } from "../../core/Payload.ts"
import { Violation } from "../../core/Violation.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Delivery } from "../session/incoming.ts"
import type { Peer } from "../session/peer.ts"
import type { Handling } from "./handling.ts"
import type { Intake } from "./intake.ts"
import { isPacked } from "./packing.ts"

export interface DrainingOptions<R> {
  readonly recorder: Recorder
  readonly intake: Intake
  readonly now: () => number
  readonly markAckDue: (peer: Peer) => void
  readonly handling: Handling<R>
  /** Stores that everything up to `offset` of the log `epoch` was handled. */
  readonly savePosition: (peer: Peer, epoch: string, offset: number) => Effect.Effect<void, unknown>
  /** Runs the peer's handler fiber, supervised. */
  readonly run: (peer: Peer, effect: Effect.Effect<void, unknown, R>, onEnd: () => void) => void
  /** Nothing waits to be handled or stored. */
  readonly onIdle: (peer: Peer) => void
  readonly onViolation: (peer: Peer, violation: Violation) => void
}

/** While messages are handled without a pause, the position is stored and acknowledged this often. */
const commitMillis = 5

/** The delivery that a peer's handler fiber is at. */
interface At {
  delivery: Delivery | undefined
}

export class Draining<R> {
  private readonly options: DrainingOptions<R>
  private readonly handling: Handling<R>
  private readonly intake: Intake
  private readonly recorder: Recorder
  private readonly now: () => number

  constructor(options: DrainingOptions<R>) {
    this.options = options
    this.handling = options.handling
    this.intake = options.intake
    this.recorder = options.recorder
    this.now = options.now
  }

  startHandling(peer: Peer): void {
    const { incoming } = peer
    if (incoming.isHandling || peer.own.isStopping || incoming.size === 0) return
    incoming.handlingBegan()
    const at: At = { delivery: undefined }
    this.options.run(peer, this.drain(peer, peer.own.tenure, at), () => {
      if (at.delivery !== undefined) this.intake.done(at.delivery) // it was interrupted
      incoming.handlingEnded()
      this.startHandling(peer)
      this.dropIfStopping(peer)
      if (incoming.isIdle) this.options.onIdle(peer)
    })
  }

  /** While the session stops, what waits is dropped: it has to come again, here or elsewhere. */
  private dropIfStopping(peer: Peer): void {
    if (!peer.own.isStopping || peer.incoming.isHandling) return
    this.drop(peer)
  }

  private drop(peer: Peer): void {
    peer.incoming.drop()
    this.intake.releaseAll(peer)
    peer.core.inbox.rewind(peer.core.inbox.handled)
  }

  /** No new handler starts; `onIdle` is called when the running one has ended. */
  stop(peer: Peer): void {
    peer.own.stop()
    this.dropIfStopping(peer)
  }

  /** Gives up what was received: a handler is interrupted, what waits is dropped, nothing is acknowledged. */
  forfeit(peer: Peer): void {
    peer.own.forfeit()
    peer.incoming.forfeited()
    // Until the connection closes: after what was dropped, its next frame would seem to leave a hole.
    if (peer.link !== undefined) peer.link.isUnheeded = true
    this.drop(peer)
    peer.incoming.interrupt()
  }

  /**
   * Handles what waits, in order, until nothing does; the next frame starts it again. One effect handles all
   * deliveries: a handler's failure ends it, `recover` deals with that, and it starts again with the next delivery.
   */
  private drain(peer: Peer, tenure: number, at: At): Effect.Effect<void, unknown, R> {
    return Effect.catchCause(this.drainUntilFailure(peer, tenure, at), (cause) => {
      const failed = at.delivery
      if (failed === undefined) return Effect.failCause(cause) // not a handler's
      return Effect.flatMap(this.handling.recover(peer, failed, cause), () => {
        at.delivery = undefined
        this.finish(peer, failed, tenure)
        return this.drain(peer, tenure, at)
      })
    })
  }

  /** A packed delivery waits for room to be unpacked. */
  private handleNext(peer: Peer, delivery: Delivery): Effect.Effect<unknown, unknown, R> {
    return isPacked(delivery)
      ? Effect.andThen(this.intake.unpack(delivery), Effect.suspend(() => this.handleUnpacked(peer, delivery)))
      : this.handling.handle(peer, delivery)
  }

  /** A plain peer's packed text was not checked before. */
  private handleUnpacked(peer: Peer, delivery: Delivery): Effect.Effect<unknown, unknown, R> {
    const fault = delivery.kind === "loose" && !delivery.volatile ? payloadFault(delivery.value) : undefined
    if (fault === undefined) return this.handling.handle(peer, delivery)
    // Not if the peer has another connection by now: that one did nothing wrong.
    if (delivery.kind === "loose" && delivery.from === peer.connection) {
      this.options.onViolation(peer, new Violation(fault.code, fault.detail))
    }
    return Effect.void
  }

  private readonly drainUntilFailure = Effect.fnUntraced(
    function*(this: Draining<R>, peer: Peer, tenure: number, at: At) {
      const { core: { options: { window } }, incoming } = peer
      let committedAt = this.now()
      while (true) {
        if (peer.own.tenure !== tenure) return
        const delivery = peer.own.isStopping ? undefined : incoming.front()
        if (incoming.mustSaveBefore(delivery)) {
          yield* this.commit(peer)
          continue
        }
        if (delivery === undefined) return
        at.delivery = delivery
        const effect = this.handleNext(peer, delivery)
        // An effect that has already succeeded need not run.
        if (!(Exit.isExit(effect) && Exit.isSuccess(effect))) yield* effect
        at.delivery = undefined
        this.finish(peer, delivery, tenure)
        // Slow handlers are acknowledged one by one, quick ones together.
        if (incoming.unsaved >= window.messages >> 1 || this.now() - committedAt >= commitMillis) {
          if (incoming.hasUnsaved) yield* this.commit(peer)
          committedAt = this.now()
        }
      }
    }
  )

  /** The delivery at the front is handled, or given up. */
  private finish(peer: Peer, delivery: Delivery, tenure: number): void {
    const { incoming } = peer
    incoming.deliveryEnded()
    this.intake.done(delivery)
    if (peer.own.tenure !== tenure) return
    if (incoming.took(delivery) && (delivery.weight > 0 || peer.reading.stopped > 0)) {
      this.intake.release(peer, delivery.weight)
    }
    if (delivery.kind === "loose") this.recorder.count("messagesHandled")
    else incoming.handled(delivery)
  }

  private commit(peer: Peer): Effect.Effect<void, unknown> {
    const { incoming } = peer
    const { tenure } = peer.own
    const save = incoming.saveBegan()
    const { epoch, offset } = save
    const stored = Effect.onExit(this.options.savePosition(peer, epoch, offset), () => {
      incoming.saveEnded()
      return Effect.void
    })
    return Effect.matchCauseEffect(stored, {
      onSuccess: () => {
        const stored = peer.own.tenure === tenure ? incoming.saved(save) : undefined
        if (stored === undefined) return Effect.void
        this.recorder.count("messagesHandled", stored)
        peer.core.handled(epoch, offset, stored)
        this.options.markAckDue(peer)
        return Effect.void
      },
      onFailure: (cause) =>
        peer.own.tenure === tenure && incoming.saveFailed(save) ? Effect.failCause(cause) : Effect.void
    })
  }

  /** Stores and acknowledges what is handled while the handler takes long with the next message. */
  commitHandled(peer: Peer): Effect.Effect<void, unknown> | undefined {
    return peer.incoming.maySave
      ? Effect.tap(this.commit(peer), () => {
        if (peer.incoming.isIdle) this.options.onIdle(peer)
        return Effect.void
      })
      : undefined
  }
}
