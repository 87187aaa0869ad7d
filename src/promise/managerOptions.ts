/**
 * The options of a manager and its calls, in plain values and functions.
 *
 * @since 0.1.0
 */
import type { IncomingMessage } from "node:http"
import type { AllowedOrigins } from "../internal/session/origins.ts"
import type { Duration, ManagerEvents, Waiting } from "./models.ts"
import type { CommonOptions, Listeners, MessageContext } from "./options.ts"

/**
 * Where a manager keeps its sessions and queues, which decides what they survive. docs/stores.md explains the settings.
 *
 * @since 0.1.0
 * @category options
 */
export type Store =
  /** In this process. */
  | { readonly type: "memory" }
  /**
   * In a file, which outlives the process. `full` waits for the disk at each commit, `normal` (the default) doesn't.
   */
  | {
    readonly type: "sqlite"
    readonly filename: string
    readonly synchronous?: "normal" | "full" | undefined
    readonly tablePrefix?: string | undefined
  }
  /** In PostgreSQL, shared by any number of servers. Needs the package `@effect/sql-pg`. */
  | {
    readonly type: "postgres"
    /** `postgres://user:password@host/database` */
    readonly url: string
    readonly maxConnections?: number | undefined
    readonly schema?: string | undefined
    /** In a bundle: `PostgresStore` of `resilient-websocket/postgres`. */
    readonly from?: StoreModule | undefined
  }
  /** In Redis, shared by any number of servers. Needs the package `redis`. */
  | {
    readonly type: "redis"
    /** `redis://host:6379` */
    readonly url: string
    readonly prefix?: string | undefined
    /** In a bundle: `RedisStore` of `resilient-websocket/redis`. */
    readonly from?: StoreModule | undefined
  }

/**
 * A store's module, such as `RedisStore` of `resilient-websocket/redis`. A store that needs a package is loaded only
 * when it is used, and hidden from bundlers, as most programs don't have that package. So a bundled program must pass
 * the module.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoreModule {
  readonly layer: (options: never) => unknown
}

/**
 * How much one socket may send before the manager pauses reading it.
 *
 * @since 0.1.0
 * @category options
 */
export interface RateLimit {
  /** WebSocket messages, pings and pongs a second. A frame of the protocol carries many messages. Default 10,000. */
  readonly framesPerSecond?: number | undefined
  /** Their bytes a second. Default 256 MiB. */
  readonly bytesPerSecond?: number | undefined
  /** How much may come at once, as the time in which the rates allow it. Default 2 seconds. */
  readonly burst?: Duration | undefined
}

/**
 * What a manager's `authenticate` gets.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handshake {
  /**
   * The client's `token`, else the one in the `request`, from `Authorization: Bearer` or the query `?token=`. Logging
   * the handshake does not show this property, but it shows `url` and `headers` as they came.
   */
  readonly token: string | undefined
  /** The session that the peer wants to resume. */
  readonly session: string | undefined
  /** Path and query of the `request`, if one was given. */
  readonly url: string
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly remoteAddress: string | undefined
}

/**
 * What a manager's `authenticate` returns.
 *
 * @since 0.1.0
 * @category models
 */
export interface Identity {
  /** The peer's session. Default: the one that it had before, or a new one. */
  readonly session?: string | undefined
  /** Who the peer is. Only the principal that created a session can resume it. */
  readonly principal?: string | undefined
  /** For `onMessage`: its context has it as `data`. */
  readonly data?: unknown
  /** Does not exist, so that the compiler reports it: the property is called `session`. */
  readonly sessionId?: never
}

/**
 * What is known of a peer when its share is asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface Newcomer {
  /** Who the peer is; undefined before that is known, and for strangers. */
  readonly principal: string | undefined
  /** Path and query of the `request`, if one was given. */
  readonly url: string
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly remoteAddress: string | undefined
}

/**
 * Options of a manager. All have defaults.
 *
 * @since 0.1.0
 * @category options
 */
export interface ManagerOptions<In, Out> extends CommonOptions<In, Out> {
  /** Where sessions and queues are kept. Default `{ type: "memory" }`. */
  readonly store?: Store | undefined
  /**
   * Handles messages, one at a time for each session. A message is acknowledged when this has returned or its promise
   * has resolved. By default, the program reads plain sockets itself, and messages of peers that speak the protocol go
   * back to them as dead letters.
   */
  readonly onMessage?: ((message: In, context: MessageContext<Out>) => unknown) | undefined
  /**
   * Says who a peer is that speaks the protocol and was registered without a `sessionId`. Called again when the peer
   * renews its token. May return the session, the principal that owns it from then on, both, or neither. If this
   * throws, the peer is turned away for good as `unauthorized`; if the error has `retryable: true`, it may come back
   * later. Default: anybody, each with a session of its own.
   */
  readonly authenticate?:
    | ((handshake: Handshake) => Identity | Promise<Identity>)
    | undefined
  /** Listeners that get events from the very start. Default none. */
  readonly on?: Listeners<ManagerEvents<In, Out>> | undefined
  /**
   * Gives every message sent without an `id` the one that `getMessageId` returns: its own `id`, or a hash of its
   * content. Then the same content sent twice within `messageIdTtl` goes out once. Default false.
   */
  readonly deduplicate?: boolean | undefined
  /** How long a session is kept after its socket is lost. Default 10 minutes. */
  readonly retention?: Duration | undefined
  /**
   * How long a stranger's session is kept after its socket is lost: one that has never sent or been sent anything, and
   * for which neither a principal nor a session was named. Default 60 s.
   */
  readonly strangerRetention?: Duration | undefined
  /**
   * Says which share a peer belongs to. Each share has a part of `maxHandshakes`, `maxSessions`, `maxTotalMessages` and
   * `maxTotalBytes`, so that peers with little are not refused because others have much. Called when a peer comes, and
   * again when its principal is known. Behind a proxy, return what stands for the address.
   * Default: the principal, else the address of the `request` (for IPv6, its first 64 bits).
   */
  readonly shareOf?: ((newcomer: Newcomer) => string | undefined) | undefined
  /**
   * The most sessions. For one more, a session of the share that has the most gives way: a stranger's that never said
   * anything, else one without a connection. Default 100,000.
   */
  readonly maxSessions?: number | undefined
  /** How long a plain socket may be silent. An answer to a ping counts as a sign of life. Default 120 s. */
  readonly connectionTimeout?: Duration | undefined
  /** Time for the handshake of a socket that speaks the protocol. Default 10 s. */
  readonly handshakeTimeout?: Duration | undefined
  /**
   * The most handshakes at once. For one more, the oldest of the share that has the most is turned away, if that share
   * has more than the newcomer's. Default 10,000.
   */
  readonly maxHandshakes?: number | undefined
  /**
   * How much one socket of any kind may send before the manager pauses reading it. Default 10,000 frames and 256 MiB a
   * second, with bursts of 2 seconds' worth.
   */
  readonly rateLimit?: RateLimit | "none" | undefined
  /**
   * Which pages' sockets may be registered, by the `Origin` of the `request` that you pass with them. Use the same list
   * or function as in `webSocketServerOptions`. Default `"own"`: pages of the host and port that they connect to.
   */
  readonly allowedOrigins?: AllowedOrigins | undefined
  /** The time over which clients spread their reconnects when told to leave. Default 5 s. */
  readonly reconnectJitter?: Duration | undefined
  /**
   * The first message to a plain socket that is registered without a session id, so that it can come back with the id;
   * `false` for none. Default: `{ type: "session", sessionId }`.
   */
  readonly sessionMessage?: false | ((sessionId: string) => unknown) | undefined
}

/**
 * Options of `registerConnection`.
 *
 * @since 0.1.0
 * @category options
 */
export interface RegisterOptions extends Waiting {
  /**
   * Whose socket this is. Sockets with the same id belong to the same peer; a new one gets the messages that wait. Take
   * the id from your authentication: anybody who can choose it can read another peer's messages. At most 256
   * characters. If you have to look the id up, pass a promise: the socket is taken over at once, and nothing that it
   * says meanwhile is lost. A promise that rejects turns the peer away, as a throwing `authenticate` does; it has the
   * same time limit (`handshakeTimeout`). Default: what `authenticate` returns, or the id that the peer had before, or
   * a new random one, which the peer is told.
   */
  readonly sessionId?: string | null | PromiseLike<string | null | undefined> | undefined
  /** The request that was upgraded, for `authenticate`. Default none. */
  readonly request?: IncomingMessage | undefined
}

/**
 * Options of a manager's `send`.
 *
 * @since 0.1.0
 * @category options
 */
export interface SendOptions extends Waiting {
  /**
   * Whether to keep the message until it is handled. Otherwise it goes out now or is skipped, and it may overtake
   * critical ones. Default false.
   */
  readonly critical?: boolean | undefined
  /**
   * A second send to the session with this id, within `messageIdTtl`, is not sent again. At most 256 characters.
   * Default none.
   */
  readonly id?: string | undefined
  /** How long a critical message may wait to be sent. Others don't wait. Default: the manager's `ttl`. */
  readonly ttl?: Duration | undefined
}

/**
 * Options of a manager's `broadcast`.
 *
 * @since 0.1.0
 * @category options
 */
export interface BroadcastOptions extends Waiting {
  /** The sessions to send to. Default: all that the manager has. */
  readonly sessions?: Iterable<string> | undefined
  /**
   * Sends also to the sessions of this principal that are connected, at any server, or if none is, to the one that was
   * connected last. If it has no session, the message is for nobody: `accepted` is 0.
   */
  readonly principal?: string | undefined
  /** How long the message may wait to be sent. Default: the manager's `ttl`. */
  readonly ttl?: Duration | undefined
}

/**
 * Options of `gracefulShutdown`.
 *
 * @since 0.1.0
 * @category options
 */
export interface GracefulShutdownOptions {
  /** Time for the shutdown, of which 70 % may be spent flushing. Default: the manager's `shutdownTimeout`. */
  readonly timeout?: Duration | undefined
  /** Whether to wait until what is queued for connected peers is handled. Default true. */
  readonly flushPending?: boolean | undefined
  /** Whether to close the sockets. Otherwise they stay open, and are yours again. Default true. */
  readonly closeConnections?: boolean | undefined
}

/**
 * Options of a manager's `getStats`.
 *
 * @since 0.1.0
 * @category options
 */
export interface StatsOptions {
  /**
   * Whether to include the figures of each session. There may be very many, and ids that the manager made are secrets.
   * Default true.
   */
  readonly connections?: boolean | undefined
}
