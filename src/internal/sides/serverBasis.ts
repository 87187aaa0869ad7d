/** What a server has before it has sessions: its services, its settings, and the streams that it shows. */
import { Deferred, Effect, Scope } from "effect"
import { CircuitBreaker } from "../../CircuitBreaker.ts"
import { Deduplicator } from "../../Deduplicator.ts"
import type { Incoming } from "../../Message.ts"
import { MessageQueue } from "../../MessageQueue.ts"
import { makeRecorder } from "../../Metrics.ts"
import type { ConnectionEvent, Options } from "../../ResilientServer.ts"
import { SessionRegistry } from "../../SessionRegistry.ts"
import { TransportServer } from "../../Transport.ts"
import { limitsOf as intakeLimitsOf } from "../handle/intakeLimits.ts"
import { makeMessageStream } from "../handle/messageStream.ts"
import { makeEvents } from "../kit/events.ts"
import { guardedListener } from "../kit/listeners.ts"
import * as Check from "../kit/options.ts"
import { makeRareLog } from "../kit/rareLog.ts"
import { Closing } from "../run/closing.ts"
import { limitsOf, timesOf } from "../run/settings.ts"
import { makeDeadLetters } from "../session/deadLetters.ts"

export type ServerBasis<In, Out, R> = Effect.Success<ReturnType<typeof makeServerBasis<In, Out, R>>>

export const makeServerBasis = Effect.fnUntraced(function*<In, Out, R>(options: Options<In, Out, R>) {
  const queue = yield* MessageQueue
  const deduplicator = yield* Deduplicator
  const breaker = yield* CircuitBreaker
  const registry = yield* SessionRegistry
  const transport = yield* TransportServer
  const recorder = yield* makeRecorder
  const context = yield* Effect.context<R>()
  const events = yield* makeEvents<ConnectionEvent>()
  const onConnectionEvent = yield* guardedListener("onConnectionEvent", options.onConnectionEvent)
  const publish = (event: ConnectionEvent): void => {
    events.publish(event)
    onConnectionEvent(event)
  }
  const failed = yield* Deferred.make<never>()
  // The server lives in a scope of its own, so that it can end before its owner does.
  const scope = yield* Scope.fork(yield* Effect.scope)
  const rare = yield* makeRareLog.pipe(Scope.provide(scope))
  const messageStream = yield* makeMessageStream<Incoming<In>>().pipe(Scope.provide(scope))
  const closing = new Closing(messageStream.isConsuming)

  const { maxPayload, window } = limitsOf(options)
  const intake = intakeLimitsOf(options)
  const times = {
    ...timesOf(options),
    idleTimeout: Check.millis("connectionTimeout", options.connectionTimeout, "120 seconds")
  }
  const jitterMillis = Check.millis("reconnectJitter", options.reconnectJitter, "5 seconds")
  const shutdownMillis = Check.millis("shutdownTimeout", options.shutdownTimeout, "30 seconds")
  const handshakeTimeoutMillis = Check.millis("handshakeTimeout", options.handshakeTimeout, "10 seconds")

  const incoming = Check.schema("incoming", options.incoming)
  const outgoing = Check.schema("outgoing", options.outgoing)
  const deadLetters = yield* makeDeadLetters<In, Out>(options, recorder)

  return {
    options,
    queue,
    deduplicator,
    breaker,
    registry,
    transport,
    recorder,
    /** What the user's functions need. */
    context,
    events,
    publish,
    /** Dies of what ended a worker for good. */
    failed,
    scope,
    rare,
    messageStream,
    closing,
    maxPayload,
    window,
    intake,
    times,
    jitterMillis,
    shutdownMillis,
    handshakeTimeoutMillis,
    incoming,
    outgoing,
    deadLetters
  }
})
