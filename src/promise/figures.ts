/** Turns the figures of the services into those that `getStats` returns. */
import { Effect, Option } from "effect"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import type * as MessageQueue from "../MessageQueue.ts"
import type { Latencies, Totals } from "../Metrics.ts"
import type { ResilientServer } from "../ResilientServer.ts"
import type {
  CircuitBreakerStats,
  CircuitChange,
  ConnectionStats,
  ManagerStats,
  Metrics,
  SessionStats
} from "./models.ts"

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

/** All figures of a manager; `connections` says whether to include those of each session. */
export const managerStats = Effect.fnUntraced(function*(options: {
  readonly server: ResilientServer<unknown, unknown>
  readonly breaker: CircuitBreaker.Interface
  readonly connections: boolean
  /** By `performance.now`. */
  readonly startedAt: number
  readonly timeoutMillis: number
}): Effect.fn.Return<ManagerStats> {
  const { breaker, connections, server, startedAt, timeoutMillis } = options
  const { connections: active, ...figures } = yield* server.stats
  const circuits = yield* breaker.stats
  const sessions = yield* server.sessions
  const each = yield* Effect.forEach(
    connections ? sessions : [],
    (session) => Effect.option(server.sessionStats(session)), // it may have ended meanwhile
    { concurrency: 32 }
  )
  return {
    totalConnections: sessions.length,
    connected: active,
    disconnected: sessions.length - active,
    totalQueuedMessages: figures.queue.messages,
    connections: Object.fromEntries(
      each.flatMap((found): Array<[string, ConnectionStats]> =>
        Option.isSome(found) ? [[found.value.session, connectionStatsOf(found.value, timeoutMillis)]] : []
      )
    ),
    metrics: metricsOf({ ...figures, active, breaker: circuits, startedAt }),
    circuitBreaker: breakerStatsOf(circuits)
  }
})
