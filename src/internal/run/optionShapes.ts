/** Which options servers and clients have, and what each may be. */
import { Effect, Redacted, Schedule, Schema } from "effect"
import { idRule, isId } from "../../core/Text.ts"
import type * as ResilientClient from "../../ResilientClient.ts"
import type * as ResilientServer from "../../ResilientServer.ts"
import * as Check from "../kit/options.ts"
import { checkOrigins } from "../session/origins.ts"

const { bool, duration, either, func, headers, nested, oneOf, whole } = Check

/** What a frame can carry as a name. */
const name = either(idRule, isId)

const isFunction = (value: unknown): boolean => typeof value === "function"
const isText = (value: unknown): boolean => typeof value === "string"

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
  producerSpans: bool,
  spanPrefix: Check.nonEmpty,
  spanAttributes: Check.object,
  disableTracing: bool,
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
  handlerRetry: either("a Schedule, or a function of one", Schedule.isSchedule, isFunction)
}

/** Those that a contract gives. */
const schemas = {
  contract: nested<ResilientServer.ContractName>({ id: name, version: name }),
  incoming: either("a Schema", Schema.isSchema),
  outgoing: either("a Schema", Schema.isSchema)
}

/** Of a contract's server. */
export const contractServer: Check.Shape<Omit<ResilientServer.Options<never, never>, keyof typeof schemas>> = {
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

export const server: Check.Shape<ResilientServer.Options<never, never>> = { ...contractServer, ...schemas }

export const shutdown: Check.Shape<ResilientServer.ShutdownOptions> = {
  timeout: duration,
  flush: bool,
  closeConnections: bool
}

export const register: Check.Names<NonNullable<Parameters<Server["register"]>[1]>> = { session: true }

type Server = ResilientServer.ResilientServer<never, never>

export const reconnect: Check.Shape<NonNullable<ResilientClient.Options<never, never>["reconnect"]>> = {
  base: duration,
  cap: duration
}

/** Of a contract's client. */
export const contractClient: Check.Shape<Omit<ResilientClient.Options<never, never>, keyof typeof schemas>> = {
  ...common,
  ...handlers,
  url: either("a string or an effect", isText, Effect.isEffect),
  token: Check.secret("a Redacted, or an effect of one", Redacted.isRedacted, Effect.isEffect),
  headers,
  onStateChange: func,
  onFresh: oneOf("deadLetter", "resend"),
  reconnect: nested(reconnect),
  dialTimeout: duration,
  handshakeTimeout: duration
}

export const client: Check.Shape<ResilientClient.Options<never, never>> = { ...contractClient, ...schemas }

export const awaitConnected: Check.Shape<NonNullable<Parameters<Client["awaitConnected"]>[0]>> = {
  timeout: duration
}

type Client = ResilientClient.ResilientClient<never, never>

// --- sends
