/**
 * Servers and clients for behaviour tests: in memory under the test's clock, or on real sockets; each with a store of
 * its own unless told otherwise. Messages are strings.
 */
import { assert } from "@effect/vitest"
import { Cause, Clock, Context, Effect, Exit, Layer, Redacted, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import {
  CircuitBreaker,
  type Deduplicator,
  MemoryStore,
  type MessageQueue,
  ResilientClient,
  ResilientServer,
  type SessionRegistry,
  type Transport
} from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { layerOf } from "../../src/internal/store/layer.ts"
import { makeNetwork, type Network } from "./harnessNetwork.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "./memoryDriver.ts"

export type Server = ResilientServer.ResilientServer<string, string>
export type Client = ResilientClient.ResilientClient<string, string>
interface Schemas {
  readonly incoming?: Schema.Codec<string, unknown>
  readonly outgoing?: Schema.Codec<string, unknown>
}
export type ServerOptions = Omit<ResilientServer.Options<string, string>, "incoming" | "outgoing"> & Schemas
export type ClientOptions =
  & Partial<Pick<ResilientClient.Options<string, string>, "url">>
  & Schemas
  & Omit<ResilientClient.Options<string, string>, "incoming" | "outgoing" | "url" | "token">
  & { readonly token?: Token | Effect.Effect<Token | undefined, unknown> | undefined }
/** Tests' tokens are no secrets. */
type Token = string | Redacted.Redacted

export type StoreServices =
  | MessageQueue.MessageQueue
  | Deduplicator.Deduplicator
  | SessionRegistry.SessionRegistry
  | CircuitBreaker.CircuitBreaker
export type Store = Context.Context<StoreServices>

/** Lets everything that is ready run: microtasks, Effect's tasks, and one turn of the event loop. */
export const turn: Effect.Effect<void> = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))

type Condition = () => boolean | Effect.Effect<boolean, unknown>

const holds = (condition: Condition): Effect.Effect<boolean> => {
  const result = condition()
  return typeof result === "boolean" ? Effect.succeed(result) : Effect.orDie(result)
}

/** A condition that takes longer in real time never comes: the test fails with its name, before its own deadline. */
const patienceMillis = 400_000

/** Waits for a condition without moving the test's clock. */
export const until = Effect.fnUntraced(function*(what: string, condition: Condition) {
  const giveUpAt = performance.now() + patienceMillis
  while (!(yield* holds(condition))) {
    if (performance.now() > giveUpAt) assert.fail(`waited in vain: ${what}`)
    yield* turn
  }
})

/** Moves the test's clock until a condition holds; returns how many ms that took. */
export const advanceUntil = Effect.fnUntraced(function*(
  what: string,
  condition: Condition,
  options?: { readonly atMost?: number; readonly step?: number }
) {
  const { atMost = 120_000, step = 100 } = options ?? {}
  for (let elapsed = 0; elapsed <= atMost; elapsed += step) {
    for (let i = 0; i < 5; i++) {
      if (yield* holds(condition)) return elapsed
      yield* turn
    }
    yield* TestClock.adjust(step)
  }
  return assert.fail(`not within ${atMost} ms of the test's time: ${what}`)
})

/** Moves the test's clock in steps, letting everybody react in between. */
export const advance = Effect.fnUntraced(function*(millis: number, step = 500) {
  for (let elapsed = 0; elapsed < millis; elapsed += step) {
    yield* TestClock.adjust(Math.min(step, millis - elapsed))
    for (let i = 0; i < 3; i++) yield* turn
  }
})

/** What a stream gives from now on, as a growing array. */
export const collect = Effect.fnUntraced(function*<A>(stream: Stream.Stream<A, unknown>) {
  const items: Array<A> = []
  yield* Effect.forkScoped(
    Stream.runForEach(stream, (item) => Effect.sync(() => items.push(item))),
    { startImmediately: true }
  )
  return items
})

/** `STORE=stored vitest run …`: the same behaviour on the stored layers, over a database in memory. */
const storeLayer = (options?: MemoryStore.Options): Layer.Layer<StoreServices, unknown> =>
  process.env["STORE"] === "stored"
    ? layerOf(Effect.sync(() => makeMemoryDriver(makeMemoryDatabase())), 2, options ?? {})
    : MemoryStore.layer(options)

export const makeStore = (
  options?: MemoryStore.Options,
  swap?: (services: Layer.Layer<StoreServices>) => Layer.Layer<StoreServices>
): Effect.Effect<Store, never, Scope.Scope> => {
  const layer = Layer.orDie(storeLayer(options))
  return Layer.build(swap === undefined ? layer : swap(layer))
}

/** A scope that the test closes itself, at the latest with its own. */
export const forkScope = Effect.flatMap(Effect.scope, (scope) => Scope.fork(scope))
export const closeScope = (scope: Scope.Closeable): Effect.Effect<void> => Scope.close(scope, Exit.void)

export interface Around {
  /** Options of the store, or a store. */
  readonly store?: Store | MemoryStore.Options | undefined
}

/** A shutdown that waits must not wait for a test's clock that nobody moves any more. */
const pump = Effect.gen(function*() {
  const clock = yield* Clock.Clock
  if (!("adjust" in clock)) return
  yield* Effect.addFinalizer(() =>
    Effect.forkDetach(Effect.repeat(Effect.andThen(TestClock.adjust("1 second"), turn), { times: 60 }))
  )
})

const storeOf = (store: Around["store"]): Effect.Effect<Store, never, Scope.Scope> =>
  Context.isContext(store) ? Effect.succeed(store as Store) : makeStore(store as MemoryStore.Options | undefined)

export const serverOn = Effect.fnUntraced(function*(
  transport: Context.Context<Transport.TransportServer>,
  options: ServerOptions = {},
  around: Around = {}
) {
  const store = yield* storeOf(around.store)
  const server = yield* ResilientServer.make({ incoming: Schema.String, outgoing: Schema.String, ...options }).pipe(
    Effect.provide(Context.merge(store, transport))
  )
  yield* pump
  return server
})

export const clientOn = Effect.fnUntraced(function*(
  transport: Context.Context<Transport.TransportClient>,
  options: ClientOptions = {},
  around: Around = {}
) {
  const store = yield* storeOf(around.store)
  const client = yield* ResilientClient.make({
    url: "ws://memory",
    incoming: Schema.String,
    outgoing: Schema.String,
    ...options,
    token: Effect.isEffect(options.token) ? Effect.map(options.token, redacted) : redacted(options.token)
  }).pipe(Effect.provide(Context.merge(store, transport)))
  yield* pump
  return client
})

const redacted = (token: Token | undefined): Redacted.Redacted | undefined =>
  typeof token === "string" ? Redacted.make(token) : token

export const textOf = (token: Redacted.Redacted | undefined): string | undefined => token && Redacted.value(token)

/** Names the session after the token, so that a test knows it. */
export const byToken: NonNullable<ServerOptions["authenticate"]> = ({ token }) =>
  Effect.succeed(token === undefined ? {} : { session: token, principal: token })

export interface PairOptions {
  readonly server?: ServerOptions
  readonly client?: ClientOptions
  readonly serverStore?: Around["store"]
  readonly clientStore?: Around["store"]
}

/** A server and a client of session `alice` in memory, connected, and what each has handled. */
export const pair = Effect.fnUntraced(function*(
  network: Network,
  options: PairOptions = {}
) {
  const atServer: Array<string> = []
  const atClient: Array<string> = []
  const server = yield* serverOn(network.context, {
    authenticate: byToken,
    onMessage: (message) => Effect.sync(() => atServer.push(message)),
    ...options.server
  }, { store: options.serverStore })
  const client = yield* clientOn(network.context, {
    token: "alice",
    onMessage: (message) => Effect.sync(() => atClient.push(message)),
    ...options.client
  }, { store: options.clientStore })
  yield* client.awaitConnected()
  return { server, client, atServer, atClient }
})

/** A network with a pair on it. */
export const connected = Effect.fnUntraced(function*(options: PairOptions = {}) {
  const network = yield* makeNetwork
  const serverStore = yield* storeOf(options.serverStore)
  const breaker = Context.get(serverStore, CircuitBreaker.CircuitBreaker)
  const { atClient, atServer, client, server } = yield* pair(network, { ...options, serverStore })
  return { network, breaker, server, client, atServer, atClient }
})

/** Cuts the newest connection, and lets none be made again. */
export const unplug = (network: Network, client: Client) => {
  network.dialling = "refused"
  network.newest().cut()
  return until("it noticed", () => Effect.map(client.state, ({ _tag }) => _tag === "Disconnected"))
}

/** A server on a free port of this machine. */
export const nodeServer = Effect.fnUntraced(function*(options: ServerOptions = {}, around: Around = {}) {
  const transport = yield* Layer.build(NodeTransport.layerServer({ port: 0 }))
  const server = yield* serverOn(transport, options, around)
  return { server, url: `ws://127.0.0.1:${server.address.port}` }
})

export const nodeClient = Effect.fnUntraced(function*(options: ClientOptions, around: Around = {}) {
  const transport = yield* Layer.build(NodeTransport.layerClient)
  return yield* clientOn(transport, options, around)
})

/** What is wrong with an option that this was given: a defect. */
export const mistake = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Cause.IllegalArgumentError, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
    return Cause.isIllegalArgumentError(defect) ? defect : assert.fail(`no mistake was found: ${exit}`)
  })

/** The tag of whatever an effect fails with, or "success". */
export const tagOf = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.match(effect, { onFailure: (error) => error._tag, onSuccess: () => "success" })

export const numbered = (count: number, prefix = "m"): Array<string> =>
  Array.from({ length: count }, (_, index) => `${prefix}${index + 1}`)
