/**
 * Socket.IO over WebSocket only, in three ways: plain; with connection state recovery, where the server remembers what
 * it sent; with an acknowledgement for each message. A fast sender waits for the engine's buffer, or for the acks.
 */
import { once } from "node:events"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { Server as SocketServer } from "socket.io"
import { io } from "socket.io-client"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Receive, Server } from "../harness/Peer.ts"
import { at, InFlight, makeCut } from "./sockets.ts"

interface Options {
  /** How long the server remembers what it sent. */
  readonly recoveryMillis?: number | undefined
  readonly acks: "none" | "each"
}

/** What server and client sockets have in common. */
interface Socket {
  readonly emit: (event: "message", ...args: [message: Message, ack?: () => void]) => unknown
  readonly on: (event: "message", listener: (message: Message, ack?: unknown) => void) => unknown
}

/** Their engines: what is not yet written, and when it is. */
interface Engine {
  readonly writeBuffer: { readonly length: number }
  readonly once: (event: "drain", listener: () => void) => unknown
}

interface Line {
  readonly socket: Socket
  readonly engine: Engine
}

/** Packets that the engine may hold before the sender waits; there is no measure in bytes. */
const highWater = 1_000

const makePeer = ({ acks, recoveryMillis }: Options): Peer => {
  const listen = async ({ receive }: ListenOptions): Promise<Server> => {
    const lines: Array<Line> = []
    const http = createServer()
    const cut = makeCut(http)
    const server = new SocketServer(http, {
      transports: ["websocket"],
      serveClient: false,
      ...(recoveryMillis === undefined ? {} : { connectionStateRecovery: { maxDisconnectionDuration: recoveryMillis } })
    })
    server.on("connection", (socket) => {
      const connection = Number(socket.handshake.auth["connection"])
      lines[connection] = { socket, engine: socket.conn as unknown as Engine } // private, but nothing else tells
      receiving(socket, connection, receive)
    })
    http.listen({ host: "127.0.0.1", port: 0, backlog: 4096 })
    await once(http, "listening")
    return {
      ...sending(lines),
      port: (http.address() as AddressInfo).port, // it listens on TCP
      broadcast: async (message) => void server.emit("message", message),
      cut,
      close: () => server.close()
    }
  }

  const connect = async ({ connections, opened, port, receive }: ConnectOptions): Promise<Clients> => {
    const sockets = await inParallel(connections, async (connection) => {
      const socket = io(`http://127.0.0.1:${port}`, {
        transports: ["websocket"],
        forceNew: true,
        auth: { connection }
      })
      receiving(socket, connection, receive)
      await new Promise<void>((resolve, reject) => {
        socket.on("connect", () => {
          opened?.(connection)
          resolve()
        })
        socket.once("connect_error", reject)
      })
      return socket
    })
    return {
      ...sending(sockets.map((socket) => ({ socket, engine: socket.io.engine }))),
      close: async () => {
        for (const socket of sockets) socket.disconnect()
      }
    }
  }

  const receiving = (socket: Socket, connection: number, receive: Receive): void => {
    socket.on("message", (message, ack) => {
      receive(connection, message)
      // With recovery there is an offset in its place.
      if (typeof ack === "function") ack()
    })
  }

  const sending = (lines: ReadonlyArray<Line>) => {
    const inFlight = new InFlight()
    const send = (connection: number, message: Message): Promise<void> | undefined => {
      const { engine, socket } = at(lines, connection)
      if (acks === "each") {
        socket.emit("message", message, inFlight.done)
        return inFlight.begin()
      }
      socket.emit("message", message)
      return engine.writeBuffer.length < highWater ? undefined : new Promise((resolve) => engine.once("drain", resolve))
    }
    return {
      sendMany: async ({ connections, count, make }: Plan): Promise<void> => {
        for (let n = 0; n < count; n++) {
          const pause = send(n % connections, make(n))
          if (pause !== undefined) await pause
        }
      },
      send: (connection: number, message: Message): void => void send(connection, message)
    }
  }

  return { listen, connect }
}

export const peer = makePeer({ acks: "none" })
export const recovery = makePeer({ acks: "none", recoveryMillis: 120_000 })
export const acks = makePeer({ acks: "each" })
