/** The figures of the services in the words of `getStats`. */
import * as CircuitBreaker from "../CircuitBreaker.ts"
import type * as MessageQueue from "../MessageQueue.ts"
import type { Latencies, Totals } from "../Metrics.ts"
import type { CircuitBreakerStats, CircuitChange, ConnectionStats, Metrics, SessionStats } from "./models.ts"

export interface Figures {
  readonly queue: MessageQueue.Stats
  readonly totals: Totals
  readonly latencies: Latencies
  readonly peakQueueMessages: number
  readonly active: number
  readonly breaker: CircuitBreaker.Stats
  /** By `performance.now`. */
  readonly startedAt: number
}

export const metricsOf = (figures: Figures): Metrics => {
  const { active, breaker, latencies, peakQueueMessages, queue, startedAt, totals } = figures
  const ended = totals.retriesSucceeded + totals.retriesFailed
  return {
    connections: {
      total: totals.connectionsTotal,
      active,
      failed: totals.connectionsFailed,
      reconnections: totals.connectionsResumed,
      replaced: totals.connectionsReplaced,
      timeouts: totals.connectionsTimedOut
    },
    messages: {
      sent: totals.messagesSent,
      queued: totals.messagesQueued,
      acknowledged: totals.messagesAcknowledged,
      redelivered: totals.messagesRedelivered,
      failed: totals.deadLetters - totals.messagesExpired + totals.messagesVolatileSkipped,
      expired: totals.messagesExpired,
      deduplicated: totals.messagesDeduplicated,
      received: totals.messagesReceived,
      handled: totals.messagesHandled
    },
    queue: {
      currentSize: queue.messages,
      currentBytes: queue.bytes,
      maxSize: peakQueueMessages,
      overflows: totals.queueOverflows
    },
    retry: {
      attempts: totals.retriesTried,
      successes: totals.retriesSucceeded,
      failures: totals.retriesFailed,
      successRate: ended === 0 ? 0 : totals.retriesSucceeded / ended
    },
    circuitBreaker: {
      opens: breaker.transitions.opened,
      halfOpens: breaker.transitions.halfOpened,
      closes: breaker.transitions.closed
    },
    latency: { averageSendMillis: latencies.sendMillis, averageHandledMillis: latencies.handledMillis },
    workerRestarts: totals.workerRestarts,
    uptimeMillis: Math.floor(performance.now() - startedAt),
    lastUpdate: Date.now()
  }
}

export const breakerStatsOf = ({ circuits, halfOpen, open, policies }: CircuitBreaker.Stats): CircuitBreakerStats => ({
  state: open > 0 ? "Open" : halfOpen > 0 ? "HalfOpen" : "Closed",
  circuits,
  open,
  halfOpen,
  config: policies.session
})

export const connectionStatsOf = (stats: SessionStats, timeoutMillis: number): ConnectionStats => ({
  isConnected: stats.connected,
  retryCount: stats.failures,
  queueSize: stats.queuedMessages,
  queueBytes: stats.queuedBytes,
  lastActivity: stats.heardAtMillis,
  isTimeout: !stats.connected && stats.heardAtMillis !== undefined && Date.now() - stats.heardAtMillis > timeoutMillis,
  circuit: stats.circuit
})

const sessionPrefix = CircuitBreaker.session("")

export const circuitChangeOf = ({ atMillis, from, key, reason, to }: CircuitBreaker.Transition): CircuitChange => ({
  circuit: key,
  session: key.startsWith(sessionPrefix) ? key.slice(sessionPrefix.length) : undefined,
  from,
  to,
  reason,
  atMillis
})
