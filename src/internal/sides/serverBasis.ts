/** What a server has before it has sessions: services, settings and streams. */
import { Effect, Scope } from "effect"
import type { ConnectionEvent, Options } from "../../ResilientServer.ts"
import { SessionRegistry } from "../../SessionRegistry.ts"
import { TransportServer } from "../../Transport.ts"
import { limitsOf as intakeLimitsOf } from "../handle/intakeLimits.ts"
import { makeEvents } from "../kit/events.ts"
import { Observers, runHook } from "../kit/listeners.ts"
import * as Check from "../kit/options.ts"
import { makeCoder } from "../kit/schemas.ts"
import { makeTracing } from "../kit/traces.ts"
import { limitsOf, timesOf } from "../run/settings.ts"
import { makeDeadLetters } from "../session/deadLetters.ts"
import { makeBasis } from "./basis.ts"

export type ServerBasis<In, Out, R> = Effect.Success<ReturnType<typeof makeServerBasis<In, Out, R>>>

export const makeServerBasis = Effect.fnUntraced(function*<In, Out, R>(
  options: Options<In, Out, unknown, unknown, R>
) {
  const basis = yield* makeBasis<In>()
  const registry = yield* SessionRegistry
  const transport = yield* TransportServer
  const context = yield* Effect.context<R>()
  const events = yield* makeEvents<ConnectionEvent>()
  const observe = (yield* Observers).connectionEvent
  const publish = (event: ConnectionEvent): void => {
    events.publish(event)
    observe?.(event)
  }

  const { maxPayload, window } = limitsOf(options)
  const intake = intakeLimitsOf(options)
  const times = {
    ...timesOf(options),
    idleTimeout: Check.millis("connectionTimeout", options.connectionTimeout, "120 seconds")
  }
  const jitterMillis = Check.millis("reconnectJitter", options.reconnectJitter, "5 seconds")
  const shutdownMillis = Check.millis("shutdownTimeout", options.shutdownTimeout, "30 seconds")
  const handshakeTimeoutMillis = Check.millis("handshakeTimeout", options.handshakeTimeout, "10 seconds")

  const incoming = makeCoder(Check.schema("incoming", options.incoming), context)
  const outgoing = makeCoder(Check.schema("outgoing", options.outgoing), context)
  const deadLetters = yield* makeDeadLetters<In, Out>({ outgoing, recorder: basis.recorder })
  yield* Effect.all([
    runHook("onDeadLetter", options.onDeadLetter, deadLetters.events, basis.hooks),
    runHook("onConnectionEvent", options.onConnectionEvent, events, basis.hooks)
  ]).pipe(Scope.provide(basis.scope))

  return {
    ...basis,
    options,
    registry,
    transport,
    /** What the user's functions need. */
    context,
    events,
    publish,
    maxPayload,
    window,
    intake,
    times,
    jitterMillis,
    shutdownMillis,
    handshakeTimeoutMillis,
    incoming,
    outgoing,
    tracing: makeTracing(options),
    deadLetters
  }
})
