/**
 * Sessions as a service: which exist, who owns each, and where its inbox is.
 *
 * **Details.** Attaching a connection raises the session's generation: from then on every write of an older owner is
 * refused, so a half-open connection elsewhere is harmless. A session outlives its connection by the retention. Resume
 * tokens come in as hashes; they rotate at each attach, and the previous one stays good until the new one has been
 * used, because the answer that carried the new one may have been lost.
 *
 * @since 0.1.0
 */
import { type Config, Context, type Duration, Effect, Layer, type Scope } from "effect"
import type { StoredPosition } from "./core/Inbox.ts"
import { fromConfig } from "./internal/kit/options.ts"
import { makeMemory } from "./internal/memory/memoryRegistry.ts"
import type { HandshakeError, SessionRegistryError } from "./WebSocketError.ts"

export type { InboxPosition } from "./core/Frame.ts"
export type { StoredPosition } from "./core/Inbox.ts"

/**
 * A request to attach a connection to a session.
 *
 * @since 0.1.0
 * @category models
 */
export interface AttachRequest {
  readonly session: string
  /** Who the authentication hook says this is. A session belongs to the principal that created it. */
  readonly principal: string | undefined
  /** Whether the hook named this very session, so that no resume token is needed. */
  readonly authorized: boolean
  /** Hash of the token presented, if one was. */
  readonly tokenHash: string | undefined
  /** Hash of the token to be valid from now on. */
  readonly nextTokenHash: string
  /** The client instance, to tell a reconnect from a second tab. */
  readonly instance: string
  /** The number of this dial of the instance: a dial that a later one overtook is refused. Default: not checked. */
  readonly attempt?: number | undefined
}

/** @since 0.1.0 @category models */
export interface Attached {
  readonly generation: number
  /** Whether the session existed. */
  readonly known: boolean
  /** The inbox position stored for it, if any. */
  readonly position: StoredPosition | undefined
  /** Whether another client instance was attached before. */
  readonly replaced: boolean
  /** Whether the token presented is the newest one: the client did get the welcome that carried it. */
  readonly current: boolean
  /**
   * Whether this very server attached it last: then what it has of the session in memory, if anything, is the newest.
   * Undefined if the registry can't tell; then consecutive generations say so.
   */
  readonly here?: boolean | undefined
}

/** @since 0.1.0 @category models */
export interface SessionInfo {
  readonly session: string
  readonly principal: string | undefined
  readonly generation: number
  /** The client instance that attached last. */
  readonly instance: string
  readonly attached: boolean
  /** When it will end unless it attaches again, in ms since the epoch; undefined while attached. */
  readonly endsAtMillis: number | undefined
  /** Whether this very server attached it last, and has not released it. Undefined if the registry can't tell. */
  readonly here?: boolean | undefined
}

/** @since 0.1.0 @category services */
export interface Interface {
  /** Whether sessions outlive this process. */
  readonly durable: boolean
  /** Session retention in ms. */
  readonly retentionMillis: number
  /**
   * Attaches, creating the session if it is not known. Refuses a wrong token or principal, an attempt that was
   * overtaken, a session that is ending, and new ones when full. If another server still has messages that the session
   * received, asks that server for it first (`onWanted`), for a while.
   */
  readonly attach: (request: AttachRequest) => Effect.Effect<Attached, SessionRegistryError | HandshakeError>
  /** Stores the inbox position; must be done before the position is acknowledged. */
  readonly savePosition: (
    session: string,
    generation: number,
    position: StoredPosition
  ) => Effect.Effect<void, SessionRegistryError>
  /**
   * The same, for a handler that commits its work and the position together: in the caller's transaction if the store
   * knows it. If the position is not ahead of the stored one, it fails with reason `fenced`, because somebody has
   * handled the message already.
   */
  readonly commitPosition: (
    session: string,
    generation: number,
    position: StoredPosition
  ) => Effect.Effect<void, SessionRegistryError>
  /** The connection of this generation is gone: retention begins. A stale generation does nothing. */
  readonly detach: (session: string, generation: number) => Effect.Effect<void, SessionRegistryError>
  /**
   * This server has nothing left that the session received and that is not handled, so another need not ask. Called
   * after `detach`. A stale generation does nothing.
   */
  readonly release: (session: string, generation: number) => Effect.Effect<void, SessionRegistryError>
  /**
   * Calls `listener`, until the scope closes, when another server wants a session that was attached here: finish what
   * is begun, store the position, and `release`. The other server waits only for a while.
   */
  readonly onWanted: (
    listener: (session: string) => void
  ) => Effect.Effect<void, never, Scope.Scope>
  /**
   * Marks and returns sessions whose retention has elapsed: nobody can attach to them any more. The caller has to clear
   * their outboxes, then `remove` them; a session that is not removed in time is returned again.
   */
  readonly expire: Effect.Effect<ReadonlyArray<string>, SessionRegistryError>
  /** Ends a session before its time: fences its owner and marks it as `expire` does. False when it is not known. */
  readonly end: (session: string) => Effect.Effect<boolean, SessionRegistryError>
  /**
   * Ends a session as `expire` does before its retention is over, because it gives way to others. Returns false if
   * somebody has attached after this generation.
   *
   * @since 0.1.0
   */
  readonly expireNow: (session: string, generation: number) => Effect.Effect<boolean, SessionRegistryError>
  /** Removes a session for good. */
  readonly remove: (session: string) => Effect.Effect<boolean, SessionRegistryError>
  readonly find: (session: string) => Effect.Effect<SessionInfo | undefined, SessionRegistryError>
  /**
   * The sessions of a principal, wherever they are: attached ones first, then those that were detached last. At most
   * `limit`.
   *
   * @since 0.1.0
   */
  readonly sessionsOf: (
    principal: string,
    limit: number
  ) => Effect.Effect<ReadonlyArray<SessionInfo>, SessionRegistryError>
  readonly count: Effect.Effect<{ readonly sessions: number; readonly attached: number }, SessionRegistryError>
  /**
   * How a server that stood still or was cut off from the store finds out whether its sessions are still its own. Left
   * out if no other server can take them.
   *
   * @since 0.1.0
   */
  readonly confirm?: Confirm | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Confirm {
  /** Whether this server has shown itself recently enough that no other can have taken a session by force. */
  readonly isSure: () => boolean
  /** Waits until it has, and fails with `fenced` unless the session still has this generation and is this server's. */
  readonly session: (session: string, generation: number) => Effect.Effect<void, SessionRegistryError>
}

/**
 * The sessions of a server, or of all servers that share a store.
 *
 * @since 0.1.0
 * @category services
 */
export class SessionRegistry
  extends Context.Service<SessionRegistry, Interface>()("resilient-websocket/SessionRegistry")
{}

/** @since 0.1.0 @category models */
export interface Options {
  /** How long a session is kept after its connection is lost; `Infinity` for ever. Default 10 minutes. */
  readonly retention?: Duration.Input | undefined
  /**
   * The most sessions. For one more, a session of the share that has the most (`shareOf` of the server) gives way: a
   * stranger's that never said anything, else one without a connection. If that share has no more than the new one's,
   * the new one is refused as overloaded. Default 100,000.
   */
  readonly maxSessions?: number | undefined
}

/**
 * A registry in this process's memory: sessions survive cut connections, not the process.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: Options = {}): Layer.Layer<SessionRegistry> =>
  Layer.effect(SessionRegistry, makeMemory(options))

/**
 * `layerMemory` with its options read from `Config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemoryConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<SessionRegistry, Config.ConfigError> => fromConfig(options, layerMemory)
