/** A client as its program sees it. */
import { type Duration, Effect, Stream } from "effect"
import { encode, endFrame } from "../../core/Codec.ts"
import { CloseCode } from "../../core/Protocol.ts"
import type { Receipt } from "../../Message.ts"
import type { ConnectionState, ResilientClient } from "../../ResilientClient.ts"
import {
  type ConnectError,
  ConnectionTimeoutError,
  type MessageQueueError,
  ShutdownError
} from "../../WebSocketError.ts"
import type { Connector } from "../connect/connector.ts"
import * as Check from "../kit/options.ts"
import { onWall } from "../kit/time.ts"
import { many, one } from "../kit/traces.ts"
import type { Engine } from "../run/engine.ts"
import * as Shapes from "../run/optionShapes.ts"
import type { Shutdown } from "../run/shutdown.ts"
import { makeSerialize } from "../send/payload.ts"
import { type SendError, Sending } from "../send/sending.ts"
import { locate, statsOf } from "../session/inspect.ts"
import type { ClientBasis } from "./clientBasis.ts"

export const makeClientFace = <In, Out, R>(
  basis: ClientBasis<In, Out, R>,
  { connector, ended, engine, shutdown }: {
    readonly engine: Engine
    readonly connector: Connector
    /** Ends the session at this side. */
    readonly ended: Effect.Effect<void, MessageQueueError>
    readonly shutdown: Shutdown
  }
): ResilientClient<In, Out> => {
  const { breaker, closing, deadLetters, deduplicator, messageStream, peer, queue, recorder, states, tracing } = basis
  const sending = new Sending<Out>({
    queue: engine.senders,
    deduplicator,
    isTraced: tracing.isOn,
    breaker,
    recorder,
    serialize: makeSerialize(basis.outgoing),
    maxPayload: basis.maxPayload,
    markDirty: engine.markDirty,
    onDropped: (_, epoch, messages) => deadLetters.outgoing(peer.session, peer, epoch, messages, "overflow", 0)
  })
  return {
    send: (message, sendOptions) =>
      tracing.sending(
        Effect.withFiber((fiber): Effect.Effect<Receipt, SendError | ShutdownError> =>
          closing.takesMessagesOf(fiber)
            ? sending.send(fiber, peer, message, sendOptions)
            : Effect.fail(new ShutdownError({ component: "client" }))
        ),
        one
      ),
    sendAll: (messages, sendOptions) =>
      tracing.sending(
        Effect.withFiber((fiber): Effect.Effect<ReadonlyArray<Receipt>, SendError | ShutdownError> =>
          closing.takesMessagesOf(fiber)
            ? sending.sendAll(fiber, peer, messages, sendOptions)
            : Effect.fail(new ShutdownError({ component: "client" }))
        ),
        many
      ),
    get messages() {
      return messageStream.stream
    },
    get deadLetters() {
      return deadLetters.stream
    },
    state: Effect.sync(basis.state),
    get states() {
      return states.stream
    },
    awaitConnected: (awaitOptions) =>
      Effect.suspend(() => {
        Check.check(awaitOptions, Shapes.awaitConnected)
        return awaitConnected(states.stream, awaitOptions?.timeout)
      }),
    reconnect: connector.reconnect,
    refreshToken: Effect.flatMap(connector.token, (auth) =>
      Effect.sync(() => {
        if (auth !== undefined) peer.say(encode({ t: "auth", auth }))
      })),
    endSession: Effect.suspend(() => {
      peer.say(endFrame)
      engine.close(peer, CloseCode.sessionEnded, "the session ended")
      return ended
    }),
    locate: (messageId) =>
      Effect.catchTag(
        locate(queue, deduplicator, peer.key, peer, messageId),
        "resilient-websocket/SessionNotFoundError",
        () => Effect.succeed("unknown" as const)
      ),
    stats: Effect.gen(function*() {
      const { bytes, messages } = yield* Effect.orElseSucceed(queue.size(peer.key), () => ({ messages: 0, bytes: 0 }))
      const inQueue = yield* queue.stats
      return {
        session: statsOf(peer, messages, bytes, breaker, yield* onWall),
        queue: inQueue,
        totals: { ...recorder.totals },
        latencies: recorder.latencies,
        peakQueueMessages: Math.max(recorder.peaks.queueMessages, inQueue.messages)
      }
    }),
    shutdown: shutdown.shutdown,
    shutdownWith: shutdown.shutdownWith
  }
}

const awaitConnected = (
  states: Stream.Stream<ConnectionState>,
  timeout: Duration.Input | undefined
): Effect.Effect<void, ConnectError | ShutdownError> =>
  Effect.suspend(() => {
    let cause: ConnectError | undefined
    const connected = states.pipe(
      Stream.mapEffect((state): Effect.Effect<boolean, ConnectError | ShutdownError> => {
        if (state._tag === "Stopped") return Effect.fail(state.error)
        if (state._tag === "Closed") return Effect.fail(new ShutdownError({ component: "client" }))
        if (state._tag === "Disconnected") cause = state.error
        return Effect.succeed(state._tag === "Connected")
      }),
      Stream.filter((isConnected) => isConnected),
      Stream.runHead,
      Effect.asVoid
    )
    if (timeout === undefined) return connected
    const afterMillis = Check.millisOf(timeout)
    return Effect.timeoutOrElse(connected, {
      duration: afterMillis,
      orElse: () =>
        Effect.fail(
          new ConnectionTimeoutError({ phase: "connect", afterMillis, ...(cause === undefined ? {} : { cause }) })
        )
    })
  })
