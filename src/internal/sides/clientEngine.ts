/** A client's engine: how it handles messages, and who hears what happens to its session. */
import { Effect, Scope } from "effect"
import { encode } from "../../core/Codec.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { ResilientClient } from "../../ResilientClient.ts"
import { type MessageQueueError, ProtocolError } from "../../WebSocketError.ts"
import type { Connector } from "../connect/connector.ts"
import { rejection } from "../connect/rejection.ts"
import { makeHandling } from "../handle/handling.ts"
import { logGap, scheduleOf } from "../handle/unhandled.ts"
import { type Engine, makeEngine } from "../run/engine.ts"
import { engineOptionsOf } from "./basis.ts"
import type { ClientBasis } from "./clientBasis.ts"

/** Parts that are made from the engine, and that it reports to. */
export interface ClientParts<In, Out> {
  readonly self: ResilientClient<In, Out>
  readonly connector: Connector
  /** The session is over. */
  readonly ended: Effect.Effect<void, MessageQueueError>
  readonly shutdown: Effect.Effect<unknown>
}

export const makeClientEngine = Effect.fnUntraced(function*<In, Out, R>(
  basis: ClientBasis<In, Out, R>,
  /** Called once those parts are made. */
  parts: () => ClientParts<In, Out>
): Effect.fn.Return<Engine, never, R | Scope.Scope> {
  const { closing, deadLetters, messageStream, options, peer, rare, recorder, tracing } = basis
  const handling = makeHandling<In, R>({
    decode: basis.incoming.decode,
    onMessage: (incoming) =>
      options.onMessage === undefined
        ? messageStream.offer(incoming)
        : options.onMessage(incoming.message, { incoming, client: parts().self }),
    onGap: options.onGap ?? logGap(rare),
    retry: scheduleOf(options.handlerRetry),
    isClosing: () => closing.hasBegun(),
    tracing,
    onHeld: (peer) => engine.held(peer),
    recorder,
    rare,
    deadLetters
  })
  const engine: Engine = yield* makeEngine({
    ...engineOptionsOf(basis),
    handling,
    handlesIncoming: () => options.onMessage !== undefined || messageStream.hasConsumer(),
    savePosition: () => Effect.void,
    onControl: (_, frame) => {
      if (frame.t === "drain") {
        peer.link?.drained()
        parts().connector.onDrain(frame.window, frame.endpoint)
      } else if (frame.t === "reject") parts().connector.onReject(frame)
      else if (frame.t === "end") engine.run(parts().ended)
    },
    onViolation: (_, violation) => {
      recorder.count("protocolErrors")
      const error = new ProtocolError({ code: violation.code, detail: violation.detail, session: peer.session })
      peer.say(encode(rejection(error).reject))
      engine.close(peer, CloseCode.protocol, violation.code, error)
      rare.warn("violation", `the server broke the protocol: ${violation.code}, ${violation.detail}`)
    },
    // Nobody else writes to a client's outbox, unless its store is shared with somebody else.
    onRefused: (_, error) =>
      Effect.sync(() => engine.close(peer, CloseCode.internal, "the outbox has another owner", error)),
    onDetached: (_, ending) => parts().connector.onDetached(ending),
    onTick: (at) => parts().connector.onTick(at),
    onGiveUp: (name) =>
      Effect.andThen(
        Effect.logFatal(`the client closes because its worker ${name} can't go on`),
        // Detached: the worker that calls this lives in the scope that is to be closed.
        Effect.asVoid(Effect.forkDetach(Effect.suspend(() => parts().shutdown)))
      )
  }).pipe(Scope.provide(basis.scope))
  return engine
})
