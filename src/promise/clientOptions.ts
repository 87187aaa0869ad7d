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
  /** Listeners that get events from the very start, even before `connect` has returned. Default none. */
  readonly on?: Listeners<ClientEvents<In, Out>> | undefined
  /**
   * For the server's authentication. A function is called at every attempt, and has `handshakeTimeout` to answer.
   * Default none.
   */
  readonly token?: string | (() => string | undefined | Promise<string | undefined>) | undefined
  /** HTTP headers of the dial. Default none. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /**
   * Handles one message at a time. The message is acknowledged when this has returned or its promise has resolved.
   * Default none: iterate over the client instead.
   */
  readonly onMessage?: ((message: In, context: MessageContext<Out>) => unknown) | undefined
  /**
   * What to do with messages that may have been handled, when the server has lost the session: make them dead letters
   * (nothing is handled twice), or send them again (nothing is lost). Default `deadLetter`.
   */
  readonly onFresh?: "deadLetter" | "resend" | undefined
  /** Whether `connect` waits until the client is connected. Default true. */
  readonly wait?: boolean | undefined
  /** How long `connect` waits before it gives up with a `ConnectionTimeoutError`. Default 30 s. */
  readonly connectTimeout?: Duration | undefined
  /** Pauses between attempts to connect, and of the URL's circuit, by full jitter. Default: from 1 s to 60 s. */
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
  /** Time for the close, of which 70 % may be spent flushing. Default: the `shutdownTimeout`. */
  readonly timeout?: Duration | undefined
  /** Whether to wait until what is queued is handled. Default true. */
  readonly flushPending?: boolean | undefined
}
