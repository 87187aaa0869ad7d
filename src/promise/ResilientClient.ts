/**
 * The client for programs without Effect: one session with a server, kept across all its connections.
 *
 * @since 0.1.0
 */
import { Context, Effect, identity, Layer, Redacted, Stream } from "effect"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import { Observers } from "../internal/kit/listeners.ts"
import { pick } from "../internal/kit/options.ts"
import { shownUrl } from "../internal/kit/urls.ts"
import { contractClient } from "../internal/run/optionShapes.ts"
import type * as Message from "../Message.ts"
import * as NodeTransport from "../node/NodeTransport.ts"
import * as Effectful from "../ResilientClient.ts"
import { TransportError, type WebSocketError } from "../WebSocketError.ts"
import type { ClientOptions, CloseOptions, ConnectedOptions } from "./clientOptions.ts"
import { ConfigError } from "./errors.ts"
import { breakerStatsOf, circuitChangeOf, connectionStatsOf, metricsOf } from "./figures.ts"
import { calling, handle, Hooks, incomingSchema, outgoingSchema, retryOf, toMillis } from "./hooks.ts"
import type {
  ClientEvents,
  ClientStats,
  ConnectionState,
  DeadLetter,
  Incoming,
  MessageState,
  Receipt,
  ShutdownReport,
  Waiting
} from "./models.ts"
import type { ReliableSendOptions, SendAllOptions } from "./options.ts"
import { receiptOf } from "./receipts.ts"
import { finish, leastEndMillis, type Running, start } from "./running.ts"
import { faultOf, sendAllNames, sending } from "./sends.ts"
import * as Shapes from "./shapes.ts"
import { checkOptions } from "./shapes.ts"
import { serviceOptions, type Services, storeOf } from "./stores.ts"

class Client extends Context.Service<Client, Effectful.ResilientClient<unknown, unknown>>()(
  "resilient-websocket/promise/Client"
) {}

/**
 * A client that connects and reconnects by itself.
 *
 * **Example**
 *
 * ```ts
 * import { ResilientClient } from "resilient-websocket/promise"
 *
 * const client = await ResilientClient.connect("ws://127.0.0.1:8080", { token: "secret" })
 * const receipt = await client.send({ order: 17 })
 * await receipt.handled({ signal: AbortSignal.timeout(10_000) })
 * for await (const message of client) console.log(message)
 * ```
 *
 * @since 0.1.0
 * @category clients
 */
export class ResilientClient<In = unknown, Out = unknown> implements AsyncDisposable, AsyncIterable<In> {
  readonly #options: ClientOptions<In, Out>
  readonly #hooks: Hooks<Out, ClientEvents<In, Out>>
  readonly #running: Running<Client | Services>
  readonly #client: Effectful.ResilientClient<unknown, unknown>
  readonly #breaker: CircuitBreaker.CircuitBreaker["Service"]
  readonly #startedAt = performance.now()
  #closing: Promise<ShutdownReport> | undefined

  private constructor(
    options: ClientOptions<In, Out>,
    hooks: Hooks<Out, ClientEvents<In, Out>>,
    running: Running<Client | Services>
  ) {
    this.#options = options
    this.#hooks = hooks
    this.#running = running
    this.#client = Context.get(running.services, Client)
    this.#breaker = Context.get(running.services, CircuitBreaker.CircuitBreaker)
  }

  /**
   * Makes a client for a `ws://` or `wss://` URL, and waits until it is connected. `url` may be a function, which is
   * called at every attempt. If the server says stop, or connecting takes longer than `connectTimeout`, the client is
   * closed and the promise rejects with the reason. With `wait: false`, returns the client at once, which then connects
   * by itself.
   */
  static async connect<In = unknown, Out = unknown>(
    url: string | (() => string | Promise<string>),
    options: ClientOptions<In, Out> = {}
  ): Promise<ResilientClient<In, Out>> {
    checkUrl(url)
    checkOptions(options, Shapes.client)
    const hooks = new Hooks<Out, ClientEvents<In, Out>>(options)
    const { breaker, reconnect } = options
    // So that the URL's circuit makes no longer pauses than `reconnect` asks for.
    const endpoint = {
      ...breaker,
      openBase: breaker?.openBase ?? reconnect?.base,
      openCap: breaker?.openCap ?? reconnect?.cap
    }
    const store = await storeOf({ type: "memory" }, {
      ...serviceOptions(options),
      breaker: { session: breaker, endpoint }
    })
    const layer = Layer.effect(Client, makeClient(url, options, hooks)).pipe(
      Layer.provideMerge(store),
      Layer.provide(NodeTransport.layerClient)
    )
    const running = await start(layer, options, hooks.reporter, options.signal)
    const client = new ResilientClient(options, hooks, running)
    if (options.wait === false) return client
    const { connectTimeout = "30 seconds", signal } = options
    try {
      await client.connected({ timeout: connectTimeout, signal })
      return client
    } catch (error) {
      await client.close({ timeout: leastEndMillis, flushPending: false })
      throw error
    }
  }

  /** Waits until the client is connected. Rejects if the server says stop, or if it takes longer than `timeout`. */
  async connected(options: ConnectedOptions = {}): Promise<void> {
    checkOptions(options, Shapes.connected)
    const { signal, timeout } = options
    return this.#running.run(this.#client.awaitConnected({ timeout }), identity, signal)
  }

  /**
   * Puts a message, any JSON, in the outbox, where it stays until the server has handled it. The receipt says what
   * became of it. Rejects with a `QueueOverflowError` if the outbox is full, with a `DeduplicationError` if its id was
   * used for other content, with a `PayloadError` if it is not JSON or too large, and with a `ShutdownError`.
   */
  send(message: Out, options?: ReliableSendOptions): Promise<Receipt> {
    const { run } = this.#running
    return sending(options, (sendOptions, signal) =>
      run(this.#client.send(message, sendOptions), (receipt) => {
        if (receipt._tag === "Skipped") this.#hooks.skipped(message, receipt.session, receipt.messageId)
        return receiptOf(receipt, run)
      }, signal))
  }

  /** Sends many messages at once, in order: the outbox takes all of them, or none. */
  sendAll(
    messages: Iterable<Out>,
    options: SendAllOptions = {}
  ): Promise<ReadonlyArray<Receipt>> {
    const fault = faultOf(options, sendAllNames)
    if (fault !== undefined) return Promise.reject(fault)
    const { signal, ttl } = options
    const { run } = this.#running
    return run(
      this.#client.sendAll(messages, { ttl }),
      (receipts) => receipts.map((receipt) => receiptOf(receipt, run)),
      signal
    )
  }

  /** Iterates over the messages: see `messages`. Throws a `TypeError` if there is an `onMessage`. */
  [Symbol.asyncIterator](): AsyncIterator<In> {
    const iterator = this.messages()[Symbol.asyncIterator]()
    const messageOf = (result: IteratorResult<Incoming<In>>): IteratorResult<In> =>
      result.done === true ? result : { done: false, value: result.value.message }
    return {
      next: () => iterator.next().then(messageOf),
      return: async () => {
        await iterator.return?.()
        return { done: true, value: undefined }
      }
    }
  }

  /**
   * Iterates over the messages, with their ids and session, until the client is closed. Asking for the next message
   * acknowledges the one before. If you leave the loop, by `break` or an error, its last message is not acknowledged:
   * it comes again in the next loop.
   */
  messages(): AsyncIterable<Incoming<In>> {
    if (this.#options.onMessage !== undefined) throw new TypeError("the messages of this client go to its onMessage")
    const stream = Stream.toAsyncIterableWith(this.#client.messages, this.#running.services)
    return { [Symbol.asyncIterator]: () => untilLeft(stream[Symbol.asyncIterator]() as AsyncIterator<Incoming<In>>) }
  }

  /** Whether the client is connected, and if not, why, and what comes next. */
  state(): Promise<ConnectionState> {
    return this.#running.run(this.#client.state, identity)
  }

  /** Tries to connect now instead of waiting, even after the server said stop. */
  reconnect(): Promise<void> {
    return this.#running.run(this.#client.reconnect, identity)
  }

  /** Asks for the token again, and sends it on the open connection. */
  async refreshToken(options: Waiting = {}): Promise<void> {
    checkOptions(options, Shapes.waiting)
    const { signal } = options
    return this.#running.run(this.#client.refreshToken, identity, signal)
  }

  /**
   * Ends the session for good. If the client is connected, it ends at the server too; otherwise it stays there for its
   * retention. What waits becomes dead letters. A connected client then stops: `reconnect` starts a new session.
   */
  endSession(): Promise<void> {
    return this.#running.run(this.#client.endSession, identity)
  }

  /** Says where the message with this id is. */
  locate(messageId: string): Promise<MessageState> {
    return this.#running.run(this.#client.locate(messageId), identity)
  }

  /** Returns all figures. */
  getStats(): Promise<ClientStats> {
    const client = this.#client
    const breaker = this.#breaker
    const startedAt = this.#startedAt
    const stats = Effect.gen(function*() {
      const { session, ...figures } = yield* client.stats
      const circuits = yield* breaker.stats
      const active = session.connected ? 1 : 0
      return {
        connection: connectionStatsOf(session, 0),
        metrics: metricsOf({ ...figures, active, breaker: circuits, startedAt }),
        circuitBreaker: breakerStatsOf(circuits)
      }
    })
    return this.#running.run(stats, identity)
  }

  /** Calls the listener with each event from now on. If it throws or rejects, that is logged. */
  on<Name extends keyof ClientEvents<In, Out>>(
    event: Name,
    listener: (value: ClientEvents<In, Out>[Name]) => unknown
  ): this {
    checkOptions({ [event]: listener ?? null }, Shapes.clientEvents)
    this.#hooks.emitter.on(event, listener)
    return this
  }

  off<Name extends keyof ClientEvents<In, Out>>(
    event: Name,
    listener: (value: ClientEvents<In, Out>[Name]) => unknown
  ): this {
    checkOptions({ [event]: listener }, Shapes.clientEvents)
    this.#hooks.emitter.off(event, listener)
    return this
  }

  /**
   * Flushes and closes. The session stays at the server for its retention. What is not handled in time becomes dead
   * letters. Later calls return the same report. Afterwards the client no longer keeps the process alive.
   */
  close(options: CloseOptions = {}): Promise<ShutdownReport> {
    return this.#closing ??= this.#close(options).catch((error) => {
      this.#closing = undefined // an option was wrong, and nothing has happened
      throw error
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close().then(() => {})
  }

  async #close(options: CloseOptions): Promise<ShutdownReport> {
    checkOptions(options, Shapes.close)
    const { flushPending: flush = true, timeout } = options
    const report = await this.#running.run(this.#client.shutdownWith({ flush, timeout }), identity)
    const limit = toMillis(timeout ?? this.#options.shutdownTimeout ?? "30 seconds") - report.durationMillis
    await finish(this.#running, this.#hooks.settled(), limit)
    return report
  }
}

const checkUrl = (url: unknown): void => {
  if (typeof url === "function") return
  if (typeof url !== "string") throw new ConfigError("the url must be a string or a function")
  const { protocol = "none" } = URL.parse(url) ?? {}
  if (protocol !== "ws:" && protocol !== "wss:") {
    throw new ConfigError(`the url must begin with ws:// or wss://, got ${shownUrl(url)}`)
  }
}

/** Runs one `next` at a time. Leaving the loop fails the stream, so that its last message is not acknowledged. */
const untilLeft = <A>(iterator: AsyncIterator<A>): AsyncIterator<A> => {
  const done: IteratorResult<A> = { done: true, value: undefined }
  let isLeft = false
  let last: Promise<unknown> = Promise.resolve()
  return {
    next: () => {
      const next = last.then(() => isLeft ? done : iterator.next())
      last = next.catch(() => {})
      return next
    },
    return: async () => {
      isLeft = true
      await iterator.throw?.(left).catch(() => {})
      return done
    }
  }
}

const left = new Error("the loop was left")

const makeClient = Effect.fnUntraced(function*<In, Out>(
  url: string | (() => string | Promise<string>),
  options: ClientOptions<In, Out>,
  hooks: Hooks<Out, ClientEvents<In, Out>>
) {
  const { onGap, onMessage, token } = options
  const breaker = yield* CircuitBreaker.CircuitBreaker
  yield* breaker.onTransition((transition) => hooks.emitter.emit("circuitChange", circuitChangeOf(transition)))
  return yield* Effectful.make({
    ...pick(options, contractClient),
    url: typeof url === "string" ? url : asked("url", url),
    token: typeof token === "function" ? Effect.map(asked("token", token), secret) : secret(token),
    incoming: incomingSchema(options.parse),
    outgoing: outgoingSchema,
    onMessage: onMessage && ((_, { client, incoming }) =>
      handle(
        onMessage,
        incoming as Message.Incoming<In>, // as `parse` or the user says
        { principal: undefined, data: undefined, ws: undefined },
        (message: Out, replyOptions, run) =>
          sending(replyOptions, (sendOptions, signal) =>
            run(client.send(message, sendOptions), (receipt) => receiptOf(receipt, run), signal))
      )),
    onGap: onGap && ((gap) => calling(() => onGap(gap))),
    handlerRetry: retryOf(options.handlerRetry)
  }).pipe(Effect.provideService(Observers, {
    deadLetter: (letter) => hooks.deadLetter(letter as DeadLetter<In | Out>),
    state: (state) => hooks.emitter.emit("stateChange", state)
  }))
})

const secret = (token: string | undefined) => token === undefined ? undefined : Redacted.make(token)

/** Calls the user's function at every attempt. If it fails, only this attempt fails. */
const asked = <A>(name: string, ask: () => A | Promise<A>): Effect.Effect<A, WebSocketError> =>
  Effect.tryPromise({
    try: async () => ask(),
    catch: (cause) =>
      new TransportError({ operation: "dial", detail: `the ${name} could not be had: ${String(cause)}`, cause })
  })
