/** A member of the lobby on Socket.IO: each line of its input is said there. */
import { createInterface } from "node:readline"
import { io, type Socket } from "socket.io-client"

interface ToServer {
  readonly join: (room: string) => void
  readonly say: (room: string, text: string, done: () => void) => void
}

interface ToClient {
  readonly said: (room: string, from: string, text: string) => void
}

const socket: Socket<ToClient, ToServer> = io(`http://127.0.0.1:${process.env["PORT"] ?? 8080}`, {
  auth: { token: process.env["TOKEN"] },
  transports: ["websocket"],
  reconnectionDelay: 100,
  reconnectionDelayMax: 5_000
})
socket.on("connect", () => {
  console.log("connected")
  socket.emit("join", "lobby")
})
socket.on("disconnect", () => console.log("disconnected"))
socket.on("connect_error", ({ message }) => {
  if (!socket.active) input.close() // the server said no
  console.warn(message)
})
socket.on("said", (room, from, text) => console.log(`${room}: ${from}: ${text}`))

const input = createInterface({ input: process.stdin })
process.once("SIGTERM", () => input.close())
for await (const text of input) {
  socket.emitWithAck("say", "lobby", text).then(
    () => console.log(`done: ${text}`),
    () => console.log(`perhaps not done: ${text}`)
  )
}
socket.disconnect()
