/**
 * A session as an Effect `Socket`. Whatever speaks Socket, Effect RPC included, survives cut connections and reconnects
 * without knowing.
 *
 * **Details.** Acquiring the client's reader opens a conversation, for which the server gets a Socket of its own; it
 * lasts through every connection of the session. Writes are reliable, never expire, and wait for room where the queue
 * suspends; before the reader is acquired they wait. A frame is acknowledged when the next one is pulled, or when the
 * reader's scope closes successfully; a reader that fails or is interrupted leaves its frame to the next one. The
 * conversation ends with a `CloseEvent`, with the session, or when either side has lost its state or a frame: pulls
 * then fail, its frames are dropped, and the client's next reader opens another.
 *
 * **Gotchas.** Give the queues `overflow: "suspend"`, or a write to a full one fails. Effect RPC has pings of its own
 * and gives up on calls when these are not answered in time: set its `pingTimeout` to the longest outage to survive.
 *
 * **Example**
 *
 * ```ts
 * import { Layer } from "effect"
 * import { RpcClient, RpcSerialization, RpcServer } from "effect/rpc"
 * import { MemoryStore, ResilientSocket } from "resilient-websocket"
 * import { NodeTransport } from "resilient-websocket/node"
 *
 * const Wire = ResilientSocket.contract("app/Wire")
 * const Store = MemoryStore.layer({ queue: { overflow: "suspend" } })
 *
 * // Give it to RpcServer.layer(…)
 * export const ServerProtocol = RpcServer.layerProtocolSocketServer.pipe(
 *   Layer.provide([RpcSerialization.layerNdjson, ResilientSocket.layerSocketServer(Wire)]),
 *   Layer.provide(Wire.layerServer()),
 *   Layer.provide([Store, NodeTransport.layerServer({ port: 8080 })])
 * )
 *
 * // Give it to RpcClient.make(…)
 * export const ClientProtocol = RpcClient.layerProtocolSocket({ pingTimeout: "10 minutes" }).pipe(
 *   Layer.provide([RpcSerialization.layerNdjson, ResilientSocket.layerSocket(Wire)]),
 *   Layer.provide(Wire.layerClient({ url: "ws://localhost:8080" })),
 *   Layer.provide([Store, NodeTransport.layerClient])
 * )
 * ```
 *
 * @since 0.1.0
 */
import { Effect, Exit, Layer, Result, Schema, SchemaTransformation, type Scope } from "effect"
import { NetAddress } from "effect/net"
import { Socket, SocketServer } from "effect/socket"
import * as Contract from "./Contract.ts"
import { faithful } from "./internal/kit/schemas.ts"
import { makeClientEnd, serve } from "./internal/socket/conversation.ts"
import type { End, Ending } from "./internal/socket/frameLine.ts"
import type { ResilientClient } from "./ResilientClient.ts"
import type { ResilientServer } from "./ResilientServer.ts"

const scopeClosed: Ending = { code: 1006, reason: "the reader's scope is closed" }

const BytesFrame = Schema.Struct({ bytes: Schema.Uint8ArrayFromBase64 }).pipe(
  Schema.decodeTo(
    Schema.Uint8Array,
    SchemaTransformation.transform({ decode: ({ bytes }) => bytes, encode: (bytes) => ({ bytes }) })
  )
)
const OpenFrame = Schema.Struct({ open: Schema.String.check(Schema.isMaxLength(256)) })
const CloseFrame = Schema.Struct({ close: Schema.Int, reason: Schema.String })

/**
 * What goes over the session, either way: a text frame (a JSON string), a binary one (`{"bytes":"<base64>"}`), or the
 * end of the conversation (`{"close":1000,"reason":""}`). The client begins a conversation with `{"open":"<id>"}`, and
 * the server answers with the same; what comes before that answer belongs to an earlier one.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Frame = faithful(Schema.Union([Schema.String, BytesFrame, OpenFrame, CloseFrame]))
/** @since 0.1.0 @category schemas */
export type Frame = typeof Frame.Type

/**
 * The contract between the two ends of the sockets, named by `id`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const contract = <const Id extends string>(id: Id): Contract.Contract<Id, typeof Frame, typeof Frame> =>
  Contract.make(id, { toServer: Frame, toClient: Frame })

/**
 * A client's session as a Socket, for as long as the scope is open. The client has to be one of {@link contract},
 * without `onMessage`, and its `messages` are the Socket's alone. One reader at a time.
 *
 * Acquiring the reader fails with a `SocketOpenError` when the client was told to stop or is shut down. A pull fails
 * with a `SocketCloseError` when the conversation was closed or lost, and with a `SocketReadError` when the server said
 * stop. A write fails with a `SocketWriteError` when the outbox does not take the frame; after a conversation has
 * ended, writes wait for the next one.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromClient = (
  client: ResilientClient<Frame, Frame>
): Effect.Effect<Socket.Socket, never, Scope.Scope> => Effect.map(makeClientEnd(client), socketOf)

/**
 * Runs `handler` with a Socket for each conversation that a client opens, until interrupted: one for the life of a
 * session, unless the client starts over. The server has to be one of {@link contract}, without `onMessage`. When the
 * handler ends, so does the conversation; its failure is logged and closes with 1011.
 *
 * Pulls fail with a `SocketCloseError` when the client closed the conversation or opened another (4500), and when the
 * session ended (4505); writes then fail with a `SocketWriteError`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const accept = <R>(
  server: ResilientServer<Frame, Frame>,
  handler: (socket: Socket.Socket, session: string) => Effect.Effect<unknown, unknown, R>
): Effect.Effect<never, never, R> => serve(server, (end, session) => handler(socketOf(end), session))

/**
 * The Socket of a contract's client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerSocket = <Id extends string>(
  contract: Contract.Contract<Id, typeof Frame, typeof Frame>
): Layer.Layer<Socket.Socket, never, Contract.ClientOf<Id>> =>
  Layer.effect(Socket.Socket, Effect.flatMap(contract.Client, fromClient))

/**
 * A contract's server as Effect's `SocketServer`, whose sockets are those of {@link accept}.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerSocketServer = <Id extends string>(
  contract: Contract.Contract<Id, typeof Frame, typeof Frame>
): Layer.Layer<SocketServer.SocketServer, never, Contract.ServerOf<Id>> =>
  Layer.effect(
    SocketServer.SocketServer,
    Effect.map(contract.Server, (server) => ({
      address: addressOf(server.address),
      run: (handler) => accept(server, handler)
    }))
  )

const socketOf = ({ close, line, open, write }: End): Socket.Socket => {
  let hasReader = false

  const reader: Socket.Socket["reader"] = Effect.gen(function*() {
    if (hasReader) return yield* openError(new Error("the socket has a reader already"))
    hasReader = true
    let isLive = true
    yield* Effect.addFinalizer((exit) =>
      Effect.sync(() => {
        hasReader = false
        isLive = false
        line.leave(Exit.isSuccess(exit), scopeClosed)
      })
    )
    yield* Effect.mapError(open, openError)
    return {
      pull: Effect.suspend(() => Effect.mapError(isLive ? line.pull : Effect.fail(scopeClosed), readError)),
      upgrade: Socket.SocketUpgradeError.unsupported
    }
  })

  const writeOne: Socket.Writer["write"] = (chunk) =>
    Effect.mapError(
      Socket.isCloseEvent(chunk) ? close(chunk.code, chunk.reason ?? "") : write(chunk),
      (cause) => new Socket.SocketError({ reason: new Socket.SocketWriteError({ cause }) })
    )
  const writeAll: Socket.Writer["writeAll"] = (chunks) => Effect.forEach(chunks, writeOne, { discard: true })

  return Socket.make({ reader, writer: Effect.succeed({ write: writeOne, writeAll }) })
}

const openError = (cause: unknown) =>
  new Socket.SocketError({ reason: new Socket.SocketOpenError({ kind: "Unknown", cause }) })

const readError = (ending: Ending) =>
  new Socket.SocketError({
    reason: "cause" in ending
      ? new Socket.SocketReadError({ cause: ending.cause })
      : new Socket.SocketCloseError({ code: ending.code, closeReason: ending.reason })
  })

/** Effect's addresses are numeric; ours may be a name. */
const addressOf = ({ host, port }: { readonly host: string; readonly port: number }) =>
  Result.getOrElse(
    NetAddress.inetAddressFromIpString(host, port),
    () => NetAddress.inetAddressUnsafe(NetAddress.ipv4Unspecified, port)
  )
