/**
 * The server's side for programs that have `ws` sockets and no Effect. Register sockets, and send messages to them or
 * to their sessions; critical messages are kept until they are handled.
 *
 * **Details.** A manager is a `ResilientServer` that accepts no connections itself. Sockets that speak `resilient.v1`,
 * as a `ResilientClient` does, are exactly-once both ways. Any other socket gets JSON texts, each kept until the socket
 * has taken it.
 *
 * @since 0.1.0
 */
import { Context, Duration, Effect, identity, Layer, Option } from "effect"
import type { WebSocket } from "ws"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import { Deduplicator } from "../Deduplicator.ts"
import { millis } from "../internal/kit/options.ts"
import type * as Message from "../Message.ts"
import type * as ResilientServer from "../ResilientServer.ts"
import { managerStats } from "./figures.ts"
import { Hooks, toMillis } from "./hooks.ts"
import type {
  BroadcastOptions,
  GracefulShutdownOptions,
  ManagerOptions,
  RegisterOptions,
  SendOptions,
  StatsOptions
} from "./managerOptions.ts"
import { acceptsNothing, makeServer, Server } from "./managerServer.ts"
import { idIfAny, messageIdOf } from "./messageIds.ts"
import type {
  Broadcast,
  Duration as DurationInput,
  ManagerEvents,
  ManagerStats,
  MessageState,
  PrincipalSession,
  Receipt,
  ShutdownReport
} from "./models.ts"
import type { SendAllOptions } from "./options.ts"
import { isOut, receiptOf } from "./receipts.ts"
import { finish, type Running, runSync, start } from "./running.ts"
import { broadcastNames, faultOf, sendAllNames, sendNames } from "./sends.ts"
import * as Shapes from "./shapes.ts"
import { checkOptions } from "./shapes.ts"
import { Sockets } from "./sockets.ts"
import { serviceOptions, type Services, storeOf } from "./stores.ts"

/**
 * Keeps messages for WebSockets that the program accepted itself.
 *
 * **Example** (Beside a `ws` server)
 *
 * ```ts
 * import { ResilientWebSocketManager, webSocketServerOptions } from "resilient-websocket/promise"
 * import { WebSocketServer } from "ws"
 *
 * const manager = await ResilientWebSocketManager.make({ ttl: "1 hour" })
 * const server = new WebSocketServer({ ...webSocketServerOptions(), port: 8080, host: "127.0.0.1" })
 * server.on("connection", async (ws, request) => {
 *   const sessionId = await manager.registerConnection(ws, { request })
 *   if (sessionId === undefined) return
 *   manager.send(sessionId, { hello: "there" }, { critical: true }).catch(console.error)
 * })
 * process.once("SIGTERM", async () => {
 *   const { dropped } = await manager.gracefulShutdown({ timeout: "10 seconds" })
 *   server.close()
 *   console.log(`${dropped} messages could not be delivered`)
 * })
 * ```
 *
 * @since 0.1.0
 * @category managers
 */
export class ResilientWebSocketManager<In = unknown, Out = unknown> implements AsyncDisposable {
  readonly #options: ManagerOptions<In, Out>
  readonly #hooks: Hooks<Out, ManagerEvents<In, Out>>
  readonly #running: Running<Server | Services>
  readonly #server: ResilientServer.ResilientServer<unknown, unknown>
  readonly #deduplicator: Deduplicator["Service"]
  readonly #breaker: CircuitBreaker.CircuitBreaker["Service"]
  readonly #sockets: Sockets
  readonly #startedAt = performance.now()
  #shutdown: Promise<ShutdownReport> | undefined

  private constructor(
    options: ManagerOptions<In, Out>,
    hooks: Hooks<Out, ManagerEvents<In, Out>>,
    sockets: Sockets,
    running: Running<Server | Services>
  ) {
    this.#options = options
    this.#hooks = hooks
    this.#sockets = sockets
    this.#running = running
    this.#server = Context.get(running.services, Server)
    this.#deduplicator = Context.get(running.services, Deduplicator)
    this.#breaker = Context.get(running.services, CircuitBreaker.CircuitBreaker)
  }

  /**
   * Makes a manager, and starts its background work. Rejects with a `ConfigError` if an option is out of range, and
   * with a `MessageQueueError` (operation `start`) if its store can't be opened.
   */
  static async make<In = unknown, Out = unknown>(
    options: ManagerOptions<In, Out> = {}
  ): Promise<ResilientWebSocketManager<In, Out>> {
    checkOptions(options, Shapes.manager)
    return ResilientWebSocketManager.makeOn(options, await storeOf(options.store, serviceOptions(options)))
  }

  /** @internal For tests that bring their own services. */
  static async makeOn<In, Out>(
    options: ManagerOptions<In, Out>,
    store: Layer.Layer<Services, unknown>
  ): Promise<ResilientWebSocketManager<In, Out>> {
    const hooks = new Hooks<Out, ManagerEvents<In, Out>>(options)
    const sockets = new Sockets({
      isRead: options.onMessage !== undefined,
      sessionMessage: options.sessionMessage,
      onRefused: (ws, error) => hooks.emitter.emit("refused", { ws, error })
    })
    const layer = Layer.effect(Server, makeServer(options, hooks, sockets)).pipe(
      Layer.provideMerge(store),
      Layer.provide(acceptsNothing)
    )
    return new ResilientWebSocketManager(options, hooks, sockets, await start(layer, options, hooks.reporter))
  }

  /**
   * Takes over a socket, and returns its session's id. Call it in the `connection` event itself, before you await
   * anything: otherwise, what the socket says meanwhile is lost. If you have to await something first, pass a promise
   * as the `sessionId`, or pause the socket until then. A socket whose hello was missed is refused; lost messages of a
   * plain socket are reported in the log. What waits for the session goes out. If the session has a socket already,
   * that one is closed as replaced.
   *
   * With `onMessage`, the manager reads the socket. Without it, you read the messages of plain sockets yourself.
   *
   * Returns undefined if there is no session: the socket was not open or closed during its handshake, the handshake was
   * refused, the store did not answer, or the manager is shutting down. Then the socket has been closed, and the event
   * `refused` says why. It rejects only for the caller's mistakes and wishes: with a `TransportError` for a socket that
   * is registered for another session or with another manager, is still connecting, or is not of the package `ws`; with
   * a `ConfigError` for invalid options; with the signal's reason; and with what `sessionMessage` throws.
   */
  async registerConnection(
    ws: WebSocket,
    options: RegisterOptions = {}
  ): Promise<string | undefined> {
    checkOptions(options, Shapes.register)
    const { signal } = options
    const register = this.#server.register
    const session = await this.#sockets.register(
      ws,
      options,
      (connection, wanted, onAttached) =>
        this.#running.run(register(connection, { session: wanted }), (session) => {
          onAttached()
          return session
        }, signal)
    )
    if (session === undefined) signal?.throwIfAborted()
    return session
  }

  /**
   * Unregisters a socket, which stays open and is yours again. Its session is kept for the retention; messages to the
   * socket or the session wait there. Returns false if the socket was not registered.
   */
  async unregisterConnection(ws: WebSocket): Promise<boolean> {
    const connection = await this.#sockets.connectionOf(ws)
    if (connection === undefined) return false
    return this.#running.run(this.#server.unregister(connection), (wasRegistered) => {
      this.#sockets.release(ws)
      return wasRegistered
    })
  }

  /**
   * Sends a message, any JSON, to a socket or session. Returns true if it goes out now, or one with its id did before.
   * Returns false if it is kept for later (`critical`) or was skipped, because the peer is away or slow, or its circuit
   * is open.
   *
   * Rejects with a `SessionNotFoundError` for a session that never existed or has ended, with a `QueueOverflowError` if
   * the queue is full for a critical message, with a `DeduplicationError` if the id was used for other content, with a
   * `PayloadError` for a message that is not JSON or larger than the peer takes, with a `MessageQueueError` if the
   * store failed or the session is just ending, with a `TransportError` for a socket that was never registered, and
   * with a `ShutdownError`. Then nothing was sent, except perhaps with a `MessageQueueError` that is `inDoubt`. A peer
   * can cause some of these errors, so catch them.
   */
  send(target: WebSocket | string, message: Out, options?: SendOptions): Promise<boolean> {
    const fault = faultOf(options, sendNames)
    if (fault !== undefined) return Promise.reject(fault)
    return this.#to(target, (session) => this.#send(session, message, options, isOut))
  }

  /** Sends like `send`, but returns the receipt. */
  sendWithReceipt(target: WebSocket | string, message: Out, options?: SendOptions): Promise<Receipt> {
    const fault = faultOf(options, sendNames)
    if (fault !== undefined) return Promise.reject(fault)
    const { run } = this.#running
    return this.#to(
      target,
      (session) => this.#send(session, message, options, (receipt) => receiptOf(receipt, run))
    )
  }

  /** Sends many critical messages to one session, in order: the outbox takes all of them, or none. */
  sendAll(
    target: WebSocket | string,
    messages: Iterable<Out>,
    options: SendAllOptions = {}
  ): Promise<ReadonlyArray<Receipt>> {
    const fault = faultOf(options, sendAllNames)
    if (fault !== undefined) return Promise.reject(fault)
    const { signal, ttl } = options
    const { run } = this.#running
    return this.#to(target, (session) =>
      run(
        this.#server.sendAll(session, messages, { ttl }),
        (receipts) => receipts.map((receipt) => receiptOf(receipt, run)),
        signal
      ))
  }

  /**
   * Sends one critical message to many sessions, or to those of a principal. A session that can't take it is reported,
   * and does not affect the others.
   */
  broadcast(message: Out, options: BroadcastOptions = {}): Promise<Broadcast> {
    const fault = faultOf(options, broadcastNames)
    if (fault !== undefined) return Promise.reject(fault)
    const { principal, sessions, signal, ttl } = options
    return this.#running.run(this.#server.broadcast(message, { principal, sessions, ttl }), identity, signal)
  }

  /**
   * Returns the id by which a message is deduplicated: its own `id`, if that is a number or a string of at most 256
   * characters, or else a hash of its content. Throws a `TypeError` if the message is not JSON.
   */
  getMessageId(message: Out): string {
    return messageIdOf(message)
  }

  /**
   * Whether a message with this id was sent within `messageIdTtl`: to this socket or session, or without a target to
   * any session here. Only looks the id up; only sending records one.
   */
  async isDuplicateMessage(id: string, target?: WebSocket | string): Promise<boolean> {
    const { run } = this.#running
    const scopes = target === undefined
      ? await run(this.#server.sessions, identity)
      : await this.#to(target, async (session) => [session])
    const isKnown = (scope: string) => Effect.map(this.#deduplicator.lookup({ scope, key: id }), Option.isSome)
    return run(Effect.findFirst(scopes, isKnown), Option.isSome)
  }

  /** How long an id is remembered, in ms. Setting it to less than the TTL plus the retention throws a `ConfigError`. */
  get messageIdTtl(): number {
    return Duration.toMillis(runSync(this.#deduplicator.window))
  }

  set messageIdTtl(value: DurationInput) {
    runSync(Effect.suspend(() => this.#deduplicator.setWindow(millis("messageIdTtl", value, value))))
  }

  /** Resumes the background work. Needed only after `stopBackgroundTasks`, as `make` starts it. */
  startBackgroundTasks(): Promise<void> {
    return this.#running.run(this.#server.resume, identity)
  }

  /**
   * Pauses the background work. What can be written at once still is; everything else waits, no acknowledgements are
   * sent, nothing expires, and no peer is found silent. A shutdown resumes the work.
   */
  stopBackgroundTasks(): Promise<void> {
    return this.#running.run(this.#server.pause, identity)
  }

  /**
   * Shuts down: takes no new messages, flushes, closes the sockets, ends the background work, and reports what became
   * of the messages: `pending = flushed + retained + dropped`. Dropped messages become dead letters and go to
   * `fallbackSend`, which is waited for. Later calls return the same report. Afterwards the manager no longer keeps the
   * process alive. A handler or `fallbackSend` that awaits this waits for itself, until the time is over.
   */
  gracefulShutdown(options: GracefulShutdownOptions = {}): Promise<ShutdownReport> {
    return this.#shutdown ??= this.#end(options).catch((error) => {
      this.#shutdown = undefined // an option was wrong, and nothing has happened
      throw error
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.gracefulShutdown().then(() => {})
  }

  /**
   * Returns all figures. `connections: false` leaves out those of each session: there may be very many, and ids that
   * the manager made are secrets, which don't belong on a page of statistics.
   */
  async getStats(options: StatsOptions = {}): Promise<ManagerStats> {
    checkOptions(options, Shapes.stats)
    const { connections = true } = options
    const stats = managerStats({
      server: this.#server,
      breaker: this.#breaker,
      startedAt: this.#startedAt,
      timeoutMillis: toMillis(this.#options.connectionTimeout ?? "120 seconds"),
      connections
    })
    return this.#running.run(stats, identity)
  }

  /**
   * Returns the sessions of a principal, at any server: those that are connected, then the others, the last connected
   * first; at most 1,000. A tab that was closed or reloaded may have left one.
   */
  sessionsOf(principal: string): Promise<ReadonlyArray<PrincipalSession>> {
    return this.#running.run(this.#server.sessionsOf(principal), identity)
  }

  /** Says where the message with this id is. */
  locate(target: WebSocket | string, messageId: string): Promise<MessageState> {
    return this.#to(target, (session) => this.#running.run(this.#server.locate(session, messageId), identity))
  }

  /** Ends a session for good: tells its peer, and what waits becomes dead letters. */
  endSession(target: WebSocket | string): Promise<void> {
    return this.#to(target, (session) => this.#running.run(this.#server.endSession(session), identity))
  }

  /** Calls the listener with each event from now on. If it throws or rejects, that is logged. */
  on<Name extends keyof ManagerEvents<In, Out>>(
    event: Name,
    listener: (value: ManagerEvents<In, Out>[Name]) => unknown
  ): this {
    checkOptions({ [event]: listener ?? null }, Shapes.managerEvents)
    this.#hooks.emitter.on(event, listener)
    return this
  }

  off<Name extends keyof ManagerEvents<In, Out>>(
    event: Name,
    listener: (value: ManagerEvents<In, Out>[Name]) => unknown
  ): this {
    checkOptions({ [event]: listener }, Shapes.managerEvents)
    this.#hooks.emitter.off(event, listener)
    return this
  }

  /** Synchronous if the session is known, so that sends to a socket and to its session's id stay in order. */
  #to<A>(target: WebSocket | string, then: (session: string) => Promise<A>): Promise<A> {
    const session = typeof target === "string" ? target : this.#sockets.sessionOf(target)
    return typeof session === "string" ? then(session) : session.then(then)
  }

  #send<A>(
    session: string,
    message: Out,
    options: SendOptions | undefined,
    map: (receipt: Message.Receipt) => A
  ): Promise<A> {
    const { critical = false, signal, ttl } = options ?? {}
    const given = options?.id
    const id = given === undefined && this.#options.deduplicate === true ? idIfAny(message) : given
    const isSimple = critical && id === undefined && ttl === undefined
    return this.#running.run(
      this.#server.send(session, message, isSimple ? undefined : { id, ttl, volatile: !critical }),
      (receipt) => {
        if (receipt._tag === "Skipped") this.#hooks.skipped(message, session, receipt.messageId)
        return map(receipt)
      },
      signal
    )
  }

  async #end(options: GracefulShutdownOptions): Promise<ShutdownReport> {
    checkOptions(options, Shapes.shutdown)
    const { closeConnections = true, flushPending = true, timeout } = options
    const report = await this.#running.run(
      this.#server.shutdownWith({ timeout, flush: flushPending, closeConnections }),
      identity
    )
    if (!closeConnections) this.#sockets.releaseAll()
    const limit = toMillis(timeout ?? this.#options.shutdownTimeout ?? "30 seconds") - report.durationMillis
    await finish(this.#running, this.#hooks.settled(), limit)
    return report
  }
}
