/** The orderly end: no new messages, flush, last acks, close, and a report of what became of every message. */
import { Cause, Deferred, Effect, Exit, Fiber } from "effect"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import type { ShutdownOptions } from "../../ResilientServer.ts"
import * as Check from "../kit/options.ts"
import type { ShutdownReport } from "../session/models.ts"
import type { Closing } from "./closing.ts"
import type { Engine } from "./engine.ts"
import * as Shapes from "./optionShapes.ts"

/** The part of the time that may be spent on flushing; the rest is for closing. */
const flushPart = 0.7

/** How long sockets get to close before they are destroyed, and background work to end at least, in ms. */
const closeMillis = 1_000

/** How many outboxes of a durable store are asked for their size at once. */
const askedAtOnce = 32

export interface Parts {
  readonly engine: Engine
  readonly queue: MessageQueue["Service"]
  readonly recorder: Recorder
  readonly timeoutMillis: number
  readonly closeCode: number
  readonly closing: Closing
  /** Stops what brings in new work. */
  readonly begin?: Effect.Effect<void> | undefined
  /** Flushing is over: no new connections from here on. */
  readonly stopConnecting?: Effect.Effect<void> | undefined
  /** Leaves what a durable store has to other servers. Called once the connections are closed or let go. */
  readonly handOver?: Effect.Effect<unknown> | undefined
  /** Ends the background work. */
  readonly end: Effect.Effect<void>
}

export type Shutdown = Effect.Success<ReturnType<typeof makeShutdown>>

export const makeShutdown = Effect.fnUntraced(function*(options: Parts) {
  const { closing, engine, queue, recorder } = options
  const done = yield* Deferred.make<ShutdownReport>()
  let begun = false

  /** Messages of this server's or client's own sessions: the store may be shared. */
  const outstanding = Effect.gen(function*() {
    let total = 0
    yield* Effect.forEach(
      engine.peers.values(),
      ({ key }) =>
        // Whatever a store does, even a defect, the shutdown goes on.
        Effect.map(Effect.catchCause(queue.size(key), () => Effect.succeed({ messages: 0 })), ({ messages }) => {
          total += messages
        }),
      { concurrency: queue.durable ? askedAtOnce : 1, discard: true }
    )
    return total
  })

  /** The connections to close; the others are left open. */
  const endConnections = Effect.fnUntraced(function*(closeConnections: boolean) {
    if (!closeConnections) {
      for (const peer of engine.connected) engine.unregister(peer)
      return 0
    }
    const closed = engine.connected.size
    for (const peer of engine.connected) engine.close(peer, options.closeCode, "shutting down")
    yield* engine.settled(Effect.sync(() => engine.open.size === 0), engine.now() + closeMillis)
    for (const connection of engine.open) connection.terminate()
    return closed
  })

  const run = Effect.fnUntraced(function*(
    timeoutMillis: number,
    { closeConnections = true, flush = true }: ShutdownOptions
  ) {
    const startedAt = engine.now()
    const { messagesAcknowledged: acknowledged, messagesExpired: expired } = recorder.totals
    const before = yield* outstanding
    closing.begin()
    if (options.begin !== undefined) yield* options.begin
    yield* engine.resume // what is to be flushed must not wait for it
    if (flush) yield* engine.settled(engine.isQuiet, startedAt + timeoutMillis * flushPart)
    closing.flushed()
    // Not awaited, as a user's token provider may not be interruptible.
    if (options.stopConnecting !== undefined) {
      yield* Effect.forkDetach(options.stopConnecting, { startImmediately: true })
    }
    const closed = yield* endConnections(closeConnections)
    const left = yield* outstanding
    if (options.handOver !== undefined) yield* Effect.exit(options.handOver)
    if (!queue.durable) {
      for (const peer of engine.peers.values()) yield* Effect.exit(engine.remove(peer, "shutdown"))
    }
    // A handler that can't be interrupted must not keep the scope open for ever.
    const ending = yield* Effect.forkDetach(options.end)
    const time = Math.max(closeMillis, startedAt + timeoutMillis - engine.now())
    yield* Effect.raceFirst(Effect.interruptible(Fiber.await(ending)), Effect.interruptible(Effect.sleep(time)))
    const flushed = recorder.totals.messagesAcknowledged - acknowledged
    // Counting takes time: meanwhile some messages are acknowledged, and senders that waited for room may come in.
    const pending = Math.max(before, flushed + left)
    // Another server may have delivered some of a durable store's messages by now.
    const retained = queue.durable ? Math.max(0, pending - flushed - (recorder.totals.messagesExpired - expired)) : 0
    return {
      pending,
      flushed,
      retained,
      // Left over, expired, or of a session that ended meanwhile.
      dropped: pending - flushed - retained,
      closed,
      durationMillis: engine.now() - startedAt
    }
  })

  const shutdown = (timeoutMillis: number, shutdownOptions: ShutdownOptions): Effect.Effect<ShutdownReport> =>
    Effect.suspend(() => {
      if (begun) return Deferred.await(done)
      begun = true
      return Effect.onExit(run(timeoutMillis, shutdownOptions), (exit) => Deferred.done(done, exit))
    }).pipe(Effect.uninterruptible)

  return {
    shutdown: shutdown(options.timeoutMillis, {}),
    /** The scope's finalizer. A program that failed does not wait for a flush: nobody may be there to move its clock. */
    atEnd: (exit: Exit.Exit<unknown, unknown>): Effect.Effect<unknown> =>
      shutdown(options.timeoutMillis, {
        flush: Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)
      }),
    shutdownWith: (given: ShutdownOptions): Effect.Effect<ShutdownReport> =>
      Effect.suspend(() => {
        Check.check(given, Shapes.shutdown)
        return shutdown(Check.millis("timeout", given.timeout, options.timeoutMillis), given)
      })
  }
})
