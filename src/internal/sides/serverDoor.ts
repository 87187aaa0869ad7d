/** Who comes in to a server: screened by origin, authenticated by the user's hook, and again with a renewed token. */
import { Effect, Exit } from "effect"
import { encode } from "../../core/Codec.ts"
import type { Connection } from "../../Transport.ts"
import { type AcceptError, type HandshakeError, TransportError } from "../../WebSocketError.ts"
import { makeAcceptor } from "../connect/acceptor.ts"
import type { Wanted } from "../connect/authenticating.ts"
import type { GivingWay } from "../connect/givingWay.ts"
import { checkedShareOf } from "../connect/newcomer.ts"
import { rejection } from "../connect/rejection.ts"
import { makeRenewing } from "../connect/renewing.ts"
import { makeScreening } from "../connect/screening.ts"
import * as Check from "../kit/options.ts"
import type { Owning } from "../own/owning.ts"
import type { Engine } from "../run/engine.ts"
import * as Shapes from "../run/optionShapes.ts"
import { plain } from "../session/dialects.ts"
import { type Handshake, handshakeOf, type Identity, type Name, nameOf } from "../session/identity.ts"
import type { Peer } from "../session/peer.ts"
import { forbidden, redacted, renewalTimeout } from "../session/tokens.ts"
import type { ServerBasis } from "./serverBasis.ts"

export interface ServerDoor {
  /** Takes a connection that the transport has accepted. */
  readonly accept: (connection: Connection) => void
  /** Takes one that somebody else has accepted. */
  readonly register: (
    connection: Connection,
    options: { readonly session?: Wanted }
  ) => Effect.Effect<string, AcceptError>
  /** A client has a new token. */
  readonly renew: (peer: Peer, token: string) => void
  readonly tick: (now: number) => void
  /** Turns away whoever's handshake is not done. */
  readonly close: () => void
}

export const makeServerDoor = Effect.fnUntraced(function*<In, Out, R>(
  basis: ServerBasis<In, Out, R>,
  { engine, givingWay, owning }: {
    readonly engine: Engine
    readonly owning: Owning
    readonly givingWay: GivingWay
  }
): Effect.fn.Return<ServerDoor> {
  const { closing, context, handshakeTimeoutMillis, options, publish } = basis
  const screen = makeScreening(options.allowedOrigins)
  const authenticate = (handshake: Handshake): Effect.Effect<Name, HandshakeError, R> => {
    const identity = options.authenticate?.(handshake) ?? Exit.succeed({})
    // What is already decided needs no services.
    return Exit.isExit(identity)
      ? Exit.map(identity as Exit.Exit<Identity, HandshakeError>, nameOf)
      : Effect.map(identity, nameOf)
  }
  const acceptor = yield* makeAcceptor({
    engine,
    queue: basis.queue,
    registry: basis.registry,
    recorder: basis.recorder,
    rare: basis.rare,
    authenticate: (handshake) => {
      const identity = authenticate(handshake)
      if (Exit.isExit(identity)) return identity as Exit.Exit<Name, HandshakeError>
      return Effect.provideContext(identity, context)
    },
    acceptPlain: options.plainPeers !== "reject",
    contract: options.contract,
    window: basis.window,
    maxPayload: basis.maxPayload,
    heartbeatMillis: basis.times.heartbeat,
    jitterMillis: basis.jitterMillis,
    handshakeTimeoutMillis,
    maxHandshakes: Check.count("maxHandshakes", options.maxHandshakes, 10_000),
    shareOf: checkedShareOf(options.shareOf),
    isCrowded: givingWay.isCrowded,
    giveWay: givingWay.giveWay,
    isClosing: () => closing.hasBegun(),
    onInDoubt: (session, isUnopened) => owning.attachmentInDoubt(session, isUnopened),
    abandon: (session, generation) => owning.abandon(session, generation),
    onAttached: ({ principal, session }, resumed) => publish({ _tag: "Connected", session, principal, resumed })
  })

  /** A renewed token: the same principal goes on, anybody else is cut off. */
  const reauthenticate = (peer: Peer, token: string) => {
    const { connection } = peer
    if (connection === undefined || peer.isNamed) return Effect.void
    const { dialect, session } = peer
    const handshake = handshakeOf(connection.request, { token: redacted(token), session, plain: dialect === plain })
    // Suspended, as a hook may throw, and this is called from the event loop.
    return Effect.suspend(() => Effect.provideContext(authenticate(handshake), context)).pipe(
      Effect.timeoutOrElse({ duration: handshakeTimeoutMillis, orElse: () => Effect.fail(renewalTimeout) }),
      Effect.filterOrFail(({ principal }) => principal === peer.principal, () => forbidden),
      Effect.map(({ data }) => {
        if (peer.connection === connection) peer.data = data
      }),
      Effect.catch((error) =>
        Effect.sync(() => {
          if (peer.connection !== connection) return
          connection.send(encode(rejection(error).reject))
          engine.close(peer, rejection(error).code, error.detail, error)
        })
      ),
      Effect.asVoid
    )
  }

  return {
    accept: (connection) => acceptor.accept(connection),
    register: (connection, registerOptions) => {
      const wrong = Check.wrongName(registerOptions, Shapes.register)
      return wrong === undefined
        ? Effect.andThen(screen(connection), acceptor.register(connection, registerOptions.session))
        : Effect.fail(new TransportError({ operation: "register", detail: wrong }))
    },
    renew: makeRenewing({ engine, reauthenticate }),
    tick: (now) => acceptor.tick(now),
    close: () => acceptor.close()
  }
})
