/** What a client has before it connects: services, settings, its one session, and its streams. */
import { Effect, Random, type Redacted, Scope } from "effect"
import { Session } from "../../core/Session.ts"
import type { ConnectionState, Options } from "../../ResilientClient.ts"
import { TransportClient } from "../../Transport.ts"
import { type ConnectError, TransportError } from "../../WebSocketError.ts"
import { isConnectError } from "../connect/endings.ts"
import { ownGeneration } from "../connect/greeting.ts"
import { limitsOf as intakeLimitsOf } from "../handle/intakeLimits.ts"
import { makeEvents } from "../kit/events.ts"
import { makeId } from "../kit/ids.ts"
import { Observers, runHook } from "../kit/listeners.ts"
import * as Check from "../kit/options.ts"
import { wordsOf } from "../kit/rareLog.ts"
import { makeCoder } from "../kit/schemas.ts"
import { makeTracing } from "../kit/traces.ts"
import { limitsOf, timesOf } from "../run/settings.ts"
import { makeDeadLetters } from "../session/deadLetters.ts"
import { protocol } from "../session/dialects.ts"
import { Peer } from "../session/peer.ts"
import { checkedToken, plainText } from "../session/tokens.ts"
import { makeBasis } from "./basis.ts"

export type ClientBasis<In, Out, R> = Effect.Success<ReturnType<typeof makeClientBasis<In, Out, R>>>

export const makeClientBasis = Effect.fnUntraced(function*<In, Out, R>(options: Options<In, Out, unknown, R>) {
  const basis = yield* makeBasis<In>()
  const transport = yield* TransportClient
  const context = yield* Effect.context<R>()
  let state: ConnectionState = { _tag: "Connecting", attempt: 0 }
  const states = yield* makeEvents<ConnectionState>({ replay: 1 })
  const observe = (yield* Observers).state
  yield* Scope.provide(runHook("onStateChange", options.onStateChange, states, basis.hooks), basis.scope)
  const setState = (next: ConnectionState): void => {
    state = next
    states.publish(next)
    observe?.(next)
  }
  setState(state)
  const instance = makeId(yield* Random.Random)

  const { maxPayload, window } = limitsOf(options)
  const intake = intakeLimitsOf({ ...options, rateLimit: "none" })
  const times = {
    ...timesOf(options),
    idleTimeout: Infinity
  }
  const provided = <A>(name: string, value: A | Effect.Effect<A, unknown, R>): Effect.Effect<A, ConnectError> =>
    Effect.isEffect(value)
      ? Effect.mapError(Effect.provideContext(value, context), askedInVain(name))
      : Effect.succeed(value)
  const checked = (given: Redacted.Redacted | undefined) => checkedToken(plainText(given))
  const token = Effect.isEffect(options.token)
    ? Effect.flatMap(provided<Redacted.Redacted | undefined>("token", options.token), checked)
    : checked(options.token)

  // The outbox is this client's own, whatever session it gets: two clients may share one store.
  const core = new Session({ role: "client", window, maxPayload })
  const peer = new Peer({ key: `client:${instance}`, session: "", principal: undefined, core, dialect: protocol })
  peer.own.attached({ generation: ownGeneration, here: true })

  const incoming = makeCoder(Check.schema("incoming", options.incoming), context)
  const outgoing = makeCoder(Check.schema("outgoing", options.outgoing), context)
  const deadLetters = yield* makeDeadLetters<In, Out>({ outgoing, recorder: basis.recorder })
  yield* Scope.provide(runHook("onDeadLetter", options.onDeadLetter, deadLetters.events, basis.hooks), basis.scope)

  return {
    ...basis,
    options,
    transport,
    state: () => state,
    states,
    setState,
    instance,
    maxPayload,
    intake,
    times,
    url: provided<string>("url", options.url),
    token: Effect.map(token, plainText),
    peer,
    incoming,
    outgoing,
    tracing: makeTracing(options),
    deadLetters
  }
})

/** What the program's `url` or `token` failed with, if it is none of the errors that say what to do. */
const askedInVain = (name: string) => (cause: unknown): ConnectError =>
  isConnectError(cause)
    ? cause
    : new TransportError({ operation: "dial", detail: `the ${name} could not be had: ${wordsOf(cause)}`, cause })
