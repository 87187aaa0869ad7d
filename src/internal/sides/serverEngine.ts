/** A server's engine: how it handles messages, and who hears what happens to its sessions. */
import { type Cause, Effect, Scope } from "effect"
import { encode } from "../../core/Codec.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { ResilientServer } from "../../ResilientServer.ts"
import { type MessageQueueError, ProtocolError, type SessionRegistryError } from "../../WebSocketError.ts"
import type { GivingWay } from "../connect/givingWay.ts"
import { rejection } from "../connect/rejection.ts"
import { type Committing, HandlerContext, makeCommitting } from "../handle/committing.ts"
import { type Handling, makeHandling } from "../handle/handling.ts"
import { logGap, scheduleOf } from "../handle/unhandled.ts"
import { type Confirming, makeConfirming } from "../own/confirming.ts"
import type { Ending } from "../own/ending.ts"
import type { Owning } from "../own/owning.ts"
import { makePositions } from "../own/positions.ts"
import { type Engine, makeEngine } from "../run/engine.ts"
import type { Peer } from "../session/peer.ts"
import { engineOptionsOf } from "./basis.ts"
import type { ServerBasis } from "./serverBasis.ts"
import type { ServerDoor } from "./serverDoor.ts"

/** Parts that are made from the engine, and that it reports to. */
export interface ServerParts<In, Out> {
  readonly self: ResilientServer<In, Out>
  readonly door: ServerDoor
  readonly ending: Ending
  readonly owning: Owning
  readonly givingWay: GivingWay
  readonly giveUp: (name: string, cause: Cause.Cause<unknown>) => Effect.Effect<void>
}

export const makeServerEngine = Effect.fnUntraced(function*<In, Out, R>(
  basis: ServerBasis<In, Out, R>,
  /** Called once those parts are made. */
  parts: () => ServerParts<In, Out>
) {
  const { options, publish, rare, recorder, registry } = basis
  const onRefused = (peer: Peer, error: MessageQueueError | SessionRegistryError) =>
    Effect.asVoid(parts().owning.refused(peer, error))
  const confirming = makeConfirming({ registry, run: (effect) => engine.run(effect), onRefused })
  const committing = makeCommitting({
    now: () => engine.now(),
    registry,
    attached: (peer, until) => parts().owning.attached(peer, until),
    onRefused
  })
  const engine: Engine = yield* makeEngine({
    ...engineOptionsOf(basis),
    handling: handlingOf(basis, {
      self: () => parts().self,
      confirming,
      committing,
      onHeld: (peer) => engine.held(peer)
    }),
    knowsWork: registry.confirm !== undefined,
    handlesIncoming: () => options.onMessage !== undefined || basis.messageStream.hasConsumer(),
    savePosition: makePositions({ registry, owning: () => parts().owning }).save,
    onControl: (peer, frame) => {
      if (frame.t === "end") engine.run(parts().ending.end(peer))
      else if (frame.t === "reject") engine.close(peer, CloseCode.normal, "rejected by the client")
      else if (frame.t === "auth") parts().door.renew(peer, frame.auth)
    },
    onViolation: (peer, violation) => {
      recorder.count("protocolErrors")
      const { code, detail } = violation
      const error = new ProtocolError({ code, detail, session: peer.session })
      peer.say(encode(rejection(error).reject))
      engine.close(peer, CloseCode.protocol, code, error)
      rare.warn(`violation ${code}`, `session ${peer.session} broke the protocol: ${code}, ${detail}`)
    },
    onRefused,
    onIdle: (peer) => parts().owning.idle(peer),
    onDetached: (peer, ending) => {
      publish({ _tag: "Disconnected", session: peer.session, ...ending })
      if (engine.peers.get(peer.key) === peer) parts().owning.disconnected(peer)
    },
    onTick: (now) => parts().door.tick(now),
    sweep: Effect.suspend(() => sweepOf(basis, parts())),
    onGiveUp: (name, cause) => parts().giveUp(name, cause)
  }).pipe(Scope.provide(basis.scope))
  return { engine, confirming }
})

const handlingOf = <In, Out, R>(
  { closing, deadLetters, incoming, messageStream, options, rare, recorder, tracing }: ServerBasis<In, Out, R>,
  { committing, confirming, onHeld, self }: {
    readonly self: () => ResilientServer<In, Out>
    readonly confirming: Confirming
    readonly committing: Committing
    readonly onHeld: (peer: Peer) => void
  }
): Handling<R> =>
  makeHandling<In, R>({
    decode: incoming.decode,
    onMessage: (incoming, peer, delivery) =>
      options.onMessage === undefined
        ? messageStream.offer(incoming)
        : options.onMessage(incoming.message, new HandlerContext(incoming, self(), committing.commit, peer, delivery)),
    beforeHandling: confirming.beforeHandling,
    verdict: committing.verdict,
    onGap: options.onGap ?? logGap(rare),
    retry: scheduleOf(options.handlerRetry),
    isClosing: () => closing.hasBegun(),
    tracing,
    onHeld,
    recorder,
    rare,
    deadLetters
  })

/** Ends the sessions whose time is over. */
const sweepOf = <In, Out, R>(
  { recorder, registry }: ServerBasis<In, Out, R>,
  { ending, givingWay }: ServerParts<In, Out>
) =>
  Effect.gen(function*() {
    const ended = yield* registry.expire
    yield* Effect.forEach(ended, (session) =>
      Effect.catch(
        ending.ended(session),
        (error) => Effect.logWarning(`the end of session ${session} is put off`, error)
      ), { concurrency: 16, discard: true })
    yield* ending.sweepAway
    yield* givingWay.sweep
    recorder.gauge("sessions", (yield* registry.count).sessions)
  })
