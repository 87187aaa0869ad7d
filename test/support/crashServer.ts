/**
 * A server in a process of its own, on a real database, that kills itself at a chosen step: before a call of the
 * database, within its transaction, or after it. `crashProcesses.ts` starts it and tells it by messages what to do. One
 * that was not killed serves the next run.
 *
 * Its handler does everything in one transaction: it writes the message to the table of effects, stores its position,
 * and sends an answer. Of the message `poison` it fails after it has written.
 */
import { Context, Effect, Exit, Layer, Logger, Queue, References, Schedule, Schema, Scope } from "effect"
import { SqlClient } from "effect/sql"
import { ResilientServer } from "../../src/index.ts"
import type { Services } from "../../src/internal/store/layer.ts"
import { NodeTransport } from "../../src/node/index.ts"
import type { Place } from "./crashStores.ts"

/** The parts of the exchange, in their order. */
export type Phase = "exchange" | "reconnect" | "end" | "stop"

/** The nth step of this name in a phase, from 1. */
export interface Point {
  readonly phase: Phase
  readonly name: string
  readonly nth: number
  /** `inside`: what writes has written, and is not committed. Steps that are no such call have no inside. */
  readonly when: "before" | "inside" | "after"
}

export type ToServer =
  | { readonly t: "start"; readonly place: Place; readonly point: Point | undefined }
  | { readonly t: "phase"; readonly phase: Phase }
  | { readonly t: "send"; readonly key: string }
  | { readonly t: "end" }
  | { readonly t: "stop" }

export type FromServer =
  | { readonly t: "listening"; readonly port: number }
  /** The answer to every other order; with the steps so far. */
  | { readonly t: "done"; readonly steps: ReadonlyArray<string> }

type Start = Extract<ToServer, { readonly t: "start" }>

const die = (): void => void process.kill(process.pid, "SIGKILL")

const tell = (message: FromServer): void => void process.send?.(message, undefined, undefined, () => {})

/** Counts the steps of one run, and dies at the chosen one. */
export class Steps {
  /** Each with its phase. */
  readonly names: Array<string> = []
  phase: Phase = "exchange"
  private readonly point: Point | undefined

  constructor(point: Point | undefined) {
    this.point = point
  }

  /** `make` gets what it has to call when it has written and not committed. */
  readonly take = <A, E, R>(
    name: string,
    make: (inside: () => void) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      const { names, phase, point } = this
      const full = `${phase}: ${name}`
      names.push(full)
      const isChosen = point?.phase === phase && point.name === name &&
        names.filter((other) => other === full).length === point.nth
      const at = (when: Point["when"]): void => {
        if (isChosen && point.when === when) die()
      }
      at("before")
      return Effect.tap(make(() => at("inside")), () => Effect.sync(() => at("after")))
    })
}

export type StoreServices = Services | SqlClient.SqlClient

const loadStore = async (place: Place, steps: Steps): Promise<Layer.Layer<StoreServices, unknown>> => {
  const stores = place.kind === "sqlite" ? await import("./crashSqlite.ts") : await import("./crashPostgres.ts")
  return stores.layerFor(place, steps)
}

const serve = Effect.fnUntraced(function*({ place, point }: Start, orders: Queue.Queue<ToServer>) {
  const steps = new Steps(point)
  const store = yield* Effect.flatMap(Effect.promise(() => loadStore(place, steps)), Layer.build)
  const sql = Context.get(store, SqlClient.SqlClient)
  const transport = yield* Layer.build(NodeTransport.layerServer({ port: 0, host: "127.0.0.1" }))
  const server = yield* ResilientServer.make({
    incoming: Schema.String,
    outgoing: Schema.String,
    authenticate: ({ token }) => Effect.succeed({ session: token ?? "nobody", principal: token }),
    onMessage: (message, { commit, server, session }) =>
      steps.take("the handler's transaction", (inside) =>
        sql.withTransaction(Effect.gen(function*() {
          yield* sql.afterCommit(steps.take("the news of the commit", () => Effect.void))
          yield* steps.take(
            "the handler's write",
            () => sql`INSERT INTO ${sql(place.table)} (text) VALUES (${message})`
          )
          if (message === "poison") return yield* Effect.fail("poison")
          yield* commit
          yield* server.send(session, `re: ${message}`)
          inside()
        }))),
    handlerRetry: Schedule.upTo(Schedule.spaced("2 millis"), { times: 1 }),
    reconnectJitter: "10 millis"
  }).pipe(Effect.provide(Context.merge(store, transport)))
  tell({ t: "listening", port: server.address.port })
  while (true) {
    const order = yield* Queue.take(orders)
    if (order.t === "phase") steps.phase = order.phase
    if (order.t === "send") yield* server.send("alice", order.key, { id: order.key })
    if (order.t === "end") {
      yield* Effect.catchTag(server.endSession("alice"), "resilient-websocket/SessionNotFoundError", () => Effect.void)
    }
    if (order.t === "stop") {
      yield* server.shutdown
      return steps
    }
    tell({ t: "done", steps: steps.names })
  }
})

const main = Effect.gen(function*() {
  const orders = yield* Queue.unbounded<ToServer>()
  // The parent is this very program, so what comes is what the type says.
  process.on("message", (message) => Queue.offerUnsafe(orders, message as ToServer))
  process.on("disconnect", die)
  while (true) {
    const order = yield* Queue.take(orders)
    if (order.t !== "start") continue
    const scope = yield* Scope.make()
    const { names } = yield* Scope.provide(serve(order, orders), scope)
    yield* Scope.close(scope, Exit.void)
    tell({ t: "done", steps: names })
  }
})

Effect.runFork(
  main.pipe(
    Effect.provideService(References.MinimumLogLevel, "Error"),
    Effect.provide(Logger.layer([Logger.withConsoleError(Logger.formatLogFmt)])),
    Effect.tapCause((cause) => Effect.logFatal("the server can't go on", cause)),
    Effect.onExit(() => Effect.sync(die))
  )
)
