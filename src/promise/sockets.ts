/** The sockets that a manager was given: the session of each, and its connection as the server sees it. */
import { Effect } from "effect"
import { randomUUID } from "node:crypto"
import type { IncomingMessage } from "node:http"
import type { WebSocket } from "ws"
import { closeGraceMillis, maxCloseReasonBytes, subprotocol } from "../core/Protocol.ts"
import { beginning, isId } from "../core/Text.ts"
import type { Wanted } from "../internal/connect/authenticating.ts"
import { rejection } from "../internal/connect/rejection.ts"
import { badSession } from "../internal/session/identity.ts"
import { socketFault } from "../internal/transports/wsConnection.ts"
import * as NodeTransport from "../node/NodeTransport.ts"
import type { Connection, ConnectionSink } from "../Transport.ts"
import { isWebSocketError, TransportError } from "../WebSocketError.ts"
import { isThenable } from "./emitter.ts"
import { turnedAway } from "./hooks.ts"
import type { RegisterOptions } from "./managerOptions.ts"
import { runSync } from "./running.ts"

/** A socket as the server sees it; `release` gives it back. */
type Socket = Connection & { readonly release: () => void }

interface Registration {
  readonly socket: Socket
  readonly session: Promise<string>
  /** The session's id, once it is known. */
  id: string | undefined
  /** True until the socket is given back or closed. */
  isHere: boolean
  readonly onClose: () => void
}

/** Hands a socket to the server, and resolves with its session. Calls `onAttached` before anything is sent to that. */
type Register = (socket: Connection, session: Wanted, onAttached: () => void) => Promise<string>

interface Settings {
  /** Whether the server reads plain sockets. */
  readonly isRead: boolean
  readonly sessionMessage: false | ((sessionId: string) => unknown) | undefined
  /** Called for a socket that could not be taken over. */
  readonly onRefused: (ws: WebSocket, error: unknown) => void
}

export class Sockets {
  private readonly options: Settings
  /** Includes closed sockets, as messages may still be sent to them. */
  private readonly registrations = new WeakMap<WebSocket, Registration>()
  /** Each session's current socket. */
  private readonly sockets = new Map<string, WebSocket>()

  constructor(options: Settings) {
    this.options = options
  }

  /**
   * Takes over the socket before it waits for anything, as the socket would emit what nobody hears. Returns undefined
   * if that failed; then the socket is closed. Rejects only for the caller's mistakes: peers must not be able to end
   * the process of a caller who forgets to catch.
   */
  async register(
    ws: WebSocket,
    { request, sessionId }: RegisterOptions,
    register: Register
  ): Promise<string | undefined> {
    const wanted = isThenable(sessionId) ? eventual(sessionId) : sessionId ?? undefined // null: `URLSearchParams`' none
    const known = this.registrations.get(ws)
    if (known?.isHere === true) {
      const session = await known.session.catch(() => undefined) // the first caller gets the error
      const named = (await sessionId) ?? undefined
      if (named === undefined || session === undefined || named === session) return session
      throw registering(`the socket is registered for another session, ${session}`)
    }
    const fault = socketFault(ws)
    if (fault?.isPeers === false) throw registering(fault.detail)
    if (fault !== undefined) return this.refuse(ws, registering(fault.detail))
    // Not the caller's mistake: the id may come from the peer, as from its URL's query.
    if (wanted !== undefined && !Effect.isEffect(wanted) && !isId(wanted)) return this.refuse(ws, badSession)
    const isPlain = ws.protocol !== subprotocol
    // Before the socket is taken over, as `sessionMessage` may throw.
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

  /** The session of a socket that is or was registered, without a promise if it is known. */
  sessionOf(ws: WebSocket): string | Promise<string> {
    const registration = this.registrations.get(ws)
    if (registration !== undefined) return registration.id ?? registration.session
    const detail = "this socket was never registered: see registerConnection"
    return Promise.reject(new TransportError({ operation: "send", detail }))
  }

  /** The connection of a socket that is registered now. */
  async connectionOf(ws: WebSocket): Promise<Connection | undefined> {
    const registration = this.registrations.get(ws)
    await registration?.session.catch(() => {}) // if it failed, `isHere` is false
    return registration?.isHere === true ? registration.socket : undefined
  }

  /** A session's current socket. */
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

  /** Closes a socket, with the close code that our protocol has for the error. */
  private refuse(ws: WebSocket, error: unknown): undefined {
    ws.on("error", () => {}) // a peer may answer the close with nonsense
    this.options.onRefused(ws, error)
    if (ws.readyState === ws.CLOSED) return
    // Otherwise it was an abort or a defect.
    const ours = isWebSocketError(error) ? error : registering("it was given up")
    const { code, reject: { detail } } = rejection(ours)
    ws.close(code, beginning(detail, maxCloseReasonBytes))
    // The socket's server may wait longer, and would keep the process alive.
    const timer = setTimeout(() => ws.terminate(), closeGraceMillis)
    ws.once("close", () => clearTimeout(timer))
  }

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

  /** A new session's id and the message that tells its peer. With 122 random bits, the id can be a secret. */
  private newSession(): { readonly sessionId: string; readonly message: string | undefined } {
    const { sessionMessage = defaultMessage } = this.options
    const sessionId = randomUUID()
    return { sessionId, message: sessionMessage === false ? undefined : JSON.stringify(sessionMessage(sessionId)) }
  }
}

/** Turns a promise into an effect. Until that runs, a rejection must not end the process. */
const eventual = (promise: PromiseLike<string | null | undefined>): Exclude<Wanted, string | undefined> => {
  const settled = Promise.resolve(promise)
  settled.catch(() => {})
  return Effect.tryPromise({ try: () => settled.then((session) => session ?? undefined), catch: turnedAway })
}

const defaultMessage = (sessionId: string): unknown => ({ type: "session", sessionId })

const registering = (detail: string) => new TransportError({ operation: "register", detail })

/** A socket that its owner reads: frames are only signs of life to the server. */
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
