/** Sends for a server's program: to one session, to many, or to all of a principal, wherever they are. */
import { Effect } from "effect"
import type { Broadcast, Receipt } from "../../Message.ts"
import type { ResilientServer } from "../../ResilientServer.ts"
import {
  type MessageQueueError,
  PayloadError,
  SessionNotFoundError,
  SessionRegistryError,
  ShutdownError
} from "../../WebSocketError.ts"
import * as Check from "../kit/options.ts"
import * as SendShapes from "../kit/shapes.ts"
import { many, one, traceparent } from "../kit/traces.ts"
import type { Confirming } from "../own/confirming.ts"
import type { Engine } from "../run/engine.ts"
import { makeBroadcast } from "../send/broadcast.ts"
import { makeSerialize, payloadError } from "../send/payload.ts"
import { type OnDropped, type SendError, Sending, ttlMillisIn } from "../send/sending.ts"
import { Peer } from "../session/peer.ts"
import { makePrincipals } from "../session/principals.ts"
import type { Remote } from "../session/remote.ts"
import type { ServerBasis } from "./serverBasis.ts"

/** What the public server takes from here as it is. */
export type ServerSends<In, Out> = Pick<ResilientServer<In, Out>, "send" | "sendAll" | "broadcast" | "sessionsOf">

export const makeServerSends = <In, Out, R>(
  basis: ServerBasis<In, Out, R>,
  { confirming, engine, remote }: {
    readonly engine: Engine
    readonly confirming: Confirming
    readonly remote: Remote
  }
): ServerSends<In, Out> => {
  const { closing, deadLetters, maxPayload, recorder, tracing } = basis
  const { sendingTo, targetOf } = remote
  const { peers } = engine

  const onDropped: OnDropped = (target, epoch, messages) =>
    deadLetters.outgoing(target.session, target instanceof Peer ? target : undefined, epoch, messages, "overflow", 0)

  const serialize = makeSerialize(basis.outgoing)
  const sending = new Sending<Out>({
    queue: engine.senders,
    deduplicator: basis.deduplicator,
    isTraced: tracing.isOn,
    breaker: basis.breaker,
    recorder,
    serialize,
    maxPayload,
    markDirty: engine.markDirty,
    ownerOf: remote.ownerOf,
    onDropped
  })
  const { reach, sessionsOf } = makePrincipals({ registry: basis.registry, peers })
  const broadcast = makeBroadcast<Out>({
    queue: engine.senders,
    recorder,
    serialize,
    maxPayload,
    peers,
    find: targetOf,
    onDropped
  })

  return {
    send: (session, message, sendOptions) =>
      tracing.sending(
        Effect.withFiber((fiber): Effect.Effect<Receipt, SendError | SessionNotFoundError | ShutdownError> => {
          if (!closing.takesMessagesOf(fiber)) return Effect.fail(closed())
          const target = targetOf(session)
          if (target === undefined) return Effect.fail(new SessionNotFoundError({ session }))
          return after(
            confirming.beforeSending(fiber),
            () => sendingTo(target, sending.send(fiber, target, message, sendOptions))
          )
        }),
        one
      ),
    sendAll: (session, messages, sendOptions) =>
      tracing.sending(
        Effect.withFiber((
          fiber
        ): Effect.Effect<ReadonlyArray<Receipt>, SendError | SessionNotFoundError | ShutdownError> => {
          if (!closing.takesMessagesOf(fiber)) return Effect.fail(closed())
          const target = targetOf(session)
          if (target === undefined) return Effect.fail(new SessionNotFoundError({ session }))
          return after(
            confirming.beforeSending(fiber),
            () => sendingTo(target, sending.sendAll(fiber, target, messages, sendOptions))
          )
        }),
        many
      ),
    broadcast: (message, broadcastOptions) =>
      tracing.sending(
        Effect.withFiber((fiber): Effect.Effect<Broadcast, PayloadError | ShutdownError | SessionRegistryError> => {
          if (!closing.takesMessagesOf(fiber)) return Effect.fail(closed())
          const ttlMillis = ttlMillisIn("", broadcastOptions, SendShapes.broadcast)
          if (ttlMillis instanceof PayloadError) return Effect.fail(ttlMillis)
          const { principal, sessions } = broadcastOptions ?? {}
          if (sessions !== undefined && !Check.isIterable(sessions)) {
            return Effect.fail(payloadError("", "option sessions must be ids to iterate over"))
          }
          const details = { trace: tracing.isOn ? traceparent(fiber) : undefined, ttlMillis }
          if (principal !== undefined && typeof principal !== "string") {
            return Effect.fail(payloadError("", "option principal must be a string"))
          }
          const sent = () =>
            principal === undefined
              ? broadcast(message, sessions, details)
              : Effect.flatMap(
                reach(principal),
                (reached) => broadcast(message, [...sessions ?? [], ...reached], details)
              )
          const unsure = confirming.beforeSending(fiber)
          return after(unsure && Effect.mapError(unsure, refusedBroadcast), sent)
        }),
        ({ accepted }) => ({ "messaging.batch.message_count": accepted })
      ),
    sessionsOf
  }
}

const closed = () => new ShutdownError({ component: "server" })

const refusedBroadcast = ({ reason, session }: MessageQueueError) =>
  new SessionRegistryError({ session, operation: "broadcast", reason: reason === "store" ? "store" : "fenced" })

/** Sends after the wait, if there is one. */
const after = <A, E, F>(
  unsure: Effect.Effect<void, F> | undefined,
  sent: () => Effect.Effect<A, E>
): Effect.Effect<A, E | F> => unsure === undefined ? sent() : Effect.andThen(unsure, Effect.suspend(sent))
