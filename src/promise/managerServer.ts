/** Makes the server behind a manager, with the user's functions as its hooks. */
import { Cause, Context, Effect, Layer, Redacted, Schedule } from "effect"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import { Observers } from "../internal/kit/listeners.ts"
import { pick } from "../internal/kit/options.ts"
import { contractServer } from "../internal/run/optionShapes.ts"
import type * as Message from "../Message.ts"
import * as ResilientServer from "../ResilientServer.ts"
import { TransportServer } from "../Transport.ts"
import type { HandshakeError } from "../WebSocketError.ts"
import { circuitChangeOf } from "./figures.ts"
import { calling, handle, type Hooks, incomingSchema, outgoingSchema, retryOf, turnedAway } from "./hooks.ts"
import type { Handshake, ManagerOptions } from "./managerOptions.ts"
import type { DeadLetter, ManagerEvents } from "./models.ts"
import { receiptOf } from "./receipts.ts"
import { sending } from "./sends.ts"
import type { Sockets } from "./sockets.ts"

export class Server extends Context.Service<Server, ResilientServer.ResilientServer<unknown, unknown>>()(
  "resilient-websocket/promise/Server"
) {}

/** A manager has no transport of its own, as all its sockets are registered. */
export const acceptsNothing = Layer.succeed(TransportServer, { listen: () => Effect.succeed({ host: "", port: 0 }) })

/** What a peer says about itself. Logging or copying it does not reveal the token, which only the getter returns. */
class ShownHandshake implements Handshake {
  readonly session: string | undefined
  readonly url: string
  readonly headers: Handshake["headers"]
  readonly remoteAddress: string | undefined
  readonly #token: Redacted.Redacted | undefined

  constructor({ headers, remoteAddress, session, token, url }: ResilientServer.Handshake) {
    this.session = session
    this.url = url
    this.headers = headers
    this.remoteAddress = remoteAddress
    this.#token = token
  }

  get token(): string | undefined {
    return this.#token && Redacted.value(this.#token)
  }
}

/** Asks the user's function who a peer is. If it throws, the peer is turned away. */
const identityOf = (
  authenticate: NonNullable<ManagerOptions<never, never>["authenticate"]>,
  handshake: ResilientServer.Handshake
): Effect.Effect<ResilientServer.Identity, HandshakeError> =>
  Effect.tryPromise({
    try: async () => authenticate(new ShownHandshake(handshake)),
    catch: turnedAway
  })

/** Makes a server that reads the sockets it is given, and calls the user's functions. */
export const makeServer = Effect.fnUntraced(function*<In, Out>(
  options: ManagerOptions<In, Out>,
  hooks: Hooks<Out, ManagerEvents<In, Out>>,
  sockets: Sockets
) {
  const { authenticate, onGap, onMessage } = options
  const breaker = yield* CircuitBreaker.CircuitBreaker
  yield* breaker.onTransition((transition) => hooks.emitter.emit("circuitChange", circuitChangeOf(transition)))
  const server = yield* ResilientServer.make({
    ...pick(options, contractServer),
    incoming: incomingSchema(options.parse),
    outgoing: outgoingSchema,
    // Without `onMessage`, plain sockets are not read: see `Sockets`.
    onMessage: (_, { data, incoming, principal, server }) =>
      onMessage === undefined ? Effect.fail(new Error("nobody handles messages here: there is no onMessage")) : handle(
        onMessage,
        incoming as Message.Incoming<In>, // as `parse` or the user says
        { principal, data, ws: sockets.current(incoming.session) },
        (message: Out, replyOptions, run) =>
          sending(
            replyOptions,
            (sendOptions, signal) =>
              run(server.send(incoming.session, message, sendOptions), (receipt) => receiptOf(receipt, run), signal)
          )
      ),
    onGap: onGap && ((gap) => calling(() => onGap(gap))),
    authenticate: authenticate && ((handshake) => identityOf(authenticate, handshake)),
    plainPeers: undefined,
    handlerRetry: onMessage === undefined ? Schedule.recurs(0) : retryOf(options.handlerRetry)
  }).pipe(Effect.provideService(Observers, {
    failure: (cause) => hooks.emitter.emit("failure", Cause.squash(cause)),
    deadLetter: (letter) => hooks.deadLetter(letter as DeadLetter<In | Out>),
    connectionEvent: (event) => hooks.emitter.emit("stateChange", event)
  }))
  return server
})
