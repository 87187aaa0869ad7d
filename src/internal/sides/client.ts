/** A client, put together: its engine, what keeps it connected, what is sent, and how it ends. */
import { Effect, Exit, Scope } from "effect"
import { CloseCode } from "../../core/Protocol.ts"
import type { Dependencies, Options, ResilientClient } from "../../ResilientClient.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { type Connector, makeConnector } from "../connect/connector.ts"
import { ownGeneration } from "../connect/greeting.ts"
import * as Check from "../kit/options.ts"
import type { Engine } from "../run/engine.ts"
import * as Shapes from "../run/optionShapes.ts"
import { makeShutdown } from "../run/shutdown.ts"
import { supervise } from "../run/supervisor.ts"
import { type ClientBasis, makeClientBasis } from "./clientBasis.ts"
import { type ClientParts, makeClientEngine } from "./clientEngine.ts"
import { makeClientFace } from "./clientFace.ts"

export const makeClient = Effect.fnUntraced(
  function*<In, Out, R>(options: Options<In, Out, unknown, R>): Effect.fn.Return<
    ResilientClient<In, Out>,
    MessageQueueError,
    Dependencies | R | Scope.Scope
  > {
    Check.check(options, Shapes.client)
    const basis: ClientBasis<In, Out, R> = yield* makeClientBasis(options)
    const { peer, queue, recorder, scope, setState } = basis
    const engine = yield* makeClientEngine<In, Out, R>(basis, () => parts)
    engine.peers.set(peer.key, peer)

    const openOutbox = Effect.map(
      queue.open(peer.key, ownGeneration),
      (out) => peer.outgoing.opened(out, ownGeneration, undefined)
    )
    const connector = yield* connectorOf(basis, engine)
    /** The session is over: empty the outbox into dead letters, and start over with the next connection. */
    const ended = Effect.gen(function*() {
      connector.forget()
      yield* engine.remove(peer, "sessionEnded")
      engine.peers.set(peer.key, peer)
      yield* openOutbox
    })

    const connecting = yield* Scope.fork(scope)
    const shutdown = yield* makeShutdown({
      engine,
      queue,
      recorder,
      timeoutMillis: Check.millis("shutdownTimeout", options.shutdownTimeout, "30 seconds"),
      closeCode: CloseCode.normal,
      closing: basis.closing,
      stopConnecting: Scope.close(connecting, Exit.void),
      end: Effect.andThen(Effect.sync(() => setState({ _tag: "Closed" })), Scope.close(scope, Exit.void))
    })
    const self = makeClientFace(basis, { engine, connector, ended, shutdown })
    const parts: ClientParts<In, Out> = { self, connector, ended, shutdown: shutdown.shutdown }

    yield* openOutbox
    yield* Effect.addFinalizer(shutdown.atEnd)
    yield* supervise({ ...engine.worker, name: "connector", loop: connector.loop }).pipe(Scope.provide(connecting))
    return self
  }
)

const connectorOf = <In, Out, R>(
  { options, ...basis }: ClientBasis<In, Out, R>,
  engine: Engine
): Effect.Effect<Connector> =>
  makeConnector({
    engine,
    peer: basis.peer,
    queue: basis.queue,
    breaker: basis.breaker,
    transport: basis.transport,
    recorder: basis.recorder,
    deadLetters: basis.deadLetters,
    instance: basis.instance,
    contract: options.contract,
    url: basis.url,
    token: basis.token,
    headers: options.headers ?? {},
    onFresh: options.onFresh ?? "deadLetter",
    dialTimeoutMillis: Check.millis("dialTimeout", options.dialTimeout, "10 seconds"),
    handshakeTimeoutMillis: Check.millis("handshakeTimeout", options.handshakeTimeout, "10 seconds"),
    backoff: {
      baseMillis: Check.millis("reconnect.base", options.reconnect?.base, "1 second"),
      capMillis: Check.millis("reconnect.cap", options.reconnect?.cap, "60 seconds")
    },
    setState: basis.setState
  })
