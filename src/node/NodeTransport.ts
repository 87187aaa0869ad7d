/**
 * WebSockets on Node, by the `ws` package.
 *
 * @since 0.1.0
 */
import { type Config, Config as ConfigModule, Effect, Layer, type Scope } from "effect"
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import type { Duplex } from "node:stream"
import { WebSocket, WebSocketServer } from "ws"
import { defaultMaxPayloadBytes, subprotocol } from "../core/Protocol.ts"
import { maxFrameBytes } from "../core/Session.ts"
import * as Option from "../internal/options.ts"
import { shownCause, shownUrl, withoutUrl } from "../internal/urls.ts"
import { closeGraceMillis, socketFault, WsConnection } from "../internal/wsConnection.ts"
import {
  type Address,
  type Connection,
  type DialOptions,
  type Request,
  TransportClient,
  TransportServer
} from "../Transport.ts"
import { ConnectionTimeoutError, TransportError } from "../WebSocketError.ts"

/**
 * Where to listen. With `server`, the WebSockets share that HTTP server's port and the server stays the caller's:
 * neither listened nor closed here, unless it was not listening yet.
 *
 * @since 0.1.0
 * @category models
 */
export interface ServerOptions {
  /** Default 8080; 0 takes a free port. */
  readonly port?: number | undefined
  /** Default 127.0.0.1: reachable from this machine only. */
  readonly host?: string | undefined
  /** Take upgrades on this path only; others are left to other listeners, or refused. Default: any path. */
  readonly path?: string | undefined
  /** Share this HTTP server's port instead of opening one. Default: an own server. */
  readonly server?: Server | undefined
  /** Largest payload, in bytes; as in the server's options. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /** Connections at most; further ones are answered with 503. Default 100,000. */
  readonly maxConnections?: number | undefined
}

const shape: Option.Shape<ServerOptions> = {
  port: Option.whole(0),
  host: Option.nonEmpty,
  path: Option.text,
  server: Option.object,
  maxPayloadBytes: Option.whole(),
  maxConnections: Option.whole()
}

/**
 * Accepts WebSockets, on an own port or on a given `http.Server`.
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
  Layer.succeed(TransportServer, {
    listen: (accept) =>
      Effect.catchTag(
        Option.checked(listen(options, accept)),
        "ConfigError",
        ({ message }) => Effect.fail(new TransportError({ operation: "listen", detail: message }))
      )
  })

/**
 * `layerServer` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerServerConfig = (
  options: Config.Wrap<Omit<ServerOptions, "server">>
): Layer.Layer<TransportServer, Config.ConfigError> =>
  Layer.unwrap(Effect.map(ConfigModule.unwrap(options), layerServer))

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
 * A `ws` socket that somebody else accepted, for `ResilientServer.register`. The socket must be open, and nobody else
 * may read from it until it is unregistered. It is to be taken over in the `connection` event itself, or paused until
 * then: what comes meanwhile is lost. What has to be waited for is the `session` of `register`. Fails for a socket that
 * is not open, is not of the package `ws`, or has been taken over already.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromWebSocket = (
  ws: WebSocket,
  request?: IncomingMessage
): Effect.Effect<Connection & { readonly release: () => WebSocket }, TransportError> =>
  Effect.suspend(() => {
    const fault = socketFault(ws)
    return fault === undefined
      ? Effect.succeed(new WsConnection(ws, toRequest(request)))
      : Effect.fail(new TransportError({ operation: "register", detail: fault.detail }))
  })

const listen = Effect.fnUntraced(function*(
  options: ServerOptions,
  accept: (connection: Connection) => void
): Effect.fn.Return<Address, TransportError, Scope.Scope> {
  Option.check(options, shape)
  const maxConnections = Option.count("maxConnections", options.maxConnections, 100_000)
  const webSockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: maxFrameBytes(Option.count("maxPayloadBytes", options.maxPayloadBytes, defaultMaxPayloadBytes)),
    handleProtocols: (offered) => offered.has(subprotocol) ? subprotocol : offered.values().next().value ?? false,
    ...closeTimeout
  })
  let open = 0
  // Made here and not for each connection, where it would keep the whole upgrade request alive.
  const onEnd = () => {
    open--
  }
  const onUpgrade = (message: IncomingMessage, socket: Duplex, head: Buffer): void => {
    if (options.path !== undefined && message.url?.split("?")[0] !== options.path) {
      // On a shared server another listener may want it.
      if (server.listenerCount("upgrade") === 1) refuse(socket, "404 Not Found")
      return
    }
    if (open >= maxConnections) return refuse(socket, "503 Service Unavailable")
    webSockets.handleUpgrade(message, socket, head, (ws) => {
      open++
      accept(new WsConnection(ws, toRequest(message), onEnd))
    })
  }
  const server = options.server ?? createServer((_, response) => {
    response.writeHead(426, { "content-type": "text/plain" }).end("This port speaks WebSocket.\n")
  })
  yield* Effect.acquireRelease(
    Effect.sync(() => server.on("upgrade", onUpgrade)),
    () => Effect.sync(() => server.off("upgrade", onUpgrade))
  )
  if (!server.listening) {
    const port = Option.count("port", options.port, 8080, 0)
    yield* Effect.acquireRelease(start(server, port, options.host ?? "127.0.0.1"), () => stop(server))
  }
  const { address, port } = server.address() as AddressInfo // it listens on TCP
  return { host: address, port }
})

const start = (server: Server, port: number, host: string): Effect.Effect<void, TransportError> =>
  Effect.callback((resume) => {
    const onError = (cause: Error) => {
      server.off("listening", onListening)
      resume(Effect.fail(
        new TransportError({ operation: "listen", detail: `can't listen on ${host}:${port}: ${cause.message}`, cause })
      ))
    }
    const onListening = () => {
      server.off("error", onError)
      resume(Effect.void)
    }
    server.once("error", onError)
    server.once("listening", onListening)
    server.listen({ port, host, backlog: 4096 })
  })

/** Stops listening. Upgraded sockets are no longer the HTTP server's; plain HTTP ones are closed. */
const stop = (server: Server): Effect.Effect<void> =>
  Effect.sync(() => {
    server.close()
    server.closeAllConnections()
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
    /** Set once the server has switched protocols: what fails then is its answer. */
    let answer: { readonly status: number } | undefined
    const onError = (cause: unknown) => {
      const text = cause instanceof Error ? cause.message : String(cause)
      fail(withoutUrl(text, url), { cause: shownCause(cause, url), ...answer })
    }
    // Not `Effect.timeout`, which takes two fibers: there are thousands of dials a second when a server is back.
    const timer = setTimeout(() => {
      abandon()
      resume(Effect.fail(new ConnectionTimeoutError({ phase: "dial", afterMillis: timeoutMillis })))
    }, Math.min(timeoutMillis, Option.longestTimer))
    const abandon = () => {
      clearTimeout(timer)
      ws.off("error", onError)
      ws.on("error", () => {}) // terminating a socket that is connecting is an error to it
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
      return onError(cause) // an URL that can't be
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

/** `Retry-After`: seconds, or a date, which is compared with the server's own. */
const retryAfterOf = (headers: IncomingHttpHeaders): { readonly retryAfterMillis?: number } => {
  const after = headers["retry-after"]
  if (after === undefined) return {}
  const millis = /^\d+$/.test(after) ? Number(after) * 1_000 : Date.parse(after) - Date.parse(headers.date ?? "")
  return millis > 0 ? { retryAfterMillis: millis } : {}
}

/** Known to `ws`, not yet to its types. */
const closeTimeout: object = { closeTimeout: closeGraceMillis }

const refuse = (socket: Duplex, status: string): void => {
  socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`)
}

/** Headers that every upgrade has and that say nothing about the peer: what a connection keeps is kept for long. */
const handshakeHeaders = new Set([
  "connection",
  "upgrade",
  "sec-websocket-key",
  "sec-websocket-version",
  "sec-websocket-extensions"
])

const toRequest = (message: IncomingMessage | undefined): Request => {
  const headers: Record<string, string | undefined> = {}
  for (const [name, value] of Object.entries(message?.headers ?? {})) {
    if (!handshakeHeaders.has(name)) headers[name] = Array.isArray(value) ? value.join(", ") : value
  }
  return { url: message?.url ?? "/", headers, remoteAddress: message?.socket.remoteAddress }
}
