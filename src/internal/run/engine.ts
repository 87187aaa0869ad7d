/**
 * What server and client share: sessions, their connections, and the workers on them. The workers are delivery,
 * heartbeats, expiry and deduplicator rotation, each supervised.
 *
 * An idle session costs no fiber and no timer: one worker delivers for all that have something to do, and one looks
 * at the clock for all.
 */
import { Cause, Effect, FiberSet, Latch, Random } from "effect"
import type { CircuitBreaker } from "../../CircuitBreaker.ts"
import { session as sessionCircuit } from "../../CircuitBreaker.ts"
import type { Auth, Drain, End, OutboxPosition, Reject } from "../../core/Frame.ts"
import { mishapOf } from "../../core/Headway.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { Violation } from "../../core/Violation.ts"
import type { Deduplicator } from "../../Deduplicator.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { Connection, ConnectionSink } from "../../Transport.ts"
import {
  ConnectionTimeoutError,
  type DeadLetterReason,
  MessageQueueError,
  type WebSocketError
} from "../../WebSocketError.ts"
import { makeAcking } from "../deliver/acking.ts"
import { makeDelivery } from "../deliver/delivery.ts"
import { makeOutbound } from "../deliver/outbound.ts"
import type { Handling } from "../handle/handling.ts"
import { makeInbound } from "../handle/inbound.ts"
import { type IntakeLimits, makeIntake } from "../handle/intake.ts"
import { jitteredMillis } from "../kit/backoff.ts"
import { inWords, type RareLog } from "../kit/rareLog.ts"
import { makeSignal } from "../kit/signal.ts"
import { makeTurnClock } from "../kit/turnClock.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import { makeFollowers } from "../session/elsewhere.ts"
import { type Agreement, Link } from "../session/link.ts"
import type { Peer } from "../session/peer.ts"
import { Peers } from "../session/peers.ts"
import type { Dead } from "../session/receipts.ts"
import { doChores } from "./chores.ts"
import { makeHandlers } from "./handlers.ts"
import { makeHeartbeat, type Silence } from "./heartbeat.ts"
import { makeQuiet } from "./quiet.ts"
import { type Intensity, supervise } from "./supervisor.ts"

/** Times in ms. */
interface EngineTimes {
  readonly heartbeat: number
  readonly heartbeatTimeout: number
  readonly ackTimeout: number
  readonly idleTimeout: number
  readonly expirySweep: number
}

export interface EngineOptions<R> {
  readonly queue: MessageQueue["Service"]
  readonly deduplicator: Deduplicator["Service"]
  readonly breaker: CircuitBreaker["Service"]
  readonly recorder: Recorder
  readonly rare: RareLog
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing" | "tell">
  readonly times: EngineTimes
  readonly intake: IntakeLimits
  readonly intensity: Intensity
  readonly handling: Handling<R>
  /** Whether it has to be known in the fibers of handlers whose message they are at. */
  readonly knowsWork?: boolean | undefined
  /** Whether anybody takes incoming messages now; else there is no use in waiting until they are handled. */
  readonly handlesIncoming: () => boolean
  readonly savePosition: (peer: Peer, epoch: string, offset: number) => Effect.Effect<void>
  readonly onControl: (peer: Peer, frame: Drain | Reject | Auth | End) => void
  readonly onViolation: (peer: Peer, violation: Violation) => void
  /** The store says that the session has a newer owner: this one's connection has to go. */
  readonly onRefused: (peer: Peer, error: WebSocketError) => Effect.Effect<void>
  /** Nothing of what the peer received waits any more to be handled, or for its position to be stored. */
  readonly onIdle?: ((peer: Peer) => void) | undefined
  /** The peer has no connection any more. */
  readonly onDetached: (peer: Peer, ending: Ending) => void
  /** Runs with each look at the clock. */
  readonly onTick: (now: number) => void
  /** What is asked of the store at intervals: it may hang, and must not keep anybody from looking at the clock. */
  readonly sweep?: Effect.Effect<void, WebSocketError> | undefined
  readonly onGiveUp: (name: string, cause: Cause.Cause<unknown>) => Effect.Effect<void>
}

/** Why a connection ended. */
export interface Ending {
  readonly code: number
  readonly reason: string
  readonly error: WebSocketError | undefined
}

export type Engine = Effect.Success<ReturnType<typeof makeEngine<never>>>

export const makeEngine = Effect.fnUntraced(function*<R>(options: EngineOptions<R>) {
  const { breaker, deadLetters, queue, rare, recorder, times } = options
  const now = yield* makeTurnClock
  // First, so that it runs last: what is shown of this server or client goes with it.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const gauge of ["connectionsActive", "sessions", "queueMessages", "queueBytes", "unhandledBytes"] as const) {
        recorder.gauge(gauge, 0)
      }
    })
  )
  // Half of an idle time is a plain peer's timeout: a tick must be short against each, or it counts as late.
  const tickMillis = Math.min(1_000, times.heartbeat / 10, times.heartbeatTimeout / 4, times.idleTimeout / 8)
  const fork = yield* FiberSet.makeRuntime<never, void>()
  /** Runs in the background until the scope closes. Nobody awaits it, so its failure is logged. */
  const run = (effect: Effect.Effect<unknown, unknown>): void => {
    fork(Effect.catchCause(Effect.asVoid(effect), (cause) =>
      Effect.sync(() => {
        if (!Cause.hasInterruptsOnly(cause)) rare.error("background", `background work failed: ${inWords(cause)}`)
      })))
  }
  const worker = {
    intensity: options.intensity,
    onRestart: () => recorder.count("workerRestarts"),
    onGiveUp: options.onGiveUp
  }
  const runHandler = yield* makeHandlers<R>({ worker, knowsWork: options.knowsWork === true })
  const peers = new Peers()
  const connected = new Set<Peer>()
  /** Those without a connection whose handler is not done: their positions are stored all the same. */
  const lingering = new Set<Peer>()
  /** Connections that were attached and whose socket is not gone, also those that were replaced or closed. */
  const open = new Set<Connection>()

  /** Given whenever something was delivered, handled or closed, for whoever waits for quiet. */
  const pulse = yield* makeSignal
  const markDirty = (peer: Peer): void => outbound.markDirty(peer)

  /** Runs it after a pause that grows with the number of failures in a row. */
  const later = (failures: number, retry: () => void): void =>
    run(
      Effect.flatMap(Random.next, (part) =>
        Effect.delay(Effect.sync(retry), jitteredMillis(retryBase, retryCap, failures, part)))
    )

  /** Shut while the workers below are paused. */
  const gate = yield* Latch.make(true)

  const acking = yield* makeAcking({
    queue,
    rare,
    recorder,
    deadLetters,
    now,
    markDirty,
    onRefused: options.onRefused,
    later,
    onDefect: (peer, cause) => outbound.die(peer, cause),
    onEnd: pulse.notify
  })
  const tellAcks = acking.tell
  const flush = makeDelivery({ queue, breaker, recorder, deadLetters, now, markDirty, tellAcks, tickMillis })
  const outbound = yield* makeOutbound({
    queue,
    peers,
    rare,
    flush,
    onRefused: options.onRefused,
    later,
    isBusy: acking.isBusy,
    now,
    pulse,
    gate
  })

  // --- sessions that are, or were, at another server

  /** Who waits for messages that others deliver; only what outlives this process is shared with others. */
  const deadHere = (session: string, epoch: string, offset: number): Dead | undefined => {
    const peer = peers.get(session)
    return peer?.epoch === epoch ? peer.receipts.deadAt(offset) : undefined
  }
  const followers = queue.durable ? yield* makeFollowers({ queue, now, deadHere }) : undefined
  if (followers !== undefined) deadLetters.tell(followers)

  /** The peer's outbox is open for it. */
  const opened = (peer: Peer, out: OutboxPosition): void =>
    peer.outgoing.opened(out, peer.own.generation, followers && ((epoch) => followers.of(peer.key, epoch)))

  const leaveReceipts = (peer: Peer): void => {
    if (followers !== undefined) peer.receipts.leaveTo(followers.of(peer.key, peer.epoch))
  }

  /** Another server has the session now, or nobody. Nothing of it is kept, and who waits is told by the store. */
  const forget = (peer: Peer): void => {
    if (followers === undefined || peers.get(peer.key) !== peer) return
    peers.delete(peer.key)
    inbound.forfeit(peer)
    peer.outgoing.moved()
    peer.link?.setSeen(undefined)
    leaveReceipts(peer)
    pulse.notify()
  }

  if (followers !== undefined) {
    yield* queue.onMoved((key, generation) => {
      const peer = peers.get(key)
      const outcome = peer?.own.opened(generation) ?? "nothing"
      if (peer === undefined || outcome === "nothing") return
      if (outcome === "forfeit") inbound.forfeit(peer) // the new owner is given it
      run(options.onRefused(peer, new MessageQueueError({ session: key, operation: "open", reason: "fenced" })))
    })
  }

  // --- connections

  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  const intake = makeIntake({
    limits: options.intake,
    now,
    later: (task) => dispatcher.scheduleTask(task, 0),
    run,
    connected,
    recorder,
    onTurn: (peer, data, bytes) => inbound.take(peer, data, bytes),
    onLimited: ({ session }) =>
      rare.warn("rate", `session ${session} sends more than its rate, and is not read for a while`)
  })
  const inbound = makeInbound({
    recorder,
    intake,
    now,
    markDirty,
    markAckDue: outbound.markAckDue,
    handling: options.handling,
    savePosition: options.savePosition,
    onIdle: (peer) => options.onIdle?.(peer),
    run: (peer, effect, onEnd) =>
      runHandler(peer, effect, () => {
        onEnd()
        pulse.notify()
      }),
    onAcked: (peer, link) => {
      link.acked(peer.core.options.window.messages)
      if (!peer.suspect) return
      peer.suspect = false
      run(breaker.report(peer.circuit, { _tag: "Success" }))
    },
    onControl: options.onControl,
    onViolation: options.onViolation,
    onClosed: (peer, link, code, reason) => {
      open.delete(link.connection)
      pulse.notify()
      if (peer.link === link) detach(peer, { code, reason, error: undefined })
    }
  })

  /** Takes a connection whose handshake is done. Returns where it has to report to. */
  const attach = (peer: Peer, connection: Connection, agreement: Agreement): ConnectionSink => {
    const at = now()
    open.add(connection)
    peer.peerMaxPayload = agreement.maxPayload
    peer.dialect.open(peer.core, peer.outgoing, agreement, at)
    const isTroubled = breaker.stateUnsafe(peer.circuit)._tag !== "Closed"
    const link = new Link({
      connection,
      flow: peer.core.flow,
      liveness: peer.dialect.livenessFrom(times, at),
      plainSent: agreement.position.handled,
      isTroubled,
      now: at
    })
    peer.link = link
    peer.own.connected()
    if (isTroubled) run(breaker.probe(peer.circuit))
    connected.add(peer)
    peers.place(peer)
    recorder.gauge("connectionsActive", connected.size)
    intake.attached(peer)
    inbound.startHandling(peer)
    markDirty(peer)
    return inbound.sinkOf(peer, link)
  }

  const detach = (peer: Peer, ending: Ending): void => {
    const { link } = peer
    if (link === undefined) return
    const lost = link.flow?.idle === false
    intake.detached(peer)
    noteMishap(peer, link, ending.code)
    peer.link = undefined
    peer.own.disconnected()
    peer.heardAt = link.liveness.heardAt
    peer.core.close()
    recorder.count("messagesVolatileSkipped", link.volatileCount)
    connected.delete(peer)
    recorder.gauge("connectionsActive", connected.size)
    storeHandled(peer)
    if (peer.incoming.isHandling) lingering.add(peer)
    // A connection that broke with messages in flight is a soft failure; silence and the like were reported as hard ones.
    if (lost && ending.error === undefined && ending.code !== CloseCode.normal) {
      peer.suspect = true
      run(breaker.report(peer.circuit, { _tag: "Failure" }))
    }
    options.onDetached(peer, ending)
  }

  /** Where a connection that ended left a message behind, it is remembered, as that may be the reason. */
  const noteMishap = (peer: Peer, link: Link, code: number): void => {
    const mishap = mishapOf(code)
    if (mishap === undefined) return
    const head = link.flow?.head
    if (head === undefined) peer.outgoing.cutIdle(now(), tickMillis)
    else peer.outgoing.cutAt(head, mishap)
  }

  /** Ends the peer's connection from this side. */
  const close = (peer: Peer, code: number, reason: string, error?: WebSocketError): void => {
    const { connection } = peer
    if (connection === undefined) return
    detach(peer, { code, reason, error })
    connection.close(code, reason)
  }

  /** The connection stays open, and is somebody else's. */
  const unregister = (peer: Peer): void => {
    const { connection } = peer
    if (connection !== undefined) open.delete(connection)
    detach(peer, { code: CloseCode.normal, reason: "unregistered", error: undefined })
  }

  const closeSilent = (peer: Peer, phase: Silence, afterMillis: number): void => {
    recorder.count("connectionsTimedOut")
    peer.suspect = true
    run(breaker.report(peer.circuit, { _tag: "Failure", trip: true }))
    const error = new ConnectionTimeoutError({ phase, afterMillis, session: peer.session })
    close(peer, timeoutCodes[phase], error.message, error)
  }

  // --- the clock

  /** Stores, while a handler takes long, what was handled before it. */
  const storeHandled = (peer: Peer): void => {
    const commit = inbound.commitHandled(peer)
    if (commit !== undefined) run(commit)
  }

  /** A shutdown need not wait for this one any more; what came before its message is handled. */
  const held = (peer: Peer): void => {
    storeHandled(peer)
    pulse.notify()
  }

  /** A store that is down is no fault of the worker: the next round asks it again. */
  const putOff = (error: WebSocketError) => Effect.logWarning("a sweep is put off", error)

  const heartbeat = yield* makeHeartbeat({
    queue,
    recorder,
    intake,
    connected,
    lingering,
    now,
    ackTimeoutMillis: times.ackTimeout,
    markDirty,
    storeHandled,
    closeSilent,
    onTick: options.onTick
  })

  const expiry = Effect.gen(function*() {
    const due = yield* Effect.catch(queue.expire((key) => peers.has(key)), (error) => Effect.as(putOff(error), []))
    for (const { epoch, messages, reason = "expired", session } of due) {
      const peer = peers.get(session) ?? removing.get(session)
      const sender = peer?.epoch === epoch ? peer : undefined
      yield* deadLetters.outgoing(peer?.session ?? session, sender, epoch, messages, reason, 0)
    }
  })

  yield* breaker.onTransition((transition) => {
    recorder.count("breakerTransitions")
    const peer = peers.get(transition.key.slice(sessionCircuit("").length))
    if (peer?.connected === true) markDirty(peer)
  })

  /** Sessions whose queues are being removed: what expires meanwhile is told to those who wait for it here. */
  const removing = new Map<string, Peer>()

  /** Ends a session at this side: its queue is emptied into dead letters. */
  const remove = Effect.fnUntraced(function*(peer: Peer, reason: DeadLetterReason) {
    peers.delete(peer.key)
    removing.set(peer.key, peer)
    const { epoch, maybeHandled, messages } = yield* queue.remove(peer.key).pipe(
      Effect.tapError(({ reason }) =>
        Effect.sync(() => {
          // It is tried again, and those who wait for receipts are told then; or somebody else has removed it.
          if (reason !== "store") leaveReceipts(peer)
          else if (!peers.has(peer.key)) peers.set(peer.key, peer)
        })
      ),
      Effect.ensuring(Effect.sync(() => removing.delete(peer.key)))
    )
    yield* deadLetters.outgoing(peer.session, peer, epoch, messages, reason, maybeHandled)
  })

  const { isQuiet, senders, settled } = makeQuiet({
    queue,
    peers,
    connected,
    isDelivered: outbound.isIdle,
    handlesIncoming: options.handlesIncoming,
    now,
    pulse
  })

  yield* supervise({ ...worker, name: "delivery", loop: outbound.loop })
  if (followers !== undefined) yield* supervise({ ...worker, name: "followers", loop: followers.loop })
  yield* doChores([
    { ...worker, name: "heartbeat", loop: heartbeat, everyMillis: tickMillis },
    ...(options.sweep === undefined
      ? []
      : [{ ...worker, name: "sessions", loop: Effect.catch(options.sweep, putOff), everyMillis: tickMillis }]),
    { ...worker, name: "expiry", loop: expiry, everyMillis: times.expirySweep },
    { ...worker, name: "deduplicator", loop: options.deduplicator.rotate, everyMillis: times.expirySweep }
  ], gate)

  return {
    peers,
    connected,
    open,
    now,
    run,
    worker,
    markDirty,
    attach,
    close,
    unregister,
    detach,
    remove,
    storeHandled,
    held,
    stop: inbound.stop,
    forfeit: inbound.forfeit,
    notify: pulse.notify,
    isQuiet,
    senders,
    settled,
    opened,
    forget,
    followers,
    /** Pauses delivery and chores. What can be sent at once is; what has to wait for anything waits for `resume` too. */
    pause: Effect.asVoid(gate.close),
    resume: Effect.asVoid(gate.open),
    /** Tells the queue what the peer acknowledged, and waits for it. */
    tellAcks: acking.tellAll
  }
})

/** Backoff of what the store failed at, in ms. */
const retryBase = 500
const retryCap = 10_000

const timeoutCodes: Record<Silence, number> = {
  heartbeat: CloseCode.heartbeatTimeout,
  ack: CloseCode.ackTimeout,
  flush: CloseCode.flushTimeout,
  idle: CloseCode.idle
}
