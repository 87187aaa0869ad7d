/**
 * Every way in which this library fails, for programs without Effect. These are the classes of `WebSocketError` in
 * `resilient-websocket`, so that `instanceof` works with either, but in types that show nothing of Effect.
 *
 * @since 0.1.0
 */
import type { DeadLetterReason } from "../internal/session/models.ts"
import * as Errors from "../WebSocketError.ts"

/**
 * What `instanceof` needs of a class. Only the library makes errors.
 *
 * @since 0.1.0
 * @category models
 */
export interface ErrorClass<A> {
  new(...args: ConstructorParameters<ErrorConstructor>): A
  readonly prototype: A
}

/** Changes only the type, to hide the constructor's parameters. */
const errorClass = <A>(given: { readonly prototype: A }): ErrorClass<A> => given as ErrorClass<A>

interface Tagged<Tag extends string> extends Error {
  readonly _tag: Tag
}

/**
 * The queue's store failed, or refused a stale owner's write (`fenced`). With `inDoubt`, the store may have done what
 * it was asked anyway: to send again, use the same `id`.
 *
 * @since 0.1.0
 * @category errors
 */
export interface MessageQueueError extends Tagged<"resilient-websocket/MessageQueueError"> {
  readonly session: string
  readonly operation: string
  readonly reason: "store" | "fenced" | "unknownSession"
  readonly inDoubt?: boolean | undefined
}
/** @since 0.1.0 @category errors */
export const MessageQueueError: ErrorClass<MessageQueueError> = errorClass(Errors.MessageQueueError)

/**
 * The queue has reached one of its bounds. Nothing was stored.
 *
 * @since 0.1.0
 * @category errors
 */
export interface QueueOverflowError extends Tagged<"resilient-websocket/QueueOverflowError"> {
  readonly session: string
  readonly limit: "messages" | "bytes" | "totalMessages" | "totalBytes" | "shareMessages" | "shareBytes"
  readonly bound: number
  readonly size: number
  readonly retryAfterMillis?: number | undefined
}
/** @since 0.1.0 @category errors */
export const QueueOverflowError: ErrorClass<QueueOverflowError> = errorClass(Errors.QueueOverflowError)

/**
 * An `id` was used with other content (`mismatch`), a send with it is under way (`inFlight`), there is no room for more
 * ids (`full`), or the store failed.
 *
 * @since 0.1.0
 * @category errors
 */
export interface DeduplicationError extends Tagged<"resilient-websocket/DeduplicationError"> {
  /** The session. */
  readonly scope: string
  readonly key: string
  readonly reason: "mismatch" | "inFlight" | "full" | "store"
  readonly retryAfterMillis?: number | undefined
}
/** @since 0.1.0 @category errors */
export const DeduplicationError: ErrorClass<DeduplicationError> = errorClass(Errors.DeduplicationError)

/**
 * A circuit does not let the call through now.
 *
 * @since 0.1.0
 * @category errors
 */
export interface CircuitBreakerError extends Tagged<"resilient-websocket/CircuitBreakerError"> {
  readonly circuit: string
  readonly state: "Open" | "HalfOpen" | "Isolated"
  readonly retryAfterMillis?: number | undefined
  readonly reason?: string | undefined
}
/** @since 0.1.0 @category errors */
export const CircuitBreakerError: ErrorClass<CircuitBreakerError> = errorClass(Errors.CircuitBreakerError)

/**
 * Something took longer than its time limit.
 *
 * @since 0.1.0
 * @category errors
 */
export interface ConnectionTimeoutError extends Tagged<"resilient-websocket/ConnectionTimeoutError"> {
  readonly phase:
    | "dial"
    | "handshake"
    | "heartbeat"
    | "ack"
    | "flush"
    | "idle"
    | "connect"
    | "url"
    | "token"
    | "outbox"
  readonly afterMillis: number
  readonly session?: string | undefined
}
/** @since 0.1.0 @category errors */
export const ConnectionTimeoutError: ErrorClass<ConnectionTimeoutError> = errorClass(Errors.ConnectionTimeoutError)

/**
 * The manager or client is shut down or shutting down.
 *
 * @since 0.1.0
 * @category errors
 */
export interface ShutdownError extends Tagged<"resilient-websocket/ShutdownError"> {
  readonly component: "server" | "client"
}
/** @since 0.1.0 @category errors */
export const ShutdownError: ErrorClass<ShutdownError> = errorClass(Errors.ShutdownError)

/**
 * The session never existed, or has ended.
 *
 * @since 0.1.0
 * @category errors
 */
export interface SessionNotFoundError extends Tagged<"resilient-websocket/SessionNotFoundError"> {
  readonly session: string
}
/** @since 0.1.0 @category errors */
export const SessionNotFoundError: ErrorClass<SessionNotFoundError> = errorClass(Errors.SessionNotFoundError)

/**
 * The registry's store failed, or a newer connection has the session (`fenced`).
 *
 * @since 0.1.0
 * @category errors
 */
export interface SessionRegistryError extends Tagged<"resilient-websocket/SessionRegistryError"> {
  readonly session: string
  readonly operation: string
  readonly reason: "store" | "fenced"
}
/** @since 0.1.0 @category errors */
export const SessionRegistryError: ErrorClass<SessionRegistryError> = errorClass(Errors.SessionRegistryError)

/**
 * The handshake was refused. `retryable` says whether it may succeed later.
 *
 * @since 0.1.0
 * @category errors
 */
export interface HandshakeError extends Tagged<"resilient-websocket/HandshakeError"> {
  readonly reason:
    | "unauthorized"
    | "forbidden"
    | "version"
    | "contract"
    | "invalid"
    | "overloaded"
    | "draining"
    | "replaced"
  readonly detail: string
  readonly retryable: boolean
  /** The bound that was reached, if the server is full. */
  readonly bound?: number | undefined
}
/** @since 0.1.0 @category errors */
export const HandshakeError: ErrorClass<HandshakeError> = errorClass(Errors.HandshakeError)

/**
 * The peer broke the protocol.
 *
 * @since 0.1.0
 * @category errors
 */
export interface ProtocolError extends Tagged<"resilient-websocket/ProtocolError"> {
  readonly code: string
  readonly detail: string
  readonly session?: string | undefined
}
/** @since 0.1.0 @category errors */
export const ProtocolError: ErrorClass<ProtocolError> = errorClass(Errors.ProtocolError)

/**
 * A message can't be written as JSON, is too large, or was refused by `parse`.
 *
 * @since 0.1.0
 * @category errors
 */
export interface PayloadError extends Tagged<"resilient-websocket/PayloadError"> {
  readonly direction: "encode" | "decode"
  readonly detail: string
  readonly session?: string | undefined
  readonly sizeBytes?: number | undefined
  readonly limitBytes?: number | undefined
}
/** @since 0.1.0 @category errors */
export const PayloadError: ErrorClass<PayloadError> = errorClass(Errors.PayloadError)

/**
 * The network or the socket failed.
 *
 * @since 0.1.0
 * @category errors
 */
export interface TransportError extends Tagged<"resilient-websocket/TransportError"> {
  readonly operation: "listen" | "dial" | "send" | "receive" | "register"
  readonly detail: string
  /** The HTTP status that a dial was answered with. */
  readonly status?: number | undefined
  /** How long the HTTP server asks to wait before another attempt. */
  readonly retryAfterMillis?: number | undefined
}
/** @since 0.1.0 @category errors */
export const TransportError: ErrorClass<TransportError> = errorClass(Errors.TransportError)

/**
 * What `receipt.handled()` rejects with: the message became a dead letter.
 *
 * @since 0.1.0
 * @category errors
 */
export interface DeadLetterError extends Tagged<"resilient-websocket/DeadLetterError"> {
  readonly session: string
  readonly messageId: string
  readonly reason: DeadLetterReason
  /** With the reason `rejected`: why. */
  readonly detail?: string | undefined
  readonly maybeHandled: boolean
}
/** @since 0.1.0 @category errors */
export const DeadLetterError: ErrorClass<DeadLetterError> = errorClass(Errors.DeadLetterError)

/**
 * For `onMessage` to throw when its message can never be handled: it is not tried again, and becomes a dead letter on both
 * sides. The sender's has the reason `rejected` and this `detail`, of which 512 bytes of UTF-8 arrive.
 *
 * @since 0.1.0
 * @category errors
 */
export class MessageRejected extends Error {
  readonly _tag = "resilient-websocket/MessageRejected"
  override readonly name = "MessageRejected"
  readonly detail: string

  constructor(detail: string) {
    super(`the message is rejected: ${detail}`)
    this.detail = detail
  }
}

/**
 * An option is out of range; `message` says which.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConfigError extends Error {
  readonly _tag = "ConfigError"
  override readonly name = "ConfigError"
}

/**
 * Everything that this library rejects with, except {@link ConfigError} and the reasons of signals.
 *
 * @since 0.1.0
 * @category errors
 */
export type WebSocketError =
  | MessageQueueError
  | QueueOverflowError
  | DeduplicationError
  | CircuitBreakerError
  | ConnectionTimeoutError
  | ShutdownError
  | SessionNotFoundError
  | SessionRegistryError
  | HandshakeError
  | ProtocolError
  | PayloadError
  | TransportError
  | DeadLetterError
