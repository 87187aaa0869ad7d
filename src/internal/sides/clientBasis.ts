/** What a client has before it connects: its services, its settings, its one session, and the streams that it shows. */
import { Effect, Random, type Redacted, Scope } from "effect"
import { CircuitBreaker } from "../../CircuitBreaker.ts"
import { Session } from "../../core/Session.ts"
import { Deduplicator } from "../../Deduplicator.ts"
import type { Incoming } from "../../Message.ts"
import { MessageQueue } from "../../MessageQueue.ts"
import { makeRecorder } from "../../Metrics.ts"
import type { ConnectionState, Options } from "../../ResilientClient.ts"
import { TransportClient } from "../../Transport.ts"
import type { WebSocketError } from "../../WebSocketError.ts"
import { ownGeneration } from "../connect/greeting.ts"
import { limitsOf as intakeLimitsOf } from "../handle/intakeLimits.ts"
import { makeMessageStream } from "../handle/messageStream.ts"
import { makeEvents } from "../kit/events.ts"
import { makeId } from "../kit/ids.ts"
import { guardedListener } from "../kit/listeners.ts"
import * as Check from "../kit/options.ts"
import { makeRareLog } from "../kit/rareLog.ts"
import { Closing } from "../run/closing.ts"
import { limitsOf, timesOf } from "../run/settings.ts"
import { makeDeadLetters } from "../session/deadLetters.ts"
import { protocol } from "../session/dialects.ts"
import { Peer } from "../session/peer.ts"
import { checkedToken, plainText } from "../session/tokens.ts"

export type ClientBasis<In, Out, R> = Effect.Success<ReturnType<typeof makeClientBasis<In, Out, R>>>

export const makeClientBasis = Effect.fnUntraced(function*<In, Out, R>(options: Options<In, Out, R>) {
  const queue = yield* MessageQueue
  const deduplicator = yield* Deduplicator
  const breaker = yield* CircuitBreaker
  const transport = yield* TransportClient
  const recorder = yield* makeRecorder
  const context = yield* Effect.context<R>()
  let state: ConnectionState = { _tag: "Connecting", attempt: 0 }
  const states = yield* makeEvents<ConnectionState>({ replay: 1 })
  const onStateChange = yield* guardedListener("onStateChange", options.onStateChange)
  const setState = (next: ConnectionState): void => {
    state = next
    states.publish(next)
    onStateChange(next)
  }
  setState(state)
  const scope = yield* Scope.fork(yield* Effect.scope)
  const rare = yield* makeRareLog.pipe(Scope.provide(scope))
  const messageStream = yield* makeMessageStream<Incoming<In>>().pipe(Scope.provide(scope))
  const instance = makeId(yield* Random.Random)
  const closing = new Closing(messageStream.isConsuming)

  const { maxPayload, window } = limitsOf(options)
  const intake = intakeLimitsOf({ ...options, rateLimit: "none" })
  const times = {
    ...timesOf(options),
    idleTimeout: Infinity
  }
  const provided = <A>(value: A | Effect.Effect<A, WebSocketError, R>): Effect.Effect<A, WebSocketError> =>
    Effect.isEffect(value) ? Effect.provideContext(value, context) : Effect.succeed(value)
  const checked = (given: string | Redacted.Redacted | undefined) => checkedToken(plainText(given))
  const token = Effect.isEffect(options.token)
    ? Effect.flatMap(provided<string | Redacted.Redacted | undefined>(options.token), checked)
    : checked(options.token)

  // The outbox is this client's own, whatever session it gets: two clients may share one store.
  const core = new Session({ role: "client", window, maxPayload })
  const peer = new Peer({ key: `client:${instance}`, session: "", principal: undefined, core, dialect: protocol })
  peer.own.attached({ generation: ownGeneration, here: true })

  const incoming = Check.schema("incoming", options.incoming)
  const outgoing = Check.schema("outgoing", options.outgoing)
  const deadLetters = yield* makeDeadLetters<In, Out>(options, recorder)

  return {
    options,
    queue,
    deduplicator,
    breaker,
    transport,
    recorder,
    state: () => state,
    states,
    setState,
    scope,
    rare,
    messageStream,
    instance,
    closing,
    maxPayload,
    intake,
    times,
    url: provided(options.url),
    token: Effect.map(token, plainText),
    peer,
    incoming,
    outgoing,
    deadLetters
  }
})
