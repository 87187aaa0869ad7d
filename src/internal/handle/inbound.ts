/**
 * From the wire to the handlers, and the position that is stored before an ack. Frames go into the protocol core; a
 * fiber hands deliveries to the handler one by one, and stores how far it came before that is acknowledged.
 */
import { Effect, Exit } from "effect"
import { isVolatileText } from "../../core/Codec.ts"
import type { Auth, Drain, End, Reject } from "../../core/Frame.ts"
import { payloadFault } from "../../core/Payload.ts"
import { highWaterBytes } from "../../core/Protocol.ts"
import type { Action } from "../../core/Session.ts"
import { Violation } from "../../core/Violation.ts"
import type { Recorder } from "../../Metrics.ts"
import type { ConnectionSink } from "../../Transport.ts"
import type { Delivery } from "../session/incoming.ts"
import type { Link } from "../session/link.ts"
import type { Peer } from "../session/peer.ts"
import type { Handling } from "./handling.ts"
import type { Intake } from "./intake.ts"
import { isPacked, isWorthPacking, packText, parsePlain } from "./packing.ts"

export interface InboundOptions<R> {
  readonly recorder: Recorder
  readonly intake: Intake
  readonly now: () => number
  readonly markDirty: (peer: Peer) => void
  readonly markAckDue: (peer: Peer) => void
  readonly handling: Handling<R>
  /** Stores that everything up to `offset` of the log `epoch` was handled. */
  readonly savePosition: (peer: Peer, epoch: string, offset: number) => Effect.Effect<void, unknown>
  /** Runs a handler fiber, supervised, as that of the peer. */
  readonly run: (peer: Peer, effect: Effect.Effect<void, unknown, R>, onEnd: () => void) => void
  /** Nothing waits to be handled or stored. */
  readonly onIdle: (peer: Peer) => void
  readonly onAcked: (peer: Peer, link: Link) => void
  readonly onControl: (peer: Peer, frame: Drain | Reject | Auth | End) => void
  readonly onViolation: (peer: Peer, violation: Violation) => void
  readonly onClosed: (peer: Peer, link: Link, code: number, reason: string) => void
}

/** While messages are handled without a pause, the position is stored and acknowledged this often. */
const commitMillis = 5

/** Where the handling of a peer's deliveries is. */
interface At {
  delivery: Delivery | undefined
}

export type Inbound = ReturnType<typeof makeInbound<never>>

export const makeInbound = <R>(options: InboundOptions<R>) => {
  const { intake, markAckDue, markDirty, now, recorder } = options
  const { handle, recover } = options.handling

  const startHandling = (peer: Peer): void => {
    const { incoming } = peer
    if (incoming.isHandling || peer.own.isStopping || incoming.size === 0) return
    incoming.handlingBegan()
    const at: At = { delivery: undefined }
    options.run(peer, drain(peer, peer.own.tenure, at), () => {
      if (at.delivery !== undefined) intake.done(at.delivery) // it was interrupted
      incoming.handlingEnded()
      startHandling(peer)
      dropIfStopping(peer)
      if (incoming.isIdle) options.onIdle(peer)
    })
  }

  /** No handler starts any more: what waits has to come again, there or here. */
  const dropIfStopping = (peer: Peer): void => {
    if (!peer.own.isStopping || peer.incoming.isHandling) return
    drop(peer)
  }

  /** What waits is not handled here. */
  const drop = (peer: Peer): void => {
    peer.incoming.drop()
    intake.releaseAll(peer)
    peer.core.inbox.rewind(peer.core.inbox.handled)
  }

  /** No new handler starts; when the one that runs has ended, `onIdle` is told. */
  const stop = (peer: Peer): void => {
    peer.own.stop()
    dropIfStopping(peer)
  }

  /** Gives up what was received: a handler is interrupted, what waits is dropped, nothing is acknowledged. */
  const forfeit = (peer: Peer): void => {
    peer.own.forfeit()
    peer.incoming.forfeited()
    // Until it is closed: what comes after what was dropped would seem to have a hole before it.
    if (peer.link !== undefined) peer.link.isUnheeded = true
    drop(peer)
    peer.incoming.interrupt()
  }

  /**
   * Handles what waits, in order. Runs while there is anything; the next frame starts it again. One effect for all of
   * it: a handler's failure ends it, is dealt with, and it begins again with the next.
   */
  const drain = (peer: Peer, tenure: number, at: At): Effect.Effect<void, unknown, R> =>
    Effect.catchCause(drainUntilFailure(peer, tenure, at), (cause) => {
      const failed = at.delivery
      if (failed === undefined) return Effect.failCause(cause) // not a handler's
      return Effect.flatMap(recover(peer, failed, cause), () => {
        at.delivery = undefined
        finish(peer, failed, tenure)
        return drain(peer, tenure, at)
      })
    })

  /** What is packed has to wait for room to be unpacked. */
  const handleNext = (peer: Peer, delivery: Delivery): Effect.Effect<unknown, unknown, R> =>
    isPacked(delivery)
      ? Effect.andThen(intake.unpack(delivery), Effect.suspend(() => handleUnpacked(peer, delivery)))
      : handle(peer, delivery)

  /** A plain peer's text was not looked at before. */
  const handleUnpacked = (peer: Peer, delivery: Delivery): Effect.Effect<unknown, unknown, R> => {
    const fault = delivery.kind === "loose" && !delivery.volatile ? payloadFault(delivery.value) : undefined
    if (fault === undefined) return handle(peer, delivery)
    // Another connection has done nothing.
    if (delivery.kind === "loose" && delivery.from === peer.connection) {
      options.onViolation(peer, new Violation(fault.code, fault.detail))
    }
    return Effect.void
  }

  const drainUntilFailure = Effect.fnUntraced(function*(
    peer: Peer,
    tenure: number,
    at: At
  ) {
    const { core: { options: { window } }, incoming } = peer
    let committedAt = now()
    while (true) {
      if (peer.own.tenure !== tenure) return
      const delivery = peer.own.isStopping ? undefined : incoming.front()
      if (incoming.mustSaveBefore(delivery)) {
        yield* commit(peer)
        continue
      }
      if (delivery === undefined) return
      at.delivery = delivery
      const effect = handleNext(peer, delivery)
      // What is done already need not be run.
      if (!(Exit.isExit(effect) && Exit.isSuccess(effect))) yield* effect
      at.delivery = undefined
      finish(peer, delivery, tenure)
      // Handlers that take their time are told of as they go, quick ones together.
      if (incoming.unsaved >= window.messages >> 1 || now() - committedAt >= commitMillis) {
        if (incoming.hasUnsaved) yield* commit(peer)
        committedAt = now()
      }
    }
  })

  /** The delivery at the front is done with, one way or the other. */
  const finish = (peer: Peer, delivery: Delivery, tenure: number): void => {
    const { incoming } = peer
    incoming.deliveryEnded()
    intake.done(delivery)
    if (peer.own.tenure !== tenure) return
    if (incoming.took(delivery) && (delivery.weight > 0 || peer.reading.stopped > 0)) {
      intake.release(peer, delivery.weight)
    }
    if (delivery.kind === "loose") recorder.count("messagesHandled")
    else incoming.handled(delivery)
  }

  const commit = (peer: Peer): Effect.Effect<void, unknown> => {
    const { incoming } = peer
    const { tenure } = peer.own
    const save = incoming.saveBegan()
    const { epoch, offset } = save
    const stored = Effect.onExit(options.savePosition(peer, epoch, offset), () => {
      incoming.saveEnded()
      return Effect.void
    })
    return Effect.matchCauseEffect(stored, {
      onSuccess: () => {
        const stored = peer.own.tenure === tenure ? incoming.saved(save) : undefined
        if (stored === undefined) return Effect.void
        recorder.count("messagesHandled", stored)
        peer.core.handled(epoch, offset, stored)
        markAckDue(peer)
        return Effect.void
      },
      onFailure: (cause) =>
        peer.own.tenure === tenure && incoming.saveFailed(save) ? Effect.failCause(cause) : Effect.void
    })
  }

  const perform = (peer: Peer, action: Action, link: Link): void => {
    switch (action.t) {
      case "deliver": {
        const { epoch, first, messages, meta } = action
        for (let i = 0; i < messages.length; i++) {
          const facts = meta?.[i]
          peer.incoming.received({
            weight: 0,
            kind: "message",
            epoch,
            offset: first + i,
            value: messages[i],
            id: facts?.id,
            trace: facts?.trace
          })
        }
        recorder.count("messagesReceived", messages.length)
        return
      }
      case "gap":
        peer.incoming.received({
          weight: 0,
          kind: "gap",
          epoch: action.epoch,
          first: action.first,
          offset: action.end,
          reason: action.reason
        })
        return
      case "volatile":
        for (const value of action.messages) receiveLoose(peer, value, true)
        return
      case "acked":
        peer.outgoing.acknowledged(action.handled, action.failed)
        options.onAcked(peer, link)
        return
      case "reply":
        // A peer that reads nothing gets no answers: they would pile up here.
        if (link.connection.buffered() < highWaterBytes) link.connection.send(action.frame)
        return
      default:
        options.onControl(peer, action)
    }
  }

  const isDropped = (peer: Peer): boolean =>
    peer.incoming.size >= 2 * peer.core.options.window.messages || intake.isScarce(peer)

  /** A large frame of what would be dropped is not parsed: that can take a twentieth of a second, in which nobody is served. */
  const isDroppedUnread = (peer: Peer, data: string, bytes: number): boolean =>
    isWorthPacking(bytes) && isVolatileText(data) && isDropped(peer)

  /** Volatile messages wait within the same bounds as reliable ones, and are dropped beyond them. */
  const receiveLoose = (peer: Peer, value: unknown, isVolatile: boolean): void => {
    if (isVolatile && isDropped(peer)) {
      recorder.count("messagesVolatileSkipped")
      return
    }
    recorder.count("messagesReceived")
    peer.incoming.receivedLoose({ weight: 0, kind: "loose", value, volatile: isVolatile, from: peer.connection })
  }

  /** Handles what a frame brought; what of it has to wait is held. `before` is how much waited when it came. */
  const handleFrame = (peer: Peer, before: number): void => {
    const brought = peer.incoming.size - before
    if (brought > 0 && intake.isTight()) intake.hold(peer, brought)
    startHandling(peer)
    const last = peer.incoming.back()
    if (brought > 0 && last !== undefined && last.weight === 0) intake.hold(peer, Math.min(brought, peer.incoming.size))
  }

  const receive = (peer: Peer, link: Link, data: string, bytes: number): void => {
    if (isDroppedUnread(peer, data, bytes)) return recorder.count("messagesVolatileSkipped")
    const receivedBefore = link.flow?.received ?? 0
    const result = peer.core.receive(data, bytes)
    if (result instanceof Violation) return options.onViolation(peer, result)
    const received = link.flow?.received ?? 0
    if (received > receivedBefore) {
      link.progressAt = now()
      if (peer.outgoing.headway !== undefined) {
        peer.outgoing.arrived(received)
        markDirty(peer) // it may have waited for this one frame
      }
    }
    const before = peer.incoming.size
    for (let i = 0; i < result.length; i++) perform(peer, result[i] as Action, link) // in bounds
    handleFrame(peer, before)
    if (peer.outgoing.hasAck) markDirty(peer)
    else if (peer.core.ackDue) markAckDue(peer)
  }

  const receivePlain = (peer: Peer, _link: Link, data: string, bytes: number): void => {
    const isLeft = isWorthPacking(bytes) && intake.isTight()
    const value = isLeft ? packText(data) : parsePlain(data)
    const fault = isLeft ? undefined : payloadFault(value)
    if (fault !== undefined) return options.onViolation(peer, new Violation(fault.code, fault.detail))
    const before = peer.incoming.size
    receiveLoose(peer, value, false)
    handleFrame(peer, before)
  }

  const receiveIn = { protocol: receive, plain: receivePlain }

  /** Handles a frame of the connection that the peer has. */
  const take = (peer: Peer, data: string, bytes: number): void => {
    const { link } = peer
    if (link === undefined || link.isUnheeded) return
    receiveIn[peer.dialect.name](peer, link, data, bytes)
  }

  const events: SinkEvents = {
    frame: (peer, link, data, bytes) => {
      if (peer.link !== link) return
      link.liveness.heard(now())
      if (typeof data !== "string") options.onViolation(peer, new Violation("malformed", "a binary frame"))
      else if (!intake.keep(peer, data, bytes)) {
        intake.took(peer, bytes)
        take(peer, data, bytes)
      }
    },
    incoming: (peer, link, bytes) => {
      if (peer.link === link) intake.coming(peer, bytes)
    },
    drained: (peer, link) => {
      link.progressAt = now()
      markDirty(peer)
    },
    alive: (peer, link) => {
      if (peer.link !== link) return
      peer.dialect.ponged(link.liveness, now())
      intake.took(peer, 0)
    },
    closed: (peer, link, code, reason) => {
      const { kept } = peer.reading
      if (peer.link === link && kept !== undefined) take(peer, kept.data, kept.bytes)
      options.onClosed(peer, link, code, reason)
    }
  }

  /** The sink of a connection that is attached to this peer. */
  const sinkOf = (peer: Peer, link: Link): ConnectionSink => new PeerSink(events, peer, link)

  /** Stores and tells what is handled while the handler is at the next message for long. */
  const commitHandled = (peer: Peer): Effect.Effect<void, unknown> | undefined =>
    peer.incoming.maySave
      ? Effect.tap(commit(peer), () => {
        if (peer.incoming.isIdle) options.onIdle(peer)
        return Effect.void
      })
      : undefined

  return { sinkOf, startHandling, take, commitHandled, stop, forfeit }
}

/** What the connections of all peers report. */
interface SinkEvents {
  readonly frame: (peer: Peer, link: Link, data: string | Uint8Array, bytes: number) => void
  readonly incoming: (peer: Peer, link: Link, bytes: number) => void
  readonly drained: (peer: Peer, link: Link) => void
  readonly alive: (peer: Peer, link: Link) => void
  readonly closed: (peer: Peer, link: Link, code: number, reason: string) => void
}

/** A class, as there is one for each connection: four closures would take 400 bytes. */
class PeerSink implements ConnectionSink {
  private readonly events: SinkEvents
  private readonly peer: Peer
  private readonly link: Link

  constructor(events: SinkEvents, peer: Peer, link: Link) {
    this.events = events
    this.peer = peer
    this.link = link
  }

  frame(data: string | Uint8Array, bytes: number): void {
    this.events.frame(this.peer, this.link, data, bytes)
  }

  incoming(bytes: number): void {
    this.events.incoming(this.peer, this.link, bytes)
  }

  drained(): void {
    this.events.drained(this.peer, this.link)
  }

  alive(): void {
    this.events.alive(this.peer, this.link)
  }

  closed(code: number, reason: string): void {
    this.events.closed(this.peer, this.link, code, reason)
  }
}
