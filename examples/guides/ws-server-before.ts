/** A chat on bare `ws`: who is away misses what is said meanwhile. `PORT` says where it listens; SIGTERM ends it. */
import type { IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import { WebSocket, WebSocketServer } from "ws"

const users = new Map([["Bearer secret-1", "ann"], ["Bearer secret-2", "bob"]])
const userOf = ({ headers }: IncomingMessage) => users.get(headers.authorization ?? "")

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.env["PORT"] ?? 8080) })
server.on("listening", () => console.log(`listening on port ${(server.address() as AddressInfo).port}`))

const alive = new WeakSet<WebSocket>()

server.on("connection", (ws, request) => {
  const user = userOf(request)
  if (user === undefined) return ws.close(4501, "who?")
  console.log(`${user} is here`)
  alive.add(ws)
  ws.on("pong", () => alive.add(ws))
  ws.on("error", () => {}) // `close` comes next
  ws.on("close", () => console.log(`${user} is gone`))
  ws.on("message", (data) => {
    const line = JSON.stringify({ from: user, text: String(data) })
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(line)
    }
  })
})

const heartbeat = setInterval(() => {
  for (const ws of server.clients) {
    if (alive.delete(ws)) ws.ping()
    else ws.terminate()
  }
}, 30_000)

process.once("SIGTERM", () => {
  clearInterval(heartbeat)
  server.close()
  for (const ws of server.clients) ws.close(1001)
})
