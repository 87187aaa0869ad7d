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
import type { Connection, ConnectionSink } from "../../Transport.ts"
import { type Delivery, none, nothing, type Peer, type Uncommitted } from "../session/peer.ts"
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
  /** Runs a handler fiber, supervised, as `peer.handler`. */
  readonly run: (peer: Peer, effect: Effect.Effect<void, unknown, R>, onEnd: () => void) => void
  /** Nothing waits to be handled or stored. */
  readonly onIdle: (peer: Peer) => void
  readonly onAcked: (peer: Peer) => void
  readonly onControl: (peer: Peer, frame: Drain | Reject | Auth | End) => void
  readonly onViolation: (peer: Peer, violation: Violation) => void
  readonly onClosed: (peer: Peer, connection: Connection, code: number, reason: string) => void
}

/** While messages are handled without a pause, the position is stored and acknowledged this often. */
const commitMillis = 5

/** Where the handling of a peer's deliveries is. */
interface At {
  delivery: Delivery | undefined
}

export const makeInbound = <R>(options: InboundOptions<R>) => {
  const { intake, markAckDue, markDirty, now, recorder } = options
  const { handle, recover } = options.handling

  const startHandling = (peer: Peer): void => {
    if (peer.handling || peer.leaving || peer.inbound.size === 0) return
    peer.handling = true
    const at: At = { delivery: undefined }
    options.run(peer, drain(peer, peer.tenure, at), () => {
      if (at.delivery !== undefined) intake.done(at.delivery) // it was interrupted
      peer.handling = false
      peer.held = false
      startHandling(peer)
      stopIfLeaving(peer)
      if (isIdle(peer)) options.onIdle(peer)
    })
  }

  /** Whether this side has nothing that was received and is not handled and stored. */
  const isIdle = (peer: Peer): boolean =>
    !peer.handling && peer.saving === 0 && peer.inbound.size === 0 && peer.uncommitted.offset === 0

  /** Who leaves handles no more: what waits has to come again, there or here. */
  const stopIfLeaving = (peer: Peer): void => {
    if (!peer.leaving || peer.handling) return
    drop(peer)
  }

  /** What waits is not handled here. */
  const drop = (peer: Peer): void => {
    peer.inbound.clear()
    intake.releaseAll(peer)
    peer.core.inbox.rewind(peer.core.inbox.handled)
  }

  /** No new handler starts; when the one that runs has ended, `onIdle` is told. */
  const leave = (peer: Peer): void => {
    peer.leaving = true
    stopIfLeaving(peer)
  }

  /** Gives up what was received: a handler is interrupted, what waits is dropped, nothing is acknowledged. */
  const forfeit = (peer: Peer): void => {
    peer.tenure++
    // Until it is closed: what comes after what was dropped would seem to have a hole before it.
    peer.unheeded = peer.connection
    peer.saves = none
    peer.uncommitted = nothing
    drop(peer)
    peer.handler?.interruptUnsafe()
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
    const { window } = peer.core.options
    let committedAt = now()
    while (true) {
      if (peer.tenure !== tenure) return
      const delivery = peer.leaving ? undefined : peer.inbound.front()
      const { uncommitted } = peer
      if (
        uncommitted.offset > 0 &&
        (delivery === undefined || (delivery.kind !== "loose" && delivery.epoch !== uncommitted.epoch))
      ) {
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
      if (peer.uncommitted.messages >= window.messages >> 1 || now() - committedAt >= commitMillis) {
        if (peer.uncommitted.offset > 0) yield* commit(peer)
        committedAt = now()
      }
    }
  })

  /** The delivery at the front is done with, one way or the other. */
  const finish = (peer: Peer, delivery: Delivery, tenure: number): void => {
    if (peer.committing !== undefined) peer.committing = undefined
    if (peer.refused !== undefined) peer.refused = undefined
    intake.done(delivery)
    if (peer.tenure !== tenure) return
    // Not there any more if the session got another owner meanwhile.
    if (peer.inbound.front() === delivery) {
      peer.inbound.popFront()
      if (delivery.weight > 0 || peer.reading.stopped > 0) intake.release(peer, delivery.weight)
    }
    if (delivery.kind === "loose") {
      recorder.count("messagesHandled")
      return
    }
    const messages = delivery.kind === "message" ? 1 : 0
    const { uncommitted } = peer
    if (uncommitted === nothing) {
      peer.uncommitted = { epoch: delivery.epoch, offset: delivery.offset, messages }
      return
    }
    uncommitted.epoch = delivery.epoch
    uncommitted.offset = delivery.offset
    uncommitted.messages += messages
  }

  const commit = (peer: Peer): Effect.Effect<void, unknown> => {
    const { tenure, uncommitted: save } = peer
    const { epoch, messages, offset } = save
    // Before it is stored: what is handled meanwhile is for the next commit.
    peer.uncommitted = nothing
    peer.saves = [...peer.saves, save]
    peer.saving++
    const stored = Effect.onExit(options.savePosition(peer, epoch, offset), () => {
      peer.saving--
      return Effect.void
    })
    return Effect.matchCauseEffect(stored, {
      onSuccess: () => {
        const stored = peer.tenure === tenure ? takeSaved(peer, save) : undefined
        if (stored === undefined) return Effect.void
        recorder.count("messagesHandled", stored)
        peer.core.handled(epoch, offset, stored)
        markAckDue(peer)
        return Effect.void
      },
      onFailure: (cause) => {
        // What a later save has stored as well need not be stored again.
        if (peer.tenure !== tenure || !peer.saves.includes(save)) return Effect.void
        peer.saves = peer.saves.filter((other) => other !== save)
        const later = peer.uncommitted
        if (later.offset === 0) peer.uncommitted = { epoch, offset, messages }
        else if (later.epoch === epoch) later.messages += messages
        return Effect.failCause(cause)
      }
    })
  }

  /** How many messages are stored with this position: a later one may be stored before an earlier one, and for both. */
  const takeSaved = (peer: Peer, save: Uncommitted): number | undefined => {
    if (!peer.saves.includes(save)) return undefined
    let messages = 0
    peer.saves = peer.saves.filter((other) => {
      if (other.epoch !== save.epoch || other.offset > save.offset) return true
      messages += other.messages
      return false
    })
    return messages
  }

  const perform = (peer: Peer, action: Action, connection: Connection): void => {
    switch (action.t) {
      case "deliver": {
        const { epoch, first, messages, meta } = action
        for (let i = 0; i < messages.length; i++) {
          const facts = meta?.[i]
          peer.inbound.pushBack({
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
        peer.inbound.pushBack({
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
        peer.noteAck(action.handled, action.failed)
        options.onAcked(peer)
        return
      case "reply":
        // A peer that reads nothing gets no answers: they would pile up here.
        if (connection.buffered() < highWaterBytes) connection.send(action.frame)
        return
      default:
        options.onControl(peer, action)
    }
  }

  const isDropped = (peer: Peer): boolean =>
    peer.inbound.size >= 2 * peer.core.options.window.messages || intake.isScarce(peer)

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
    peer.hasSpoken = true
    peer.inbound.pushBack({ weight: 0, kind: "loose", value, volatile: isVolatile, from: peer.connection })
  }

  /** Handles what a frame brought; what of it has to wait is held. `before` is how much waited when it came. */
  const handleFrame = (peer: Peer, before: number): void => {
    const brought = peer.inbound.size - before
    if (brought > 0 && intake.isTight()) intake.hold(peer, brought)
    startHandling(peer)
    const last = peer.inbound.back()
    if (brought > 0 && last !== undefined && last.weight === 0) intake.hold(peer, Math.min(brought, peer.inbound.size))
  }

  const receive = (peer: Peer, connection: Connection, data: string, bytes: number): void => {
    if (isDroppedUnread(peer, data, bytes)) return recorder.count("messagesVolatileSkipped")
    const receivedBefore = peer.core.flow?.received ?? 0
    const result = peer.core.receive(data, bytes)
    if (result instanceof Violation) return options.onViolation(peer, result)
    const received = peer.core.flow?.received ?? 0
    if (received > receivedBefore) {
      peer.progressAt = now()
      if (peer.headway !== undefined) {
        peer.noteArrival(received)
        markDirty(peer) // it may have waited for this one frame
      }
    }
    const before = peer.inbound.size
    for (let i = 0; i < result.length; i++) perform(peer, result[i] as Action, connection) // in bounds
    handleFrame(peer, before)
    if (peer.pendingAck !== undefined) markDirty(peer)
    else if (peer.core.ackDue) markAckDue(peer)
  }

  const receivePlain = (peer: Peer, data: string, bytes: number): void => {
    const isLeft = isWorthPacking(bytes) && intake.isTight()
    const value = isLeft ? packText(data) : parsePlain(data)
    const fault = isLeft ? undefined : payloadFault(value)
    if (fault !== undefined) return options.onViolation(peer, new Violation(fault.code, fault.detail))
    const before = peer.inbound.size
    receiveLoose(peer, value, false)
    handleFrame(peer, before)
  }

  /** Handles a frame of the connection that the peer has. */
  const take = (peer: Peer, data: string, bytes: number): void => {
    if (peer.connection === undefined || peer.connection === peer.unheeded) return
    if (peer.plain) receivePlain(peer, data, bytes)
    else receive(peer, peer.connection, data, bytes)
  }

  const events: SinkEvents = {
    frame: (peer, connection, data, bytes) => {
      if (peer.connection !== connection) return
      peer.liveness?.heard(now())
      if (typeof data !== "string") options.onViolation(peer, new Violation("malformed", "a binary frame"))
      else if (!intake.keep(peer, data, bytes)) {
        intake.took(peer, bytes)
        take(peer, data, bytes)
      }
    },
    incoming: (peer, connection, bytes) => {
      if (peer.connection === connection) intake.coming(peer, bytes)
    },
    drained: (peer) => {
      peer.progressAt = now()
      markDirty(peer)
    },
    alive: (peer, connection) => {
      if (peer.connection !== connection) return
      // Others are known by their frames: it may be a proxy that pings.
      if (peer.plain) peer.liveness?.heard(now())
      intake.took(peer, 0)
    },
    closed: (peer, connection, code, reason) => {
      const { kept } = peer.reading
      if (peer.connection === connection && kept !== undefined) take(peer, kept.data, kept.bytes)
      options.onClosed(peer, connection, code, reason)
    }
  }

  /** The sink of a connection that is attached to this peer. */
  const sinkOf = (peer: Peer, connection: Connection): ConnectionSink => new PeerSink(events, peer, connection)

  /** Stores and tells what is handled while the handler is at the next message for long. */
  const commitHandled = (peer: Peer): Effect.Effect<void, unknown> | undefined =>
    // A handler's own transaction may hold what this would wait for, with the positions of others.
    peer.uncommitted.offset === 0 || peer.committing !== undefined ? undefined : Effect.tap(commit(peer), () => {
      if (isIdle(peer)) options.onIdle(peer)
      return Effect.void
    })

  return { sinkOf, startHandling, take, commitHandled, isIdle, leave, forfeit }
}

/** What the connections of all peers report. */
interface SinkEvents {
  readonly frame: (peer: Peer, connection: Connection, data: string | Uint8Array, bytes: number) => void
  readonly incoming: (peer: Peer, connection: Connection, bytes: number) => void
  readonly drained: (peer: Peer) => void
  readonly alive: (peer: Peer, connection: Connection) => void
  readonly closed: (peer: Peer, connection: Connection, code: number, reason: string) => void
}

/** A class, as there is one for each connection: four closures would take 400 bytes. */
class PeerSink implements ConnectionSink {
  private readonly events: SinkEvents
  private readonly peer: Peer
  private readonly connection: Connection

  constructor(events: SinkEvents, peer: Peer, connection: Connection) {
    this.events = events
    this.peer = peer
    this.connection = connection
  }

  frame(data: string | Uint8Array, bytes: number): void {
    this.events.frame(this.peer, this.connection, data, bytes)
  }

  incoming(bytes: number): void {
    this.events.incoming(this.peer, this.connection, bytes)
  }

  drained(): void {
    this.events.drained(this.peer)
  }

  alive(): void {
    this.events.alive(this.peer, this.connection)
  }

  closed(code: number, reason: string): void {
    this.events.closed(this.peer, this.connection, code, reason)
  }
}
