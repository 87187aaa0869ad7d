/** Rooms on Socket.IO: who is away misses what is said meanwhile. `PORT` says where it listens; SIGTERM ends it. */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { Server } from "socket.io"

interface ToServer {
  readonly join: (room: string) => void
  readonly say: (room: string, text: string, done: () => void) => void
}

interface ToClient {
  readonly said: (room: string, from: string, text: string) => void
}

const users = new Map([["secret-1", "ann"], ["secret-2", "bob"]])

const http = createServer()
const io = new Server<ToServer, ToClient, {}, { user: string }>(http)

io.use((socket, next) => {
  const user = users.get(socket.handshake.auth["token"])
  if (user === undefined) return next(new Error("who?"))
  socket.data.user = user
  next()
})

io.on("connection", (socket) => {
  const { user } = socket.data
  console.log(`${user} is here`)
  socket.on("disconnect", () => console.log(`${user} is gone`))
  socket.on("join", async (room) => {
    await socket.join(room)
    console.log(`${user} is in ${room}`)
  })
  socket.on("say", (room, text, done) => {
    io.to(room).emit("said", room, user, text)
    done()
  })
})

http.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", () => {
  console.log(`listening on port ${(http.address() as AddressInfo).port}`)
})

process.once("SIGTERM", () => void io.close())
