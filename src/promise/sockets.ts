/** The sockets that a manager was given: which session each belongs to, and the connection it is to the server. */
import { randomUUID } from "node:crypto"
import type { WebSocket } from "ws"
import { subprotocol } from "../core/Protocol.ts"
import * as NodeTransport from "../node/NodeTransport.ts"
import type { Connection, ConnectionSink } from "../Transport.ts"
import { TransportError } from "../WebSocketError.ts"
import { runSync } from "./running.ts"

/** A socket as the server takes it, until it is given back. */
type Socket = Connection & { readonly release: () => void }

interface Registration {
  readonly socket: Socket
  /** Which session it was registered for; undefined for a new one, or the one that its hello says. */
  readonly wanted: string | undefined
  readonly session: Promise<string>
  /** Until it is let go of, or closed. */
  isHere: boolean
}

/** Hands a socket to the server, and resolves with its session. */
type Register = (socket: Connection, session: string | undefined) => Promise<string>

export interface SocketsOptions {
  /** Whether what plain sockets say is for the server to read. */
  readonly isRead: boolean
  readonly sessionMessage: false | ((sessionId: string) => unknown) | undefined
}

export class Sockets {
  private readonly options: SocketsOptions
  /** Also of sockets that are closed: messages may be sent to them still. */
  private readonly registrations = new WeakMap<WebSocket, Registration>()
  /** The socket that each session has now. */
  private readonly sockets = new Map<string, WebSocket>()

  constructor(options: SocketsOptions) {
    this.options = options
  }

  /** Does not wait before the socket has been taken over: it would emit what nobody hears. */
  async register(ws: WebSocket, wanted: string | undefined, register: Register): Promise<string> {
    if (wanted === "") throw registering("a session id has at least one character")
    const known = this.registrations.get(ws)
    if (known?.isHere === true) {
      if (wanted === undefined || wanted === known.wanted || wanted === (await known.session)) return known.session
      throw registering(`the socket is registered for another session, ${await known.session}`)
    }
    const socket = this.socketOf(ws)
    const isPlain = ws.protocol !== subprotocol
    const session = isPlain && wanted === undefined ? this.newSession(socket) : wanted
    const registration: Registration = { socket, wanted, session: register(socket, session), isHere: true }
    this.registrations.set(ws, registration)
    const gone = () => {
      registration.isHere = false
    }
    ws.once("close", gone)
    try {
      const id = await registration.session
      if (registration.isHere) this.nowAt(id, ws)
      return id
    } catch (error) {
      ws.off("close", gone)
      this.registrations.delete(ws)
      socket.release()
      throw error
    }
  }

  /** The session of a socket that is, or was, registered. */
  sessionOf(ws: WebSocket): Promise<string> {
    const registration = this.registrations.get(ws)
    if (registration !== undefined) return registration.session
    const detail = "this socket was never registered: see registerConnection"
    return Promise.reject(new TransportError({ operation: "send", detail }))
  }

  /** The connection of a socket that is registered now. */
  async connectionOf(ws: WebSocket): Promise<Connection | undefined> {
    const registration = this.registrations.get(ws)
    await registration?.session
    return registration?.isHere === true ? registration.socket : undefined
  }

  /** The socket that a session has now. */
  current(session: string): WebSocket | undefined {
    return this.sockets.get(session)
  }

  /** Gives a socket back. */
  release(ws: WebSocket): void {
    const registration = this.registrations.get(ws)
    if (registration?.isHere !== true) return
    registration.isHere = false
    registration.socket.release()
    void registration.session.then((session) => this.leave(session, ws))
  }

  releaseAll(): void {
    for (const ws of this.sockets.values()) this.release(ws)
  }

  private nowAt(session: string, ws: WebSocket): void {
    this.sockets.set(session, ws)
    ws.once("close", () => this.leave(session, ws))
  }

  private leave(session: string, ws: WebSocket): void {
    if (this.sockets.get(session) === ws) this.sockets.delete(session)
  }

  private socketOf(ws: WebSocket): Socket {
    const socket = runSync(NodeTransport.fromWebSocket(ws))
    return this.options.isRead || ws.protocol === subprotocol ? socket : unread(socket)
  }

  /** A new session, of which the peer is told. Random enough to be a secret: 122 bits. */
  private newSession(socket: Connection): string {
    const { sessionMessage = defaultMessage } = this.options
    const sessionId = randomUUID()
    if (sessionMessage !== false) socket.send(JSON.stringify(sessionMessage(sessionId)))
    return sessionId
  }
}

const defaultMessage = (sessionId: string): unknown => ({ type: "session", sessionId })

const registering = (detail: string) => new TransportError({ operation: "register", detail })

/** A socket that its owner reads: to the server, what comes is but a sign of life. */
const unread = (socket: Socket): Socket => ({
  protocol: socket.protocol,
  request: socket.request,
  open: (sink: ConnectionSink) =>
    socket.open({
      frame: () => sink.alive(),
      drained: () => sink.drained(),
      alive: () => sink.alive(),
      closed: (code, reason) => sink.closed(code, reason)
    }),
  send: (frame, written) => socket.send(frame, written),
  buffered: () => socket.buffered(),
  pause: () => socket.pause(),
  resume: () => socket.resume(),
  ping: () => socket.ping(),
  close: (code, reason) => socket.close(code, reason),
  terminate: () => socket.terminate(),
  release: () => void socket.release()
})
