import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Latch, Layer, Predicate, Queue, Redacted, Schema, Scope, Stream } from "effect"
import { Rpc, RpcClient, RpcGroup, RpcSerialization, RpcServer } from "effect/rpc"
import { Socket } from "effect/socket"
import { MemoryStore, type ResilientServer, ResilientSocket } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { FaultProxy } from "resilient-websocket/testing/node"
import { closeScope, forkScope, until } from "./support/harness.ts"

type Server = ResilientServer.ResilientServer<ResilientSocket.Frame, ResilientSocket.Frame>

const Wire = ResilientSocket.contract("test/Wire")
const suspending: MemoryStore.Options = { queue: { overflow: "suspend" } }

/** A peer's token is the name of its session. */
const serverLayer = (port = 0) =>
  Wire.layerServer({ authenticate: ({ token }) => Effect.succeed({ session: token, principal: token }) }).pipe(
    Layer.provide([MemoryStore.layer(suspending), NodeTransport.layerServer({ port })])
  )

const clientLayer = (port: number, token?: string, store = suspending) =>
  Wire.layerClient({
    url: `ws://127.0.0.1:${port}`,
    token: token === undefined ? undefined : Redacted.make(token),
    reconnect: { base: "5 millis", cap: "20 millis" }
  }).pipe(
    Layer.provide([MemoryStore.layer(store), NodeTransport.layerClient])
  )

const startServer = (port = 0) => Effect.map(Layer.build(serverLayer(port)), Context.get(Wire.Server))
const startClient = (...args: Parameters<typeof clientLayer>) =>
  Effect.map(Layer.build(clientLayer(...args)), Context.get(Wire.Client))

const makeProxy = ({ address }: Server) => FaultProxy.make({ target: address, connectionGrace: 0 })

/** The sockets that a server accepts, as they come; each is open until the scope closes. */
const accepted = Effect.fnUntraced(function*(server: Server) {
  const sockets = yield* Queue.unbounded<Socket.Socket>()
  const handler = (socket: Socket.Socket) => Effect.andThen(Queue.offer(sockets, socket), Effect.never)
  yield* Effect.forkScoped(ResilientSocket.accept(server, handler), { startImmediately: true })
  return sockets
})
type Sockets = Effect.Success<ReturnType<typeof accepted>>

/** Both ends of a new conversation, with their readers. */
const converse = Effect.fnUntraced(function*(socket: Socket.Socket, sockets: Sockets) {
  const scope = yield* forkScope
  const [reader, writer] = yield* Effect.all([socket.reader, socket.writer]).pipe(Scope.provide(scope))
  const far = yield* Queue.take(sockets)
  const farScope = yield* forkScope
  const [farReader, farWriter] = yield* Effect.all([far.reader, far.writer]).pipe(Scope.provide(farScope))
  return { reader, writer, far, farReader, farWriter, hangUp: closeScope(scope), farHangUp: closeScope(farScope) }
})

const connect = Effect.fnUntraced(function*(sockets: Sockets, ...args: Parameters<typeof clientLayer>) {
  const client = yield* startClient(...args)
  const socket = yield* ResilientSocket.fromClient(client)
  return { client, socket, ...(yield* converse(socket, sockets)) }
})

/** A server, a client behind a proxy that can cut them off from each other, and a conversation. */
const connected = Effect.fnUntraced(function*(store?: MemoryStore.Options) {
  const serverScope = yield* forkScope
  const server = yield* Scope.provide(startServer(), serverScope)
  const sockets = yield* Scope.provide(accepted(server), serverScope)
  const proxy = yield* makeProxy(server)
  const ends = yield* connect(sockets, proxy.port, "peer", store)
  const cutOff = proxy.refuse.pipe(
    Effect.andThen(proxy.faultNow("cut")),
    Effect.andThen(until("the cut", () => Effect.map(ends.client.state, ({ _tag }) => _tag === "Disconnected")))
  )
  // Before the client: shutdowns wait for what is held and nobody pulls any more.
  yield* Effect.addFinalizer(() => Effect.andThen(ends.hangUp, closeScope(serverScope)))
  return { server, serverScope, sockets, proxy, cutOff, ...ends }
})

/** One frame a pull. */
const pullMany = ({ pull }: Socket.Reader, count: number) =>
  Effect.map(Effect.replicateEffect(pull, count), (frames) => frames.flat())

/** The code of a close, or what else the effect fails with. */
const endOf = <A>(effect: Effect.Effect<A, Socket.SocketError, Scope.Scope>) =>
  Effect.map(Effect.flip(Effect.scoped(effect)), ({ reason }) => {
    if (reason._tag === "SocketCloseError") return reason.code
    return Predicate.hasProperty(reason.cause, "_tag") ? `${reason._tag}: ${reason.cause._tag}` : reason._tag
  })

const test = (name: string, body: () => Generator<Effect.Effect<unknown, unknown, Scope.Scope>, void, never>) =>
  it.live(name, () => Effect.scoped(Effect.gen(body)))

const Calls = RpcGroup.make(
  Rpc.make("Add", { payload: { id: Schema.Int, a: Schema.Int }, success: Schema.Int }),
  Rpc.make("Count", { payload: { to: Schema.Int }, success: Schema.Int, stream: true })
)

describe("ResilientSocket", () => {
  test("carries Effect RPC through cut connections: every call is handled once and answered once", function*() {
    const handled = new Map<number, number>()
    const Handlers = Calls.toLayer({
      Add: ({ a, id }) => Effect.sync(() => (handled.set(id, (handled.get(id) ?? 0) + 1), a + 1)),
      Count: ({ to }) => Stream.range(1, to)
    })
    const server = yield* RpcServer.layer(Calls).pipe(
      Layer.provide([Handlers, RpcServer.layerProtocolSocketServer]),
      Layer.provide([RpcSerialization.layerNdjson, ResilientSocket.layerSocketServer(Wire)]),
      Layer.provideMerge(serverLayer()),
      Layer.build
    )
    const proxy = yield* makeProxy(Context.get(server, Wire.Server))
    const protocol = yield* RpcClient.layerProtocolSocket({ pingTimeout: "10 minutes" }).pipe(
      Layer.provide([RpcSerialization.layerNdjson, ResilientSocket.layerSocket(Wire)]),
      Layer.provideMerge(clientLayer(proxy.port)),
      Layer.build
    )
    const rpc = yield* RpcClient.make(Calls).pipe(Effect.provideContext(protocol))
    const client = Context.get(protocol, Wire.Client)
    for (let round = 0; round < 12; round++) {
      yield* client.awaitConnected()
      const ids = Array.from({ length: 20 }, (_, i) => round * 20 + i)
      const calls = yield* Effect.forkChild(Effect.all(ids.map((id) => rpc.Add({ id, a: id })), { concurrency: 20 }))
      const counting = yield* Effect.forkChild(Stream.runCollect(rpc.Count({ to: 50 })))
      yield* proxy.faultNow("cut")
      assert.deepStrictEqual(yield* Fiber.join(calls), ids.map((id) => id + 1))
      assert.deepStrictEqual(yield* Fiber.join(counting), Array.from({ length: 50 }, (_, i) => i + 1))
      yield* until("the cut", () => Effect.map(proxy.counts, ({ cuts }) => cuts === round + 1))
    }
    assert.strictEqual(handled.size, 240)
    assert.isTrue([...handled.values()].every((times) => times === 1))
    assert.isAtLeast((yield* client.stats).totals.connectionsResumed, 11)
  })

  test("carries text and bytes both ways, once and in order, through cut connections", function*() {
    const { farReader, farWriter, proxy, reader, sockets, writer } = yield* connected()
    const frames = Array.from({ length: 600 }, (_, i) => i % 3 === 0 ? new Uint8Array([i & 255, i >> 8]) : `${i}`)
    yield* Effect.forkChild(Effect.forEach(frames, writer.write))
    yield* Effect.forkChild(Effect.forEach(frames, farWriter.write))
    const there = yield* Effect.forkChild(pullMany(farReader, frames.length))
    const back = yield* Effect.forkChild(pullMany(reader, frames.length))
    for (let i = 0; i < 4; i++) yield* proxy.faultNow("cut")
    assert.deepStrictEqual(yield* Fiber.join(there), frames)
    assert.deepStrictEqual(yield* Fiber.join(back), frames)
    assert.strictEqual(yield* Queue.size(sockets), 0, "one socket for the session's life")
  })

  test("acknowledges a frame when the next one is pulled", function*() {
    const { client, farReader, farWriter, reader, writer } = yield* connected()
    const waiting = Effect.map(client.stats, ({ session }) => session.queuedMessages)
    yield* writer.write("one")
    assert.deepStrictEqual(yield* farReader.pull, ["one"])
    // Twice, so that all is told that was to be told when it came to the first.
    for (let i = 0; i < 2; i++) yield* Effect.andThen(farWriter.write("pulled"), reader.pull)
    assert.strictEqual(yield* waiting, 1)
    yield* Effect.forkChild(farReader.pull)
    yield* until("the ack", () => Effect.map(waiting, (messages) => messages === 0))
  })

  test("leaves the frame of a reader that breaks off to the next one, and of one that ends well not", function*() {
    const { far, farHangUp, writer } = yield* connected()
    yield* farHangUp
    yield* writer.writeAll(["one", "two", "three"])
    const takeOne = Effect.flatMap(far.reader, ({ pull }) => pull)
    assert.strictEqual(yield* Effect.flip(Effect.scoped(Effect.andThen(takeOne, Effect.fail("broke")))), "broke")
    const taken = yield* Latch.make()
    const holding = yield* Effect.forkChild(Effect.scoped(Effect.all([takeOne, taken.open, Effect.never])))
    yield* Effect.andThen(taken.await, Fiber.interrupt(holding))
    for (const frame of ["one", "two", "three"]) assert.deepStrictEqual(yield* Effect.scoped(takeOne), [frame])
  })

  test("fails a suspended pull when its reader's scope closes, and has one reader at a time", function*() {
    const { far, farHangUp, farReader, writer } = yield* connected()
    const pulling = yield* Effect.forkChild(endOf(farReader.pull), { startImmediately: true })
    assert.strictEqual(yield* endOf(far.reader), "SocketOpenError")
    yield* farHangUp
    assert.strictEqual(yield* Fiber.join(pulling), 1006)
    assert.strictEqual(yield* endOf(farReader.pull), 1006)
    yield* writer.write("still there")
    assert.deepStrictEqual(yield* Effect.flatMap(far.reader, ({ pull }) => pull), ["still there"])
  })

  test("ends a conversation with a close event, after what was written; the next reader opens another", function*() {
    const { farReader, farWriter, hangUp, reader, socket, sockets, writer } = yield* connected()
    yield* writer.write("last words")
    yield* writer.write(new Socket.CloseEvent(4100, "enough"))
    assert.strictEqual(yield* endOf(reader.pull), 4100)
    assert.deepStrictEqual(yield* farReader.pull, ["last words"])
    assert.strictEqual(yield* endOf(farReader.pull), 4100)
    assert.strictEqual(yield* endOf(farWriter.write("late")), "SocketWriteError")
    yield* Effect.forkChild(writer.write("for the next"), { startImmediately: true })
    const next = yield* Effect.andThen(hangUp, converse(socket, sockets))
    assert.deepStrictEqual(yield* next.farReader.pull, ["for the next"])
  })

  test("ends a conversation from the server's side: by a close event, and by the end of its handler", function*() {
    const server = yield* startServer()
    const handler = Effect.fnUntraced(function*(socket: Socket.Socket) {
      const [{ pull }, { write }] = yield* Effect.all([socket.reader, socket.writer])
      const [order] = yield* pull
      yield* write("bye")
      if (order === "close") yield* write(new Socket.CloseEvent(4200))
      if (order === "fail") yield* Effect.fail("an expected failure")
    }, Effect.scoped)
    yield* Effect.forkScoped(ResilientSocket.accept(server, handler))
    const socket = yield* Effect.flatMap(startClient(server.address.port), ResilientSocket.fromClient)
    const { write } = yield* socket.writer
    const ask = Effect.fnUntraced(function*(order: string) {
      const { pull } = yield* socket.reader
      yield* write(order)
      assert.deepStrictEqual(yield* pull, ["bye"])
      return yield* endOf(pull)
    }, Effect.scoped)
    assert.deepStrictEqual(yield* Effect.forEach(["close", "fail", "end"], ask), [4200, 1011, 1000])
  })

  test("tells both ends that the session ended, and opens another only when told to reconnect", function*() {
    const { client, farReader, hangUp, reader, server, socket, sockets } = yield* connected()
    yield* server.endSession("peer")
    assert.strictEqual(yield* endOf(farReader.pull), 4505)
    assert.strictEqual(yield* endOf(reader.pull), 4505)
    yield* hangUp
    assert.strictEqual(yield* endOf(socket.reader), "SocketOpenError: resilient-websocket/SessionNotFoundError")
    yield* Effect.andThen(client.reconnect, converse(socket, sockets))
  })

  test("breaks a conversation that a new server does not know, and gives it none of its frames", function*() {
    const { cutOff, hangUp, proxy, reader, server, serverScope, socket, writer } = yield* connected()
    yield* Effect.andThen(cutOff, closeScope(serverScope))
    yield* writer.write("for the server that is gone")
    const sockets = yield* Effect.flatMap(startServer(server.address.port), accepted)
    yield* proxy.heal
    assert.strictEqual(yield* endOf(reader.pull), 1012)
    const next = yield* Effect.andThen(hangUp, converse(socket, sockets))
    yield* next.writer.write("new")
    assert.deepStrictEqual(yield* next.farReader.pull, ["new"])
  })

  test("breaks a conversation whose session lives on, when who accepts knows nothing of it", function*() {
    const { proxy, server, socket, ...ends } = yield* connected()
    const sockets = yield* accepted(server)
    yield* ends.writer.write("to nobody")
    assert.strictEqual(yield* endOf(ends.reader.pull), 1012)
    const next = yield* Effect.andThen(ends.hangUp, converse(socket, sockets))
    yield* accepted(server)
    yield* proxy.faultNow("cut") // a client that only listens is told when it comes back
    assert.strictEqual(yield* endOf(next.reader.pull), 1012)
  })

  test("gives a new client of the session nothing that was meant for the one before", function*() {
    const { cutOff, farReader, farWriter, server, sockets } = yield* connected()
    yield* Effect.andThen(cutOff, farWriter.write("an old answer"))
    const next = yield* connect(sockets, server.address.port, "peer")
    assert.strictEqual(yield* endOf(farReader.pull), 4500)
    yield* next.farWriter.write("a new answer")
    assert.deepStrictEqual(yield* next.reader.pull, ["a new answer"])
  })

  test("fails both ends when frames were lost on the way", function*() {
    const store: MemoryStore.Options = { queue: { overflow: "dropOldest", maxMessages: 3 } }
    const { cutOff, farReader, proxy, reader, writer } = yield* connected(store)
    yield* Effect.all([cutOff, writer.writeAll(["0", "1", "2", "3", "4"]), proxy.heal])
    assert.strictEqual(yield* endOf(farReader.pull), 1011)
    assert.strictEqual(yield* endOf(reader.pull), 1011)
  })

  test("suspends writes while the queue is full and suspends, and fails them when it refuses", function*() {
    const frames = ["0", "1", "2", "3", "4", "5"] as [string, ...Array<string>]
    const full = yield* connected({ queue: { overflow: "suspend", maxMessages: 4 } })
    yield* full.cutOff
    yield* Effect.forkChild(full.writer.writeAll(frames))
    yield* until("it suspends", () => Effect.map(full.client.stats, ({ queue }) => queue.suspended === 1))
    yield* full.proxy.heal
    assert.deepStrictEqual(yield* pullMany(full.farReader, 6), frames)
    for (
      const [overflow, cause] of [["reject", ": resilient-websocket/QueueOverflowError"], ["dropNewest", ""]] as const
    ) {
      const { cutOff, writer } = yield* connected({ queue: { overflow, maxMessages: 4 } })
      assert.strictEqual(yield* Effect.andThen(cutOff, endOf(writer.writeAll(frames))), `SocketWriteError${cause}`)
    }
  })

  test("lets no slow reader keep another session waiting", function*() {
    const { farReader, proxy, serverScope, sockets, writer } = yield* connected()
    for (let i = 0; i < 20; i++) {
      const slow = yield* connect(sockets, proxy.port)
      yield* slow.writer.writeAll(["held", "waiting"])
      assert.deepStrictEqual(yield* slow.farReader.pull, ["held"])
    }
    yield* writer.writeAll(["0", "1", "2"])
    assert.deepStrictEqual(yield* pullMany(farReader, 3), ["0", "1", "2"])
    yield* closeScope(serverScope)
  })

  test("says goodbye when its scope closes, and does not keep the client open with what nobody reads", function*() {
    const [server, scope] = yield* Effect.all([startServer(), forkScope])
    const sockets = yield* accepted(server)
    const client = yield* startClient(server.address.port)
    const socket = yield* Scope.provide(ResilientSocket.fromClient(client), scope)
    const { farReader, farWriter, reader } = yield* converse(socket, sockets)
    yield* farWriter.writeAll(["one", "two", "three"])
    assert.deepStrictEqual(yield* reader.pull, ["one"])
    yield* closeScope(scope)
    assert.strictEqual(yield* endOf(farReader.pull), 1000)
    yield* client.shutdownWith({ timeout: Infinity }) // which would never end otherwise
  })
})
