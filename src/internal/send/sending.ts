/** From `send` to the queue: encode, check, deduplicate, append, and the receipt. Server and client use the same. */
import { type Duration, Effect, Exit, type Fiber } from "effect"
import type { CircuitBreaker } from "../../CircuitBreaker.ts"
import type { OutboxMessage } from "../../core/Outbox.ts"
import { highWaterBytes } from "../../core/Protocol.ts"
import { idRule, isId } from "../../core/Text.ts"
import { contentKey, type Deduplicator } from "../../Deduplicator.ts"
import type { QueuedReason, Receipt, SendAllOptions, SendOptions, SkippedReason } from "../../Message.ts"
import type { Appended, MessageQueue, NewMessage } from "../../MessageQueue.ts"
import type { Recorder } from "../../Metrics.ts"
import {
  DeduplicationError,
  type MessageQueueError,
  PayloadError,
  type QueueOverflowError
} from "../../WebSocketError.ts"
import { millisOf, wrongName } from "../kit/options.ts"
import * as Shapes from "../kit/shapes.ts"
import { steady } from "../kit/time.ts"
import { traceparent } from "../kit/traces.ts"
import { isCircuitOpen } from "../session/inspect.ts"
import type { Peer } from "../session/peer.ts"
import { RemoteSession, type Target } from "../session/remote.ts"
import { Accepted, neverKnown, skipped, Tracking, Waiting } from "../session/sentReceipts.ts"
import { payloadError, type Serialize } from "./payload.ts"

/** Volatile messages that may wait for one turn of the delivery worker. */
const maxVolatile = 1_024

/** In the receipt of a publish key: the message was volatile, and was in no outbox. */
const volatileEpoch = "volatile"

export type SendError = PayloadError | QueueOverflowError | MessageQueueError | DeduplicationError

export interface SendingOptions<Out> {
  readonly queue: MessageQueue["Service"]
  readonly deduplicator: Deduplicator["Service"]
  /** Whether messages take the sender's span along. */
  readonly isTraced: boolean
  readonly breaker: CircuitBreaker["Service"]
  readonly recorder: Recorder
  readonly serialize: Serialize<Out>
  readonly maxPayload: number
  readonly markDirty: (peer: Peer) => void
  /**
   * Who has the outbox of this epoch by now, for shared queues: the session may have moved between an append and its
   * answer.
   */
  readonly ownerOf?: ((session: string, epoch: string) => Target) | undefined
  /** Messages that the policy dropped to make room. */
  readonly onDropped: OnDropped
}

export type OnDropped = (target: Target, epoch: string, messages: ReadonlyArray<OutboxMessage>) => Effect.Effect<void>

export class Sending<Out> {
  private readonly options: SendingOptions<Out>
  private readonly queue: MessageQueue["Service"]
  private readonly recorder: Recorder

  constructor(options: SendingOptions<Out>) {
    this.options = options
    this.queue = options.queue
    this.recorder = options.recorder
  }

  private skipVolatile(peer: Target, reason: SkippedReason): Receipt {
    this.recorder.count("messagesVolatileSkipped")
    return skipped(peer.session, reason)
  }

  private sendVolatile(peer: Target, payload: string, trace: string | undefined, id = ""): Receipt {
    if (peer.link === undefined) return this.skipVolatile(peer, "disconnected")
    if (isCircuitOpen(this.options.breaker, peer)) return this.skipVolatile(peer, "circuitOpen")
    const { link } = peer
    if (link.connection.buffered() >= highWaterBytes || link.volatileCount >= maxVolatile) {
      return this.skipVolatile(peer, "backpressure")
    }
    link.addVolatile(payload, trace)
    this.options.markDirty(peer)
    return {
      _tag: "Sent",
      session: peer.session,
      messageId: id,
      handled: neverKnown(peer.session, "volatile", id)
    }
  }

  /** Why a message does not go out at once. */
  private waitsFor(peer: Target): QueuedReason | undefined {
    if (peer.link === undefined) return peer instanceof RemoteSession ? "elsewhere" : "disconnected"
    return isCircuitOpen(this.options.breaker, peer) ? "circuitOpen" : peer.link.stalled
  }

  private receiptOf(peer: Target, appended: Appended, id: string | undefined): Receipt {
    if (appended.first === undefined) return skipped(peer.session, "overflow")
    const reason = this.waitsFor(peer)
    if (reason === undefined) return new Accepted(peer, appended.epoch, appended.first, id, appended.enqueuedAt)
    this.recorder.count("messagesQueued")
    return new Waiting(peer, appended.epoch, appended.first, id, appended.enqueuedAt, reason)
  }

  /** The receipt of message number `index`, from 0, of those that were appended together. */
  private receiptOfNth(peer: Target, appended: Appended, index: number, id: string | undefined): Receipt {
    return this.receiptOf(
      peer,
      index === 0 || appended.first === undefined ? appended : { ...appended, first: appended.first + index },
      id
    )
  }

  private ownerOf(peer: Target, epoch: string): Target {
    return this.options.ownerOf?.(peer.key, epoch) ?? peer
  }

  /** Finishes an append that was not done at once. */
  private settle<A>(
    peer: Target,
    appended: Appended,
    then: (owner: Target, appended: Appended) => A
  ): Effect.Effect<A> {
    const { dropped, epoch, first } = appended
    const owner = this.ownerOf(peer, epoch)
    const result = then(owner, appended)
    if (first === undefined || dropped.length > 0) this.recorder.count("queueOverflows")
    return dropped.length === 0
      ? Effect.succeed(result)
      : Effect.as(this.options.onDropped(owner, epoch, dropped), result)
  }

  private countOverflow(error: { readonly _tag: string }): void {
    if (error._tag === "resilient-websocket/QueueOverflowError") this.recorder.count("queueOverflows")
  }

  /** Appends with the queue's own effect: a store, or a queue that must wait, drop or refuse. */
  private appendSlowly<A>(
    peer: Target,
    batch: ReadonlyArray<NewMessage>,
    then: (owner: Target, appended: Appended) => A
  ): Effect.Effect<A, MessageQueueError | QueueOverflowError> {
    return Effect.matchEffect(this.queue.append(peer.key, batch), {
      onFailure: (error) => {
        this.countOverflow(error)
        return Effect.fail(error)
      },
      onSuccess: (appended) => this.settle(peer, appended, then)
    })
  }

  private append(
    peer: Target,
    message: NewMessage
  ): Effect.Effect<Receipt, MessageQueueError | QueueOverflowError> {
    const batch = [message]
    const appended = this.queue.append.unsafe?.(peer.key, batch)
    return appended === undefined
      ? this.appendSlowly(peer, batch, (owner, later) => this.receiptOf(owner, later, message.id))
      : Effect.succeed(this.receiptOf(peer, appended, message.id))
  }

  private duplicateOf(
    peer: Target,
    first: { readonly messageId: string; readonly epoch: string; readonly offset: number; readonly atMillis: number }
  ): Receipt {
    this.recorder.count("messagesDeduplicated")
    const owner = this.ownerOf(peer, first.epoch)
    const known = first.epoch === owner.epoch ? owner.receipts.find(first.offset) : undefined
    const handled = first.epoch === volatileEpoch ? neverKnown(peer.session, "volatile", first.messageId) : Effect.void
    return {
      _tag: "Duplicate",
      session: peer.session,
      messageId: first.messageId,
      firstAtMillis: first.atMillis,
      handled: known?.settled(peer.session, first.messageId) ?? handled
    }
  }

  /** Sends under a publish key to a queue that stores both in one step. */
  private sendOnceAtomically(
    peer: Target,
    message: NewMessage & { readonly id: string },
    appendOnce: NonNullable<MessageQueue["Service"]["appendOnce"]>
  ): Effect.Effect<Receipt, SendError> {
    return Effect.matchEffect(appendOnce(peer.key, message, contentKey(message.payload)), {
      onFailure: (error) => {
        this.countOverflow(error)
        return Effect.fail(error)
      },
      onSuccess: (result) =>
        result._tag === "Duplicate"
          ? Effect.succeed(this.duplicateOf(peer, result.receipt))
          : this.settle(peer, result.appended, (owner, appended) => this.receiptOf(owner, appended, message.id))
    })
  }

  /** Sends under a publish key: the key is committed once the message is in the queue, and released if it isn't. */
  private sendOnce(
    peer: Target,
    message: NewMessage & { readonly id: string }
  ): Effect.Effect<Receipt, SendError> {
    const { deduplicator } = this.options
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen({ self: this }, function*(): Effect.fn.Return<Receipt, SendError> {
        const { id: key } = message
        const scope = peer.key
        const claim = yield* deduplicator.claim({ scope, key, fingerprint: contentKey(message.payload) })
        if (claim._tag === "Duplicate") return this.duplicateOf(peer, claim.receipt)
        if (claim._tag === "Mismatch") return yield* new DeduplicationError({ scope, key, reason: "mismatch" })
        if (claim._tag === "InFlight") {
          const { retryAfterMillis } = claim
          return yield* new DeduplicationError({ scope, key, reason: "inFlight", retryAfterMillis })
        }
        const { leaseMillis, token } = claim
        // A sender must not lose its key while it waits for room.
        const keep = Effect.forever(
          Effect.andThen(
            Effect.sleep(leaseMillis / 2),
            Effect.ignore(deduplicator.renew({ scope, key, token }))
          )
        )
        return yield* Effect.onExit(
          restore(Effect.raceFirst(Effect.suspend(() => this.append(peer, message)), keep)),
          (exit) => {
            const receipt = Exit.isSuccess(exit) ? exit.value : undefined
            if (!(receipt instanceof Tracking)) {
              return Effect.ignore(deduplicator.release({ scope, key, token }))
            }
            const { atMillis, epoch, offset } = receipt
            return Effect.ignore(
              deduplicator.commit({
                scope,
                key,
                token,
                receipt: { messageId: key, epoch, offset, atMillis }
              })
            )
          }
        )
      })
    )
  }

  /** The same for a volatile message: its key is free again if it did not go out. */
  private sendVolatileOnce(
    peer: Target,
    payload: string,
    trace: string | undefined,
    id: string
  ): Effect.Effect<Receipt, SendError> {
    return Effect.flatMap(steady, (now) => {
      const atMillis = now()
      const attempt = Effect.suspend((): Effect.Effect<Receipt, Receipt> => {
        const receipt = this.sendVolatile(peer, payload, trace, id)
        return receipt._tag === "Skipped" ? Effect.fail(receipt) : Effect.succeed(receipt)
      })
      const request = { scope: peer.key, key: id, fingerprint: contentKey(payload) }
      const once = this.options.deduplicator.once<Receipt>(
        request,
        () => ({ messageId: id, epoch: volatileEpoch, offset: 0, atMillis })
      )
      return Effect.matchEffect(once(attempt), {
        onFailure: (failure) =>
          failure._tag === "resilient-websocket/DeduplicationError"
            ? Effect.fail(failure)
            : Effect.succeed<Receipt>(failure),
        onSuccess: (result) =>
          Effect.succeed(result._tag === "Ran" ? result.value : this.duplicateOf(peer, result.receipt))
      })
    })
  }

  private limitOf(peer: Target): number {
    return Math.min(this.options.maxPayload, peer.peerMaxPayload)
  }

  /** Sends from inside the effect of `fiber`, at once where it can. */
  send(
    fiber: Fiber.Fiber<unknown, unknown>,
    peer: Target,
    message: Out,
    sendOptions: SendOptions | undefined
  ): Effect.Effect<Receipt, SendError> {
    const serialized = this.options.serialize(peer.session, message, this.limitOf(peer))
    if (serialized instanceof PayloadError) return Effect.fail(serialized)
    const { bytes, payload } = serialized
    const trace = this.options.isTraced ? traceparent(fiber) : undefined
    if (sendOptions === undefined) {
      return this.append(peer, { payload, bytes, id: undefined, trace, ttlMillis: undefined })
    }
    const fault = faultOf(sendOptions)
    if (fault !== undefined) return Effect.fail(payloadError(peer.session, fault))
    const { volatile = false } = sendOptions
    const id = sendOptions.id === undefined && sendOptions.deduplicate === "content"
      ? contentKey(payload)
      : sendOptions.id
    if (id !== undefined && !isId(id)) {
      return Effect.fail(payloadError(peer.session, `a message id has ${idRule}`))
    }
    const ttlMillis = ttlMillisOf(peer.session, sendOptions.ttl)
    if (ttlMillis instanceof PayloadError) return Effect.fail(ttlMillis)
    if (volatile) {
      return id === undefined
        ? Effect.succeed(this.sendVolatile(peer, payload, trace))
        : this.sendVolatileOnce(peer, payload, trace, id)
    }
    if (id === undefined) return this.append(peer, { payload, bytes, id, trace, ttlMillis })
    const keyed = { payload, bytes, id, trace, ttlMillis }
    return this.queue.appendOnce === undefined
      ? this.sendOnce(peer, keyed)
      : this.sendOnceAtomically(peer, keyed, this.queue.appendOnce)
  }

  /** All or none: one message that can't be encoded, or has no room, keeps out the others. */
  sendAll(
    fiber: Fiber.Fiber<unknown, unknown>,
    peer: Target,
    messages: Iterable<Out>,
    sendOptions: SendAllOptions | undefined
  ): Effect.Effect<ReadonlyArray<Receipt>, SendError> {
    const trace = this.options.isTraced ? traceparent(fiber) : undefined
    const ttlMillis = ttlMillisIn(peer.session, sendOptions, Shapes.sendAll)
    if (ttlMillis instanceof PayloadError) return Effect.fail(ttlMillis)
    const batch: Array<NewMessage> = []
    for (const message of messages) {
      const serialized = this.options.serialize(peer.session, message, this.limitOf(peer))
      if (serialized instanceof PayloadError) return Effect.fail(serialized)
      batch.push({ payload: serialized.payload, bytes: serialized.bytes, id: undefined, trace, ttlMillis })
    }
    if (batch.length === 0) return Effect.succeed([])
    const receipts = (owner: Target, appended: Appended) =>
      batch.map((_, index) => this.receiptOfNth(owner, appended, index, undefined))
    const appended = this.queue.append.unsafe?.(peer.key, batch)
    return appended === undefined ? this.appendSlowly(peer, batch, receipts) : Effect.succeed(receipts(peer, appended))
  }
}

/** What is wrong with the options of a send, except those that are checked when they are read. */
const faultOf = (options: SendOptions): string | undefined => {
  const wrong = wrongName(options, Shapes.send)
  if (wrong !== undefined) return wrong
  const { deduplicate, volatile } = options
  if (volatile !== undefined && typeof volatile !== "boolean") return "option volatile must be true or false"
  return deduplicate === undefined || deduplicate === "content" ? undefined : `option deduplicate must be "content"`
}

/** The time to live in the options, whose names it checks too. */
export const ttlMillisIn = (
  session: string,
  options: SendAllOptions | undefined,
  names: Readonly<Record<string, true>>
): number | undefined | PayloadError => {
  if (options === undefined) return undefined
  const wrong = wrongName(options, names)
  return wrong === undefined ? ttlMillisOf(session, options.ttl) : payloadError(session, wrong)
}

/** A time to live in ms; undefined if none is given. */
const ttlMillisOf = (session: string, ttl: Duration.Input | undefined): number | undefined | PayloadError => {
  if (ttl === undefined) return undefined
  const millis = millisOf(ttl)
  return millis >= 0 ? millis : payloadError(session, "the ttl must be a duration")
}
