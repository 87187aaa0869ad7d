/**
 * Bare `ws`, the baseline: one message a frame as text, no acknowledgement, no memory of what was sent. A fast sender
 * is held back by `bufferedAmount`. Clients that are cut dial again at once: nothing comes back sooner than that.
 */
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { WebSocket, WebSocketServer } from "ws"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Server } from "../harness/Peer.ts"
import { at, highWaterBytes } from "./sockets.ts"

/** After a dial that failed. */
const redialMillis = 50

const listen = async ({ receive }: ListenOptions): Promise<Server> => {
  const sockets: Array<WebSocket> = []
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false })
  server.on("connection", (socket, request) => {
    const connection = Number(request.url?.slice(1))
    sockets[connection] = socket
    socket.on("message", (data) => receive(connection, JSON.parse(data.toString())))
    socket.on("error", () => {}) // a socket that was cut
  })
  await once(server, "listening")
  return {
    ...sending(sockets),
    port: (server.address() as AddressInfo).port, // it listens on TCP
    broadcast: async (message, connections) => {
      const text = JSON.stringify(message)
      for (let i = 0; i < connections; i++) at(sockets, i).send(text)
    },
    cut: () => {
      for (const socket of sockets) socket.terminate()
    },
    close: async () => {
      for (const socket of sockets) socket.terminate()
      server.close()
    }
  }
}

const connect = async ({ connections, opened, port, receive }: ConnectOptions): Promise<Clients> => {
  const sockets: Array<WebSocket> = []
  let closing = false
  const dial = async (connection: number): Promise<void> => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/${connection}`, { perMessageDeflate: false })
    sockets[connection] = socket
    socket.on("message", (data) => receive(connection, JSON.parse(data.toString())))
    let wasOpen = false
    socket.on("close", () => {
      if (!closing) setTimeout(() => void dial(connection).catch(() => {}), wasOpen ? 0 : redialMillis)
    })
    await once(socket, "open")
    wasOpen = true
    socket.on("error", () => {}) // a socket that was cut; "close" follows
    opened?.(connection)
  }
  await inParallel(connections, dial)
  return {
    ...sending(sockets),
    close: async () => {
      closing = true
      for (const socket of sockets) socket.terminate()
    }
  }
}

const sending = (sockets: ReadonlyArray<WebSocket>) => ({
  sendMany: async ({ connections, count, make }: Plan): Promise<void> => {
    for (let n = 0; n < count; n++) {
      const socket = at(sockets, n % connections)
      const text = JSON.stringify(make(n))
      if (socket.bufferedAmount < highWaterBytes) socket.send(text)
      else await new Promise<void>((resolve, reject) => socket.send(text, (error) => error ? reject(error) : resolve()))
    }
  },
  send: (connection: number, message: Message): void => at(sockets, connection).send(JSON.stringify(message))
})

export const peer: Peer = { listen, connect }
