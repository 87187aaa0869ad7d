/**
 * Effect's own `Socket`: one message a frame as text, no acknowledgement. Its `write` succeeds when the frame was given
 * to `ws`, and says nothing of what is buffered there, so that nothing holds a fast sender back.
 */
import { NodeSocketServer, NodeWS } from "@effect/platform-node"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { Socket, SocketServer } from "effect/socket"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Receive, Server } from "../harness/Peer.ts"
import { at } from "./sockets.ts"

const listen = async ({ receive }: ListenOptions): Promise<Server> => {
  const writers: Array<Socket.Writer> = []
  const sockets: Array<NodeWS.WebSocket> = []
  const scope = Scope.makeUnsafe()
  const layer = NodeSocketServer.layerWebSocket({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false })
  const server = Context.get(await Effect.runPromise(Layer.buildWithScope(layer, scope)), SocketServer.SocketServer)
  const handler = Effect.fnUntraced(function*(socket: Socket.Socket) {
    const request = yield* NodeSocketServer.IncomingMessage
    const connection = Number(request.url?.slice(1))
    writers[connection] = yield* socket.writer
    sockets[connection] = (yield* Socket.WebSocket) as NodeWS.WebSocket // the server's are of `ws`
    return yield* receiving(socket, connection, receive)
  }, Effect.scoped)
  const handling = handler as (socket: Socket.Socket) => Effect.Effect<never> // its services are the server's to provide
  Effect.runFork(server.run(handling))
  const { address } = server
  if (address._tag === "UnixPathAddress") throw new Error("it listens on TCP")
  return {
    ...sending(writers),
    port: address.port,
    broadcast: (message, connections) => {
      const text = JSON.stringify(message)
      return Effect.runPromise(Effect.gen(function*() {
        for (let i = 0; i < connections; i++) yield* at(writers, i).write(text)
      }))
    },
    cut: () => {
      for (const socket of sockets) socket.terminate()
    },
    close: () => Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

const connect = async ({ connections, opened, port, receive }: ConnectOptions): Promise<Clients> => {
  const scope = Scope.makeUnsafe()
  const writers = await inParallel(connections, async (connection) => {
    const { promise, reject, resolve } = Promise.withResolvers<Socket.Writer>()
    const program = Effect.gen(function*() {
      const socket = yield* Socket.makeWebSocket(`ws://127.0.0.1:${port}/${connection}`)
      const writer = yield* socket.writer
      return yield* receiving(socket, connection, receive, () => resolve(writer))
    }).pipe(Effect.scoped, Effect.provide(NodeWS.layerWebSocketConstructor))
    Effect.runPromise(Effect.forkIn(Effect.catchCause(program, (cause) => Effect.sync(() => reject(cause))), scope))
      .catch(reject)
    const writer = await promise
    opened?.(connection)
    return writer
  })
  return { ...sending(writers), close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

/** Reads until the socket closes, which is an error to it, whatever the code. */
const receiving = Effect.fnUntraced(
  function*(
    socket: Socket.Socket,
    connection: number,
    receive: Receive,
    opened?: () => void
  ) {
    const { pull } = yield* socket.reader
    opened?.()
    while (true) {
      for (const frame of yield* pull) receive(connection, JSON.parse(frame as string)) // no other frames are sent
    }
  },
  Effect.catchTag("SocketError", (error) => error.reason._tag === "SocketCloseError" ? Effect.void : Effect.fail(error))
)

const sending = (writers: ReadonlyArray<Socket.Writer>) => ({
  sendMany: ({ connections, count, make }: Plan): Promise<void> =>
    Effect.runPromise(Effect.gen(function*() {
      for (let n = 0; n < count; n++) yield* at(writers, n % connections).write(JSON.stringify(make(n)))
    })),
  send: (connection: number, message: Message): void =>
    void Effect.runPromise(at(writers, connection).write(JSON.stringify(message)))
})

export const peer: Peer = { listen, connect }
