/** The options of the promise face, and what each may be. */
import * as Check from "../internal/kit/options.ts"
import * as Shapes from "../internal/kit/shapes.ts"
import * as Sides from "../internal/run/optionShapes.ts"
import { checkOrigins } from "../internal/session/origins.ts"
import type { ClientOptions, CloseOptions, ConnectedOptions } from "./clientOptions.ts"
import { ConfigError } from "./errors.ts"
import type { GracefulShutdownOptions, ManagerOptions, RegisterOptions, StatsOptions, Store } from "./managerOptions.ts"
import type { ClientEvents, ManagerEvents, Waiting } from "./models.ts"
import type { BreakerOptions, CommonOptions, Listeners, QueueOptions, RetryOptions } from "./options.ts"

const { anything, bool, duration, either, func, headers, nested, nonEmpty, object, oneOf, text, whole } = Check

/** Throws a `ConfigError` for invalid options. */
export const checkOptions = <A extends object>(options: A | undefined, shape: Check.Shape<NoInfer<A>>): void => {
  try {
    Check.check(options, shape)
  } catch (fault) {
    throw fault instanceof Check.OptionError ? new ConfigError(fault.message) : fault
  }
}

const isFalse = (value: unknown): boolean => value === false
const isText = (value: unknown): boolean => typeof value === "string"
const isFunction = (value: unknown): boolean => typeof value === "function"
export const isSignal = (value: unknown): boolean =>
  typeof value === "object" && value !== null && "aborted" in value && "addEventListener" in value

const signal = either("an AbortSignal", isSignal)

// --- events

/** The events of a manager, as the option `on` takes listeners for them. */
export const managerEvents: Check.Shape<Listeners<ManagerEvents<never, never>>> = {
  deadLetter: func,
  stateChange: func,
  circuitChange: func,
  refused: func,
  failure: func
}

export const clientEvents: Check.Shape<Listeners<ClientEvents<never, never>>> = {
  deadLetter: func,
  stateChange: func,
  circuitChange: func
}

// --- managers and clients

const queue: Check.Shape<QueueOptions> = Shapes.queue

const breaker: Check.Shape<BreakerOptions> = {
  consecutiveFailures: whole(),
  openBase: duration,
  openCap: duration,
  successesToClose: whole()
}

const retry: Check.Shape<RetryOptions> = { base: duration, cap: duration, attempts: whole() }

const common: Check.Shape<CommonOptions<never, never>> = {
  ...queue,
  ...Sides.common,
  parse: func,
  onGap: func,
  handlerRetry: nested(retry),
  fallbackSend: func,
  breaker: nested(breaker),
  messageIdTtl: duration,
  log: either("false or a function", isFalse, isFunction),
  logLevel: oneOf("Trace", "Debug", "Info", "Warn", "Error", "Fatal")
}

type StoreShapes = {
  readonly [Type in Store["type"]]: Check.Shape<Extract<Store, { readonly type: Type }>>
}

const type = oneOf<Store["type"]>("memory", "sqlite", "postgres", "redis")

/** The options of each store, which docs/stores.md explains. */
const stores: StoreShapes = {
  memory: { type },
  sqlite: { type, filename: nonEmpty, synchronous: oneOf("normal", "full"), tablePrefix: text },
  postgres: { type, url: nonEmpty, maxConnections: whole(), schema: nonEmpty, from: object },
  redis: { type, url: nonEmpty, prefix: text, from: object }
}

const store = (name: string, value: unknown): void => {
  object(name, value)
  const given = value as Store // it is an object; its properties are checked below
  type(`${name}.type`, given.type)
  Check.check<object>(given, stores[given.type], `${name}.`)
}

const hooks = { onMessage: func }

export const manager: Check.Shape<ManagerOptions<never, never>> = {
  ...common,
  ...hooks,
  store,
  authenticate: func,
  on: nested(managerEvents),
  deduplicate: bool,
  retention: duration,
  strangerRetention: duration,
  shareOf: func,
  maxSessions: whole(),
  connectionTimeout: duration,
  handshakeTimeout: duration,
  maxHandshakes: whole(),
  rateLimit: Sides.rateLimit,
  allowedOrigins: checkOrigins,
  reconnectJitter: duration,
  sessionMessage: either("false or a function", isFalse, isFunction)
}

export const client: Check.Shape<ClientOptions<never, never>> = {
  ...common,
  ...hooks,
  signal,
  on: nested(clientEvents),
  token: either("a string or a function", isText, isFunction),
  headers,
  onFresh: oneOf("deadLetter", "resend"),
  wait: bool,
  connectTimeout: duration,
  reconnect: nested(Sides.reconnect),
  dialTimeout: duration,
  handshakeTimeout: duration
}

// --- calls

/** `Sockets` checks the session's id, as the peer may have chosen it: a wrong one is not the caller's mistake. */
export const register: Check.Shape<RegisterOptions> = { signal, sessionId: anything, request: object }

export const shutdown: Check.Shape<GracefulShutdownOptions> = {
  timeout: duration,
  flushPending: bool,
  closeConnections: bool
}

export const close: Check.Shape<CloseOptions> = { timeout: duration, flushPending: bool }
export const connected: Check.Shape<ConnectedOptions> = { timeout: duration, signal }
export const waiting: Check.Shape<Waiting> = { signal }
export const stats: Check.Shape<StatsOptions> = { connections: bool }
