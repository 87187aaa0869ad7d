/**
 * The way of a message from `send` to the queue, the same for server and client: encode, check, deduplicate, append,
 * and say what became of it.
 */
import { Duration, Effect, Exit, type Fiber, Option, type Schema, type Tracer } from "effect"
import type { CircuitBreaker } from "../CircuitBreaker.ts"
import { defaultMessageId, type OutboxMessage } from "../core/Outbox.ts"
import { highWaterBytes, maxIdLength } from "../core/Protocol.ts"
import { utf8Length } from "../core/utf8.ts"
import { contentKey, type Deduplicator } from "../Deduplicator.ts"
import type { QueuedReason, Receipt, SendOptions, SkippedReason } from "../Message.ts"
import type { Appended, MessageQueue, NewMessage } from "../MessageQueue.ts"
import type { Recorder } from "../Metrics.ts"
import {
  DeadLetterError,
  DeduplicationError,
  type MessageQueueError,
  PayloadError,
  type QueueOverflowError
} from "../WebSocketError.ts"
import { isCircuitOpen } from "./common.ts"
import type { Peer } from "./peer.ts"
import type { Tracked } from "./receipts.ts"
import { makeEncoder } from "./schemas.ts"

/** Volatile messages that may wait for one turn of the delivery worker. */
const maxVolatile = 1_024

export type SendError = PayloadError | QueueOverflowError | MessageQueueError | DeduplicationError

export interface SendingOptions<Out> {
  readonly queue: MessageQueue["Service"]
  readonly deduplicator: Deduplicator["Service"]
  readonly breaker: CircuitBreaker["Service"]
  readonly recorder: Recorder
  readonly outgoing: Schema.Codec<Out, unknown>
  readonly maxPayload: number
  readonly markDirty: (peer: Peer) => void
  /** Messages that the policy dropped to make room. */
  readonly onDropped: (peer: Peer, messages: ReadonlyArray<OutboxMessage>) => Effect.Effect<void>
}

export const makeSending = <Out>(options: SendingOptions<Out>) => {
  const { breaker, deduplicator, queue, recorder } = options
  const encode = makeEncoder(options.outgoing)

  const payloadError = (session: string, detail: string) => new PayloadError({ direction: "encode", detail, session })

  /** The message as JSON text, checked; or why not. */
  const serialize = (
    session: string,
    message: Out,
    limit: number
  ): { payload: string; bytes: number } | PayloadError => {
    const encoded = encode(message)
    if (Exit.isFailure(encoded)) return payloadError(session, String(Exit.getCause(encoded)))
    let payload: string | undefined
    try {
      payload = JSON.stringify(encoded.value)
    } catch (cause) {
      return payloadError(session, cause instanceof Error ? cause.message : String(cause))
    }
    if (payload === undefined) return payloadError(session, "JSON has no form for it")
    const bytes = utf8Length(payload)
    if (bytes <= limit) return { payload, bytes }
    return new PayloadError({
      direction: "encode",
      detail: `${bytes} bytes are more than ${limit}`,
      session,
      sizeBytes: bytes,
      limitBytes: limit
    })
  }

  const sendVolatile = (peer: Peer, payload: string): Receipt => {
    const reason: SkippedReason | undefined = peer.connection === undefined
      ? "disconnected"
      : isCircuitOpen(breaker, peer)
      ? "circuitOpen"
      : peer.connection.buffered() >= highWaterBytes || peer.volatileOut.length >= maxVolatile
      ? "backpressure"
      : undefined
    if (reason !== undefined) {
      recorder.count("messagesVolatileSkipped")
      return skipped(peer.session, reason)
    }
    peer.volatileOut.push(payload)
    options.markDirty(peer)
    return {
      _tag: "Sent",
      session: peer.session,
      messageId: "",
      handled: neverKnown(peer.session, "volatile")
    }
  }

  /** What keeps a message from going out at once. */
  const waitsFor = (peer: Peer): QueuedReason | undefined =>
    peer.connection === undefined ? "disconnected" : isCircuitOpen(breaker, peer) ? "circuitOpen" : peer.stalled

  const receiptOf = (peer: Peer, appended: Appended, id: string | undefined): Receipt => {
    if (appended.first === undefined) return skipped(peer.session, "overflow")
    const reason = waitsFor(peer)
    if (reason === undefined) return new Accepted(peer, appended.epoch, appended.first, id, appended.enqueuedAt)
    recorder.count("messagesQueued")
    return new Waiting(peer, appended.epoch, appended.first, id, appended.enqueuedAt, reason)
  }

  const append = (
    peer: Peer,
    message: NewMessage
  ): Effect.Effect<Receipt, MessageQueueError | QueueOverflowError> => {
    const batch = [message]
    const now = queue.append.unsafe?.(peer.key, batch)
    if (now !== undefined) return Effect.succeed(receiptOf(peer, now, message.id))
    return Effect.flatMap(
      Effect.tapError(queue.append(peer.key, batch), (error) =>
        Effect.sync(() => {
          if (error._tag === "QueueOverflowError") recorder.count("queueOverflows")
        })),
      (appended) => {
        const receipt = receiptOf(peer, appended, message.id)
        if (appended.first !== undefined && appended.dropped.length === 0) return Effect.succeed(receipt)
        recorder.count("queueOverflows")
        if (appended.dropped.length === 0) return Effect.succeed(receipt)
        return Effect.as(options.onDropped(peer, appended.dropped), receipt)
      }
    )
  }

  const duplicateOf = (
    peer: Peer,
    first: { readonly messageId: string; readonly epoch: string; readonly offset: number; readonly atMillis: number }
  ): Receipt => {
    recorder.count("messagesDeduplicated")
    const known = first.epoch === peer.epoch ? peer.receipts.track(first.offset) : undefined
    return {
      _tag: "Duplicate",
      session: peer.session,
      messageId: first.messageId,
      firstAtMillis: first.atMillis,
      handled: known?.handled(peer.session, first.messageId) ?? Effect.void
    }
  }

  /** Sends under a publish key: the key is marked only when the message is in the queue, and released when it isn't. */
  const sendOnce = (
    peer: Peer,
    message: NewMessage & { readonly id: string }
  ): Effect.Effect<Receipt, SendError> =>
    Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore): Effect.fn.Return<Receipt, SendError> {
      const { id: key } = message
      const scope = peer.key
      const claim = yield* deduplicator.claim({ scope, key, fingerprint: contentKey(message.payload) })
      if (claim._tag === "Duplicate") return duplicateOf(peer, claim.receipt)
      if (claim._tag === "Mismatch") return yield* new DeduplicationError({ scope, key, reason: "mismatch" })
      if (claim._tag === "InFlight") {
        const { retryAfterMillis } = claim
        return yield* new DeduplicationError({ scope, key, reason: "inFlight", retryAfterMillis })
      }
      const { leaseMillis, token } = claim
      // A sender that waits for room must not lose its key meanwhile.
      const keep = Effect.forever(
        Effect.andThen(Effect.sleep(leaseMillis / 2), Effect.ignore(deduplicator.renew({ scope, key, token })))
      )
      return yield* Effect.onExit(
        restore(Effect.raceFirst(Effect.suspend(() => append(peer, message)), keep)),
        (exit) => {
          const receipt = Exit.isSuccess(exit) ? exit.value : undefined
          if (!(receipt instanceof Tracking)) return Effect.ignore(deduplicator.release({ scope, key, token }))
          const { atMillis, epoch, offset } = receipt
          return Effect.ignore(
            deduplicator.commit({ scope, key, token, receipt: { messageId: key, epoch, offset, atMillis } })
          )
        }
      )
    }))

  /** Sends in the fiber that runs it, from inside its effect: what can be done at once is done now. */
  return (
    fiber: Fiber.Fiber<unknown, unknown>,
    peer: Peer,
    message: Out,
    sendOptions: SendOptions | undefined
  ): Effect.Effect<Receipt, SendError> => {
    const serialized = serialize(peer.session, message, Math.min(options.maxPayload, peer.peerMaxPayload))
    if (serialized instanceof PayloadError) return Effect.fail(serialized)
    const { bytes, payload } = serialized
    const trace = traceparent(fiber.cache.span)
    if (sendOptions === undefined) return append(peer, { payload, bytes, id: undefined, trace, ttlMillis: undefined })
    if (sendOptions.volatile === true) return Effect.succeed(sendVolatile(peer, payload))
    const id = sendOptions.id ?? (sendOptions.deduplicate === "content" ? contentKey(payload) : undefined)
    if (id !== undefined && (id.length === 0 || id.length > maxIdLength)) {
      return Effect.fail(payloadError(peer.session, `a message id has 1 to ${maxIdLength} characters`))
    }
    const ttlMillis = sendOptions.ttl === undefined ? undefined : millisOf(sendOptions.ttl)
    if (ttlMillis !== undefined && !(ttlMillis >= 0)) {
      return Effect.fail(payloadError(peer.session, "the ttl must be a duration"))
    }
    return id === undefined
      ? append(peer, { payload, bytes, id, trace, ttlMillis })
      : sendOnce(peer, { payload, bytes, id, trace, ttlMillis })
  }
}

/** `handled` of what the other side is not asked about. */
const neverKnown = (session: string, reason: "volatile" | "skipped"): Effect.Effect<never, DeadLetterError> =>
  Effect.suspend(() =>
    Effect.fail(new DeadLetterError({ session, messageId: "", reason, maybeHandled: reason === "volatile" }))
  )

const skipped = (session: string, reason: SkippedReason): Receipt => ({
  _tag: "Skipped",
  session,
  messageId: "",
  reason,
  handled: neverKnown(session, "skipped")
})

/** A receipt of a message in the queue: small, and what it can tell is worked out when asked. */
abstract class Tracking {
  readonly session: string
  readonly epoch: string
  readonly offset: number
  readonly atMillis: number
  private readonly id: string | undefined
  private readonly tracked: Tracked

  constructor(peer: Peer, epoch: string, offset: number, id: string | undefined, atMillis: number) {
    this.session = peer.session
    this.epoch = epoch
    this.offset = offset
    this.atMillis = atMillis
    this.id = id
    this.tracked = peer.receipts.track(offset)
  }

  get messageId(): string {
    return this.id ?? defaultMessageId(this.epoch, this.offset)
  }

  get handled(): Effect.Effect<void, DeadLetterError> {
    return this.tracked.handled(this.session, this.messageId)
  }
}

class Accepted extends Tracking {
  readonly _tag = "Sent"
}

class Waiting extends Tracking {
  readonly _tag = "Queued"
  readonly reason: QueuedReason

  constructor(
    peer: Peer,
    epoch: string,
    offset: number,
    id: string | undefined,
    atMillis: number,
    reason: QueuedReason
  ) {
    super(peer, epoch, offset, id, atMillis)
    this.reason = reason
  }
}

/** In ms; NaN for what is no duration. */
const millisOf = (input: Duration.Input): number =>
  Option.getOrElse(Option.map(Duration.fromInput(input), Duration.toMillis), () => Number.NaN)

/** The W3C form of the span that sends, if there is one. */
const traceparent = (span: Tracer.AnySpan | undefined): string | undefined =>
  span === undefined
    ? undefined
    : `00-${span.traceId.padStart(32, "0")}-${span.spanId}-${span.sampled ? "01" : "00"}`
