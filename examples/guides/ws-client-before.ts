/** A client on bare `ws` that connects again by itself: each line of its input is said in the chat, or lost. */
import { createInterface } from "node:readline"
import { WebSocket } from "ws"

const url = `ws://127.0.0.1:${process.env["PORT"] ?? 8080}`
const headers = { authorization: `Bearer ${process.env["TOKEN"]}` }

let attempts = 0
let retry: NodeJS.Timeout | undefined
let silence: NodeJS.Timeout | undefined

const dial = (): WebSocket => {
  const socket = new WebSocket(url, { headers })
  /** The server pings every 30 s: when it is silent for longer, the connection is dead. */
  const heard = () => {
    clearTimeout(silence)
    silence = setTimeout(() => socket.terminate(), 35_000)
  }
  socket.on("open", () => {
    attempts = 0
    heard()
    console.log("connected")
  })
  socket.on("ping", heard)
  socket.on("message", (data) => {
    const { from, text } = JSON.parse(String(data))
    console.log(`${from}: ${text}`)
  })
  socket.on("error", () => {}) // `close` comes next
  socket.on("close", (code) => {
    clearTimeout(silence)
    console.log("disconnected")
    if (code >= 4500) return input.close() // the server said stop
    retry = setTimeout(() => {
      ws = dial()
    }, Math.random() * Math.min(5_000, 100 * 2 ** attempts++))
  })
  return socket
}

const input = createInterface({ input: process.stdin })
process.once("SIGTERM", () => input.close())
let ws = dial()
for await (const text of input) {
  if (ws.readyState === WebSocket.OPEN) ws.send(text)
  else console.log(`not said: ${text}`)
}
ws.removeAllListeners("close")
ws.close()
clearTimeout(retry)
clearTimeout(silence)
