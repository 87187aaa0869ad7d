/**
 * The library's metrics: what Prometheus and OTLP exporters of `effect/observability` find, and the totals behind
 * `stats`.
 *
 * **Details.** Counters are updated a batch at a time, gauges about once a second. There is never a session id in a
 * label.
 *
 * @since 0.1.0
 */
import { type Context, Effect, Metric } from "effect"

const counters = {
  connectionsTotal: "connections accepted or made",
  connectionsFailed: "connections refused, or lost before the handshake was done",
  connectionsRefused: "connections refused before they were WebSockets",
  connectionsResumed: "handshakes that went on where the session was",
  connectionsFresh: "handshakes that started a session anew",
  connectionsReplaced: "connections closed because the session attached elsewhere",
  connectionsTimedOut: "connections closed for silence, missing acks or a stalled socket",
  connectionsThrottled: "times that a connection was over its rate and not read for a while",
  messagesSent: "reliable messages put on the wire for the first time, and volatile ones",
  messagesQueued: "messages that could not go out at once",
  messagesAcknowledged: "messages that the peer acknowledged as handled",
  messagesRedelivered: "messages put on the wire again after a reconnect",
  messagesExpired: "messages whose TTL ran out",
  messagesDeduplicated: "sends answered with an earlier receipt",
  messagesLost: "positions of messages that a store had lost when it was next looked at, as after a failover",
  messagesVolatileSkipped: "volatile messages that were not sent, or not taken",
  messagesReceived: "messages received for the first time",
  messagesHandled: "received messages that were handled",
  deadLetters: "messages given up, in either direction",
  hooksDropped: "events dropped because onDeadLetter, onConnectionEvent or onStateChange was too slow",
  queueOverflows: "sends that met a full queue",
  retriesTried: "handler and dial attempts after a failed one",
  retriesSucceeded: "of those, the successful ones",
  retriesFailed: "messages and dials given up after their retries",
  breakerTransitions: "changes of state of circuits",
  protocolErrors: "connections closed for a breach of the protocol",
  internalErrors: "connections refused or closed for a fault of this side: a store or a hook that failed",
  workerRestarts: "background workers restarted after a failure"
} as const

const gauges = {
  connectionsActive: "connections open now",
  sessions: "sessions known now",
  queueMessages: "messages waiting or in flight",
  queueBytes: "their payload bytes",
  sqliteWalBytes: "write-ahead logs of SQLite files",
  unhandledBytes: "memory of what was received and is not handled, estimated"
} as const

/** @since 0.1.0 @category models */
export type CounterName = keyof typeof counters
/** @since 0.1.0 @category models */
export type GaugeName = keyof typeof gauges

/**
 * Totals since the server or client was made, by name.
 *
 * @since 0.1.0
 * @category models
 */
export type Totals = Readonly<Record<CounterName, number>>

/**
 * Averages since the server or client was made, in ms; 0 before there is anything to average. Sampled like the
 * histograms: once a batch, and once an ack.
 *
 * @since 0.1.0
 * @category models
 */
export interface Latencies {
  /** From a message's acceptance to when it is first written. */
  readonly sendMillis: number
  /** From a message's acceptance to its acknowledgement as handled. */
  readonly handledMillis: number
}

const prefix = "resilient_websocket_"

/** Latency buckets in ms, from a fifth of a millisecond to two minutes. */
const boundaries = [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 120_000]
const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
const namesOf = <A extends object>(record: A) => Object.keys(record) as Array<keyof A & string>
const byName = <Name extends string, A>(names: ReadonlyArray<Name>, make: (name: Name) => A): Record<Name, A> =>
  Object.fromEntries(names.map((name) => [name, make(name)])) as Record<Name, A> // one entry a name

const counterMetrics = byName(
  namesOf(counters),
  (name) =>
    Metric.counter(`${prefix}${snake(name).replace(/_total$/, "")}_total`, {
      description: counters[name],
      incremental: true
    })
)

const gaugeMetrics = byName(
  namesOf(gauges),
  (name) => Metric.gauge(`${prefix}${snake(name)}`, { description: gauges[name] })
)

const enqueueToHandled = Metric.histogram(`${prefix}enqueue_to_handled_millis`, {
  description: "from a message's acceptance to its acknowledgement, sampled once an ack, in ms",
  boundaries
})

const sendDuration = Metric.histogram(`${prefix}send_millis`, {
  description: "from a message's acceptance to its first writing, sampled once a batch, in ms",
  boundaries
})

/**
 * The recorder of one server or client: its own totals, and the process's metrics.
 *
 * @since 0.1.0
 * @category models
 */
export interface Recorder {
  readonly totals: Totals
  readonly latencies: Latencies
  /** The largest value of each gauge so far. */
  readonly peaks: Readonly<Record<GaugeName, number>>
  readonly count: (name: CounterName, by?: number) => void
  /** Sets this recorder's share of a gauge; the metric is the sum over all recorders. */
  readonly gauge: (name: GaugeName, value: number) => void
  readonly handledAfter: (millis: number) => void
  readonly sentAfter: (millis: number) => void
}

/**
 * A recorder on the current metric registry.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeRecorder: Effect.Effect<Recorder> = Effect.map(
  Effect.context<never>(),
  (context: Context.Context<never>): Recorder => {
    const totals = byName(namesOf(counters), () => 0)
    const shares = byName(namesOf(gauges), () => 0)
    const peaks = byName(namesOf(gauges), () => 0)
    const sends = new Average()
    const handled = new Average()
    return {
      totals,
      get latencies() {
        return { sendMillis: sends.value, handledMillis: handled.value }
      },
      peaks,
      count: (name, by = 1) => {
        if (by === 0) return
        totals[name] += by
        counterMetrics[name].updateUnsafe(by, context)
      },
      gauge: (name, value) => {
        const change = value - shares[name]
        if (change === 0) return
        shares[name] = value
        peaks[name] = Math.max(peaks[name], value)
        gaugeMetrics[name].modifyUnsafe(change, context)
      },
      handledAfter: (millis) => {
        handled.add(Math.max(0, millis))
        enqueueToHandled.updateUnsafe(millis, context)
      },
      sentAfter: (millis) => {
        sends.add(Math.max(0, millis)) // the two clocks may be a turn apart
        sendDuration.updateUnsafe(millis, context)
      }
    }
  }
)

class Average {
  private sum = 0
  private count = 0

  add(value: number): void {
    this.sum += value
    this.count++
  }

  get value(): number {
    return this.count === 0 ? 0 : this.sum / this.count
  }
}
