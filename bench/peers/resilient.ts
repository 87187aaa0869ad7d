/**
 * This library, through its public API as the README shows it: default settings, save that a full outbox suspends its
 * sender, who is faster than the network.
 */
import { Context, Effect, Exit, Layer, Schema, Scope } from "effect"
import { createServer } from "node:http"
import { Contract, MemoryStore, type MessageQueue } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Server, Shape } from "../harness/Peer.ts"
import { at, makeCut } from "./sockets.ts"

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
  ...(maxQueued === undefined ? {} : { maxMessages: maxQueued, maxBytes: 1024 ** 3, maxTotalBytes: 1024 ** 3 })
})

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

/** As many as `ws-batch` has in an array; for each connection, as it has them. */
const batchSize = 32

const inBatches: SendMany = ({ connections, count, make }, { sendAll }) =>
  Effect.gen(function*() {
    const batches = Array.from({ length: connections }, (): Array<Message> => [])
    for (let n = 0; n < count; n++) {
      const connection = n % connections
      const batch = at(batches, connection)
      if (batch.push(make(n)) < batchSize) continue
      batches[connection] = []
      yield* sendAll(connection, batch)
    }
    for (let connection = 0; connection < connections; connection++) {
      const batch = at(batches, connection)
      if (batch.length > 0) yield* sendAll(connection, batch)
    }
  })

const makePeer = (sendMany: SendMany): Peer => {
  /** As promises, for the harness. */
  const sending = (line: Line) => ({
    sendMany: (plan: Plan) => Effect.runPromise(sendMany(plan, line)),
    send: (connection: number, message: Message): void => {
      // Not awaited: a failure is an unhandled rejection, which ends the process and the measurement.
      void Effect.runPromise(line.send(connection, message))
    }
  })

  const listen = async ({ maxQueued, receive, shape }: ListenOptions): Promise<Server> => {
    const contract = contracts[shape]
    // Given, because only its sockets can be cut from outside; otherwise it is what the transport makes itself.
    const http = createServer()
    const cut = makeCut(http)
    const layer = contract.layerServer({
      authenticate: ({ token = "" }) => Effect.succeed({ session: token, principal: token }),
      onMessage: (message, { session }) => Effect.sync(() => receive(Number(session), message))
    }).pipe(
      Layer.provide(MemoryStore.layer({ queue: queueOptions(maxQueued) })),
      Layer.provide(NodeTransport.layerServer({ server: http, port: 0 }))
    )
    const { close, service: server } = await open(layer, contract.Server)
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
      close
    }
  }

  const connect = async ({ connections, opened, port, receive, shape }: ConnectOptions): Promise<Clients> => {
    const contract = contracts[shape]
    const clients = await inParallel(connections, async (connection) => {
      const layer = contract.layerClient({
        url: `ws://127.0.0.1:${port}`,
        token: sessionOf(connection),
        onMessage: (message) => Effect.sync(() => receive(connection, message))
      }).pipe(
        Layer.provide(MemoryStore.layer({ queue: queueOptions(undefined) })),
        Layer.provide(NodeTransport.layerClient)
      )
      const client = await open(layer, contract.Client)
      await Effect.runPromise(client.service.awaitConnected())
      opened?.(connection)
      return client
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

/** A service out of its layer, for code that is not in Effect. */
const open = async <I, S, E>(layer: Layer.Layer<I, E>, tag: Context.Service<I, S>) => {
  const scope = Scope.makeUnsafe()
  const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
  return { service: Context.get(context, tag), close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

export const peer = makePeer(oneByOne)
export const batch = makePeer(inBatches)
