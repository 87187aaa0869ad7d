/**
 * What server and client share: sessions, their connections, and the workers on them, which are in
 * `workers.ts`.
 *
 * An idle session costs no fiber and no timer: one worker delivers for all sessions with something to do, and one
 * watches the clock for all.
 */
import { type Cause, Effect, Latch } from "effect"
import type { CircuitBreaker } from "../../CircuitBreaker.ts"
import { session as sessionCircuit } from "../../CircuitBreaker.ts"
import type { Auth, Drain, End, Reject } from "../../core/Frame.ts"
import type { Violation } from "../../core/Violation.ts"
import type { Deduplicator } from "../../Deduplicator.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { MessageQueueError, SessionRegistryError, WebSocketError } from "../../WebSocketError.ts"
import { makeAcking } from "../deliver/acking.ts"
import { Delivering } from "../deliver/delivery.ts"
import { makeOutbound } from "../deliver/outbound.ts"
import { Draining } from "../handle/draining.ts"
import type { Handling } from "../handle/handling.ts"
import { Inbound } from "../handle/inbound.ts"
import { Intake } from "../handle/intake.ts"
import type { IntakeLimits } from "../handle/intakeLimits.ts"
import type { RareLog } from "../kit/rareLog.ts"
import { makeSignal, type Signal } from "../kit/signal.ts"
import { makeTurnClock } from "../kit/turnClock.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Peer } from "../session/peer.ts"
import { Peers } from "../session/peers.ts"
import { type Background, makeBackground } from "./background.ts"
import { Connections, type Ending } from "./connections.ts"
import { makeHandlers } from "./handlers.ts"
import { makeHeartbeat } from "./heartbeat.ts"
import { makeLeaving } from "./leaving.ts"
import { makeQuiet } from "./quiet.ts"
import type { Intensity, Worker } from "./supervisor.ts"
import { startWorkers } from "./workers.ts"

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
  /** Whether handler fibers must know which message they work on. */
  readonly knowsWork?: boolean | undefined
  /** Whether anybody takes incoming messages now; if not, waiting for them to be handled is pointless. */
  readonly handlesIncoming: () => boolean
  readonly savePosition: (peer: Peer, epoch: string, offset: number) => Effect.Effect<void>
  readonly onControl: (peer: Peer, frame: Drain | Reject | Auth | End) => void
  readonly onViolation: (peer: Peer, violation: Violation) => void
  /** The store says that the session has a newer owner: the connection here has to go. */
  readonly onRefused: (peer: Peer, error: MessageQueueError | SessionRegistryError) => Effect.Effect<void>
  /** All that the peer received is handled, and its position stored. */
  readonly onIdle?: ((peer: Peer) => void) | undefined
  /** The peer has no connection any more. */
  readonly onDetached: (peer: Peer, ending: Ending) => void
  /** Runs at each tick of the clock. */
  readonly onTick: (now: number) => void
  /** The store's work at intervals. It may hang, so it must not hold up the clock. */
  readonly sweep?: Effect.Effect<void, WebSocketError> | undefined
  readonly onGiveUp: (name: string, cause: Cause.Cause<unknown>) => Effect.Effect<void>
}

export type Engine = Effect.Success<ReturnType<typeof makeEngine<never>>>

/** What the parts of an engine share. */
interface Ground {
  readonly peers: Peers
  readonly connected: Set<Peer>
  readonly now: () => number
  /** Notified whenever something was delivered, handled or closed, for whoever waits for quiet. */
  readonly pulse: Signal
  /** Shut while the workers are paused. */
  readonly gate: Latch.Latch
  readonly background: Background
  readonly worker: Omit<Worker, "name" | "loop">
  readonly tickMillis: number
}

export const makeEngine = Effect.fnUntraced(function*<R>(options: EngineOptions<R>) {
  const { deduplicator, queue, recorder, times } = options
  const ground = yield* makeGround(options)
  const { background, connected, gate, now, peers, pulse, tickMillis, worker } = ground
  const { run } = background
  const runHandler = yield* makeHandlers<R>({ worker, knowsWork: options.knowsWork === true })

  const { acking, outbound } = yield* makeSendingOut(options, ground)
  const { markDirty } = outbound
  /** While a handler takes long, stores what was handled before it. */
  const storeHandled = (peer: Peer): void => {
    const commit = draining.commitHandled(peer)
    if (commit !== undefined) run(commit)
  }
  const { connections, draining, intake } = yield* makeTakingIn(options, ground, {
    runHandler,
    markDirty,
    markAckDue: outbound.markAckDue,
    storeHandled
  })
  const forfeit = (peer: Peer): void => draining.forfeit(peer)
  const { forget, opened, peerOf, remoteProgress, remove } = yield* makeLeaving({
    ...ground,
    queue,
    deadLetters: options.deadLetters,
    run,
    forfeit,
    onRefused: options.onRefused
  })

  const heartbeat = yield* makeHeartbeat({
    queue,
    recorder,
    intake,
    connected,
    lingering: connections.lingering,
    now,
    ackTimeoutMillis: times.ackTimeout,
    markDirty,
    storeHandled,
    closeSilent: connections.closeSilent,
    onTick: options.onTick
  })
  const quiet = makeQuiet({
    ...ground,
    queue,
    isDelivered: outbound.isIdle,
    handlesIncoming: options.handlesIncoming
  })
  yield* startWorkers({
    worker,
    queue,
    deduplicator,
    deadLetters: options.deadLetters,
    delivery: outbound.loop,
    remoteProgress: remoteProgress?.loop,
    heartbeat,
    sweep: options.sweep,
    isHere: (session) => peers.has(session),
    peerOf,
    tickMillis,
    expiryMillis: times.expirySweep,
    gate
  })

  return {
    peers,
    connected,
    open: connections.open,
    now,
    run,
    worker,
    markDirty,
    attach: connections.attach,
    close: connections.close,
    unregister: connections.unregister,
    detach: connections.detach,
    remove,
    storeHandled,
    /** A shutdown need not wait for this peer any more; what came before its held message is handled. */
    held: (peer: Peer): void => {
      storeHandled(peer)
      pulse.notify()
    },
    stop: (peer: Peer): void => draining.stop(peer),
    forfeit,
    notify: pulse.notify,
    ...quiet,
    opened,
    forget,
    remoteProgress,
    /** Pauses delivery and chores. What can be sent at once still is; all that must wait also waits for `resume`. */
    pause: Effect.asVoid(gate.close),
    resume: Effect.asVoid(gate.open),
    /** Tells the queue what the peer acknowledged, and waits for it. */
    tellAcks: acking.tellAll
  }
})

const makeGround = Effect.fnUntraced(function*<R>({ intensity, onGiveUp, rare, recorder, times }: EngineOptions<R>) {
  const now = yield* makeTurnClock
  // Added first, so that it runs last: what is shown of this server or client goes with it.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const gauge of ["connectionsActive", "sessions", "queueMessages", "queueBytes", "unhandledBytes"] as const) {
        recorder.gauge(gauge, 0)
      }
    })
  )
  const ground: Ground = {
    peers: new Peers(),
    connected: new Set(),
    now,
    pulse: yield* makeSignal,
    gate: yield* Latch.make(true),
    background: yield* makeBackground(rare),
    worker: { intensity, onRestart: () => recorder.count("workerRestarts"), onGiveUp },
    // Half of an idle time is a plain peer's timeout: a tick must be short against each, or it counts as late.
    tickMillis: Math.min(1_000, times.heartbeat / 10, times.heartbeatTimeout / 4, times.idleTimeout / 8)
  }
  return ground
})

/** From the queue to the wire, and acks back. */
const makeSendingOut = Effect.fnUntraced(function*<R>(
  { breaker, deadLetters, onRefused, queue, rare, recorder }: EngineOptions<R>,
  { background: { later }, gate, now, peers, pulse, tickMillis }: Ground
) {
  const markDirty = (peer: Peer): void => outbound.markDirty(peer)
  const acking = yield* makeAcking({
    queue,
    rare,
    recorder,
    deadLetters,
    now,
    markDirty,
    onRefused,
    later,
    onDefect: (peer, cause) => outbound.die(peer, cause),
    onEnd: pulse.notify
  })
  const tellAcks = acking.tell
  const delivering = new Delivering({ queue, breaker, recorder, deadLetters, now, markDirty, tellAcks, tickMillis })
  const outbound = yield* makeOutbound({
    queue,
    peers,
    rare,
    flush: (peer) => delivering.flush(peer),
    onRefused,
    later,
    isBusy: acking.isBusy,
    now,
    pulse,
    gate
  })
  yield* breaker.onTransition((transition) => {
    recorder.count("breakerTransitions")
    const peer = peers.get(transition.key.slice(sessionCircuit("").length))
    if (peer?.connected === true) markDirty(peer)
  })
  return { acking, outbound }
})

/** From the wire to the handlers. */
const makeTakingIn = Effect.fnUntraced(function*<R>(
  options: EngineOptions<R>,
  { background: { run }, connected, now, peers, pulse, tickMillis }: Ground,
  { markAckDue, markDirty, runHandler, storeHandled }: {
    readonly runHandler: (peer: Peer, effect: Effect.Effect<void, unknown, R>, onEnd: () => void) => void
    readonly markDirty: (peer: Peer) => void
    readonly markAckDue: (peer: Peer) => void
    readonly storeHandled: (peer: Peer) => void
  }
) {
  const { breaker, rare, recorder } = options
  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  const intake = new Intake({
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
  const draining = new Draining<R>({
    recorder,
    intake,
    now,
    markAckDue,
    handling: options.handling,
    savePosition: options.savePosition,
    onIdle: (peer) => options.onIdle?.(peer),
    run: (peer, effect, onEnd) =>
      runHandler(peer, effect, () => {
        onEnd()
        pulse.notify()
      }),
    onViolation: options.onViolation
  })
  const startHandling = (peer: Peer): void => draining.startHandling(peer)
  const inbound = new Inbound({
    recorder,
    intake,
    now,
    markDirty,
    markAckDue,
    startHandling,
    onAcked: (peer, link) => {
      link.acked(peer.core.options.window.messages)
      connections.acquit(peer)
    },
    onControl: options.onControl,
    onViolation: options.onViolation,
    onClosed: (peer, link, code, reason) => connections.closed(peer, link, code, reason)
  })
  const connections: Connections = new Connections({
    breaker,
    recorder,
    intake,
    startHandling,
    sinkOf: (peer, link) => inbound.sinkOf(peer, link),
    peers,
    connected,
    times: options.times,
    tickMillis,
    now,
    run,
    pulse,
    markDirty,
    storeHandled,
    onDetached: options.onDetached
  })
  return { connections, draining, intake }
})
