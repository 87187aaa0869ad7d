/**
 * The upgrades of one `http.Server`, shared by several WebSocket servers. Every socket has an owner from its first
 * byte, every upgrade is decided once, and refused sockets are soon gone.
 *
 * A server of our own holds all sockets until they are WebSockets. A shared one holds sockets whose first request is
 * still coming, and upgrades until somebody has taken them. Other listeners come first: an upgrade that one of them has
 * answered, refused or begun to read is theirs. So we decide after all of them have been called.
 */
import { type IncomingMessage, Server, STATUS_CODES } from "node:http"
import { Server as TlsServer } from "node:https"
import type { Socket } from "node:net"
import type { Duplex } from "node:stream"
import { closeGraceMillis } from "../core/Protocol.ts"
import { Crowd, type Spare } from "../internal/bounds/crowd.ts"
import { addressShare } from "../internal/connect/newcomer.ts"
import { refusedOriginAnswer } from "../internal/session/origins.ts"
import type { Refusal } from "../Transport.ts"
import { Custody, heardByOther, neverUnheard } from "./Custody.ts"
import { mayOpenMore } from "./descriptors.ts"

/** One transport's share of a server. */
export interface Route {
  /** Undefined for any. */
  readonly path: string | undefined
  readonly maxConnections: number
  /** The time from the TCP connection to the whole request, in ms. */
  readonly handshakeMillis: number
  /** Why this peer may not connect, or undefined if it may. */
  readonly refusedOrigin: (message: IncomingMessage) => string | undefined
  /**
   * Makes the upgrade a WebSocket at once, sets `isWebSocket`, and calls `onEnd` when the WebSocket is gone; or tells
   * the peer why not.
   */
  readonly accept: (upgrade: Upgrade, onEnd: () => void) => void
  readonly onRefused: (refusal: Refusal) => void
}

export interface Upgrade {
  readonly message: IncomingMessage
  readonly socket: Duplex
  readonly head: Buffer
  /** How long it took from the TCP connection to the request, in ms. */
  readonly spentMillis: number
  /** How many bytes the socket had written before the upgrade. */
  readonly written: number
  /** Set once the upgrade is accepted. */
  isWebSocket: boolean
}

/** How many connections a route has. */
interface Share {
  open: number
  readonly onClose: () => void
}

/** A socket without a request, and the share it counts for. */
interface Arrival {
  readonly socket: Socket
  share: string
  spare: Spare
}

/** The most refused sockets that linger, and the most upgrades that wait for another listener. */
const maxLingering = 1_000

/** How often to check for free file descriptors, in ms. */
const lookMillis = 1_000

/** Events that bring a request to its listener without the event "request". */
const silent = ["checkContinue", "checkExpectation", "connect"] as const

const known = new WeakMap<Server, Upgrades>()

/** The upgrades of this server. `isOwn`: nobody else uses the server. */
export const upgradesOf = (server: Server, isOwn: boolean): Upgrades => {
  const upgrades = known.get(server) ?? new Upgrades(server, isOwn)
  known.set(server, upgrades)
  return upgrades
}

export class Upgrades {
  private readonly server: Server
  private readonly isOwn: boolean
  private readonly routes = new Map<Route, Share>()
  /** Sockets whose first request is still coming. */
  private readonly young = new Custody()
  /** The same sockets by address, on a server of our own. */
  private readonly arrivals = new Crowd<Arrival>(() => "first")
  /**
   * TLS sockets before their own handshake: by the peer's address, as Node does not say which socket belongs to which.
   */
  private readonly ciphered = new Map<string, Socket>()
  /** Sockets that are refused, or about to be. */
  private readonly refused = new Custody()
  /** Upgrades that are left to other listeners for a while. */
  private readonly undecided = new Custody()
  private look: NodeJS.Timeout | undefined

  constructor(server: Server, isOwn: boolean) {
    this.server = server
    this.isOwn = isOwn
  }

  /** Takes upgrades for a route; false if another route overlaps it. */
  add(route: Route): boolean {
    for (const { path } of this.routes.keys()) {
      if (path === undefined || route.path === undefined || path === route.path) return false
    }
    const share: Share = { open: 0, onClose: () => void share.open-- }
    this.routes.set(route, share)
    if (this.routes.size === 1) this.listen()
    return true
  }

  /** Takes no more upgrades for a route. Accepted WebSockets stay. */
  remove(route: Route): void {
    this.routes.delete(route)
    if (this.routes.size > 0) return
    this.unlisten()
    this.refused.destroyAll()
    if (this.isOwn) this.young.destroyAll()
    else this.young.releaseAll()
  }

  /** Whether a socket of our own server is refused, as it was over the limit when it came. */
  isRefused(socket: Duplex): boolean {
    return this.refused.has(socket)
  }

  /** Gives the peer of a refused socket a short time to read its answer. */
  linger(socket: Duplex): void {
    this.young.release(socket)
    if (this.refused.size < maxLingering || this.refused.has(socket)) this.refused.hold(socket, closeGraceMillis)
    else socket.destroy()
  }

  private listen(): void {
    const { server } = this
    const isTls = server instanceof TlsServer
    if (isTls) server.on("connection", this.onCiphered)
    // A server of another kind may do anything with its sockets.
    if (isTls || server instanceof Server) {
      server.prependListener(isTls ? "secureConnection" : "connection", this.onConnection)
      server.prependListener("request", this.onRequest)
    }
    server.prependListener("upgrade", this.onUpgrade)
    server.on("error", this.onError)
    this.look = setInterval(() => this.lookForDescriptors(), lookMillis).unref()
  }

  private unlisten(): void {
    const { server } = this
    server.off("connection", this.onCiphered).off("secureConnection", this.onConnection)
    server.off("connection", this.onConnection).off("request", this.onRequest)
    server.off("upgrade", this.onUpgrade).off("error", this.onError)
    clearInterval(this.look)
  }

  private readonly onCiphered = (socket: Socket): void => {
    if (socket.remoteAddress === undefined) return // Unix sockets, for example, can't be told apart
    const address = addressOf(socket)
    this.ciphered.set(address, socket)
    this.young.hold(socket, this.handshakeMillis())
    socket.once("close", () => {
      if (this.ciphered.get(address) === socket) this.ciphered.delete(address)
    })
  }

  private readonly onConnection = (socket: Socket): void => {
    const before = this.ciphered.size === 0 ? undefined : this.ciphered.get(addressOf(socket))
    if (before !== undefined) this.young.release(before)
    if (!this.isOwn) return this.awaitRequest(socket)
    const [first] = this.routes
    if (first === undefined) return void socket.destroy()
    const [route, share] = first
    const address = addressShare(socket.remoteAddress) ?? ""
    if (share.open < route.maxConnections || this.makesRoom(route, address)) {
      share.open++
      socket.on("close", share.onClose)
      const arrival: Arrival = { socket, share: address, spare: undefined }
      const onRelease = () => this.arrivals.delete(arrival)
      const isHeld = this.young.hold(socket, route.handshakeMillis, () => this.tooLate(socket), onRelease)
      if (isHeld) this.arrivals.add(arrival, address) // a socket that is already gone would stay for ever
      return
    }
    route.onRefused(full(route))
    this.linger(socket) // its request is answered with a 503
  }

  /** Ends a socket without a request, of the address that has the most, for an address that has few. */
  private makesRoom(route: Route, address: string): boolean {
    const arrival = this.arrivals.givesWay(address)
    if (arrival === undefined) return false
    route.onRefused(full(route))
    this.young.release(arrival.socket)
    arrival.socket.destroy()
    return true
  }

  /** On a shared server, only a socket that has begun a request can be late with it. */
  private awaitRequest(socket: Socket): void {
    const read = socket.bytesRead
    this.young.hold(socket, this.handshakeMillis(), () => {
      if (socket.bytesRead === read) this.awaitRequest(socket)
      else if (!silent.some((event) => this.server.listenerCount(event) > 0)) this.tooLate(socket)
    })
  }

  private tooLate(socket: Duplex): void {
    this.report({ reason: "late", detail: "no request in time" })
    socket.destroy()
  }

  private readonly onRequest = ({ socket }: IncomingMessage): void => {
    if (!this.isOwn) this.young.release(socket)
  }

  private readonly onUpgrade = (message: IncomingMessage, socket: Duplex, head: Buffer): void => {
    neverUnheard(socket)
    const spentMillis = this.young.ageOf(socket)
    if (!this.isOwn) this.young.release(socket)
    const upgrade = { message, socket, head, spentMillis, written: message.socket.bytesWritten, isWebSocket: false }
    if (this.isAlone()) this.decide(upgrade)
    else process.nextTick(() => this.decide(upgrade))
  }

  private decide(upgrade: Upgrade): void {
    const { message, socket } = upgrade
    const path = message.url?.split("?")[0]
    const entry = [...this.routes].find(([route]) => route.path === undefined || route.path === path)
    if (isTaken(upgrade)) {
      entry?.[0].onRefused({ reason: "taken", detail: takenBy(path) })
      if (socket.writableEnded) this.linger(socket)
    } else if (this.isRefused(socket)) {
      this.answer(socket, 503) // already reported, when the socket came
    } else if (entry === undefined) {
      this.unwanted(upgrade)
    } else {
      this.offer(upgrade, ...entry)
    }
  }

  /** Handles an upgrade that no route takes. */
  private unwanted(upgrade: Upgrade): void {
    const { socket } = upgrade
    const refuse = () => {
      this.report({ reason: "path", detail: "an upgrade on a path that nobody serves" })
      this.answer(socket, 404)
    }
    if (this.isAlone()) return refuse()
    if (this.undecided.size >= maxLingering) return this.answer(socket, 503)
    // Another listener may still take it later.
    this.undecided.hold(socket, this.handshakeMillis(), () => {
      if (!isTaken(upgrade)) refuse()
      else if (socket.writableEnded) this.linger(socket)
    })
  }

  private offer(upgrade: Upgrade, route: Route, share: Share): void {
    const { message, socket } = upgrade
    if (!this.isOwn && share.open >= route.maxConnections) {
      route.onRefused(full(route))
      return this.answer(socket, 503)
    }
    const foreign = route.refusedOrigin(message)
    if (foreign !== undefined) {
      route.onRefused({ reason: "origin", detail: foreign })
      return this.answer(socket, refusedOriginAnswer.status, refusedOriginAnswer.text)
    }
    this.handOut(socket, share)
    tryAccept(route, share, upgrade)
    // From here on `ws` listens.
    if (upgrade.isWebSocket) return heardByOther(socket)
    this.takeBack(socket, share)
    if (socket.destroyed) return // gone by itself, or already reported
    route.onRefused({ reason: "malformed", detail: "an upgrade that is no WebSocket's" })
    this.linger(socket)
  }

  /** From here on the WebSocket's `onEnd` counts. Runs before `ws` listens, as a second listener costs memory. */
  private handOut(socket: Duplex, share: Share): void {
    this.young.release(socket)
    if (this.isOwn) socket.off("close", share.onClose)
    else share.open++
  }

  private takeBack(socket: Duplex, share: Share): void {
    if (this.isOwn) socket.on("close", share.onClose)
    else share.open--
  }

  private answer(socket: Duplex, status: 403 | 404 | 503, text = ""): void {
    this.linger(socket)
    if (socket.destroyed) return
    socket.end(
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\n` +
        `content-type: text/plain\r\ncontent-length: ${text.length}\r\n\r\n${text}`
    )
    // Otherwise, what the peer still sends would be answered by a reset, which may overtake our answer.
    socket.resume()
  }

  private readonly onError = (error: Error): void => {
    // An error before the server listens is reported to whoever asked it to listen.
    if (this.server.listening) this.report({ reason: "server", detail: error.message })
  }

  /** Without a free descriptor, connections are accepted and closed below Node, which nobody would notice. */
  private lookForDescriptors(): void {
    if (!this.server.listening || mayOpenMore()) return
    this.report({ reason: "descriptors", detail: "no more files can be opened: new connections are closed at once" })
  }

  private report(refusal: Refusal): void {
    const [route] = this.routes.keys()
    route?.onRefused(refusal)
  }

  /** Whether nobody else listens for upgrades. */
  private isAlone(): boolean {
    return this.server.listenerCount("upgrade") === 1
  }

  private handshakeMillis(): number {
    return Math.max(...Array.from(this.routes.keys(), (route) => route.handshakeMillis))
  }
}

/** Whatever `accept` throws must neither end the process nor leave the socket without an owner. */
const tryAccept = (route: Route, share: Share, upgrade: Upgrade): void => {
  try {
    route.accept(upgrade, share.onClose)
  } catch (cause) {
    route.onRefused({ reason: "server", detail: `an upgrade failed: ${String(cause)}` })
    upgrade.socket.destroy()
  }
}

const full = ({ maxConnections }: Route): Refusal => ({
  reason: "full",
  detail: `${maxConnections} connections are open: see maxConnections`
})

const takenBy = (path: string | undefined): string =>
  `another listener for upgrades has answered one on ${path}. ` +
  "A WebSocketServer with the option `server` answers all of them: give it `noServer`"

/** Whether another listener has answered the upgrade, or begun to read its socket. */
const isTaken = ({ message, socket, written }: Upgrade): boolean =>
  socket.destroyed || socket.writableEnded || message.socket.bytesWritten > written ||
  socket.readableFlowing !== null || socket.listenerCount("data") > 0 || socket.listenerCount("readable") > 0

const addressOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`
