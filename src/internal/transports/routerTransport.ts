/**
 * Connections that an `HttpRouter` upgrades, on the port of the program's own HTTP server. Only this file knows
 * the servers among Effect's unstable HTTP modules.
 *
 * The fiber of the route's handler reads its connection, so it lives as long as that. The HTTP server owns it.
 */
import { Effect, Fiber, Option, Predicate, type Scope } from "effect"
import { HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { NetAddress } from "effect/net"
import { closeGraceMillis, subprotocol } from "../../core/Protocol.ts"
import type { Address, Connection, Refusal, Request } from "../../Transport.ts"
import { TransportError } from "../../WebSocketError.ts"
import { attach, type Stream } from "./socketConnection.ts"
import { handshakeHeaders } from "./upgradeHeaders.ts"

/** What it needs of the program. */
export type Services = HttpRouter.HttpRouter | HttpServer.HttpServer

export interface Settings {
  readonly path: HttpRouter.PathInput
  readonly maxConnections: number
  readonly maxFrameBytes: number
  /** Why a page's request may not connect; undefined if it may. */
  readonly refusedOrigin: (request: Request) => string | undefined
  readonly refusedOriginAnswer: Answer
}

interface Answer {
  readonly status: number
  readonly text: string
}

/** Who gets the connections. */
interface Listener {
  readonly accept: (connection: Connection) => void
  readonly onRefused: (refusal: Refusal) => void
  readonly drain: Effect.Effect<void>
}

/** The part of a Node stream that tells what the network has taken. `ws` writes to no other. */
interface NodeStream {
  readonly writableLength: number
  readonly writableNeedDrain: boolean
  readonly destroyed: boolean
  readonly on: (event: "drain" | "close", listener: () => void) => unknown
  readonly off: (event: "drain" | "close", listener: () => void) => unknown
  readonly destroy: () => unknown
}

const answers = {
  idle: { status: 503, text: "Nobody serves this path now.\n" },
  full: { status: 503, text: "There are too many connections.\n" },
  http: { status: 426, text: "This path speaks WebSocket.\n" },
  order: { status: 400, text: `Offer ${subprotocol} first.\n` }
} as const satisfies Record<string, Answer>

/** The most refused streams that are given time to take their answer. */
const maxLingering = 1_000

/** By HTTP server, what is to be done before it closes its port. */
const drains = new WeakMap<object, Set<Effect.Effect<void>>>()

/** A server transport on a route of its own, which stays when the scope closes, and then answers with 503. */
export const makeRouterServer = Effect.fnUntraced(function*(settings: Settings) {
  const { path } = settings
  const router = yield* HttpRouter.HttpRouter
  const httpServer = yield* HttpServer.HttpServer
  const handlers = new Set<Fiber.Fiber<unknown, unknown>>()
  let listener: Listener | undefined

  const handle = Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
    const admitted = admit(request, listener, handlers.size, settings)
    if (!HttpServerResponse.isHttpServerResponse(admitted)) {
      return serve(request, admitted, settings.maxFrameBytes, handlers)
    }
    if (isUpgrade(request)) linger(request.source)
    return Effect.succeed(admitted)
  })

  yield* beforeClosing(httpServer, Effect.suspend(() => listener?.drain ?? Effect.void))
  yield* Effect.addFinalizer(() => Fiber.interruptAll(handlers))
  // Uninterruptible, so that the connection alone decides where it can be interrupted.
  const fault = yield* router.add("GET", path, handle, { uninterruptible: true }).pipe(
    Effect.as(undefined),
    Effect.catchDefect((defect) => Effect.succeed(defect instanceof Error ? defect.message : String(defect)))
  )

  return {
    listen: (
      accept: Listener["accept"],
      onRefused: Listener["onRefused"] = ignore,
      drain: Listener["drain"] = Effect.void
    ): Effect.Effect<Address, TransportError, Scope.Scope> =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          if (fault !== undefined) return Effect.fail(unable(`${path}: ${fault}`))
          if (listener !== undefined) return Effect.fail(unable(`${path}: another server has this transport already`))
          listener = { accept, onRefused, drain }
          return Effect.succeed(addressOf(httpServer.address))
        }),
        () => Effect.sync(() => void (listener = undefined))
      )
  }
})

const ignore = (): void => {}

const unable = (detail: string): TransportError => new TransportError({ operation: "listen", detail })

const addressOf = (address: NetAddress.SocketAddress): Address =>
  NetAddress.isInetAddress(address)
    ? { host: NetAddress.formatIp(address.address), port: address.port }
    : { host: address.path, port: 0 }

/**
 * Does `drain` before `server` closes its port. An `HttpServer` has no hook for that: it waits first until all
 * connections are gone, WebSockets included. But what is last added to a scope is done first, so this adds to what
 * `serve` adds.
 */
const beforeClosing = (
  server: HttpServer.HttpServer["Service"],
  drain: Effect.Effect<void>
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(Effect.acquireRelease(
    Effect.sync(() => {
      const known = drains.get(server)
      if (known !== undefined) return known.add(drain)
      const here = new Set([drain])
      const drainAll = Effect.suspend(() => Effect.all(here, { concurrency: "unbounded", discard: true }))
      const { serve } = server
      const draining = (...args: ReadonlyArray<unknown>): Effect.Effect<void, never, Scope.Scope> => {
        const serving: Effect.Effect<void, never, Scope.Scope> = Reflect.apply(serve, server, args)
        return Effect.andThen(serving, Effect.addFinalizer(() => drainAll))
      }
      Reflect.set(server, "serve", draining) // not possible on a frozen object, whose port then closes first
      return drains.set(server, here)
    }),
    () => Effect.sync(() => drains.get(server)?.delete(drain))
  ))

/** What an upgrade is admitted with. */
interface Admitted {
  readonly listener: Listener
  readonly request: Request
  readonly protocol: string
}

/** Decides on a request, before anything is upgraded: the answer, if it is refused. */
const admit = (
  request: HttpServerRequest.HttpServerRequest,
  listener: Listener | undefined,
  open: number,
  { maxConnections, path, refusedOrigin, refusedOriginAnswer }: Settings
): Admitted | HttpServerResponse.HttpServerResponse => {
  if (listener === undefined) return responseOf(answers.idle)
  const refuse = (answer: Answer, reason: Refusal["reason"], detail: string) => {
    listener.onRefused({ reason, detail: `${path}: ${detail}` })
    return responseOf(answer)
  }
  if (!isUpgrade(request)) {
    return refuse(answers.http, "malformed", "a request that is no WebSocket")
  }
  if (open >= maxConnections) return refuse(answers.full, "full", `there are ${maxConnections} connections`)
  const seen = requestOf(request)
  const foreign = refusedOrigin(seen)
  if (foreign !== undefined) return refuse(refusedOriginAnswer, "origin", foreign)
  const [first = "", ...others] = request.headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim()) ?? []
  // Effect's servers answer with the first one offered, and don't say so. If that is another, ours is refused.
  return others.includes(subprotocol) && first !== subprotocol
    ? refuse(answers.order, "malformed", `${subprotocol} is offered, but ${first} is before it`)
    : { listener, request: seen, protocol: first }
}

const isUpgrade = ({ headers }: HttpServerRequest.HttpServerRequest): boolean =>
  headers["upgrade"]?.toLowerCase() === "websocket"

/** As Node's own server says it: what does not become a WebSocket is closed. */
const responseOf = ({ status, text }: Answer): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(text, {
    status,
    headers: status === 426 ? { upgrade: "websocket", connection: "upgrade, close" } : { connection: "close" }
  })

const requestOf = ({ headers: all, remoteAddress, url }: HttpServerRequest.HttpServerRequest): Request => {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(all)) if (!handshakeHeaders.has(name)) headers[name] = value
  return { url, headers, remoteAddress: Option.getOrUndefined(remoteAddress) }
}

/** Upgrades a request, and is its connection's reader. */
const serve = Effect.fnUntraced(function*(
  request: HttpServerRequest.HttpServerRequest,
  { listener, protocol, request: seen }: Admitted,
  maxFrameBytes: number,
  handlers: Set<Fiber.Fiber<unknown, unknown>>
) {
  const fiber = yield* Effect.withFiber(Effect.succeed)
  handlers.add(fiber)
  yield* Effect.addFinalizer(() => Effect.sync(() => handlers.delete(fiber)))
  const facts = { protocol, request: seen, maxFrameBytes, stream: streamOf(request.source) }
  const attached = yield* Effect.option(Effect.interruptible(
    Effect.flatMap(request.upgrade, (socket) => attach(socket, () => facts))
  ))
  if (Option.isSome(attached)) {
    listener.accept(attached.value)
    yield* attached.value.run
    return HttpServerResponse.empty()
  }
  // It has been answered, or is gone. If not, the answer is this.
  listener.onRefused({ reason: "malformed", detail: `${seen.url}: an upgrade that is no WebSocket` })
  return HttpServerResponse.empty({ status: 400 })
})

/** Ends a refused upgrade's stream after a while. Otherwise a peer that does not close its side would keep it for ever. */
const linger = (source: object): void => {
  const socket = nodeStreamOf(source)
  if (socket === undefined || socket.destroyed) return
  const timer = setTimeout(() => socket.destroy(), lingering < maxLingering ? closeGraceMillis : 0)
  lingering++
  socket.on("close", () => {
    clearTimeout(timer)
    lingering--
  })
}

let lingering = 0

const streamOf = (source: object): Stream | undefined => {
  const socket = nodeStreamOf(source)
  if (socket === undefined) return undefined
  return {
    unsent: () => socket.writableLength,
    drained: Effect.callback((resume) => {
      if (!socket.writableNeedDrain) return resume(Effect.void)
      const forget = () => {
        socket.off("drain", done)
        socket.off("close", done)
      }
      const done = () => {
        forget()
        resume(Effect.void)
      }
      socket.on("drain", done)
      socket.on("close", done)
      return Effect.sync(forget)
    }),
    isGone: () => socket.destroyed,
    destroy: () => void socket.destroy()
  }
}

/** What a request of Node came on. */
const nodeStreamOf = (source: object): NodeStream | undefined =>
  Predicate.hasProperty(source, "socket") && isNodeStream(source.socket) ? source.socket : undefined

const isNodeStream = (value: unknown): value is NodeStream =>
  Predicate.hasProperty(value, "writableLength") && typeof value.writableLength === "number" &&
  Predicate.hasProperty(value, "writableNeedDrain") && typeof value.writableNeedDrain === "boolean" &&
  Predicate.hasProperty(value, "destroyed") && typeof value.destroyed === "boolean" &&
  Predicate.hasProperty(value, "on") && typeof value.on === "function" &&
  Predicate.hasProperty(value, "off") && typeof value.off === "function" &&
  Predicate.hasProperty(value, "destroy") && typeof value.destroy === "function"
