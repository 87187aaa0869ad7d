/** A server, put together: its engine, who owns its sessions, who comes in, what is sent, and how it ends. */
import { type Cause, Effect, Exit, Scope } from "effect"
import { encode } from "../../core/Codec.ts"
import { CloseCode, wireMillis } from "../../core/Protocol.ts"
import type { Dependencies, Options, ResilientServer } from "../../ResilientServer.ts"
import type { TransportError } from "../../WebSocketError.ts"
import { type GivingWay, makeGivingWay } from "../connect/givingWay.ts"
import { makeOnRefused } from "../connect/screening.ts"
import * as Check from "../kit/options.ts"
import { Ending } from "../own/ending.ts"
import { Owning } from "../own/owning.ts"
import type { Engine } from "../run/engine.ts"
import * as Shapes from "../run/optionShapes.ts"
import { makeOwner } from "../run/owner.ts"
import { makeShutdown } from "../run/shutdown.ts"
import { makeRemote } from "../session/remote.ts"
import { makeServerBasis, type ServerBasis } from "./serverBasis.ts"
import { makeServerDoor } from "./serverDoor.ts"
import { makeServerEngine, type ServerParts } from "./serverEngine.ts"
import { makeServerFace } from "./serverFace.ts"
import { makeServerSends } from "./serverSends.ts"

export const makeServer = Effect.fnUntraced(function*<In, Out, R>(
  options: Options<In, Out, unknown, unknown, R>
): Effect.fn.Return<
  ResilientServer<In, Out>,
  TransportError,
  Dependencies | R | Scope.Scope
> {
  Check.check(options, Shapes.server)
  const owner = yield* makeOwner
  const basis: ServerBasis<In, Out, R> = yield* makeServerBasis(options)
  const { breaker, queue, recorder, registry, scope } = basis
  const { confirming, engine } = yield* makeServerEngine<In, Out, R>(basis, () => parts)
  const owners = ownersOf(basis, engine)
  const { ending, owning } = owners
  yield* registry.onWanted((session) => owning.wanted(session)).pipe(Scope.provide(scope))
  const door = yield* makeServerDoor(basis, { engine, ...owners })
  const remote = makeRemote({ queue, registry, breaker, peers: engine.peers, remoteProgress: engine.remoteProgress })

  const shutdown = yield* makeShutdown({
    engine,
    queue,
    recorder,
    timeoutMillis: basis.shutdownMillis,
    closeCode: CloseCode.draining,
    closing: basis.closing,
    begin: Effect.suspend(() => {
      door.close()
      const drain = encode({
        t: "drain",
        deadline: wireMillis(basis.shutdownMillis),
        window: wireMillis(basis.jitterMillis)
      })
      for (const peer of engine.connected) peer.say(drain)
      return Scope.close(listening, Exit.void)
    }),
    handOver: registry.durable ? owning.handOver : undefined,
    end: Scope.close(scope, Exit.void)
  })
  const giveUp = (name: string, cause: Cause.Cause<unknown>) =>
    Effect.gen(function*() {
      yield* Effect.logFatal(`the server closes because its worker ${name} can't go on`)
      // Detached: the worker that calls this lives in the scope that is to be closed.
      yield* Effect.forkDetach(shutdown.shutdown)
      yield* Effect.withFiber((fiber) => Effect.sync(() => owner.fail(cause, fiber)))
    })

  const sends = makeServerSends(basis, { engine, confirming, remote })
  const self = makeServerFace(basis, { engine, ending, door, remote, sends, shutdown, address: () => address })
  const parts: ServerParts<In, Out> = { self, door, giveUp, ...owners }

  yield* Effect.addFinalizer((exit) => Effect.andThen(shutdown.atEnd(exit), owner.verdict))
  const listening = yield* Scope.fork(scope)
  const onRefused = makeOnRefused(recorder, basis.rare)
  const address = yield* basis.transport.listen(door.accept, onRefused, Effect.asVoid(shutdown.shutdown)).pipe(
    Scope.provide(listening)
  )
  return self
})

/** Who has the sessions, and how they leave. */
const ownersOf = <In, Out, R>(
  { deadLetters, options, publish, queue, registry }: ServerBasis<In, Out, R>,
  engine: Engine
): { readonly ending: Ending; readonly owning: Owning; readonly givingWay: GivingWay } => {
  const ending: Ending = new Ending({
    engine,
    queue,
    registry,
    deadLetters,
    sayEnded: (peer) => owning.sayEnded(peer),
    onEnded: (session) => publish({ _tag: "Ended", session })
  })
  const owning = new Owning({
    engine,
    registry,
    onAway: (peer) => {
      ending.left(peer)
      givingWay.isAway(peer)
    },
    forget: (peer) => ending.forget(peer),
    removeOrphan: (session) => ending.removeOrphan(session)
  })
  const givingWay = makeGivingWay({
    engine,
    registry,
    retentionMillis: Check.millis("strangerRetention", options.strangerRetention, "60 seconds"),
    ended: (session) => ending.ended(session)
  })
  return { ending, owning, givingWay }
}
