/** The same rooms with a manager: what is said waits for who is away. `PORT` says where it listens; SIGTERM ends it. */
import { createServer, type IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import { WebSocketServer } from "ws"
import { ResilientWebSocketManager, webSocketServerOptions } from "../../src/promise/index.ts"

type ToServer =
  | { readonly type: "join"; readonly room: string }
  | { readonly type: "say"; readonly room: string; readonly text: string }

type ToClient = { readonly type: "said"; readonly room: string; readonly from: string; readonly text: string }

const users = new Map([["Bearer secret-1", "ann"], ["Bearer secret-2", "bob"]])
const userOf = ({ headers }: IncomingMessage) => users.get(headers.authorization ?? "")

/** Of each room, the sessions that are in it, connected or not. */
const rooms = new Map<string, Set<string>>()
const membersOf = (room: string): Set<string> => {
  const members = rooms.get(room) ?? new Set()
  rooms.set(room, members)
  return members
}

const manager: ResilientWebSocketManager<ToServer, ToClient> = await ResilientWebSocketManager.make({
  onMessage: async (message, { session }) => {
    switch (message.type) {
      case "join":
        membersOf(message.room).add(session)
        return console.log(`${session} is in ${message.room}`)
      case "say": {
        const { room, text } = message
        await manager.broadcast({ type: "said", room, from: session, text }, { sessions: membersOf(room) })
      }
    }
  }
})
manager.on("stateChange", ({ _tag, session }) => {
  if (_tag === "Connected") console.log(`${session} is here`)
  if (_tag === "Disconnected") console.log(`${session} is gone`)
  // It was away for longer than the retention. It joins again when it comes again.
  if (_tag === "Ended") { for (const members of rooms.values()) members.delete(session) }
})
manager.on("refused", ({ error }) => console.warn(`somebody could not be registered: ${error}`))

const http = createServer()
const server = new WebSocketServer({ ...webSocketServerOptions(), server: http })

server.on("connection", (ws, request) => {
  const user = userOf(request)
  if (user === undefined) return ws.close(4501, "who?")
  void manager.registerConnection(ws, { request, sessionId: user })
})

http.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", () => {
  console.log(`listening on port ${(http.address() as AddressInfo).port}`)
})

process.once("SIGTERM", async () => {
  await manager.gracefulShutdown()
  http.close()
})
