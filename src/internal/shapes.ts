/** Which options there are, of the services that every store has, of servers, clients and sends, and what each may be. */
import { Effect, Redacted, Schedule, Schema } from "effect"
import type * as CircuitBreaker from "../CircuitBreaker.ts"
import type * as Deduplicator from "../Deduplicator.ts"
import type * as MemoryStore from "../MemoryStore.ts"
import type * as Message from "../Message.ts"
import type * as MessageQueue from "../MessageQueue.ts"
import type * as ResilientClient from "../ResilientClient.ts"
import type * as ResilientServer from "../ResilientServer.ts"
import type * as SessionRegistry from "../SessionRegistry.ts"
import * as Option from "./options.ts"
import { checkOrigins } from "./origins.ts"

const { bool, duration, either, func, headers, nested, oneOf, whole } = Option

const isText = (value: unknown): boolean => typeof value === "string"
const ratio: typeof bool = (name, value) => {
  Option.fraction(name, value as number, 1) // which takes anything
}

// --- services

export const queue: Option.Shape<MessageQueue.Options> = {
  maxMessages: whole(),
  maxBytes: whole(),
  maxTotalMessages: whole(),
  maxTotalBytes: whole(),
  ttl: duration,
  overflow: oneOf("reject", "dropOldest", "dropNewest", "suspend"),
  suspendTimeout: duration
}

export const deduplicator: Option.Shape<Deduplicator.Options> = {
  window: duration,
  lease: duration,
  maxKeys: whole(),
  retryHorizon: duration
}

export const registry: Option.Shape<SessionRegistry.Options> = {
  retention: duration,
  maxSessions: whole()
}

const sessionCircuits: Option.Shape<CircuitBreaker.SessionOptions> = {
  consecutiveFailures: whole(),
  openBase: duration,
  openCap: duration,
  halfOpenPermits: whole(),
  successesToClose: whole(),
  probeTimeout: duration
}

const endpointCircuits: Option.Shape<CircuitBreaker.EndpointOptions> = {
  ...sessionCircuits,
  failureRatio: ratio,
  minimumCalls: whole(),
  window: duration,
  slowCall: duration,
  slowRatio: ratio
}

export const breaker: Option.Shape<CircuitBreaker.Options> = {
  session: nested(sessionCircuits),
  endpoint: nested(endpointCircuits),
  maxCircuits: whole()
}

export const memoryStore: Option.Shape<MemoryStore.Options> = {
  queue: nested(queue),
  deduplicator: nested(deduplicator),
  registry: nested(registry),
  breaker: nested(breaker)
}

// --- servers and clients

/** What both sides have. */
export const common = {
  window: nested<NonNullable<ResilientServer.Options<never, never>["window"]>>({ messages: whole(), bytes: whole() }),
  maxPayloadBytes: whole(),
  maxUnhandledBytes: whole(),
  heartbeat: duration,
  heartbeatTimeout: duration,
  ackTimeout: duration,
  expirySweep: duration,
  shutdownTimeout: duration,
  restartIntensity: nested<NonNullable<ResilientServer.Options<never, never>["restartIntensity"]>>({
    restarts: whole(0),
    period: duration
  })
}

const limits = nested<ResilientServer.RateLimit>({
  framesPerSecond: whole(),
  bytesPerSecond: whole(),
  burst: duration
})
export const rateLimit: typeof bool = (name, value) => {
  if (value !== "none") limits(name, value)
}

const handlers = {
  onMessage: func,
  onGap: func,
  onDeadLetter: func,
  handlerRetry: either("a Schedule", Schedule.isSchedule)
}

/** Those that a contract gives. */
const schemas = {
  incoming: either("a Schema", Schema.isSchema),
  outgoing: either("a Schema", Schema.isSchema)
}

/** Of a contract's server. */
export const contractServer: Option.Shape<Omit<ResilientServer.Options<never, never>, keyof typeof schemas>> = {
  ...common,
  ...handlers,
  onConnectionEvent: func,
  authenticate: func,
  shareOf: func,
  strangerRetention: duration,
  plainPeers: oneOf("accept", "reject"),
  connectionTimeout: duration,
  handshakeTimeout: duration,
  maxHandshakes: whole(),
  rateLimit,
  allowedOrigins: checkOrigins,
  reconnectJitter: duration
}

export const server: Option.Shape<ResilientServer.Options<never, never>> = { ...contractServer, ...schemas }

export const shutdown: Option.Shape<ResilientServer.ShutdownOptions> = {
  timeout: duration,
  flush: bool,
  closeConnections: bool
}

export const register: Option.Names<NonNullable<Parameters<Server["register"]>[1]>> = { session: true }

type Server = ResilientServer.ResilientServer<never, never>

export const reconnect: Option.Shape<NonNullable<ResilientClient.Options<never, never>["reconnect"]>> = {
  base: duration,
  cap: duration
}

/** Of a contract's client. */
export const contractClient: Option.Shape<Omit<ResilientClient.Options<never, never>, keyof typeof schemas>> = {
  ...common,
  ...handlers,
  url: either("a string or an effect", isText, Effect.isEffect),
  token: either("a string, Redacted or an effect", isText, Redacted.isRedacted, Effect.isEffect),
  headers,
  onStateChange: func,
  onFresh: oneOf("deadLetter", "resend"),
  reconnect: nested(reconnect),
  dialTimeout: duration,
  handshakeTimeout: duration
}

export const client: Option.Shape<ResilientClient.Options<never, never>> = { ...contractClient, ...schemas }

export const awaitConnected: Option.Shape<NonNullable<Parameters<Client["awaitConnected"]>[0]>> = {
  timeout: duration
}

type Client = ResilientClient.ResilientClient<never, never>

// --- sends

/** Checked at each send that has any, so by name alone: what they may be is checked as they are read. */
export const send: Option.Names<Message.SendOptions> = { id: true, deduplicate: true, ttl: true, volatile: true }
export const sendAll: Option.Names<Message.SendAllOptions> = { ttl: true }
export const broadcast: Option.Names<Message.BroadcastOptions> = { ttl: true, sessions: true, principal: true }
