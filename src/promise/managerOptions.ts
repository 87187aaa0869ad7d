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
 * Where a manager keeps its sessions and queues, and with that what it survives; docs/stores.md has the settings.
 *
 * @since 0.1.0
 * @category options
 */
export type Store =
  /** In this process. */
  | { readonly type: "memory" }
  /** In a file: survives the process. `full` waits for the disk at each commit, `normal` (the default) does not. */
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
 * A store's module, such as `RedisStore` of `resilient-websocket/redis`. A store that needs a package is loaded when it
 * is asked for, and by a way that no bundler sees, since most programs don't have that package: so a bundle has to be
 * given it.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoreModule {
  readonly layer: (options: never) => unknown
}

/**
 * How much one socket may send before it is not read for a while.
 *
 * @since 0.1.0
 * @category options
 */
export interface RateLimit {
  /** WebSocket messages, pings and pongs a second; a frame of the protocol carries many messages. Default 10,000. */
  readonly framesPerSecond?: number | undefined
  /** Their bytes a second. Default 256 MiB. */
  readonly bytesPerSecond?: number | undefined
  /** How much may come at once: what the rates allow in this time. Default 2 seconds. */
  readonly burst?: Duration | undefined
}

/**
 * What the `authenticate` of a manager is told.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handshake {
  /**
   * The client's `token`, else that of `Authorization: Bearer` or of the query `?token=` of the `request`. It is not shown
   * when the handshake is logged; `url` and `headers` are, as they came.
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
 * What the `authenticate` of a manager says.
 *
 * @since 0.1.0
 * @category models
 */
export interface Identity {
  /** The session of this peer. Default: its own from before, or a new one. */
  readonly session?: string | undefined
  /** Who it is: a session can only be resumed by the principal that created it. */
  readonly principal?: string | undefined
  /** There is none, and so no session that is overlooked: it is called `session`. */
  readonly sessionId?: never
}

/**
 * What is known of a peer when its share is asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface Newcomer {
  /** Who it is; undefined before it is known, and of whom nobody knows. */
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
   * Handles a message; it is acknowledged when this has returned, or its promise resolved. One at a time a session. By
   * default, plain sockets are left to whoever reads them, and messages of peers that speak the protocol go back to
   * them as dead letters.
   */
  readonly onMessage?: ((message: In, context: MessageContext<Out>) => unknown) | undefined
  /**
   * Asked who a peer is that speaks the protocol and was registered without a `sessionId`; again, when it renews its
   * token. It may name the session, the principal to whom it belongs from then on, both, or neither. What it throws turns
   * the peer away, for good and as `unauthorized`; or, if it has `retryable: true`, to come back later. Default: anybody,
   * each with a session of its own.
   */
  readonly authenticate?:
    | ((handshake: Handshake) => Identity | Promise<Identity>)
    | undefined
  /** Listeners from the very start. Default none. */
  readonly on?: Listeners<ManagerEvents<In, Out>> | undefined
  /**
   * Gives every message that `send` is given without an `id` the one that `getMessageId` says: its own `id`, or a hash of
   * its content. Then the same content twice within `messageIdTtl` is sent once. Default false.
   */
  readonly deduplicate?: boolean | undefined
  /** How long a session is kept after its socket is lost. Default 10 minutes. */
  readonly retention?: Duration | undefined
  /**
   * How long the session of a stranger is kept after its socket is lost, if it has never sent anything and nothing was ever
   * sent to it; neither a principal nor a session was named. Default 60 s.
   */
  readonly strangerRetention?: Duration | undefined
  /**
   * Says which share a peer belongs to. Each share has a part of `maxHandshakes`, `maxSessions`, `maxTotalMessages` and
   * `maxTotalBytes`, so that peers with little are not refused because others have much. It is asked when a peer comes, and
   * again when its principal is known. Behind a proxy, return what stands for the address.
   * Default: the principal, else the address of the `request`, of IPv6 its first 64 bits.
   */
  readonly shareOf?: ((newcomer: Newcomer) => string | undefined) | undefined
  /**
   * Sessions at most. For a new one beyond it, one of the share that has the most gives way: of a stranger who never said
   * anything, else one without a connection. Default 100,000.
   */
  readonly maxSessions?: number | undefined
  /** How long a plain socket may be silent, pings answered included. Default 120 s. */
  readonly connectionTimeout?: Duration | undefined
  /** Time for a handshake, of a socket that speaks the protocol. Default 10 s. */
  readonly handshakeTimeout?: Duration | undefined
  /**
   * Handshakes under way at most. For one more, the longest of the share that has the most is turned away, if that has
   * more than the newcomer's. Default 10,000.
   */
  readonly maxHandshakes?: number | undefined
  /**
   * How much one socket may send, of any kind, before it is not read for a while. Default 10,000 frames and 256 MiB a
   * second, and what that allows in 2 seconds at once.
   */
  readonly rateLimit?: RateLimit | "none" | undefined
  /**
   * Which pages' sockets are registered, by the `Origin` in the `request` that is handed over with them; the list, or
   * function, that the `ws` server is given with `webSocketServerOptions`. Default `"own"`: pages of the host and port
   * that they connect to.
   */
  readonly allowedOrigins?: AllowedOrigins | undefined
  /** Over which time clients spread their reconnects when told to leave. Default 5 s. */
  readonly reconnectJitter?: Duration | undefined
  /**
   * What a plain socket that is registered without a session id is told first, so that it can come back with it; `false`
   * for nothing. Default: `{ type: "session", sessionId }`.
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
   * Whose socket it is. A socket with the same id belongs to the same peer, and is sent what waits. Take the id from your
   * authentication: anybody who can choose it can read another peer's messages. At most 256 characters. Pass a promise if
   * the id has to be looked up: the socket is taken over at once, and what it says meanwhile is not lost. A promise that
   * rejects turns the peer away, as a throwing `authenticate` does, and it has as long (`handshakeTimeout`). Default: what
   * `authenticate` says, or the peer has from before, or a new random one, which the peer is told.
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
   * Keeps the message until it is handled. Else it goes out now, or is skipped; in no order to critical ones, which it may
   * overtake. Default false.
   */
  readonly critical?: boolean | undefined
  /** Within `messageIdTtl` a second send to the session with this id is not sent again. At most 256 characters. Default none. */
  readonly id?: string | undefined
  /** How long a critical message may wait to be sent; others don't wait. Default: the manager's `ttl`. */
  readonly ttl?: Duration | undefined
}

/**
 * Options of a manager's `broadcast`.
 *
 * @since 0.1.0
 * @category options
 */
export interface BroadcastOptions extends Waiting {
  /** To which sessions. Default: to all that the manager has. */
  readonly sessions?: Iterable<string> | undefined
  /**
   * To the sessions of this principal that are connected, at whatever server, or if none is, to the one that was there
   * last; beside `sessions`. Where there is none, the message is for nobody: `accepted` is 0.
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
  /** Time for all of it, of which 70 % may be spent flushing. Default: the manager's `shutdownTimeout`. */
  readonly timeout?: Duration | undefined
  /** Whether to wait until what is queued for those who are connected is handled. Default true. */
  readonly flushPending?: boolean | undefined
  /** Whether to close the sockets; else they stay open, and are yours again. Default true. */
  readonly closeConnections?: boolean | undefined
}

/**
 * Options of a manager's `getStats`.
 *
 * @since 0.1.0
 * @category options
 */
export interface StatsOptions {
  /** Whether to have the figures of each session. There may be very many, and ids that the manager made are secrets. Default true. */
  readonly connections?: boolean | undefined
}
