/**
 * A process that uses the promise face only, and ends by itself: after `gracefulShutdown`, called twice and in the midst
 * of traffic. Prints what the peers got, and what the report says.
 */
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { WebSocket, WebSocketServer } from "ws"
import { ResilientClient, ResilientWebSocketManager, type WebSocketError } from "../../src/promise/index.ts"

const [store = "memory", filename = ""] = process.argv.slice(2)

const manager = await ResilientWebSocketManager.make<number, number>({
  store: store === "sqlite" ? { type: "sqlite", filename } : { type: "memory" },
  onMessage: () => new Promise((resolve) => void setImmediate(resolve))
})
const server = new WebSocketServer({ host: "127.0.0.1", port: 0 })
server.on("connection", (ws, request) => {
  void manager.registerConnection(ws, { sessionId: request.url?.slice(1) })
})
await once(server, "listening")
const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}` // it listens on TCP

const got: Array<number> = []
const client = await ResilientClient.connect<number, number>(`${url}/client`, { onMessage: (n) => void got.push(n) })
const plain = new WebSocket(`${url}/plain`)
await once(plain, "open")
while ((await manager.getStats()).connected < 2) await new Promise((resolve) => void setImmediate(resolve))

const sent = { count: 0 }
const traffic = async (session: string) => {
  for (let n = 0; n < 100_000; n++) {
    await manager.send(session, n, { critical: true })
    await client.send(n)
    sent.count++
    if (n % 20 === 19) await new Promise((resolve) => void setImmediate(resolve))
  }
}
const endings = ["client", "plain", "away"].map((session) =>
  traffic(session).catch((error: WebSocketError) => error._tag)
)
while (sent.count < 200) await new Promise((resolve) => void setImmediate(resolve))

const [first, second] = await Promise.all([manager.gracefulShutdown(), manager.gracefulShutdown({ timeout: 1 })])
const clientReport = await client.close({ timeout: "2 seconds" })
server.close()
console.log(JSON.stringify({
  endings: await Promise.all(endings),
  same: first === second,
  addsUp: first.pending === first.flushed + first.retained + first.dropped,
  clientAddsUp: clientReport.pending === clientReport.flushed + clientReport.retained + clientReport.dropped,
  inOrder: got.every((n, i) => n === i),
  got: got.length
}))
