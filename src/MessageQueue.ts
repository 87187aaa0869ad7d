/**
 * The outbox log as a service: for each session, in order, the messages accepted and not yet handled by the peer.
 *
 * **Details.** Appending gives offsets without holes; reading never removes; a cumulative ack frees. What expires or is
 * dropped leaves a gap in its slot, which the peer learns of, and goes back to the caller to become a dead letter.
 * Owners' writes carry the session's generation and are refused once a newer owner has opened the session; appends
 * carry none, so that any fiber or server may send.
 *
 * **Gotchas.** A message that was read may be at the peer, so it can't expire or be dropped until a reconnect has shown
 * what became of it.
 *
 * @since 0.1.0
 */
import { type Config, Context, Duration, Effect, Layer, type Scope } from "effect"
import type { Failure, OutboxPosition } from "./core/Frame.ts"
import type { AckResult, OutboxMessage, ReadLimit, ReadResult } from "./core/Outbox.ts"
import type { FateReason } from "./core/Protocol.ts"
import type { Receipt } from "./Deduplicator.ts"
import { fromConfig } from "./internal/kit/options.ts"
import { makeMemory } from "./internal/memory/memoryQueue.ts"
import type { DeduplicationError, MessageQueueError, QueueOverflowError } from "./WebSocketError.ts"

export type { Failure, OutboxPosition } from "./core/Frame.ts"
export type { AckResult, OutboxGap, OutboxMessage, ReadLimit, ReadResult } from "./core/Outbox.ts"
export type { FailureReason, FateReason, GapReason } from "./core/Protocol.ts"

/**
 * A message to append: its JSON text, that text's size in bytes as UTF-8, and what travels with it.
 *
 * @since 0.1.0
 * @category models
 */
export interface NewMessage {
  readonly payload: string
  readonly bytes: number
  /** The publisher's id; without one the id is `<epoch>-<offset>`. */
  readonly id?: string | undefined
  /** W3C `traceparent`. */
  readonly trace?: string | undefined
  /** Overrides the queue's TTL, in ms; `Infinity` never expires. */
  readonly ttlMillis?: number | undefined
}

/**
 * What an append did.
 *
 * @since 0.1.0
 * @category models
 */
export interface Appended {
  readonly epoch: string
  /** Offset of the first message appended; undefined when the policy `dropNewest` took none. */
  readonly first: number | undefined
  readonly enqueuedAt: number
  /** What the policy `dropOldest` dropped to make room. */
  readonly dropped: ReadonlyArray<OutboxMessage>
}

/**
 * What an append under a publish key did: the same as `append`, or nothing because the key had been used.
 *
 * @since 0.1.0
 * @category models
 */
export type AppendedOnce =
  | { readonly _tag: "Appended"; readonly appended: Appended }
  /** `receipt` is of the first append. */
  | { readonly _tag: "Duplicate"; readonly receipt: Receipt }

/**
 * Messages of one outbox that were given up.
 *
 * @since 0.1.0
 * @category models
 */
export interface Expired {
  readonly session: string
  readonly epoch: string
  readonly messages: ReadonlyArray<OutboxMessage>
  /**
   * Default `expired`. It is `overflow` if they were dropped for others whose append then failed, or the peer's reason
   * if its failure was learnt late.
   */
  readonly reason?: FateReason | undefined
}

/**
 * How far an outbox has come, for those who sent to it and don't deliver it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Progress {
  readonly epoch: string
  /** Everything up to here is done with. */
  readonly acked: number
  /** What was given up, as far as it is remembered, in no order. */
  readonly dead: ReadonlyArray<{
    readonly first: number
    readonly end: number
    readonly reason: FateReason
    readonly maybeHandled: boolean
  }>
}

/**
 * What a full queue does with a new message: refuse it with `QueueOverflowError`, drop the oldest waiting one, drop the
 * new one, or let the sender wait for room. What may be at the peer can't be dropped; with `dropOldest`, at most half
 * of the bound is in flight.
 *
 * @since 0.1.0
 * @category models
 */
export type OverflowPolicy = "reject" | "dropOldest" | "dropNewest" | "suspend"

/**
 * Where a message is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Located {
  readonly state: "waiting" | "sent"
  readonly offset: number
  readonly enqueuedAt: number
}

/**
 * Sizes and totals of a queue. Bytes are of payloads.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly sessions: number
  readonly messages: number
  readonly bytes: number
  /** Fibers that wait for room under the policy `suspend`. */
  readonly suspended: number
  readonly appended: number
  readonly acknowledged: number
  readonly expired: number
  /** How often a bound was met, whatever the policy did. */
  readonly overflows: number
  /**
   * Positions of messages that the store turned out to have lost, for example in a failover to a replica that lagged:
   * they are skipped. Queues that lose nothing leave it out.
   *
   * @since 0.1.0
   */
  readonly lost?: number | undefined
}

/**
 * Where an outbox stands that was opened.
 *
 * @since 0.1.0
 * @category models
 */
export interface Opened extends OutboxPosition {
  /**
   * The store may have lost its newest messages: call `recover` with what the peer has received as soon as that is
   * known.
   */
  readonly isUncertain?: boolean | undefined
}

/**
 * An operation of a queue. A queue in memory may offer it without an effect: `unsafe` is called from inside a running
 * effect, and returns undefined if the effect is needed after all: for a failure, a decision or a wait.
 *
 * @since 0.1.0
 * @category models
 */
export interface Operation<Args extends ReadonlyArray<unknown>, A, E> {
  (...args: Args): Effect.Effect<A, E>
  readonly unsafe?: ((...args: Args) => A | undefined) | undefined
}

/** @since 0.1.0 @category services */
export interface Interface {
  /** Whether messages outlive this process. */
  readonly durable: boolean
  /**
   * Opens (or creates, minting an epoch) the session's outbox for the owner of `generation`; fences older owners. From
   * now on its contents count for its `share`: all outboxes of a share together have a part of the bounds on the whole
   * queue. An outbox without a share has only its own bounds.
   */
  readonly open: (
    session: string,
    generation: number,
    share?: string
  ) => Effect.Effect<Opened, MessageQueueError>
  /** Appends all messages or none. Fails with reason `unknownSession` when the outbox was never opened. */
  readonly append: Operation<
    [session: string, messages: ReadonlyArray<NewMessage>],
    Appended,
    MessageQueueError | QueueOverflowError
  >
  /**
   * Appends one message under its publish key, the `id`, in one step with the key: for stores that can. Fails with a
   * `DeduplicationError` if the key is in use, or was used for something else. Other stores leave it out; their key is
   * claimed and committed around `append`, and a crash in between forgets it.
   */
  readonly appendOnce?:
    | ((
      session: string,
      message: NewMessage & { readonly id: string },
      fingerprint: string
    ) => Effect.Effect<AppendedOnce, MessageQueueError | QueueOverflowError | DeduplicationError>)
    | undefined
  /** Reads what comes after offset `after`, which is what the peer received. Expired messages come as gaps. */
  readonly read: Operation<
    [session: string, generation: number, after: number, limit: ReadLimit],
    ReadResult,
    MessageQueueError
  >
  /** The peer handled everything up to `upTo`, save `failed`. Idempotent. */
  readonly ack: Operation<
    [session: string, generation: number, upTo: number, failed: ReadonlyArray<Failure>],
    AckResult,
    MessageQueueError
  >
  /**
   * The peer has received up to `last`. If that is more than there is, the store lost its newest messages: their
   * offsets stay taken, and the next message comes after them.
   */
  readonly recover: (
    session: string,
    generation: number,
    last: number
  ) => Effect.Effect<OutboxPosition, MessageQueueError>
  /** Takes out what the peer may or may not have handled, leaving a gap with reason `fresh`. */
  readonly giveBackSent: (
    session: string,
    generation: number
  ) => Effect.Effect<ReadonlyArray<OutboxMessage>, MessageQueueError>
  /** Ends the outbox. The first `maybeHandled` of the messages may have been handled. */
  readonly remove: (
    session: string
  ) => Effect.Effect<
    { readonly messages: ReadonlyArray<OutboxMessage>; readonly maybeHandled: number; readonly epoch: string },
    MessageQueueError
  >
  /** Expires what is due in the sessions that `owns` says are the caller's, in time proportional to what is due. */
  readonly expire: (owns: (session: string) => boolean) => Effect.Effect<ReadonlyArray<Expired>, MessageQueueError>
  /** Where the message with this id is, if it is here. O(messages of the session). */
  readonly find: (session: string, messageId: string) => Effect.Effect<Located | undefined, MessageQueueError>
  readonly size: (
    session: string
  ) => Effect.Effect<{ readonly messages: number; readonly bytes: number }, MessageQueueError>
  /**
   * Calls `listener` with a session whenever anybody appends to it, until the scope closes. The listener must return at
   * once and not throw. It wakes the owner's delivery.
   */
  readonly onAppend: (listener: (session: string) => void) => Effect.Effect<void, never, Scope.Scope>
  /**
   * Calls `listener` when an outbox that was opened here is opened for a newer generation, perhaps by another server,
   * or removed (generation `Infinity`); until the scope closes. It is a hint: an owner that misses it finds out when it
   * is refused.
   */
  readonly onMoved: (
    listener: (session: string, generation: number) => void
  ) => Effect.Effect<void, never, Scope.Scope>
  /** How far outboxes have come; undefined for one that is not there. `dead` has what was given up after `after`. */
  readonly progress: (
    requests: ReadonlyArray<{ readonly session: string; readonly after: number }>
  ) => Effect.Effect<ReadonlyArray<Progress | undefined>, MessageQueueError>
  readonly stats: Effect.Effect<Stats>
}

/**
 * The outbox log of a server (all its sessions) or of a client (its one).
 *
 * @since 0.1.0
 * @category services
 */
export class MessageQueue extends Context.Service<MessageQueue, Interface>()("resilient-websocket/MessageQueue") {}

/**
 * Bounds and times of a queue.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Messages a session. Default 1,000. */
  readonly maxMessages?: number | undefined
  /** Payload bytes a session. Default 16 MiB. */
  readonly maxBytes?: number | undefined
  /**
   * Messages in all sessions together. The last eighth is kept for shares that have little (`shareOf` of the server):
   * of n shares that have anything, each may have an n-th of what is left there. The eighth before that is kept in the
   * same way for those sessions of a share that have little. Default 1,000,000.
   */
  readonly maxTotalMessages?: number | undefined
  /**
   * Payload bytes in all sessions together, with the last eighths as for `maxTotalMessages`. In memory, a message
   * counts as what it takes there: its payload, at two bytes a character unless all are ASCII, and 160 bytes more.
   * Default 256 MiB, in memory 128 MiB.
   */
  readonly maxTotalBytes?: number | undefined
  /** How long a message may wait to be sent. `Infinity` for ever. Default 5 minutes. */
  readonly ttl?: Duration.Input | undefined
  /** What a full queue does. Default `reject`. */
  readonly overflow?: OverflowPolicy | undefined
  /** How long `suspend` waits for room before the send fails with `QueueOverflowError`. Default for ever. */
  readonly suspendTimeout?: Duration.Input | undefined
}

/**
 * A queue in this process's memory: survives cut connections, not the process.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: Options = {}): Layer.Layer<MessageQueue> =>
  Layer.effect(MessageQueue, makeMemory(options))

/**
 * `layerMemory` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemoryConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<MessageQueue, Config.ConfigError> => fromConfig(options, layerMemory)
