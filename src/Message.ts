/**
 * What goes in and out: incoming messages, receipts of sent ones, dead letters, gaps.
 *
 * @since 0.1.0
 */
import type { Duration, Effect, Tracer } from "effect"
import { parentOf } from "./internal/kit/traces.ts"
import type { Incoming, QueuedReason, SkippedReason } from "./internal/session/models.ts"
import type {
  DeadLetterError,
  MessageQueueError,
  PayloadError,
  QueueOverflowError,
  SessionNotFoundError
} from "./WebSocketError.ts"

export type { SendError } from "./internal/send/sending.ts"
export type { DeadLetter, Incoming, MessageGap, QueuedReason, SkippedReason } from "./internal/session/models.ts"

/**
 * Options of a send.
 *
 * @since 0.1.0
 * @category models
 */
export interface SendOptions {
  /**
   * A publish key: within the deduplication window, a second send with this id is not sent, but answered with the first
   * receipt. It becomes the message id. At most 256 characters.
   */
  readonly id?: string | undefined
  /** Uses a hash of the content as the id if none is given: the same content twice is sent once. */
  readonly deduplicate?: "content" | undefined
  /** How long the message may wait to be sent. Default: the queue's TTL. */
  readonly ttl?: Duration.Input | undefined
  /** Goes out if the connection is up and takes it now; otherwise it is skipped and reported so. Default false. */
  readonly volatile?: boolean | undefined
}

interface ReceiptBase {
  readonly session: string
  readonly messageId: string
  /**
   * Succeeds when the other side's handler has; fails with the dead letter's reason if it never will. It costs nothing
   * until it is run.
   */
  readonly handled: Effect.Effect<void, DeadLetterError>
}

/**
 * What became of a send, at once: it goes out now, it waits, it was sent before, or it was not taken.
 *
 * @since 0.1.0
 * @category models
 */
export type Receipt =
  | (ReceiptBase & { readonly _tag: "Sent" })
  | (ReceiptBase & { readonly _tag: "Queued"; readonly reason: QueuedReason })
  /** `messageId`, `handled` and `firstAtMillis` are of the first send. */
  | (ReceiptBase & { readonly _tag: "Duplicate"; readonly firstAtMillis: number })
  | (ReceiptBase & { readonly _tag: "Skipped"; readonly reason: SkippedReason })

/**
 * Options of `sendAll`.
 *
 * @since 0.1.0
 * @category models
 */
export interface SendAllOptions {
  /** How long each message may wait to be sent. Default: the queue's TTL. */
  readonly ttl?: Duration.Input | undefined
}

/**
 * Options of servers and clients: the spans of messages. A message takes the span that sent it along, so that its
 * handler's, every attempt of it, is in the same trace.
 *
 * @since 0.1.0
 * @category models
 */
export interface TracingOptions {
  /**
   * Whether each send is a span of its own, of kind `producer`. Default: false, so that a message costs none, and its
   * handler's span is a child of the one that sent it.
   *
   * @since 0.1.0
   */
  readonly producerSpans?: boolean | undefined
  /**
   * Goes before the names of spans, with a dot: `process app/Chat`, `send app/Chat`. Default none.
   *
   * @since 0.1.0
   */
  readonly spanPrefix?: string | undefined
  /**
   * Further attributes of every span. It has those of OpenTelemetry's messaging conventions, and no session.
   *
   * @since 0.1.0
   */
  readonly spanAttributes?: Readonly<Record<string, unknown>> | undefined
  /**
   * No spans, and messages take no span along. Default false.
   *
   * @since 0.1.0
   */
  readonly disableTracing?: boolean | undefined
}

/**
 * The span that a message was sent in, for who reads `messages` and wants to continue its trace, or to link to it.
 *
 * **Example**
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Message } from "resilient-websocket"
 * import { Shop } from "./contract.ts"
 *
 * const Orders = Effect.flatMap(Shop.Server, ({ messages }) =>
 *   Stream.runForEach(messages, (incoming) =>
 *     Effect.log(incoming.message).pipe(Effect.withSpan("order", { parent: Message.parentSpan(incoming) }))))
 * ```
 *
 * @since 0.1.0
 * @category tracing
 */
export const parentSpan = ({ trace }: Pick<Incoming<unknown>, "trace">): Tracer.ExternalSpan | undefined =>
  trace === undefined ? undefined : parentOf(trace)

/**
 * Options of `broadcast`.
 *
 * @since 0.1.0
 * @category models
 */
export interface BroadcastOptions extends SendAllOptions {
  /** The sessions; one that is named twice gets the message once. Default: all that the server has. */
  readonly sessions?: Iterable<string> | undefined
  /**
   * Besides `sessions`, those of this principal that are connected, to any server; if none is, the one that was
   * connected last. If the principal has none, `accepted` is 0.
   *
   * @since 0.1.0
   */
  readonly principal?: string | undefined
}

/**
 * A session that a broadcast could not be sent to.
 *
 * @since 0.1.0
 * @category models
 */
export interface BroadcastFailure {
  readonly session: string
  readonly error: SessionNotFoundError | PayloadError | QueueOverflowError | MessageQueueError
}

/**
 * What became of a broadcast: how many outboxes have it, how many full ones did not take it (the policy `dropNewest`),
 * and which sessions failed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Broadcast {
  readonly accepted: number
  readonly skipped: number
  readonly failures: ReadonlyArray<BroadcastFailure>
}
