/**
 * WebSockets on Node with the `ws` package: server and client transports, and sockets made elsewhere.
 *
 * @since 0.1.0
 */
import { type Config, type Duration, Effect, Layer, type Scope } from "effect"
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type Server } from "node:http"
import type { Server as TlsServer } from "node:https"
import { WebSocket, WebSocketServer } from "ws"
import * as Check from "../internal/kit/options.ts"
import { shownCause, shownUrl, withoutUrl } from "../internal/kit/urls.ts"
import { type AllowedOrigins, checkOrigins, makeOriginCheck } from "../internal/session/origins.ts"
import { socketFault, WsConnection } from "../internal/transports/wsConnection.ts"
import {
  type Address,
  type Connection,
  type DialOptions,
  type Refusal,
  TransportClient,
  TransportServer
} from "../Transport.ts"
import { ConnectionTimeoutError, TransportError } from "../WebSocketError.ts"
import { listening } from "./httpServer.ts"
import type { OwnServerOptions, WebSocketServerOptions } from "./ownServers.ts"
import { type Route, upgradesOf } from "./upgrades.ts"
import { closeTimeout, ownServerOptions, requestOf, servedOptions, webSocketOptions } from "./webSockets.ts"

export type { AllowedOrigins } from "../internal/session/origins.ts"
export type { OwnServerOptions, WebSocketServerOptions } from "./ownServers.ts"

/**
 * Where to listen. With `server`, the WebSockets share that HTTP server's port. The server stays the caller's: the
 * transport starts and closes it only if it was not listening yet.
 *
 * @since 0.1.0
 * @category models
 */
export interface ServerOptions {
  /** Default 8080; 0 takes a free port. */
  readonly port?: number | undefined
  /** Default 127.0.0.1: reachable from this machine only. */
  readonly host?: string | undefined
  /**
   * Take upgrades on this path only; others are left to other listeners, or refused. Transports that share a server
   * need different paths. Default: any path.
   */
  readonly path?: string | undefined
  /** Share this HTTP server's port instead of opening one. Default: a server of its own. */
  readonly server?: Server | TlsServer | undefined
  /** The largest payload, in bytes; the same as in the server's options. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /**
   * The most connections, counted from TCP on; further ones get a 503. On a port of its own, sockets without a request
   * give way first: one of the address that has the most, for a newcomer of an address that has few. Default 100,000.
   */
  readonly maxConnections?: number | undefined
  /**
   * Time from the TCP connection to the whole request, however slowly it comes; then the socket is closed. The rest of
   * the handshake has what is left of the server's `handshakeTimeout`. Default 10 seconds.
   *
   * @since 0.1.0
   */
  readonly handshakeTimeout?: Duration.Input | undefined
  /**
   * Which pages may connect, by the `Origin` that browsers send; others get a 403. Peers that send none are not
   * browsers. Default `"own"`: pages of the host and port that they connect to, by the request's `Host` header.
   *
   * @since 0.1.0
   */
  readonly allowedOrigins?: AllowedOrigins | undefined
}

const shape: Check.Shape<ServerOptions> = {
  port: Check.whole(0),
  host: Check.nonEmpty,
  path: Check.text,
  server: Check.object,
  maxPayloadBytes: Check.whole(),
  maxConnections: Check.whole(),
  handshakeTimeout: Check.duration,
  allowedOrigins: checkOrigins
}

const ownServerShape: Check.Shape<WebSocketServerOptions> = {
  maxPayloadBytes: Check.whole(),
  allowedOrigins: checkOrigins
}

/**
 * Accepts WebSockets, on a port of its own or on a given `http.Server`.
 *
 * **Example**
 *
 * ```ts
 * import { NodeTransport } from "resilient-websocket/node"
 *
 * const Transport = NodeTransport.layerServer({ port: 8080 })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerServer = (options: ServerOptions = {}): Layer.Layer<TransportServer> =>
  Check.checkedLayer(options, shape, () =>
    Layer.succeed(TransportServer, {
      listen: (accept, onRefused = ignore) => listen(options, accept, onRefused)
    }))

/**
 * `layerServer` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerServerConfig = (
  options: Config.Wrap<Omit<ServerOptions, "server">>
): Layer.Layer<TransportServer, Config.ConfigError> => Check.fromConfig(options, layerServer)

/**
 * Dials WebSockets.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerClient: Layer.Layer<TransportClient> = Layer.succeed(TransportClient, {
  dial: (options) => dial(options)
})

/**
 * A socket that was taken over.
 *
 * @since 0.1.0
 * @category models
 */
export interface OwnedConnection extends Connection {
  /** Gives the socket back, once it is unregistered. */
  readonly release: () => WebSocket
}

/**
 * Takes over a `ws` socket that somebody else accepted, for `ResilientServer.register`. The socket must be open, and
 * nobody else may read from it until it is unregistered. Call this in the `connection` event itself, or pause the
 * socket until you do: otherwise, what comes meanwhile is lost. If you have to wait for something, make it the
 * `session` of `register`. Fails for a socket that is not open, is not of the package `ws`, or has already been taken
 * over.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromWebSocket = (
  ws: WebSocket,
  request?: IncomingMessage
): Effect.Effect<OwnedConnection, TransportError> =>
  Effect.suspend(() => {
    const fault = socketFault(ws)
    return fault === undefined
      ? Effect.succeed(new WsConnection(ws, requestOf(request)).inTurns())
      : Effect.fail(new TransportError({ operation: "register", detail: fault.detail }))
  })

/**
 * Options for a `WebSocketServer` of `ws` that a program builds itself and whose sockets it hands over. With them, our
 * subprotocol is chosen wherever it stands among those offered, `maxPayloadBytes` (default 1 MiB, as in the server's
 * options) limits frames, pages of other origins get a 403 (`allowedOrigins`, default `"own"`), nothing is compressed,
 * and no socket's error ends the process. Throws on invalid options.
 *
 * **Details.** These options don't limit what comes before the WebSocket: for that, see the timeouts of `http.Server`.
 *
 * **Example**
 *
 * ```ts
 * import { NodeTransport } from "resilient-websocket/node"
 * import { WebSocketServer } from "ws"
 *
 * const server = new WebSocketServer({ ...NodeTransport.webSocketServerOptions(), port: 8080, host: "127.0.0.1" })
 * ```
 *
 * @since 0.1.0
 * @category options
 */
export const webSocketServerOptions = (
  options: WebSocketServerOptions = {}
): OwnServerOptions => {
  Check.check(options, ownServerShape)
  return ownServerOptions(options)
}

const listen = Effect.fnUntraced(function*(
  options: ServerOptions,
  accept: (connection: Connection) => void,
  onRefused: (refusal: Refusal) => void
): Effect.fn.Return<Address, TransportError, Scope.Scope> {
  Check.check(options, shape)
  const port = Check.count("port", options.port, 8080, 0)
  const { path } = options
  if (path !== undefined && !/^\/[^?#]*$/.test(path)) return Check.fail("path", path, "a path without query: /live")
  const refusedOrigin = makeOriginCheck(options.allowedOrigins)
  const webSockets = new WebSocketServer({
    ...servedOptions,
    ...webSocketOptions(options.maxPayloadBytes)
  })
  const server = options.server ?? createServer((_, response) => {
    const isFull = response.socket !== null && upgrades.isRefused(response.socket)
    response.writeHead(isFull ? 503 : 426, { "content-type": "text/plain", connection: "close" })
    response.end("This port speaks WebSocket.\n")
    if (response.socket !== null) upgrades.linger(response.socket)
  })
  const upgrades = upgradesOf(server, options.server === undefined)
  const route: Route = {
    path,
    maxConnections: Check.count("maxConnections", options.maxConnections, 100_000),
    handshakeMillis: Check.millis("handshakeTimeout", options.handshakeTimeout, "10 seconds"),
    refusedOrigin: (message) => refusedOrigin(requestOf(message)),
    accept: (upgrade, onEnd) => {
      const { head, message, socket, spentMillis } = upgrade
      webSockets.handleUpgrade(message, socket, head, (ws) => {
        const connection = new WsConnection(ws, requestOf(message), spentMillis, onEnd).inTurns()
        upgrade.isWebSocket = true
        accept(connection)
      })
    },
    onRefused
  }
  yield* Effect.acquireRelease(
    Effect.suspend(() => upgrades.add(route) ? Effect.void : Effect.fail(overlapping(path))),
    () => Effect.sync(() => upgrades.remove(route))
  )
  return yield* listening(server, port, options.host ?? "127.0.0.1")
})

const ignore = (): void => {}

const overlapping = (path: string | undefined) =>
  new TransportError({
    operation: "listen",
    detail: `${path ?? "any path"}: another transport on this http.Server takes these upgrades already`
  })

const dial = (options: DialOptions): Effect.Effect<Connection, TransportError | ConnectionTimeoutError> =>
  Effect.callback((resume) => {
    const { headers, timeoutMillis, url } = options
    const fail = (
      text: string,
      more: { readonly cause?: unknown; readonly status?: number; retryAfterMillis?: number }
    ) => {
      clearTimeout(timer)
      resume(Effect.fail(new TransportError({ operation: "dial", detail: `${shownUrl(url)}: ${text}`, ...more })))
    }
    /** Set once the server has answered with an upgrade: an error after that is about its answer. */
    let answer: { readonly status: number } | undefined
    const onError = (cause: unknown) => {
      const text = cause instanceof Error ? cause.message : String(cause)
      fail(withoutUrl(text, url), { cause: shownCause(cause, url), ...answer })
    }
    // Not `Effect.timeout`, which costs two fibers: when a server comes back, there are thousands of dials a second.
    const timer = setTimeout(() => {
      abandon()
      resume(Effect.fail(new ConnectionTimeoutError({ phase: "dial", afterMillis: timeoutMillis })))
    }, Math.min(timeoutMillis, Check.longestTimer))
    const abandon = () => {
      clearTimeout(timer)
      ws.off("error", onError)
      ws.on("error", () => {}) // a connecting socket emits an error when it is terminated
      ws.terminate()
    }
    let ws: WebSocket
    try {
      ws = new WebSocket(url, options.protocol, {
        headers,
        perMessageDeflate: false,
        maxPayload: options.maxFrameBytes,
        ...closeTimeout
      })
    } catch (cause) {
      return onError(cause) // an invalid URL
    }
    ws.once("error", onError)
    ws.once("upgrade", () => {
      answer = { status: 101 }
    })
    ws.once("unexpected-response", (_, response) => {
      abandon()
      const { headers, statusCode: status = 0 } = response
      fail(`the server answered ${status}`, { status, ...retryAfterOf(headers) })
    })
    ws.once("open", () => {
      clearTimeout(timer)
      ws.off("error", onError)
      resume(Effect.succeed(new WsConnection(ws, { url: shownUrl(url), headers: {}, remoteAddress: undefined })))
    })
    return Effect.sync(abandon)
  })

/** `Retry-After`: seconds, or a date, which is compared with the response's own `Date`. */
const retryAfterOf = (headers: IncomingHttpHeaders): { readonly retryAfterMillis?: number } => {
  const after = headers["retry-after"]
  if (after === undefined) return {}
  const millis = /^\d+$/.test(after) ? Number(after) * 1_000 : Date.parse(after) - Date.parse(headers.date ?? "")
  return millis > 0 ? { retryAfterMillis: millis } : {}
}
