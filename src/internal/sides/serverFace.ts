/** A server as its program sees it. */
import { type Context, Effect } from "effect"
import { isId } from "../../core/Text.ts"
import type { ResilientServer } from "../../ResilientServer.ts"
import type { Address, Connection } from "../../Transport.ts"
import { type HandshakeError, SessionNotFoundError } from "../../WebSocketError.ts"
import type { Ending } from "../own/ending.ts"
import type { Engine } from "../run/engine.ts"
import type { Shutdown } from "../run/shutdown.ts"
import { locate } from "../session/inspect.ts"
import type { Remote } from "../session/remote.ts"
import type { ServerBasis } from "./serverBasis.ts"
import type { ServerDoor } from "./serverDoor.ts"
import type { ServerSends } from "./serverSends.ts"

/** The session of a socket, or how to find it out. */
interface Registering<R> {
  readonly session?: string | Effect.Effect<string | undefined, HandshakeError, R> | undefined
}

export const makeServerFace = <In, Out, R>(
  { deadLetters, deduplicator, events, messageStream, queue, recorder, registry }: ServerBasis<In, Out, R>,
  { address, door, ending, engine, remote, sends, shutdown }: {
    readonly address: () => Address
    readonly engine: Engine
    readonly ending: Ending
    readonly door: ServerDoor
    readonly remote: Remote
    readonly sends: ServerSends<In, Out>
    readonly shutdown: Shutdown
  }
): ResilientServer<In, Out> => ({
  get address() {
    return address()
  },
  send: sends.send,
  sendAll: sends.sendAll,
  broadcast: sends.broadcast,
  get messages() {
    return messageStream.stream
  },
  get deadLetters() {
    return deadLetters.stream
  },
  get connections() {
    return events.stream
  },
  register: <R2>(connection: Connection, registering: Registering<R2> = {}) => {
    // Whatever it is: the door checks it.
    const session = (registering as Registering<R2> | null)?.session
    if (session === undefined || typeof session === "string" || !Effect.isEffect(session)) {
      return door.register(connection, registering as Registering<never>)
    }
    return Effect.contextWith((context: Context.Context<R2>) =>
      door.register(connection, { ...registering, session: Effect.provideContext(session, context) })
    )
  },
  unregister: (connection) =>
    Effect.sync(() => {
      for (const peer of engine.connected) {
        if (peer.connection !== connection) continue
        engine.unregister(peer)
        return true
      }
      return false
    }),
  endSession: (session) =>
    Effect.suspend(() => {
      const peer = engine.peers.get(session)
      if (peer !== undefined) return ending.end(peer)
      return isId(session) ? ending.endRemote(session) : Effect.fail(new SessionNotFoundError({ session }))
    }),
  locate: (session, messageId) =>
    Effect.suspend(() => {
      const peer = engine.peers.get(session)
      if (peer === undefined && !(queue.durable && isId(session))) {
        return Effect.fail(new SessionNotFoundError({ session }))
      }
      return locate(queue, deduplicator, session, peer, messageId)
    }),
  stats: Effect.gen(function*() {
    const { sessions } = yield* Effect.orElseSucceed(registry.count, () => ({ sessions: engine.peers.size }))
    const inQueue = yield* queue.stats
    return {
      sessions,
      connections: engine.connected.size,
      queue: inQueue,
      totals: { ...recorder.totals },
      latencies: recorder.latencies,
      peakQueueMessages: Math.max(recorder.peaks.queueMessages, inQueue.messages)
    }
  }),
  sessions: Effect.sync(() => [...engine.peers.keys()]),
  sessionsOf: sends.sessionsOf,
  sessionStats: remote.stats,
  shutdown: shutdown.shutdown,
  shutdownWith: shutdown.shutdownWith,
  pause: engine.pause,
  resume: engine.resume
})
