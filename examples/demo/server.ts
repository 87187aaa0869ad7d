/**
 * One of the demo's servers, as a process that may be killed at any moment: `Fleet.ts` starts it, tells it where the
 * store is, and asks it to send. It ends when its parent does.
 */
// Not from the package's index, which takes as long to load as all the rest.
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Context, Effect, Exit, Layer, Logger, Queue, References, Schedule, Stream } from "effect"
import { flushCompileCache } from "node:module"
import { WebSocketError } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import type { FromServer, SendRequest, ToServer } from "./Ipc.ts"
import { Ledger } from "./Ledger.ts"
import { Lines, times } from "./Lines.ts"
import * as Stores from "./stores.ts"

/** How often the parent hears the figures. */
const figuresMillis = 100

/** A store that fails is no reason to give a message up. */
const handlerRetry = Schedule.spaced("200 millis")

type Start = Extract<ToServer, { readonly t: "start" }>

const tell = (message: FromServer): void => {
  // A parent that is gone hears nothing; what to do about that is said in `listen`.
  if (process.connected) process.send?.(message, undefined, undefined, () => {})
}

/** What the parent says, from its first word on. */
const listen = Effect.gen(function*() {
  const queue = yield* Queue.unbounded<ToServer>()
  // The parent is this very program, so what comes is what the type says; and it has few requests under way.
  process.on("message", (message) => Queue.offerUnsafe(queue, message as ToServer))
  process.on("disconnect", endWithParent)
  if (!process.connected) endWithParent()
  return queue
})

/** At once: an orderly exit would write compiled code where the parent has removed everything. */
const endWithParent = () => process.kill(process.pid, "SIGKILL")

const isFenced = (error: unknown): boolean =>
  error instanceof WebSocketError.SessionRegistryError && error.reason === "fenced"

const serve = Effect.fnUntraced(function*({ keepsCode, place }: Start, orders: Queue.Queue<ToServer>) {
  let handedAgain = 0
  const store = yield* Layer.build(Stores.forServer(place))
  const ledger = Context.get(store, Ledger)
  const layer = Lines.layerServer({
    ...times,
    handlerRetry,
    // What is in flight at a kill comes again: more of it would keep a busy machine from anything else.
    window: { messages: 128 },
    authenticate: ({ token }) => Effect.succeed({ session: token ?? "nobody", principal: token ?? "nobody" }),
    onMessage: ({ i, text }, { commit, incoming, session }) =>
      Effect.tapError(
        Effect.map(ledger.write({ session, i, text }, incoming.messageId ?? "", commit), (isWritten) => {
          if (!isWritten) handedAgain++
        }),
        (error) => Effect.sync(() => isFenced(error) && handedAgain++)
      )
  }).pipe(
    Layer.provide(Layer.succeedContext(store)),
    Layer.provide(NodeTransport.layerServer({ port: 0, host: "127.0.0.1" }))
  )
  const server = Context.get(yield* Layer.build(layer), Lines.Server)

  const figures = Effect.map(
    server.stats,
    ({ totals }) => tell({ t: "figures", figures: { redelivered: totals.messagesRedelivered, handedAgain } })
  )
  yield* Effect.forkScoped(Effect.repeat(figures, Schedule.spaced(figuresMillis)))
  yield* Effect.forkScoped(
    Stream.runForEach(
      server.connections,
      (event) => Effect.sync(() => event._tag === "Connected" && tell({ t: "connected", session: event.session }))
    ),
    { startImmediately: true }
  )

  /**
   * All at once, and so in this order and in few commits. What follows the first that failed counts as not sent: asked
   * for again, those that were are recognized by their keys.
   */
  const send = Effect.fnUntraced(function*({ first, session, texts }: SendRequest) {
    const exits = yield* Effect.forEach(
      texts,
      (text, k) => Effect.exit(server.send(session, { i: first + k, text }, { id: String(first + k) })),
      { concurrency: "unbounded" }
    )
    const failed = exits.findIndex(Exit.isFailure)
    const exit = exits[failed]
    return exit === undefined || Exit.isSuccess(exit)
      ? { accepted: texts.length }
      : { accepted: failed, error: String(exit.cause) }
  })

  const obey = Effect.gen(function*() {
    while (true) {
      const order = yield* Queue.take(orders)
      if (order.t === "stop") return
      if (order.t !== "send") continue
      yield* Effect.forkScoped(
        Effect.map(send(order), (sent) => tell({ t: "sent", id: order.id, ...sent })),
        { startImmediately: true }
      )
    }
  })
  if (keepsCode) flushCompileCache()
  tell({ t: "listening", ...server.address })
  yield* obey
  yield* server.shutdown
  yield* figures
})

const main = Effect.gen(function*() {
  const orders = yield* listen
  let order = yield* Queue.take(orders)
  if (order.t === "load") {
    yield* Stores.load(order.kind)
    order = yield* Queue.take(orders)
  }
  if (order.t === "start") yield* Effect.scoped(serve(order, orders))
  process.off("disconnect", endWithParent)
  process.disconnect()
})

main.pipe(
  // Kills and faults are the point: what the library logs about them would only hide the result.
  Effect.provideService(References.MinimumLogLevel, "Error"),
  Effect.provide(Logger.layer([Logger.withConsoleError(Logger.formatLogFmt)])),
  NodeRuntime.runMain
)
