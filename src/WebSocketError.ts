/**
 * Every way this library fails, as typed errors in one union, {@link WebSocketError}.
 *
 * No untyped exception crosses a public boundary. Each error carries what is needed to act on it: which
 * session, which limit, when to try again. `Effect.catchTags` over the union is exhaustive. The tag of each is its class
 * with the package before it, as in `"resilient-websocket/QueueOverflowError"`: a program has errors of many libraries
 * in one channel, and names such as `TransportError` are common.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"

const Millis = Schema.Number
const Count = Schema.Number
const Cause = Schema.optional(Schema.Defect())

/**
 * The message queue's store failed, or refused a write of a stale owner (`reason: "fenced"`). With `inDoubt`, nobody
 * knows whether it did what it was asked before it failed: a message that was to be sent may have been stored all the
 * same. To send it again safely, use the same `id`.
 *
 * @since 0.1.0
 * @category errors
 */
export class MessageQueueError
  extends Schema.TaggedError<MessageQueueError>()("resilient-websocket/MessageQueueError", {
    session: Schema.String,
    operation: Schema.String,
    reason: Schema.Literals(["store", "fenced", "unknownSession"]),
    /** It may have been done all the same. Default: it was not. */
    inDoubt: Schema.optional(Schema.Boolean),
    cause: Cause
  })
{
  override get message() {
    const doubt = this.inDoubt === true ? ", and may have been done all the same" : ""
    return `message queue: ${this.operation} failed for session ${this.session} (${this.reason}${doubt})`
  }
}

/**
 * A bound of the message queue was reached and the overflow policy is `reject`, or `suspend` waited too long. Nothing
 * of the batch was stored. `retryAfterMillis` is a hint, if there is one.
 *
 * @since 0.1.0
 * @category errors
 */
export class QueueOverflowError
  extends Schema.TaggedError<QueueOverflowError>()("resilient-websocket/QueueOverflowError", {
    session: Schema.String,
    limit: Schema.Literals(["messages", "bytes", "totalMessages", "totalBytes", "shareMessages", "shareBytes"]),
    bound: Count,
    size: Count,
    retryAfterMillis: Schema.optional(Millis)
  })
{
  override get message() {
    return `the queue of session ${this.session} is full: ${this.size} of ${this.bound} (${this.limit})`
  }
}

/**
 * A publish key could not be claimed: it was used with other content (`mismatch`), it is in use right now (`inFlight`,
 * try again after `retryAfterMillis`), there is no room for more keys (`full`), or the store failed.
 *
 * @since 0.1.0
 * @category errors
 */
export class DeduplicationError
  extends Schema.TaggedError<DeduplicationError>()("resilient-websocket/DeduplicationError", {
    scope: Schema.String,
    key: Schema.String,
    reason: Schema.Literals(["mismatch", "inFlight", "full", "store"]),
    retryAfterMillis: Schema.optional(Millis),
    cause: Cause
  })
{
  override get message() {
    return `deduplication of key ${this.key} in ${this.scope}: ${this.reason}`
  }
}

/**
 * A circuit does not admit the call now. `retryAfterMillis` says when it will move on by itself; an isolated
 * circuit has none: it waits for `release`.
 *
 * @since 0.1.0
 * @category errors
 */
export class CircuitBreakerError
  extends Schema.TaggedError<CircuitBreakerError>()("resilient-websocket/CircuitBreakerError", {
    circuit: Schema.String,
    state: Schema.Literals(["Open", "HalfOpen", "Isolated"]),
    retryAfterMillis: Schema.optional(Millis),
    reason: Schema.optional(Schema.String)
  })
{
  override get message() {
    const reason = this.reason === undefined ? "" : `: ${this.reason}`
    return `circuit ${this.circuit} is ${this.state}${reason}`
  }
}

/**
 * Something that must happen in a given time did not: a dial, a handshake, an answer to a heartbeat, the peer's
 * acknowledgement that it received, or the socket taking what was written; or a client's `url` or `token` did not come,
 * or its store did not open the outbox.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionTimeoutError
  extends Schema.TaggedError<ConnectionTimeoutError>()("resilient-websocket/ConnectionTimeoutError", {
    phase: Schema.Literals([
      "dial",
      "handshake",
      "heartbeat",
      "ack",
      "flush",
      "idle",
      "connect",
      "url",
      "token",
      "outbox"
    ]),
    afterMillis: Millis,
    session: Schema.optional(Schema.String),
    /** For `connect`: why the last attempt failed. */
    cause: Cause
  })
{
  override get message() {
    const why = this.cause instanceof Error ? `: ${this.cause.message}` : ""
    return `no ${this.phase} within ${this.afterMillis} ms${why}`
  }
}

/**
 * The server or client is shutting down, or has: it takes no new messages.
 *
 * @since 0.1.0
 * @category errors
 */
export class ShutdownError extends Schema.TaggedError<ShutdownError>()("resilient-websocket/ShutdownError", {
  component: Schema.Literals(["server", "client"])
}) {
  override get message() {
    return `the ${this.component} is shut down`
  }
}

/**
 * No server knows this session: it never was, it ended, or its retention elapsed.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionNotFoundError
  extends Schema.TaggedError<SessionNotFoundError>()("resilient-websocket/SessionNotFoundError", {
    session: Schema.String
  })
{
  override get message() {
    return `session ${this.session} is not known`
  }
}

/**
 * The session registry's store failed, or a newer connection owns the session (`reason: "fenced"`).
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionRegistryError
  extends Schema.TaggedError<SessionRegistryError>()("resilient-websocket/SessionRegistryError", {
    session: Schema.String,
    operation: Schema.String,
    reason: Schema.Literals(["store", "fenced"]),
    cause: Cause
  })
{
  override get message() {
    return `session registry: ${this.operation} failed for session ${this.session} (${this.reason})`
  }
}

/**
 * The handshake was refused: by the authentication hook, for a wrong resume token, for an unsupported version or
 * another contract, or
 * because the server is full or draining. `retryable` says whether the same attempt may succeed later; if the server is
 * full, `bound` is the one that was reached.
 *
 * @since 0.1.0
 * @category errors
 */
export class HandshakeError extends Schema.TaggedError<HandshakeError>()("resilient-websocket/HandshakeError", {
  reason: Schema.Literals([
    "unauthorized",
    "forbidden",
    "version",
    "contract",
    "invalid",
    "overloaded",
    "draining",
    "replaced"
  ]),
  detail: Schema.String,
  retryable: Schema.Boolean,
  bound: Schema.optional(Count)
}) {
  override get message() {
    return `handshake refused (${this.reason}): ${this.detail}`
  }
}

/**
 * The peer broke the protocol: a malformed frame, an offset from the future, an ack beyond what was sent, a window
 * overrun. The connection was answered with a `reject` frame and closed; the session's state is sound.
 *
 * @since 0.1.0
 * @category errors
 */
export class ProtocolError extends Schema.TaggedError<ProtocolError>()("resilient-websocket/ProtocolError", {
  code: Schema.String,
  detail: Schema.String,
  session: Schema.optional(Schema.String)
}) {
  override get message() {
    return `protocol violation (${this.code}): ${this.detail}`
  }
}

/**
 * A message does not fit its Schema, has no form in JSON (or one that would arrive as something else), or is larger
 * than the payload limit. `path` says where in the message the fault is, as in `items[0].at`, unless it is the whole
 * message; `limitBytes` is set if size was the reason.
 *
 * @since 0.1.0
 * @category errors
 */
export class PayloadError extends Schema.TaggedError<PayloadError>()("resilient-websocket/PayloadError", {
  direction: Schema.Literals(["encode", "decode"]),
  detail: Schema.String,
  session: Schema.optional(Schema.String),
  path: Schema.optional(Schema.String),
  sizeBytes: Schema.optional(Count),
  limitBytes: Schema.optional(Count)
}) {
  override get message() {
    const place = this.path === undefined ? "" : ` at ${this.path}`
    return `payload can't be ${this.direction}d${place}: ${this.detail}`
  }
}

/**
 * The network or the socket failed: a port in use, a refused dial, a connection that broke.
 *
 * @since 0.1.0
 * @category errors
 */
export class TransportError extends Schema.TaggedError<TransportError>()("resilient-websocket/TransportError", {
  operation: Schema.Literals(["listen", "dial", "send", "receive", "register"]),
  detail: Schema.String,
  /**
   * The HTTP status that answered a dial, if that was no WebSocket of ours.
   *
   * @since 0.1.0
   */
  status: Schema.optional(Count),
  /**
   * How long the HTTP server asks to be left alone, in ms.
   *
   * @since 0.1.0
   */
  retryAfterMillis: Schema.optional(Millis),
  cause: Cause
}) {
  override get message() {
    return `transport: ${this.operation} failed: ${this.detail}`
  }
}

/**
 * Why a message could not be delivered.
 *
 * - `expired`: its TTL ran out before it was sent
 * - `overflow`: the queue's policy dropped it
 * - `tooLarge`: it is larger than the peer accepts, or connections ended at it again and again
 * - `failed`: the receiver's handler failed, even after its retries
 * - `rejected`: the receiver's handler refused it with {@link MessageRejected}, which says why
 * - `undecodable`: the receiver could not decode it
 * - `sessionEnded`: the session ended or its retention elapsed
 * - `fresh`: the peer lost its state, so what it had not acknowledged is given back
 * - `shutdown`: this side closed with the message still waiting and nowhere durable to keep it
 * - `skipped`: it did not go out, because it was volatile or because the queue's policy took no new message
 * - `volatile`: it was volatile and went out, so nobody will say whether it was handled
 *
 * @since 0.1.0
 * @category models
 */
export const DeadLetterReason = Schema.Literals([
  "expired",
  "overflow",
  "tooLarge",
  "failed",
  "rejected",
  "undecodable",
  "sessionEnded",
  "fresh",
  "shutdown",
  "skipped",
  "volatile"
])
/** @since 0.1.0 @category models */
export type DeadLetterReason = typeof DeadLetterReason.Type

/**
 * For a handler to fail with when its message can never be handled: it is not retried, and becomes a dead letter on both
 * sides. The sender's has the reason `rejected` and this `detail`, of which 512 bytes of UTF-8 arrive.
 *
 * @since 0.1.0
 * @category errors
 */
export class MessageRejected extends Schema.TaggedError<MessageRejected>()("resilient-websocket/MessageRejected", {
  detail: Schema.String
}) {
  override get message() {
    return `the message is rejected: ${this.detail}`
  }
}

/**
 * What awaiting a receipt's `handled` fails with: the message became a dead letter.
 *
 * `maybeHandled` is true if it was sent on a connection that broke, so that the other side may have handled it unknown
 * to us; it is false if it certainly was not handled.
 *
 * @since 0.1.0
 * @category errors
 */
export class DeadLetterError extends Schema.TaggedError<DeadLetterError>()("resilient-websocket/DeadLetterError", {
  session: Schema.String,
  messageId: Schema.String,
  reason: DeadLetterReason,
  /** With the reason `rejected`: why. */
  detail: Schema.optional(Schema.String),
  maybeHandled: Schema.Boolean
}) {
  override get message() {
    const session = this.session === "" ? "" : ` of session ${this.session}`
    const detail = this.detail === undefined ? "" : `: ${this.detail}`
    return `message ${this.messageId}${session} became a dead letter (${this.reason}${detail})`
  }
}

/**
 * The Schema of {@link WebSocketError}: errors can be logged, stored and sent as data.
 *
 * @since 0.1.0
 * @category errors
 */
export const WebSocketError = Schema.Union([
  MessageQueueError,
  QueueOverflowError,
  DeduplicationError,
  CircuitBreakerError,
  ConnectionTimeoutError,
  ShutdownError,
  SessionNotFoundError,
  SessionRegistryError,
  HandshakeError,
  ProtocolError,
  PayloadError,
  TransportError,
  DeadLetterError
])

// Without this, Node shows the fields alone: no message, and no stack.
for (const { prototype } of WebSocketError.members) {
  Object.defineProperty(prototype, Symbol.for("nodejs.util.inspect.custom"), {
    value(this: Error, depth: number, options: object, inspect: (value: unknown, options: object) => string): string {
      return inspect(this, { ...options, depth, customInspect: false })
    }
  })
}

/**
 * Everything this library can fail with.
 *
 * @since 0.1.0
 * @category errors
 */
export type WebSocketError = typeof WebSocketError.Type

/**
 * Whether this is an error of this library.
 *
 * @since 0.1.0
 * @category guards
 */
export const isWebSocketError: (u: unknown) => u is WebSocketError = Schema.is(WebSocketError)

/**
 * The Schema of {@link ConnectError}.
 *
 * @since 0.1.0
 * @category errors
 */
export const ConnectError = Schema.Union([
  TransportError,
  ConnectionTimeoutError,
  CircuitBreakerError,
  HandshakeError,
  ProtocolError,
  SessionNotFoundError,
  MessageQueueError
])

/**
 * Why a client is not connected, or has lost its connection.
 *
 * @since 0.1.0
 * @category errors
 */
export type ConnectError = typeof ConnectError.Type

/**
 * Why a server has not taken a connection, or has lost one.
 *
 * @since 0.1.0
 * @category errors
 */
export type AcceptError =
  | TransportError
  | ConnectionTimeoutError
  | HandshakeError
  | ProtocolError
  | MessageQueueError
  | SessionRegistryError

/**
 * What `locate` fails with: the stores that know where a message is.
 *
 * @since 0.1.0
 * @category errors
 */
export type LocateError = MessageQueueError | DeduplicationError
