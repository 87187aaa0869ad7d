/**
 * The options of the promise face, in plain values and functions.
 *
 * @since 0.1.0
 */
import type { IncomingMessage } from "node:http"
import type { WebSocket } from "ws"
import type { AllowedOrigins } from "../internal/session/origins.ts"
import type { ClientEvents, DeadLetter, Duration, ManagerEvents, MessageGap, Receipt, Waiting } from "./models.ts"

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
 * The queue that messages wait in, the same for manager and client.
 *
 * @since 0.1.0
 * @category options
 */
export interface QueueOptions {
  /** How long a message may wait to be sent. `Infinity` for ever. Default 5 minutes. */
  readonly ttl?: Duration | undefined
  /** Messages that may wait for one session. Default 1,000. */
  readonly maxMessages?: number | undefined
  /** Their payload bytes. Default 16 MiB. */
  readonly maxBytes?: number | undefined
  /** Messages of all sessions together; the last eighth is kept for shares that have little. Default 1,000,000. */
  readonly maxTotalMessages?: number | undefined
  /**
   * Their payload bytes; the last eighth likewise. In memory, a message counts as what it takes there: 160 bytes more than
   * its payload, of which each character is two bytes unless all are ASCII. Default 256 MiB, in memory 128 MiB.
   */
  readonly maxTotalBytes?: number | undefined
  /** What a full queue does with a new message. Default `reject`: a `QueueOverflowError`. */
  readonly overflow?: "reject" | "dropOldest" | "dropNewest" | "suspend" | undefined
  /** How long `suspend` waits for room. Default for ever. */
  readonly suspendTimeout?: Duration | undefined
}

/**
 * When a session's circuit opens, and how it closes again.
 *
 * @since 0.1.0
 * @category options
 */
export interface BreakerOptions {
  /** How many failures in a row open it. Default 5. */
  readonly consecutiveFailures?: number | undefined
  /** How long the first opening lasts at most; it doubles with each, and is drawn by full jitter. Default 1 second. */
  readonly openBase?: Duration | undefined
  /** What no opening exceeds. Default 60 seconds. */
  readonly openCap?: Duration | undefined
  /** How many successes close it when it is half-open. Default 1. */
  readonly successesToClose?: number | undefined
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
 * How often, and after which pauses, a handler that failed is tried again.
 *
 * @since 0.1.0
 * @category options
 */
export interface RetryOptions {
  /** The first pause at most: it doubles with each, and is drawn by full jitter. Default 1 second. */
  readonly base?: Duration | undefined
  /** What no pause exceeds. Default 60 seconds. */
  readonly cap?: Duration | undefined
  /** In all, the first included. Default 5. */
  readonly attempts?: number | undefined
}

/**
 * One line of the library's log.
 *
 * @since 0.1.0
 * @category models
 */
export interface LogEntry {
  readonly level: "Trace" | "Debug" | "Info" | "Warn" | "Error" | "Fatal"
  readonly message: string
  /** What it is about, in words, if there is more to say. */
  readonly cause: string | undefined
  readonly at: Date
}

/**
 * Listeners by event, as `on` takes them one by one.
 *
 * @since 0.1.0
 * @category models
 */
export type Listeners<Events> = {
  readonly [Name in keyof Events]?: ((value: Events[Name]) => unknown) | undefined
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
 * What manager and client have in common.
 *
 * @since 0.1.0
 * @category options
 */
export interface CommonOptions<In, Out> extends QueueOptions {
  /**
   * Looks at each message that arrives, and returns it, or throws: then it becomes a dead letter with the reason
   * `undecodable`, here and at its sender. Say the `parse` of a schema; one that returns a promise refuses all. Default: every message is what it is said to be.
   */
  readonly parse?: ((value: unknown) => In) | undefined
  /** Told, in the order of the messages, of those that will never come. Default: logs a warning. */
  readonly onGap?: ((gap: MessageGap) => unknown) | undefined
  /** Retries of a failed `onMessage`. Default: 5 attempts in all, after pauses of up to 1 s, which doubles, to 60 s. */
  readonly handlerRetry?: RetryOptions | undefined
  /**
   * Called, without waiting, with each message of ours that could not be delivered and the reason: dead letters, and what
   * `send` skipped. What it throws is logged. Default none.
   */
  readonly fallbackSend?: ((message: Out, letter: DeadLetter<Out>) => unknown) | undefined
  /** Circuits. */
  readonly breaker?: BreakerOptions | undefined
  /** How long an `id` is remembered. Default 15 minutes, or TTL plus retention if that is longer and finite. */
  readonly messageIdTtl?: Duration | undefined
  /** What the other side may have in flight, if it speaks the protocol. Default 1,024 messages and 4 MiB. */
  readonly window?: { readonly messages?: number; readonly bytes?: number } | undefined
  /** Largest payload either way, in bytes. Default 1 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /**
   * Memory, by estimate, for what was received and is not handled, of all sessions together. A session that has a
   * quarter of it is not read until it has less; over all of it, each is read one frame at a time. Default 32 MiB.
   */
  readonly maxUnhandledBytes?: number | undefined
  /** Silence after which the other side is probed. Default 10 s. */
  readonly heartbeat?: Duration | undefined
  /** How long a probe may go unanswered. Default 8 s. */
  readonly heartbeatTimeout?: Duration | undefined
  /** How long the other side may take to confirm that it received something. Default 30 s. */
  readonly ackTimeout?: Duration | undefined
  /** How often expired messages and ids are looked for. Default 60 s. */
  readonly expirySweep?: Duration | undefined
  /** Time for a shutdown, of which 70 % may be spent flushing. Default 30 s. */
  readonly shutdownTimeout?: Duration | undefined
  /** Restarts of background work before it is given up. Default 10 in 60 s. */
  readonly restartIntensity?: { readonly restarts: number; readonly period: Duration } | undefined
  /** Given what the library logs; `false` for nothing. Default: the console. */
  readonly log?: false | ((entry: LogEntry) => void) | undefined
  /** What is not logged is below this. Default `Info`. */
  readonly logLevel?: LogEntry["level"] | undefined
}

/**
 * What a handler is told beside the message.
 *
 * @since 0.1.0
 * @category models
 */
export interface MessageContext<Out> {
  readonly session: string
  /** The publisher's id, or `<epoch>-<offset>`; undefined for volatile messages and plain WebSockets. */
  readonly messageId: string | undefined
  readonly volatile: boolean
  /** The session's socket, if one is registered now; undefined at a client. */
  readonly ws: WebSocket | undefined
  /** Sends to whom the message came from; reliably, unless it is `volatile`. */
  readonly reply: (message: Out, options?: ReliableSendOptions) => Promise<Receipt>
  /** Aborted when the handler should end: at the end of a shutdown, or when another server has the session. */
  readonly signal: AbortSignal
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
 * Options of a client's `send`, and of a handler's `reply`: reliable by default.
 *
 * @since 0.1.0
 * @category options
 */
export interface ReliableSendOptions extends Waiting {
  /** Within `messageIdTtl` a second send with this id is not sent again. At most 256 characters. Default none. */
  readonly id?: string | undefined
  /** How long the message may wait to be sent. Default: the queue's `ttl`. */
  readonly ttl?: Duration | undefined
  /** Goes out now, or is skipped. Default false. */
  readonly volatile?: boolean | undefined
}

/**
 * Options of `sendAll`.
 *
 * @since 0.1.0
 * @category options
 */
export interface SendAllOptions extends Waiting {
  /** How long each message may wait to be sent. Default: the queue's `ttl`. */
  readonly ttl?: Duration | undefined
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
