/** The same chat with a manager: what is said waits for who is away. `PORT` says where it listens; SIGTERM ends it. */
import type { IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import { WebSocketServer } from "ws"
import { ResilientWebSocketManager, webSocketServerOptions } from "../../src/promise/index.ts"

interface Line {
  readonly from: string
  readonly text: string
}

const users = new Map([["Bearer secret-1", "ann"], ["Bearer secret-2", "bob"]])
const userOf = ({ headers }: IncomingMessage) => users.get(headers.authorization ?? "")

const manager: ResilientWebSocketManager<string, Line> = await ResilientWebSocketManager.make({
  parse: String,
  onMessage: (text, { session }) => manager.broadcast({ from: session, text })
})
manager.on("stateChange", ({ _tag, session }) => {
  if (_tag === "Connected") console.log(`${session} is here`)
  if (_tag === "Disconnected") console.log(`${session} is gone`)
})
manager.on("refused", ({ error }) => console.warn(`somebody could not be registered: ${error}`))

const server = new WebSocketServer({
  ...webSocketServerOptions(),
  host: "127.0.0.1",
  port: Number(process.env["PORT"] ?? 8080)
})
server.on("listening", () => console.log(`listening on port ${(server.address() as AddressInfo).port}`))

server.on("connection", (ws, request) => {
  const user = userOf(request)
  if (user === undefined) return ws.close(4501, "who?")
  void manager.registerConnection(ws, { request, sessionId: user })
})

process.once("SIGTERM", async () => {
  await manager.gracefulShutdown()
  server.close()
})
