/**
 * This library without Effect, as the README shows it: a manager, given the sockets of a `WebSocketServer` of ours, and
 * clients that are connected. Settings as in `resilient.ts`: defaults, save that a full outbox suspends its sender.
 * There is no schema, and no `parse`.
 */
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { type WebSocket, WebSocketServer } from "ws"
import { ResilientClient, ResilientWebSocketManager } from "../../src/promise/index.ts"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Server } from "../harness/Peer.ts"
import { at } from "./sockets.ts"

const overflow = "suspend"

const listen = async ({ receive }: ListenOptions): Promise<Server> => {
  const manager = await ResilientWebSocketManager.make<Message, Message>({
    overflow,
    onMessage: (message, { session }) => receive(Number(session), message)
  })
  const sockets = new Set<WebSocket>()
  // As the library's own transport makes it.
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false })
  server.on("connection", (socket, request) => {
    sockets.add(socket)
    socket.once("close", () => sockets.delete(socket))
    const token = new URLSearchParams(request.url?.split("?")[1]).get("token")
    // Not awaited: a failure is an unhandled rejection, which ends the process and the measurement.
    void manager.registerConnection(socket, { sessionId: token ?? "" })
  })
  await once(server, "listening")
  return {
    ...sending((connection, message) => manager.send(String(connection), message, { critical: true })),
    port: (server.address() as AddressInfo).port, // it listens on TCP
    broadcast: async (message, connections) => {
      const { accepted } = await manager.broadcast(message)
      if (accepted !== connections) throw new Error(`a broadcast to ${accepted} of ${connections} sessions`)
    },
    cut: () => {
      for (const socket of sockets) socket.terminate()
    },
    close: async () => {
      await manager.gracefulShutdown()
      server.close()
    }
  }
}

const connect = async ({ connections, opened, port, receive }: ConnectOptions): Promise<Clients> => {
  const clients = await inParallel(connections, async (connection) => {
    const client = await ResilientClient.connect<Message, Message>(`ws://127.0.0.1:${port}/?token=${connection}`, {
      overflow,
      onMessage: (message) => receive(connection, message)
    })
    opened?.(connection)
    return client
  })
  return {
    ...sending((connection, message) => at(clients, connection).send(message)),
    close: async () => {
      await Promise.all(clients.map((client) => client.close()))
    }
  }
}

const sending = (send: (connection: number, message: Message) => Promise<unknown>) => ({
  sendMany: async ({ connections, count, make }: Plan): Promise<void> => {
    for (let n = 0; n < count; n++) await send(n % connections, make(n))
  },
  send: (connection: number, message: Message): void => void send(connection, message)
})

export const peer: Peer = { listen, connect }
