/** A post office: whoever connects as /ann may send notes to /bob. `PORT` says where it listens; SIGTERM ends it. */
import type { AddressInfo } from "node:net"
import { WebSocketServer } from "ws"
import { ResilientWebSocketManager, SessionNotFoundError, webSocketServerOptions } from "../../src/promise/index.ts"

interface Note {
  readonly to: string
  readonly text: string
}

interface Delivered {
  readonly from: string
  readonly text: string
}

const manager: ResilientWebSocketManager<Note, Delivered> = await ResilientWebSocketManager.make({
  onMessage: async ({ text, to }, { reply, session }) => {
    try {
      await manager.send(to, { from: session, text }, { critical: true })
    } catch (error) {
      if (!(error instanceof SessionNotFoundError)) throw error
      await reply({ from: "post", text: `nobody is called ${to}` })
    }
  },
  fallbackSend: ({ text }, { reason, session }) => console.log(`not delivered to ${session}, ${reason}: ${text}`)
})
manager.on("stateChange", ({ _tag, session }) => console.log(`${session}: ${_tag}`))
manager.on("refused", ({ error }) => console.warn(`somebody could not be registered: ${error}`))

const server = new WebSocketServer({
  ...webSocketServerOptions(),
  host: "127.0.0.1",
  port: Number(process.env["PORT"] ?? 8080)
})
server.on("listening", () => console.log(`listening on port ${(server.address() as AddressInfo).port}`))

server.on("connection", (ws, request) => {
  const { url = "/" } = request
  const name = url.slice(1)
  if (name === "") return ws.close(4502, "who?")
  void manager.registerConnection(ws, { request, sessionId: name })
})

process.once("SIGTERM", async () => {
  const { dropped } = await manager.gracefulShutdown({ timeout: "10 seconds" })
  server.close()
  console.log(`${dropped} notes were not delivered`)
})
