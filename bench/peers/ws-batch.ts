/**
 * `ws` with what a user does who wants speed: arrays of 32 messages, collected for each connection and flushed when
 * full or at the end of the turn of the event loop. No acknowledgement either.
 */
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { WebSocket, WebSocketServer } from "ws"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Receive, Server } from "../harness/Peer.ts"
import { at, highWaterBytes } from "./sockets.ts"

const batchSize = 32

const listen = async ({ receive }: ListenOptions): Promise<Server> => {
  const batches: Array<Batch> = []
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false })
  server.on("connection", (socket, request) => {
    const connection = Number(request.url?.slice(1))
    batches[connection] = new Batch(socket)
    receiving(socket, connection, receive)
  })
  await once(server, "listening")
  const cut = (): void => {
    for (const { socket } of batches) socket.terminate()
  }
  return {
    ...sending(batches),
    port: (server.address() as AddressInfo).port, // it listens on TCP
    broadcast: async (message, connections) => {
      const text = JSON.stringify([message])
      for (let i = 0; i < connections; i++) at(batches, i).socket.send(text)
    },
    cut,
    close: async () => {
      cut()
      server.close()
    }
  }
}

const connect = async ({ connections, opened, port, receive }: ConnectOptions): Promise<Clients> => {
  const batches = await inParallel(connections, async (connection) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/${connection}`, { perMessageDeflate: false })
    receiving(socket, connection, receive)
    await once(socket, "open")
    opened?.(connection)
    return new Batch(socket)
  })
  return {
    ...sending(batches),
    close: async () => {
      for (const { socket } of batches) socket.terminate()
    }
  }
}

const receiving = (socket: WebSocket, connection: number, receive: Receive): void => {
  socket.on("message", (data) => {
    const messages: ReadonlyArray<Message> = JSON.parse(data.toString())
    for (const message of messages) receive(connection, message)
  })
}

class Batch {
  readonly socket: WebSocket
  #messages: Array<Message> = []

  constructor(socket: WebSocket) {
    this.socket = socket
  }

  /** A promise when the socket wants a pause. */
  push(message: Message): Promise<void> | undefined {
    if (this.#messages.push(message) === 1) setImmediate(() => this.#flush())
    return this.#messages.length < batchSize ? undefined : this.#flush()
  }

  #flush(): Promise<void> | undefined {
    if (this.#messages.length === 0) return undefined
    const text = JSON.stringify(this.#messages)
    this.#messages = []
    if (this.socket.bufferedAmount < highWaterBytes) return void this.socket.send(text)
    return new Promise((resolve, reject) => this.socket.send(text, (error) => error ? reject(error) : resolve()))
  }
}

const sending = (batches: ReadonlyArray<Batch>) => ({
  sendMany: async ({ connections, count, make }: Plan): Promise<void> => {
    for (let n = 0; n < count; n++) {
      const pause = at(batches, n % connections).push(make(n))
      if (pause !== undefined) await pause
    }
  },
  send: (connection: number, message: Message): void => void at(batches, connection).push(message)
})

export const peer: Peer = { listen, connect }
