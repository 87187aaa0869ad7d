/** The sockets that a manager was given: which session each belongs to, and the connection it is to the server. */
import { Effect } from "effect"
import { randomUUID } from "node:crypto"
import type { IncomingMessage } from "node:http"
import type { WebSocket } from "ws"
import { maxCloseReasonBytes, subprotocol } from "../core/Protocol.ts"
import { beginning, isId } from "../core/Text.ts"
import type { Wanted } from "../internal/connect/authenticating.ts"
import { rejection } from "../internal/connect/rejection.ts"
import { badSession } from "../internal/session/identity.ts"
import { closeGraceMillis, socketFault } from "../internal/transports/wsConnection.ts"
import * as NodeTransport from "../node/NodeTransport.ts"
import type { Connection, ConnectionSink } from "../Transport.ts"
import { TransportError, type WebSocketError } from "../WebSocketError.ts"
import { isThenable } from "./emitter.ts"
import { turnedAway } from "./hooks.ts"
import type { RegisterOptions } from "./managerOptions.ts"
import { runSync } from "./running.ts"

/** A socket as the server takes it, until it is given back. */
type Socket = Connection & { readonly release: () => void }

interface Registration {
  readonly socket: Socket
  readonly session: Promise<string>
  /** The session's, as soon as it is known. */
  id: string | undefined
  /** Until it is let go of, or closed. */
  isHere: boolean
  readonly onClose: () => void
}

/** Hands a socket to the server, and resolves with its session; `onAttached` is called before that is sent anything. */
type Register = (socket: Connection, session: Wanted, onAttached: () => void) => Promise<string>

interface Settings {
  /** Whether what plain sockets say is for the server to read. */
  readonly isRead: boolean
  readonly sessionMessage: false | ((sessionId: string) => unknown) | undefined
  /** Told of a socket that could not be taken over. */
  readonly onRefused: (ws: WebSocket, error: unknown) => void
}

export class Sockets {
  private readonly options: Settings
  /** Also of sockets that are closed: messages may be sent to them still. */
  private readonly registrations = new WeakMap<WebSocket, Registration>()
  /** The socket that each session has now. */
  private readonly sockets = new Map<string, WebSocket>()

  constructor(options: Settings) {
    this.options = options
  }

  /**
   * Does not wait before the socket has been taken over: it would emit what nobody hears. Undefined when it could not be
   * taken over; then it is closed. Rejects for its caller's mistakes alone, as what peers do must not end the process of
   * who forgets to catch.
   */
  async register(
    ws: WebSocket,
    { request, sessionId }: RegisterOptions,
    register: Register
  ): Promise<string | undefined> {
    const wanted = isThenable(sessionId) ? eventual(sessionId) : sessionId ?? undefined // null: `URLSearchParams`' none
    const known = this.registrations.get(ws)
    if (known?.isHere === true) {
      const session = await known.session.catch(() => undefined) // who called first is told
      const named = (await sessionId) ?? undefined
      if (named === undefined || session === undefined || named === session) return session
      throw registering(`the socket is registered for another session, ${session}`)
    }
    const fault = socketFault(ws)
    if (fault?.isPeers === false) throw registering(fault.detail)
    if (fault !== undefined) return this.refuse(ws, registering(fault.detail))
    // It may be the peer's choice: from the query of its URL, say.
    if (wanted !== undefined && !Effect.isEffect(wanted) && !isId(wanted)) return this.refuse(ws, badSession)
    const isPlain = ws.protocol !== subprotocol
    // Before it is taken over, as the user's function may throw.
    let made = wanted === undefined && isPlain ? this.newSession() : undefined
    const socket = this.socketOf(ws, request)
    const found = Effect.isEffect(wanted) && isPlain
      ? Effect.map(wanted, (session) => session ?? (made = this.newSession()).sessionId)
      : wanted
    const session = register(socket, made?.sessionId ?? found, () => {
      if (made?.message !== undefined) socket.send(made.message)
    })
    const registration: Registration = {
      socket,
      session,
      id: undefined,
      isHere: true,
      onClose: () => this.leave(ws, registration)
    }
    this.registrations.set(ws, registration)
    ws.once("close", registration.onClose)
    try {
      const id = await session
      registration.id = id
      if (registration.isHere) this.sockets.set(id, ws)
      return id
    } catch (error) {
      this.leave(ws, registration)
      this.registrations.delete(ws)
      socket.release()
      return this.refuse(ws, error)
    }
  }

  /** The session of a socket that is, or was, registered; at once, when it is known. */
  sessionOf(ws: WebSocket): string | Promise<string> {
    const registration = this.registrations.get(ws)
    if (registration !== undefined) return registration.id ?? registration.session
    const detail = "this socket was never registered: see registerConnection"
    return Promise.reject(new TransportError({ operation: "send", detail }))
  }

  /** The connection of a socket that is registered now. */
  async connectionOf(ws: WebSocket): Promise<Connection | undefined> {
    const registration = this.registrations.get(ws)
    await registration?.session.catch(() => {}) // then it is not here
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
    registration.socket.release()
    this.leave(ws, registration)
  }

  releaseAll(): void {
    for (const ws of this.sockets.values()) this.release(ws)
  }

  /** In the words of our protocol if the peer speaks it, and has not been told so yet. */
  private refuse(ws: WebSocket, error: unknown): undefined {
    ws.on("error", () => {}) // of a peer that answers the close with nonsense
    this.options.onRefused(ws, error)
    if (ws.readyState === ws.CLOSED) return
    // Else it was an abort, or a defect.
    const ours = isOurs(error) ? error : registering("it was given up")
    const { code, reject: { detail } } = rejection(ours)
    ws.close(code, beginning(detail, maxCloseReasonBytes))
    // The socket's server may wait for longer, and with it the process.
    const timer = setTimeout(() => ws.terminate(), closeGraceMillis)
    ws.once("close", () => clearTimeout(timer))
  }

  /** It is not here any more. */
  private leave(ws: WebSocket, registration: Registration): void {
    registration.isHere = false
    ws.off("close", registration.onClose)
    const { id } = registration
    if (id !== undefined && this.sockets.get(id) === ws) this.sockets.delete(id)
  }

  private socketOf(ws: WebSocket, request: IncomingMessage | undefined): Socket {
    const socket = runSync(NodeTransport.fromWebSocket(ws, request))
    return this.options.isRead || ws.protocol === subprotocol ? socket : unread(socket)
  }

  /** A new session, and what its peer is told of it. Random enough to be a secret: 122 bits. */
  private newSession(): { readonly sessionId: string; readonly message: string | undefined } {
    const { sessionMessage = defaultMessage } = this.options
    const sessionId = randomUUID()
    return { sessionId, message: sessionMessage === false ? undefined : JSON.stringify(sessionMessage(sessionId)) }
  }
}

/** What a promise says, which is looked at later: that it rejects must not end the process meanwhile. */
const eventual = (promise: PromiseLike<string | null | undefined>): Exclude<Wanted, string | undefined> => {
  const settled = Promise.resolve(promise)
  settled.catch(() => {})
  return Effect.tryPromise({ try: () => settled.then((session) => session ?? undefined), catch: turnedAway })
}

const defaultMessage = (sessionId: string): unknown => ({ type: "session", sessionId })

const isOurs = (error: unknown): error is WebSocketError =>
  error instanceof Error && "_tag" in error && typeof error._tag === "string"

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
