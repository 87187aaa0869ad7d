/**
 * Connections: the interface, the in-memory pair, dialling with any `WebSocket` or Effect `Socket`.
 *
 * **Details.** A connection pushes what it receives into a sink and takes frames without waiting; `buffered` and the
 * sink's `drained` are the backpressure, both ways without a fiber or a timer for an idle connection. Writing is no
 * sign of success: only the peer's ack is.
 *
 * @since 0.1.0
 */
import { Context, Effect, Layer, type Scope } from "effect"
import { defaultMaxPayloadBytes } from "./core/Protocol.ts"
import { maxFrameBytes } from "./core/Session.ts"
import * as Check from "./internal/kit/options.ts"
import type { Request } from "./internal/session/models.ts"
import { type AllowedOrigins, checkOrigins, makeOriginCheck, refusedOriginAnswer } from "./internal/session/origins.ts"
import { makeMemory } from "./internal/transports/memoryTransport.ts"
import { makeRouterServer, type Services as HttpRouterServices } from "./internal/transports/routerTransport.ts"
import { makeDialler } from "./internal/transports/socketConnection.ts"
import type { ConnectionTimeoutError, TransportError } from "./WebSocketError.ts"

export type { Request } from "./internal/session/models.ts"
export type { AllowedOrigins } from "./internal/session/origins.ts"
export type { Services as HttpRouterServices } from "./internal/transports/routerTransport.ts"

/**
 * Where a connection reports to. All calls are made from the event loop, never from within a call to the connection.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionSink {
  /** One frame and its size in bytes. Binary frames come as bytes. */
  readonly frame: (data: string | Uint8Array, bytes: number) => void
  /**
   * This many bytes have come and are about to be taken in: parts of a frame, or many frames. If the connection is
   * paused in this call, they wait. A transport may leave it out; it calls it for large pieces only.
   *
   * @since 0.1.0
   */
  readonly incoming?: ((bytes: number) => void) | undefined
  /** `buffered` was above the high-water mark, and no longer is. */
  readonly drained: () => void
  /** A sign of life that is no frame (an answer to `ping`). */
  readonly alive: () => void
  /** The connection is gone, no matter who closed it. Called exactly once, and last. */
  readonly closed: (code: number, reason: string) => void
}

/**
 * One physical WebSocket, or what stands in for one. None of its methods waits, fails or throws.
 *
 * @since 0.1.0
 * @category models
 */
export interface Connection {
  /** The subprotocol negotiated; empty for none. */
  readonly protocol: string
  readonly request: Request
  /**
   * Whether frames were lost because they came before anybody listened, to a socket that was taken over too late.
   *
   * @since 0.1.0
   */
  readonly missed?: boolean | undefined
  /**
   * How long it took to open, from its first byte, in ms; the server subtracts it from the time for the handshake.
   * Default 0.
   *
   * @since 0.1.0
   */
  readonly upgradeMillis?: number | undefined
  /** Starts the flow of frames. Frames that came before are kept until then. Call it once. */
  readonly open: (sink: ConnectionSink) => void
  /** Hands over a text frame. `written` is called with true when the socket has taken it, or false if it can't. */
  readonly send: (frame: string, written?: (ok: boolean) => void) => void
  /** Bytes handed over that the socket has not taken yet. */
  readonly buffered: () => number
  /** Stops reading, so that a peer that sends too fast has to wait; `resume` goes on. */
  readonly pause: () => void
  readonly resume: () => void
  /** A ping of the WebSocket protocol, for peers that know no other; `alive` reports the answer. */
  readonly ping: () => void
  /** Closes in an orderly way, with a code; terminates if the peer does not answer soon. */
  readonly close: (code: number, reason: string) => void
  /** Ends it at once. */
  readonly terminate: () => void
}

/**
 * Above this many bytes handed over and not taken, a sender waits for `drained`.
 *
 * @since 0.1.0
 * @category constants
 */
export { highWaterBytes } from "./core/Protocol.ts"

/** @since 0.1.0 @category models */
export interface Address {
  readonly host: string
  readonly port: number
}

/**
 * Why a transport turned a connection away, or could not accept any: `full` (`maxConnections`), `origin`
 * (`allowedOrigins`), `path` (nobody serves it), `late` (no request in time), `malformed` (no WebSocket), `taken`
 * (another listener answered it first), `server` (the HTTP server failed), `descriptors` (the process may open no more
 * files; checked once a second, so it is not known how many were turned away).
 *
 * @since 0.1.0
 * @category models
 */
export interface Refusal {
  readonly reason: "full" | "origin" | "path" | "late" | "malformed" | "taken" | "server" | "descriptors"
  readonly detail: string
}

/**
 * Accepts connections.
 *
 * @since 0.1.0
 * @category services
 */
export class TransportServer extends Context.Service<TransportServer, {
  /**
   * Listens, and hands each connection to `accept`, until the scope closes; then no new ones come, and those that were
   * accepted stay open. Fails if it can't listen. `onRefused` gets those that never reach `accept`. `drain` shuts the
   * server down in an orderly way, and is the same however often it is run: a transport on a port that is somebody
   * else's runs it before that port closes.
   */
  readonly listen: (
    accept: (connection: Connection) => void,
    onRefused?: (refusal: Refusal) => void,
    drain?: Effect.Effect<void>
  ) => Effect.Effect<Address, TransportError, Scope.Scope>
}>()("resilient-websocket/TransportServer") {}

/**
 * A route for WebSockets.
 *
 * @since 0.1.0
 * @category models
 */
export interface HttpRouterOptions {
  /** The route: a path of `HttpRouter`, such as `/live`. Each server needs one of its own. */
  readonly path: `/${string}` | "*"
  /** The largest payload, in bytes; the same as in the server's options. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /** The most connections, counted from their request on; further ones get a 503. Default 100,000. */
  readonly maxConnections?: number | undefined
  /**
   * Which pages may connect, by the `Origin` that browsers send; others get a 403. Peers that send none are not
   * browsers. Default `"own"`: pages of the host and port that they connect to, by the request's `Host` header.
   */
  readonly allowedOrigins?: AllowedOrigins | undefined
}

/** @since 0.1.0 @category models */
export interface DialOptions {
  readonly url: string
  /** The subprotocol to ask for. */
  readonly protocol: string
  readonly headers: Readonly<Record<string, string>>
  readonly timeoutMillis: number
  /** Largest frame to take, in bytes. */
  readonly maxFrameBytes: number
}

/**
 * Makes connections.
 *
 * @since 0.1.0
 * @category services
 */
export class TransportClient extends Context.Service<TransportClient, {
  /** Dials; when this succeeds, the connection is open. Interrupting it abandons the attempt. */
  readonly dial: (options: DialOptions) => Effect.Effect<Connection, TransportError | ConnectionTimeoutError>
}>()("resilient-websocket/TransportClient") {}

/**
 * A server and a client transport joined in memory: what is dialled is accepted, whatever the URL. For tests and for
 * programs that talk to themselves.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<TransportServer | TransportClient> = Layer.effectContext(
  makeMemory((server, client) => Context.make(TransportServer, server).pipe(Context.add(TransportClient, client)))
)

/**
 * Any Effect `Socket` as a connection: what an Effect HTTP server upgraded, a worker port, a TCP stream. See there for
 * what its backpressure covers.
 *
 * @since 0.1.0
 * @category constructors
 */
export { fromSocket } from "./internal/transports/socketConnection.ts"

/**
 * Dials with Effect's `WebSocketConstructor`, wherever there is one: browsers, Deno, Bun, Node with its global
 * `WebSocket`. On Node `NodeTransport.layerClient` is faster and can send headers, feel backpressure and terminate.
 *
 * **Example**
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Socket } from "effect/socket"
 * import { Transport } from "resilient-websocket"
 *
 * const Client = Transport.layerClientWebSocket.pipe(Layer.provide(Socket.layerWebSocketConstructorGlobal))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerClientWebSocket = Layer.effect(TransportClient, makeDialler)

const httpRouterShape: Check.Shape<HttpRouterOptions> = {
  path: Check.nonEmpty,
  maxPayloadBytes: Check.whole(),
  maxConnections: Check.whole(),
  allowedOrigins: checkOrigins
}

/**
 * Accepts WebSockets on a route of the program's `HttpRouter`, so that `HttpApi`, static files, `/metrics` and sessions
 * share one port and one shutdown, on every platform whose HTTP server upgrades through Effect. Requests that are no
 * upgrade get a 426; before the server listens and after its shutdown, all get a 503. When the HTTP server is to close,
 * the server drains first, while the port is still open.
 *
 * **Example**
 *
 * ```ts
 * import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
 * import { Layer, Schema } from "effect"
 * import { HttpRouter, HttpServerResponse } from "effect/http"
 * import { createServer } from "node:http"
 * import { Contract, MemoryStore, Transport } from "resilient-websocket"
 * import { NodeTransport } from "resilient-websocket/node"
 *
 * const Chat = Contract.make("example/Chat", { toServer: Schema.String, toClient: Schema.String })
 *
 * const Sessions = Chat.layerServer().pipe(
 *   Layer.provide([MemoryStore.layer(), Transport.layerServerHttpRouter({ path: "/live" })])
 * )
 * const Hello = HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello"))
 *
 * export const Main = HttpRouter.serve(Layer.merge(Sessions, Hello)).pipe(
 *   // Without `websocket`, each socket may take in a frame of 100 MiB before it is found too large.
 *   Layer.provide(NodeHttpServer.layer(createServer, { port: 8080, websocket: NodeTransport.webSocketServerOptions() }))
 * )
 * ```
 *
 * **Gotchas.** What a peer sends before its request is complete, and frames while they come in, are in the HTTP server's
 * hands: bound them by its own options, as in the example. A larger frame than `maxPayloadBytes` allows closes its
 * connection with 1009. On Node, `buffered` counts what the network has not taken. Elsewhere Effect's writer of a
 * WebSocket does not say, so a peer that does not read is noticed only by its missing acks, and a plain one not at all.
 * There is no protocol-level ping. A peer that offers our subprotocol after another one gets a 400, as Effect's servers
 * choose the first one offered.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerServerHttpRouter = (
  options: HttpRouterOptions
): Layer.Layer<TransportServer, never, HttpRouterServices> =>
  Layer.effect(TransportServer, Effect.suspend(() => makeRouterServer(routeOf(options))))

const routeOf = (options: HttpRouterOptions) => {
  Check.check(options, httpRouterShape)
  const { path } = options
  if (!/^(\/[^?#]*|\*)$/.test(path)) return Check.fail("path", path, "a path of HttpRouter, without query: /live")
  return {
    path,
    maxConnections: Check.count("maxConnections", options.maxConnections, 100_000),
    maxFrameBytes: maxFrameBytes(Check.count("maxPayloadBytes", options.maxPayloadBytes, defaultMaxPayloadBytes)),
    refusedOrigin: makeOriginCheck(options.allowedOrigins),
    refusedOriginAnswer
  }
}
