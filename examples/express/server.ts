/**
 * A tea house on Express and `ws`. Orders come in over HTTP; what becomes of them is told to the page that ordered, over
 * a plain WebSocket, and waits for the page while that is away. (A plain socket acknowledges nothing: what is written to
 * one that is just breaking may be lost. Where that matters, let the page ask for its orders when it is back.)
 *
 * `PORT` says where to listen (0: on a free port), `STEP_MILLIS` how long the kitchen takes for each step.
 */
import express, { type ErrorRequestHandler } from "express"
import { createServer } from "node:http"
import { setTimeout as pause } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { WebSocketServer } from "ws"
import {
  QueueOverflowError,
  ResilientWebSocketManager,
  SessionNotFoundError,
  ShutdownError,
  webSocketServerOptions
} from "../../src/promise/index.ts" // yours: "resilient-websocket/promise"

const menu = ["tea", "coffee", "cake"]
const stepMillis = Number(process.env["STEP_MILLIS"] ?? 1_500)

// In memory, so a restart loses what waits. With `store: { type: "sqlite", filename: "teahouse.db" }` it does not.
const manager = await ResilientWebSocketManager.make({ ttl: "1 hour", retention: "1 hour" })
manager.on("stateChange", ({ _tag, session }) => console.log(`${session.slice(0, 8)}… ${_tag.toLowerCase()}`))
manager.on("deadLetter", ({ message, reason }) => console.log("not delivered:", reason, JSON.stringify(message)))
manager.on("refused", ({ error }) => console.error("a socket was refused and closed:", String(error)))
manager.on("failure", (fault) => {
  console.error(fault)
  process.exitCode = 1
  void stop()
})

// --- HTTP: the page, orders, figures

const app = express().disable("x-powered-by")

app.get("/", (_, response) => response.sendFile(fileURLToPath(new URL("page.html", import.meta.url))))

let orders = 0

app.post("/orders", express.json({ limit: "1kb" }), async (request, response) => {
  const { item, session } = Object(request.body)
  if (!isSessionId(session)) return void response.status(400).json({ error: "session: expected a session's id" })
  if (!menu.includes(item)) return void response.status(400).json({ error: `item: expected ${menu.join(", ")}` })
  const order = ++orders
  await tell(session, { order, item, status: "received" })
  response.status(202).json({ order })
  cook(session, order, item).catch((error) => {
    if (!closing.signal.aborted) console.error(`order ${order}:`, error)
  })
})

// Without those of each connection: they are listed by session, and who knows a session's id can have what is sent to it.
app.get("/stats", async (_, response) => void response.json(await manager.getStats({ connections: false })))

app.use(
  ((error, _request, response, next) => {
    if (response.headersSent) return next(error)
    const status = statusOf(error)
    if (status === 500) console.error(error)
    response.status(status).json({ error: status >= 500 ? "not now" : error.message })
  }) satisfies ErrorRequestHandler
)

const statusOf = (error: unknown): number => {
  if (error instanceof SessionNotFoundError) return 404
  if (error instanceof QueueOverflowError) return 429 // the page has been away for many messages
  if (error instanceof ShutdownError) return 503
  return Number(Object(error).status) || 500 // of `express.json`: 400 for what is no JSON, 413 for too much of it
}

// --- the kitchen: it neither knows nor asks whether the page is there

interface Progress {
  readonly order: number
  readonly item: string
  readonly status: "received" | "in the kitchen" | "ready"
}

const tell = async (session: string, progress: Progress): Promise<void> => {
  const message = { type: "order", ...progress, at: Date.now() }
  const isOut = await manager.send(session, message, { critical: true })
  console.log(
    `order ${progress.order} (${progress.item}): ${progress.status}${isOut ? "" : ", which waits for the page"}`
  )
}

const cook = async (session: string, order: number, item: string): Promise<void> => {
  for (const status of ["in the kitchen", "ready"] as const) {
    await pause(stepMillis, undefined, { signal: closing.signal })
    await tell(session, { order, item, status })
  }
}

// --- WebSockets: any that connects gets a session; who comes back with its id gets what waits for it

const http = createServer(app)
const webSockets = new WebSocketServer({
  ...webSocketServerOptions({ maxPayloadBytes: 1_024 }),
  server: http,
  path: "/messages"
})

webSockets.on("connection", (ws, request) => {
  ws.on("error", (error) => console.error("a socket failed:", error.message))
  // A session's id is a bearer secret: whoever presents it gets the session's messages, and here that is all there is to
  // know. It can serve as one because it is random (122 bits), so that nobody guesses it; keep it out of logs, and use
  // `wss:` where there is a network in between. A name that could be guessed, a user's say, must never be taken from the
  // URL like this: let it come from your authentication, a cookie's or token's user. (The `Origin` is checked: see the options.)
  const wanted = new URLSearchParams(request.url?.split("?")[1]).get("session")
  // Without an id there is a new session, and the manager tells the page its id: {"type":"session","sessionId":"…"}
  void manager.registerConnection(ws, { request, sessionId: isSessionId(wanted) ? wanted : undefined })
})

const isSessionId = (text: unknown): text is string =>
  typeof text === "string" && /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(text)

// --- the beginning and the end

const closing = new AbortController()

const stop = async (): Promise<void> => {
  closing.abort()
  http.close() // takes nobody new
  const report = await manager.gracefulShutdown({ timeout: "10 seconds" })
  // Whoever has not finished a request by now, or came so late that it was refused, and does not hang up.
  http.closeAllConnections()
  for (const ws of webSockets.clients) ws.terminate()
  console.log("shut down:", JSON.stringify(report))
}

process.once("SIGTERM", stop).once("SIGINT", stop)

http.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", () => {
  const address = http.address()
  if (typeof address === "object") console.log(`listening on http://127.0.0.1:${address?.port}`)
})
