/**
 * A resilient session as an Effect `Socket`: what speaks Socket, Effect RPC among it, survives cut connections and
 * reconnects without knowing.
 *
 * **Details.** Acquiring the client's reader opens a conversation, for which the server gets a Socket of its own; it
 * lasts through every connection of the session. Writes are reliable, never expire, and wait for room where the queue
 * suspends; before the reader is acquired they wait. A frame is acknowledged when the next one is pulled, or when the
 * reader's scope closes successfully; a reader that fails or is interrupted leaves its frame to the next one. The
 * conversation ends with a `CloseEvent`, with the session, or when either side lost its state or a frame: pulls then
 * fail, frames of it are dropped, and the client's next reader opens another.
 *
 * **Gotchas.** Give the queues `overflow: "suspend"`, or a write to a full one fails. Effect RPC has pings of its own
 * and gives up on calls when they are not answered in time: set its `pingTimeout` to the longest outage to survive.
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
import {
  Cause,
  Duration,
  Effect,
  Exit,
  FiberSet,
  Latch,
  Layer,
  Random,
  Result,
  Schema,
  SchemaTransformation,
  Stream
} from "effect"
import type { Scope } from "effect"
import { NetAddress } from "effect/net"
import { Socket, SocketServer } from "effect/socket"
import * as Contract from "./Contract.ts"
import { CloseCode } from "./core/Protocol.ts"
import { makeId } from "./internal/ids.ts"
import type { Incoming } from "./Message.ts"
import type { ResilientClient } from "./ResilientClient.ts"
import type { ResilientServer } from "./ResilientServer.ts"

const Open = Schema.Struct({ open: Schema.String })
const Close = Schema.Struct({ close: Schema.Int, reason: Schema.String })
const Bytes = Schema.Struct({ bytes: Schema.Uint8ArrayFromBase64 }).pipe(
  Schema.decodeTo(
    Schema.Uint8Array,
    SchemaTransformation.transform({ decode: ({ bytes }) => bytes, encode: (bytes) => ({ bytes }) })
  )
)

/**
 * What goes over the session, either way: a text frame (a JSON string), a binary one (`{"bytes":"<base64>"}`), or the
 * end of the conversation (`{"close":1000,"reason":""}`). The client begins a conversation with `{"open":"<id>"}`, and
 * the server answers the same; what comes before that answer belongs to an earlier one.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Frame = Schema.Union([Schema.String, Bytes, Open, Close])
/** @since 0.1.0 @category schemas */
export type Frame = typeof Frame.Type

/**
 * The contract between the two ends of the sockets, named by `id`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const contract = <const Id extends string>(id: Id): Contract.Contract<Id, Frame, Frame> =>
  Contract.make(id, { toServer: Frame, toClient: Frame })

type Data = string | Uint8Array
type Send = (frame: Frame) => Effect.Effect<void, Socket.SocketError>

/** A conversation as its reader sees it: one frame at a time, held until the reader is done with it. */
class Line {
  /** Why the conversation is over, if it is. */
  error: Socket.SocketError | undefined
  private last: string | undefined
  private held: { readonly data: Data; readonly release: () => void } | undefined
  private taken = false
  private hasReader = false
  private waiter: ((effect: Effect.Effect<readonly [Data], Socket.SocketError>) => void) | undefined

  /** A conversation begins with the message `first`. */
  begin(first: string | undefined): void {
    this.error = undefined
    this.last = first
  }

  end(error: Socket.SocketError): void {
    if (this.error !== undefined) return
    this.error = error
    this.release()
    this.resume(Effect.fail(error))
  }

  /** Gives a frame to the reader; succeeds when the reader is done with it. */
  offer(data: Data): Effect.Effect<void> {
    return Effect.callback((resume) => {
      if (this.error !== undefined) return resume(Effect.void)
      const held = { data, release: () => resume(Effect.void) }
      this.held = held
      this.deliver()
      return Effect.sync(() => {
        if (this.held === held) this.held = undefined
      })
    })
  }

  /** Whether the message came right after the last one. Default ids are `<epoch>-<offset>`, with offsets in a row. */
  follows(messageId: string | undefined): boolean {
    const before = this.last
    this.last = messageId
    if (before === undefined || messageId === undefined) return true
    const dash = before.lastIndexOf("-") + 1
    return messageId === `${before.slice(0, dash)}${Number(before.slice(dash)) + 1}`
  }

  /** The reader; `open` runs before it is there. */
  reader(open: Effect.Effect<void, Socket.SocketError>): Socket.Socket["reader"] {
    return Effect.suspend(() => {
      if (this.hasReader) return openError(new Error("the socket has a reader already"))
      this.hasReader = true
      let live = true
      const pull: Socket.Reader["pull"] = Effect.callback((resume) => {
        if (!live) return resume(closeError(1006, "the reader's scope is closed"))
        this.release()
        this.waiter = resume
        this.deliver()
        if (this.error !== undefined) this.resume(Effect.fail(this.error))
        return Effect.sync(() => {
          if (this.waiter === resume) this.waiter = undefined
        })
      })
      const leave = (exit: Exit.Exit<unknown, unknown>) =>
        Effect.sync(() => {
          live = false
          this.hasReader = false
          if (Exit.isSuccess(exit)) this.release()
          this.taken = false
          this.resume(closeError(1006, "the reader's scope is closed"))
        })
      return Effect.as(
        Effect.andThen(Effect.addFinalizer(leave), open),
        { pull, upgrade: Socket.SocketUpgradeError.unsupported }
      )
    })
  }

  private deliver(): void {
    if (this.held === undefined || this.taken || this.waiter === undefined) return
    this.taken = true
    this.resume(Effect.succeed([this.held.data]))
  }

  /** The reader is done with the frame it took, or there is no more reading. */
  private release(): void {
    const { held } = this
    if (held === undefined || (!this.taken && this.error === undefined)) return
    this.held = undefined
    this.taken = false
    held.release()
  }

  private resume(effect: Effect.Effect<readonly [Data], Socket.SocketError>): void {
    const { waiter } = this
    this.waiter = undefined
    waiter?.(effect)
  }
}

/**
 * A client's session as a Socket. The client has to be one of {@link contract}, and its `messages` are the Socket's
 * alone. One reader at a time. Acquiring it fails with a `SocketOpenError` when the client was told to stop or is shut
 * down; a write fails with a `SocketWriteError` when the outbox does not take the frame.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromClient = Effect.fnUntraced(function*(
  client: ResilientClient<Frame, Frame>
): Effect.fn.Return<Socket.Socket, never, Scope.Scope> {
  const random = yield* Random.Random
  const line = new Line()
  const writable = yield* Latch.make(false)
  let conversation: string | undefined
  let isAccepted = false
  let isConnected = false
  /** Whether a server may know the conversation: then it has to be one that did not lose the session since. */
  let isExposed = false

  const lose = (error: Socket.SocketError): void => {
    conversation = undefined
    isAccepted = false
    writable.closeUnsafe()
    line.end(error)
  }

  const receive = ({ message, messageId, volatile }: Incoming<Frame>): Effect.Effect<void> => {
    if (volatile) return Effect.void
    if (isData(message)) {
      if (!isAccepted) return Effect.void
      return line.follows(messageId) ? line.offer(message) : Effect.sync(() => lose(holeError))
    }
    return Effect.sync(() => {
      if ("close" in message) {
        if (isAccepted) lose(closeError(message.close, message.reason))
      } else if (message.open === conversation) {
        isAccepted = true
        line.begin(messageId)
      }
    })
  }

  const send: Send = (frame) => Effect.flatMap(Effect.mapError(client.send(frame, forever), writeError), taken)

  const open = Effect.gen(function*() {
    if (conversation !== undefined) return
    const state = yield* client.state
    if (state._tag === "Stopped") return yield* openError(state.error)
    const id = makeId(random)
    conversation = id
    isExposed = isConnected
    line.begin(undefined)
    yield* send({ open: id }).pipe(
      Effect.catch((error) => openError(error.reason)),
      Effect.onError(() => Effect.sync(() => lose(closeError(1006, "not opened"))))
    )
    if (conversation === id) writable.openUnsafe()
  })

  yield* Effect.forkScoped(Stream.runForEach(client.messages, receive), { startImmediately: true })
  yield* Stream.runForEach(client.states, (state) =>
    Effect.sync(() => {
      isConnected = state._tag === "Connected"
      if (state._tag === "Closed") return lose(closeError(CloseCode.normal, "the client is shut down"))
      if (state._tag === "Stopped") return lose(stopError(state.error))
      if (state._tag !== "Connected") return
      if (isExposed && state.result === "fresh") lose(closeError(lost, `the session is fresh: ${state.reason}`))
      else isExposed = true
    })).pipe(Effect.forkScoped({ startImmediately: true }))

  return socketOf(line.reader(open), (chunk) =>
    writable.whenOpen(
      Socket.isCloseEvent(chunk)
        ? Effect.andThen(send(closeFrame(chunk)), Effect.sync(() => lose(closeError(chunk.code, chunk.reason))))
        : send(chunk)
    ))
})

/**
 * Runs `handler` with a Socket for each conversation that a client opens, until interrupted: one a session for its
 * life, unless the client starts over. The server has to be one of {@link contract}, without `onMessage`. When the
 * handler ends, so does the conversation; its failure is logged. A Socket's pulls fail with a `SocketCloseError` when
 * the client closed it, opened another, or its session ended.
 *
 * @since 0.1.0
 * @category constructors
 */
export const accept = <R>(
  server: ResilientServer<Frame, Frame>,
  handler: (socket: Socket.Socket, session: string) => Effect.Effect<unknown, unknown, R>
): Effect.Effect<never, never, R> =>
  Effect.scoped(Effect.gen(function*() {
    const fork = yield* FiberSet.makeRuntime<R>()
    /** The newest conversation of each session; also one that is over, and one that was never known here. */
    const lines = new Map<string, Line>()

    const sendTo = (session: string): Send => (frame) =>
      Effect.flatMap(Effect.mapError(server.send(session, frame, forever), writeError), taken)

    const hangUp = (session: string, line: Line, code: number, reason: string) =>
      Effect.suspend(() => {
        if (line.error !== undefined) return Effect.void
        line.end(closeError(code, reason))
        return sendTo(session)({ close: code, reason })
      })

    const serve = (session: string, line: Line) => {
      const send = Effect.fnUntraced(function*(chunk: Chunk) {
        if (line.error !== undefined) return yield* writeError(line.error)
        if (Socket.isCloseEvent(chunk)) return yield* hangUp(session, line, chunk.code, chunk.reason ?? "")
        return yield* sendTo(session)(chunk)
      })
      const open = Effect.suspend(() => line.error === undefined ? Effect.void : openError(line.error))
      return Effect.suspend(() => handler(socketOf(line.reader(open), send), session)).pipe(
        Effect.onExit((exit) => Effect.ignore(hangUp(session, line, ...farewell(exit)))),
        Effect.catchCauseIf(
          (cause) => !Cause.hasInterruptsOnly(cause),
          (cause) => Effect.logError(`the socket of session ${session} failed`, cause)
        )
      )
    }

    const open = Effect.fnUntraced(function*(session: string, id: string, messageId: string | undefined) {
      lines.get(session)?.end(closeError(CloseCode.replaced, "the client opened another conversation"))
      const line = new Line()
      line.begin(messageId)
      lines.set(session, line)
      yield* sendTo(session)({ open: id })
      fork(serve(session, line))
    })

    /** What a server before this one knew: the client has to open another. */
    const refuse = (session: string) =>
      Effect.suspend(() => {
        const line = new Line()
        lines.set(session, line)
        return hangUp(session, line, lost, "the server does not know this conversation")
      })

    const receive = ({ message, messageId, session, volatile }: Incoming<Frame>) => {
      if (volatile) return Effect.void
      if (!isData(message) && "open" in message) return open(session, message.open, messageId)
      const line = lines.get(session)
      if (line === undefined) return refuse(session)
      if (line.error !== undefined) return Effect.void
      if (!isData(message)) return Effect.sync(() => line.end(closeError(message.close, message.reason)))
      return line.follows(messageId) ? line.offer(message) : hangUp(session, line, 1011, holeError.message)
    }

    // `messages` gives one at a time, and a session whose reader is slow must not keep the others waiting: there is
    // always a lane more than messages being read.
    let idle = 0
    const lane: Effect.Effect<void> = Effect.suspend(() => {
      idle++
      return Stream.runForEachWhile(server.messages, (incoming) =>
        Effect.suspend(() => {
          if (--idle === 0) fork(lane)
          return receive(incoming)
        }).pipe(
          Effect.catch((error) => Effect.logWarning(`a socket of session ${incoming.session} failed`, error)),
          Effect.map(() => {
            const stays = idle < spareLanes
            if (stays) idle++
            return stays
          })
        ))
    })

    fork(Stream.runForEach(server.connections, (event) => {
      const { session } = event
      if (event._tag === "Ended") {
        lines.get(session)?.end(closeError(CloseCode.sessionEnded, "the session ended"))
        lines.delete(session)
      }
      return Effect.void
    }))
    fork(lane)
    return yield* Effect.never
  }))

/**
 * The Socket of a contract's client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerSocket = <Id extends string>(
  contract: Contract.Contract<Id, Frame, Frame>
): Layer.Layer<Socket.Socket, never, Contract.ClientOf<Id>> =>
  Layer.effect(Socket.Socket, Effect.flatMap(contract.Client, fromClient))

/**
 * A contract's server as Effect's `SocketServer`, whose sockets are those of {@link accept}.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerSocketServer = <Id extends string>(
  contract: Contract.Contract<Id, Frame, Frame>
): Layer.Layer<SocketServer.SocketServer, never, Contract.ServerOf<Id>> =>
  Layer.effect(
    SocketServer.SocketServer,
    Effect.map(contract.Server, (server) => ({
      get address() {
        const { host, port } = server.address
        const address = NetAddress.inetAddressFromIpString(host, port)
        return Result.getOrElse(address, () => NetAddress.inetAddressUnsafe(NetAddress.ipv4Unspecified, port))
      },
      run: (handler) => accept(server, handler)
    }))
  )

/** Lanes that are kept for the next messages. */
const spareLanes = 16
/** Service Restart, of the registry of WebSocket close codes. */
const lost = 1012
const forever = { ttl: Duration.infinity }

type Chunk = Data | Socket.CloseEvent

const isData = (frame: Frame): frame is Data => typeof frame === "string" || frame instanceof Uint8Array

const socketOf = (
  reader: Socket.Socket["reader"],
  write: (chunk: Chunk) => Effect.Effect<void, Socket.SocketError>
): Socket.Socket => {
  const writeAll = (chunks: ReadonlyArray<Data>) => Effect.forEach(chunks, write, { discard: true })
  return Socket.make({ reader, writer: Effect.succeed({ write, writeAll }) })
}
