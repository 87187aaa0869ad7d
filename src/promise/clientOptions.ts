/**
 * The options of a client and its calls, in plain values and functions.
 *
 * @since 0.1.0
 */
import type { ClientEvents, Duration, Waiting } from "./models.ts"
import type { CommonOptions, Listeners, MessageContext } from "./options.ts"

/**
 * Options of a client. All have defaults.
 *
 * @since 0.1.0
 * @category options
 */
export interface ClientOptions<In, Out> extends CommonOptions<In, Out>, Waiting {
  /** Listeners from the very start, before `connect` has returned. Default none. */
  readonly on?: Listeners<ClientEvents<In, Out>> | undefined
  /** For the server's authentication; a function is asked at every attempt, and given up after the `handshakeTimeout`. Default none. */
  readonly token?: string | (() => string | undefined | Promise<string | undefined>) | undefined
  /** HTTP headers of the dial. Default none. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /**
   * Handles a message; it is acknowledged when this has returned, or its promise resolved. One at a time. Default none:
   * the client is iterated over.
   */
  readonly onMessage?: ((message: In, context: MessageContext<Out>) => unknown) | undefined
  /**
   * What becomes of messages that a server which has lost the session may or may not have handled: back as dead letters
   * (nothing is handled twice), or sent again (nothing is lost). Default `deadLetter`.
   */
  readonly onFresh?: "deadLetter" | "resend" | undefined
  /** Whether `connect` waits until it is connected. Default true. */
  readonly wait?: boolean | undefined
  /** How long `connect` waits before it gives up with a `ConnectionTimeoutError`. Default 30 s. */
  readonly connectTimeout?: Duration | undefined
  /** Pauses between attempts to connect, by full jitter, and of the circuit of the URL. Default: from 1 s to 60 s. */
  readonly reconnect?: { readonly base?: Duration | undefined; readonly cap?: Duration | undefined } | undefined
  /** Time for a dial. Default 10 s. */
  readonly dialTimeout?: Duration | undefined
  /** Time from the open connection to the welcome. Default 10 s. */
  readonly handshakeTimeout?: Duration | undefined
}

/**
 * Options of a client's `connected`.
 *
 * @since 0.1.0
 * @category options
 */
export interface ConnectedOptions extends Waiting {
  /** How long to wait. Default for ever. */
  readonly timeout?: Duration | undefined
}

/**
 * Options of a client's `close`.
 *
 * @since 0.1.0
 * @category options
 */
export interface CloseOptions {
  /** Time for it, of which 70 % may be spent flushing. Default: the `shutdownTimeout`. */
  readonly timeout?: Duration | undefined
  /** Whether to wait until what is queued is handled. Default true. */
  readonly flushPending?: boolean | undefined
}
