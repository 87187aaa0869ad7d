/**
 * This library, through its public API as the README shows it: default settings, save that a full outbox suspends its
 * sender, who is faster than the network. The server's store is memory or a database, the clients' is memory.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Context, Effect, Exit, Layer, Redacted, Schema, Scope } from "effect"
import { HttpRouter } from "effect/http"
import { createServer, type Server as HttpServer } from "node:http"
import { setTimeout as sleep } from "node:timers/promises"
import { Contract, MemoryStore, MessageQueue, SessionRegistry, Transport } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import { beforeEnd } from "../harness/endings.ts"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Server, Shape } from "../harness/Peer.ts"
import { at, makeCut, maxInFlightStored } from "./sockets.ts"
import * as stores from "./stores.ts"

const Quote = Schema.Struct({
  i: Schema.Int,
  connection: Schema.Int,
  at: Schema.Finite,
  kind: Schema.Literal("quote"),
  text: Schema.String
})
const Tick = Schema.Struct({ i: Schema.Int })

const contractOf = (schema: Schema.Codec<Message, unknown>) =>
  Contract.make("bench/Messages", { toServer: schema, toClient: schema })

const contracts = {
  quote: contractOf(Quote as Schema.Codec<Message, unknown>), // what is sent is of one shape in a whole run
  tick: contractOf(Tick as Schema.Codec<Message, unknown>)
} satisfies Record<Shape, unknown>

const queueOptions = (maxQueued: number | undefined): MessageQueue.Options => ({
  overflow: "suspend",
  ...(maxQueued === undefined ? {} : {
    maxMessages: maxQueued,
    maxBytes: 1024 ** 3,
    maxTotalMessages: 2 * maxQueued,
    maxTotalBytes: 1024 ** 3,
    ttl: "1 hour"
  })
})

const registryOptions = (maxSessions: number | undefined): SessionRegistry.Options =>
  maxSessions === undefined ? {} : { maxSessions, retention: "1 hour" }

/** What a server is given to close in. */
const closeMillis = 2_000

/** Its session's name, and its token. */
const sessionOf = (connection: number): string => String(connection)

/** The library's ways to send, by the number of the connection. */
interface Line {
  readonly send: (connection: number, message: Message) => Effect.Effect<unknown, unknown>
  readonly sendAll: (connection: number, messages: ReadonlyArray<Message>) => Effect.Effect<unknown, unknown>
}

/** How a plan is sent with them: what differs between the ways to use the library. */
type SendMany = (plan: Plan, line: Line) => Effect.Effect<void, unknown>

const oneByOne: SendMany = ({ connections, count, make }, { send }) =>
  Effect.gen(function*() {
    for (let n = 0; n < count; n++) yield* send(n % connections, make(n))
  })

/**
 * Runs what `next` gives, in that order, with at most `limit` under way; until it gives nothing more. A fiber that has
 * done one takes the next at once, so that they begin in their order.
 */
const inFlight = (next: () => Effect.Effect<unknown, unknown> | undefined, limit: number) => {
  const worker: Effect.Effect<void, unknown> = Effect.suspend(() => {
    const effect = next()
    return effect === undefined ? Effect.void : Effect.flatMap(effect, () => worker)
  })
  return Effect.all(Array.from({ length: limit }, () => worker), { concurrency: "unbounded", discard: true })
}

/** Many at once, as a server's handlers send: a store commits them together. */
const atOnce: SendMany = ({ connections, count, make }, { send }) => {
  let n = 0
  return inFlight(() => n < count ? send(n % connections, make(n++)) : undefined, maxInFlightStored)
}

/** `size` messages of one connection after the other, as they are due. */
function* batchesOf({ connections, count, make }: Plan, size: number) {
  const batches = Array.from({ length: connections }, (): Array<Message> => [])
  for (let n = 0; n < count; n++) {
    const connection = n % connections
    const batch = at(batches, connection)
    if (batch.push(make(n)) < size) continue
    batches[connection] = []
    yield { connection, batch }
  }
  for (let connection = 0; connection < connections; connection++) {
    const batch = at(batches, connection)
    if (batch.length > 0) yield { connection, batch }
  }
}

/** As many as `ws-batch` has in an array; for each connection, as it has them. */
const batchSize = 32

const inBatches: SendMany = (plan, { sendAll }) =>
  Effect.gen(function*() {
    for (const { batch, connection } of batchesOf(plan, batchSize)) yield* sendAll(connection, batch)
  })

/** A store's commit is worth a larger batch; as many messages under way as {@link atOnce}. */
const storedBatchSize = 64

const inBatchesAtOnce: SendMany = (plan, { sendAll }) => {
  const batches = batchesOf(plan, storedBatchSize)
  return inFlight(() => {
    const { value } = batches.next()
    return value === undefined ? undefined : sendAll(value.connection, value.batch)
  }, maxInFlightStored / storedBatchSize)
}

/** How a server comes to a port: the server's layer, with its transport. */
type Serve = <A, E>(server: Layer.Layer<A, E, Transport.TransportServer>, http: HttpServer) => Layer.Layer<A, unknown>

const onOwnPort: Serve = (server, http) => Layer.provide(server, NodeTransport.layerServer({ server: http, port: 0 }))

/** A route of Effect's HTTP server. */
const onRouter: Serve = (server, http) =>
  HttpRouter.serve(
    Layer.provide(server, Transport.layerServerHttpRouter({ path: "/" })),
    { disableLogger: true, disableListenLog: true }
  ).pipe(
    Layer.provide(NodeHttpServer.layer(() => http, {
      port: 0,
      host: "127.0.0.1",
      websocket: NodeTransport.webSocketServerOptions()
    }))
  )

const makePeer = (
  sendMany: SendMany,
  { serve = onOwnPort, store = stores.memory }: { readonly serve?: Serve; readonly store?: stores.Store } = {}
): Peer => {
  /** As promises, for the harness. */
  const sending = (line: Line) => ({
    sendMany: (plan: Plan) => Effect.runPromise(sendMany(plan, line)),
    send: (connection: number, message: Message): void => {
      // Not awaited: a failure is an unhandled rejection, which ends the process and the measurement.
      void Effect.runPromise(line.send(connection, message))
    }
  })

  const listen = async ({ maxQueued, maxSessions, receive, shape }: ListenOptions): Promise<Server> => {
    const contract = contracts[shape]
    const opened = await store({ queue: queueOptions(maxQueued), registry: registryOptions(maxSessions) })
    // Given, because only its sockets can be cut from outside; otherwise it is what the transport makes itself.
    const http = createServer()
    const cut = makeCut(http)
    const layer = contract.layerServer({
      authenticate: ({ token = "" }) => Effect.succeed({ session: token, principal: token }),
      onMessage: (message, { session }) => Effect.sync(() => receive(Number(session), message))
    }).pipe(Layer.provideMerge(opened.layer))
    const { close, context } = await open(serve(layer, http))
    // Before its database goes; a server that goes on with something needs no patience here.
    if (store !== stores.memory) beforeEnd(() => Promise.race([close(), sleep(closeMillis)]))
    const server = Context.get(context, contract.Server)
    const line: Line = {
      send: (connection, message) => server.send(sessionOf(connection), message),
      sendAll: (connection, messages) => server.sendAll(sessionOf(connection), messages)
    }
    return {
      ...sending(line),
      port: server.address.port,
      broadcast: async (message, connections) => {
        const { accepted } = await Effect.runPromise(server.broadcast(message))
        if (accepted !== connections) throw new Error(`a broadcast to ${accepted} of ${connections} sessions`)
      },
      cut,
      store: {
        queue: Context.get(context, MessageQueue.MessageQueue),
        registry: Context.get(context, SessionRegistry.SessionRegistry),
        bytes: opened.bytes,
        relax: opened.relax
      },
      close
    }
  }

  const connect = async ({ connections, opened, port, receive, shape }: ConnectOptions): Promise<Clients> => {
    const contract = contracts[shape]
    const clients = await inParallel(connections, async (connection) => {
      const layer = contract.layerClient({
        url: `ws://127.0.0.1:${port}`,
        token: Redacted.make(sessionOf(connection)),
        onMessage: (message) => Effect.sync(() => receive(connection, message))
      }).pipe(
        Layer.provide(MemoryStore.layer({ queue: queueOptions(undefined) })),
        Layer.provide(NodeTransport.layerClient)
      )
      const { close, context } = await open(layer)
      const service = Context.get(context, contract.Client)
      await Effect.runPromise(service.awaitConnected())
      opened?.(connection)
      return { close, service }
    })
    return {
      ...sending({
        send: (connection, message) => at(clients, connection).service.send(message),
        sendAll: (connection, messages) => at(clients, connection).service.sendAll(messages)
      }),
      close: async () => {
        await Promise.all(clients.map((client) => client.close()))
      }
    }
  }

  return { listen, connect }
}

/** The services of a layer, for code that is not in Effect. */
const open = async <A, E>(layer: Layer.Layer<A, E>) => {
  const scope = Scope.makeUnsafe()
  const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
  return { context, close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

export const peer = makePeer(oneByOne)
export const batch = makePeer(inBatches)
export const router = makePeer(oneByOne, { serve: onRouter })

export const sqlite = makePeer(atOnce, { store: stores.sqlite })
export const sqliteBatch = makePeer(inBatchesAtOnce, { store: stores.sqlite })
export const sqliteFull = makePeer(atOnce, { store: stores.sqliteFull })
export const postgres = makePeer(atOnce, { store: stores.postgres })
export const postgresBatch = makePeer(inBatchesAtOnce, { store: stores.postgres })
export const redis = makePeer(atOnce, { store: stores.redis })
export const redisBatch = makePeer(inBatchesAtOnce, { store: stores.redis })
export const redisAlways = makePeer(atOnce, { store: stores.redisAlways })
