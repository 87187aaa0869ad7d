/** How a server's WebSockets are made: our own, and those of a `WebSocketServer` that somebody else builds. */
import type { IncomingMessage } from "node:http"
import { WebSocket } from "ws"
import { closeGraceMillis, defaultMaxPayloadBytes, highWaterBytes, subprotocol } from "../core/Protocol.ts"
import { maxFrameBytes } from "../core/Session.ts"
import { count } from "../internal/kit/options.ts"
import type { Request } from "../internal/session/models.ts"
import { makeOriginCheck, refusedOriginAnswer } from "../internal/session/origins.ts"
import { handshakeHeaders } from "../internal/transports/upgradeHeaders.ts"
import { ignoreError, tellOwner, tells } from "../internal/transports/wsConnection.ts"
import type { OwnServerOptions, WebSocketServerOptions } from "./ownServers.ts"

/** How often to try again to answer the pings of peers that don't read, in ms. */
const againMillis = 1_000
/** The newest unanswered ping of each socket. */
const unanswered = new Map<ServedWebSocket, Buffer>()

/** A `ws` socket whose errors never end the process, from its first moment to after it is given back. */
class HeardWebSocket extends WebSocket {
  /** A field, as a constructor can't pass on the overloads of its parent's. */
  protected readonly heard = this.on("error", ignoreError)
}

/** A `ws` socket of a server of ours, which nobody else ever sees: it needs no listeners, not even for errors. */
class ServedWebSocket extends WebSocket {
  get [tells](): true {
    return true
  }

  override emit(event: string | symbol, first?: unknown, second?: unknown): boolean {
    if (event === "ping") answerLater(this, first as Buffer) // what `ws` passes with a ping
    tellOwner(this, event, first, second)
    return event === "error" || super.emit(event, first, second)
  }
}

/** The options of our own `WebSocketServer`, besides `webSocketOptions`. */
export const servedOptions = {
  noServer: true,
  clientTracking: false,
  WebSocket: ServedWebSocket,
  autoPong: false
}

/**
 * Of pings that come together, answers only the newest, as RFC 6455 §5.5.3 allows. Otherwise each answer is a packet of
 * its own: ten thousand for one piece read at once.
 */
const answerLater = (ws: ServedWebSocket, ping: Buffer): void => {
  if (!isAnswering) queueMicrotask(answer)
  isAnswering = true
  unanswered.set(ws, ping)
}

let isAnswering = false
let again: NodeJS.Timeout | undefined

const answer = (): void => {
  isAnswering = false
  for (const [ws, ping] of unanswered) {
    const isOpen = ws.readyState === ws.OPEN
    // A peer that does not read its answers gets no more until it does.
    if (isOpen && ws.bufferedAmount >= highWaterBytes) continue
    unanswered.delete(ws)
    if (isOpen) ws.pong(ping)
  }
  if (unanswered.size === 0 || again !== undefined) return
  again = setTimeout(() => {
    again = undefined
    answer()
  }, againMillis).unref()
}

/** The options of `ws` that our protocol needs. */
export const webSocketOptions = (maxPayloadBytes: number | undefined) => ({
  perMessageDeflate: false,
  maxPayload: maxFrameBytes(count("maxPayloadBytes", maxPayloadBytes, defaultMaxPayloadBytes)),
  handleProtocols,
  ...closeTimeout
})

/** `ws` has this option, but its types don't yet. */
export const closeTimeout: object = { closeTimeout: closeGraceMillis }

/** Chooses our subprotocol, wherever it stands among those offered. */
const handleProtocols = (offered: Set<string>): string | false =>
  offered.has(subprotocol) ? subprotocol : offered.values().next().value ?? false

export const ownServerOptions = (
  { allowedOrigins, maxPayloadBytes }: WebSocketServerOptions
): OwnServerOptions => {
  const refusedOrigin = makeOriginCheck(allowedOrigins)
  return {
    ...webSocketOptions(maxPayloadBytes),
    WebSocket: HeardWebSocket,
    // With a second parameter, as only then does `ws` accept an answer other than 401.
    verifyClient: ({ req }: { readonly req: IncomingMessage }, answer: Answer) => {
      if (refusedOrigin(requestOf(req)) === undefined) answer(true)
      else answer(false, refusedOriginAnswer.status, refusedOriginAnswer.text)
    }
  }
}

type Answer = (isAllowed: boolean, code?: number, message?: string) => void

export const requestOf = (message: IncomingMessage | undefined): Request => {
  const headers: Record<string, string | undefined> = {}
  for (const [name, value] of Object.entries(message?.headers ?? {})) {
    if (!handshakeHeaders.has(name)) headers[name] = Array.isArray(value) ? value.join(", ") : value
  }
  return { url: message?.url ?? "/", headers, remoteAddress: message?.socket.remoteAddress }
}
