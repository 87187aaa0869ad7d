/** Which options services and sends have, and what each may be. */
import type * as CircuitBreaker from "../../CircuitBreaker.ts"
import type * as Deduplicator from "../../Deduplicator.ts"
import type * as MemoryStore from "../../MemoryStore.ts"
import type * as Message from "../../Message.ts"
import type * as MessageQueue from "../../MessageQueue.ts"
import type * as SessionRegistry from "../../SessionRegistry.ts"
import * as Check from "./options.ts"

const { bool, duration, nested, oneOf, whole } = Check

const ratio: typeof bool = (name, value) => {
  Check.fraction(name, value as number, 1) // takes any value, and throws if it is not a fraction
}

// --- services

export const queue: Check.Shape<MessageQueue.Options> = {
  maxMessages: whole(),
  maxBytes: whole(),
  maxTotalMessages: whole(),
  maxTotalBytes: whole(),
  ttl: duration,
  overflow: oneOf("reject", "dropOldest", "dropNewest", "suspend"),
  suspendTimeout: duration
}

export const deduplicator: Check.Shape<Deduplicator.Options> = {
  window: duration,
  lease: duration,
  maxKeys: whole(),
  retryHorizon: duration
}

export const registry: Check.Shape<SessionRegistry.Options> = {
  retention: duration,
  maxSessions: whole()
}

const sessionCircuits: Check.Shape<CircuitBreaker.SessionOptions> = {
  consecutiveFailures: whole(),
  openBase: duration,
  openCap: duration,
  halfOpenPermits: whole(),
  successesToClose: whole(),
  probeTimeout: duration
}

const endpointCircuits: Check.Shape<CircuitBreaker.EndpointOptions> = {
  ...sessionCircuits,
  failureRatio: ratio,
  minimumCalls: whole(),
  window: duration,
  slowCall: duration,
  slowRatio: ratio
}

export const breaker: Check.Shape<CircuitBreaker.Options> = {
  session: nested(sessionCircuits),
  endpoint: nested(endpointCircuits),
  maxCircuits: whole()
}

export const memoryStore: Check.Shape<MemoryStore.Options> = {
  queue: nested(queue),
  deduplicator: nested(deduplicator),
  registry: nested(registry),
  breaker: nested(breaker)
}

/** Checked at each send that has options, so only names are: values are checked when they are read. */
export const send: Check.Names<Message.SendOptions> = { id: true, deduplicate: true, ttl: true, volatile: true }
export const sendAll: Check.Names<Message.SendAllOptions> = { ttl: true }
export const broadcast: Check.Names<Message.BroadcastOptions> = { ttl: true, sessions: true, principal: true }
