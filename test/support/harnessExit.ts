/** Run as a program: a server and a client talk over real sockets, close, and leave nothing that keeps Node alive. */
import { Effect, Layer, Schema } from "effect"
import { Contract, MemoryStore } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"

const Talk = Contract.make("test/Talk", { toServer: Schema.String, toClient: Schema.String })
const stores = MemoryStore.layer()

const program = Effect.gen(function*() {
  const server = yield* Talk.Server
  const url = `ws://127.0.0.1:${server.address.port}`
  yield* Effect.gen(function*() {
    const client = yield* Talk.Client
    yield* client.awaitConnected()
    const receipt = yield* client.send("hello")
    yield* receipt.handled
  }).pipe(
    Effect.provide(Talk.layerClient({ url, onMessage: () => Effect.void })),
    Effect.provide(MemoryStore.layer()),
    Effect.provide(NodeTransport.layerClient)
  )
}).pipe(
  Effect.provide(
    Talk.layerServer({
      onMessage: (text, { server, session }) => server.send(session, `re: ${text}`)
    }).pipe(Layer.provide(stores), Layer.provide(NodeTransport.layerServer({ port: 0 })))
  )
)

Effect.runPromise(program).then(
  () => console.log("closed"),
  (error) => {
    console.error(error)
    process.exitCode = 1
  }
)
