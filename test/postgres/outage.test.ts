/** What becomes of the driver when the database restarts, is killed, falls silent or is too slow. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Queue, type Scope } from "effect"
import { connect, createServer, type Socket } from "node:net"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import type { AppendRequest, AppendResult } from "../../src/internal/store/outboxes.ts"
import { describeWithPostgres, driverOn, newSchema, type PostgresServer, processOn } from "../support/postgresServer.ts"

const message = (session: string): AppendRequest => ({
  session,
  count: 1,
  bytes: 10,
  enqueuedAt: 1_800_000_000_000,
  expiresAt: Infinity,
  body: "[]",
  maxMessages: 1_000_000,
  maxBytes: 1_000_000_000,
  publish: undefined,
  // The database is started anew in between, and nobody here is an owner.
  unsettled: "allow"
})

const open = (driver: StoreDriver, session: string, node: string) =>
  driver.openOutbox({ session, generation: 1, node, newEpoch: `epoch of ${session}` })

/** Watches, and has every call of the listener in a queue. */
const watch = (driver: StoreDriver, node: string) =>
  Effect.gen(function*() {
    const calls = yield* Queue.unbounded<void>()
    yield* driver.watch(node, () => Queue.offerUnsafe(calls, undefined))
    return calls
  })

/** Takes nudges after each call of the listener until there are some. */
const nextNudges = (driver: StoreDriver, node: string, calls: Queue.Queue<void>) =>
  Effect.andThen(Queue.take(calls), Effect.eventually(driver.takeNudges(node, 10))).pipe(
    Effect.repeat({ until: (sessions) => sessions.length > 0 })
  )

describeWithPostgres("outages of PostgreSQL", { fsync: true }, (server) => {
  it.live("batches that are tried again until they succeed are done once, though the server is killed meanwhile", () =>
    Effect.gen(function*() {
      const driver = yield* driverOn(server, { schema: newSchema() })
      const { kill, restart, start } = yield* server
      yield* open(driver, "a", "n")
      const results: Array<AppendResult | undefined> = []
      const failures: Array<string> = []
      const rounds = 400
      const reached = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
      const sender = yield* Effect.forkScoped(Effect.gen(function*() {
        for (let sequence = 1; sequence <= rounds; sequence++) {
          const [result] = yield* driver.append([message("a")], { writer: "n", sequence }, "n").pipe(
            Effect.tapError((error) => Effect.sync(() => failures.push(error._tag))),
            Effect.eventually
          )
          results.push(result)
          if (sequence === rounds / 4) yield* Deferred.succeed(reached[0], undefined)
          if (sequence === rounds / 2) yield* Deferred.succeed(reached[1], undefined)
        }
      }))
      yield* Deferred.await(reached[0])
      yield* restart
      yield* Deferred.await(reached[1])
      yield* kill
      yield* start
      yield* Fiber.join(sender)
      assert.isAbove(failures.length, 0)
      assert.deepStrictEqual(
        results,
        Array.from({ length: rounds }, (_, at) => ({ _tag: "Appended", epoch: "epoch of a", first: at + 1 }))
      )
      const page = yield* driver.read({ session: "a", after: 0, maxChunks: 1_000, maxBytes: 1_000_000 })
      assert.strictEqual(page?.chunks.length, rounds)
    }))

  it.live("who watches hears of nudges again after a restart", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const driver = yield* driverOn(server, { schema })
      const other = yield* driverOn(server, { schema })
      yield* open(driver, "a", "here")
      const calls = yield* watch(driver, "here")
      yield* other.append([message("a")], undefined, "there")
      assert.deepStrictEqual(yield* nextNudges(driver, "here", calls), ["a"])

      yield* (yield* server).restart
      // It may hear of this one by the call that follows each new connection, or by a notification.
      yield* Effect.eventually(other.append([message("a")], undefined, "there"))
      assert.deepStrictEqual(yield* nextNudges(driver, "here", calls), ["a"])
      // This one is after that.
      yield* other.append([message("a")], undefined, "there")
      assert.deepStrictEqual(yield* nextNudges(driver, "here", calls), ["a"])
    }))

  it.live("who begins to watch while the server is away hears of nudges when it is back", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const driver = yield* driverOn(server, { schema })
      yield* open(driver, "a", "here")
      const { start, stop } = yield* server
      yield* stop
      const calls = yield* watch(driver, "here")
      yield* start
      yield* Effect.eventually(driver.append([message("a")], undefined, "there"))
      assert.deepStrictEqual(yield* nextNudges(driver, "here", calls), ["a"])
    }))

  it.live("a server that falls silent is an error in time, and no matter when it speaks again", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const direct = yield* driverOn(server, { schema })
      const proxy = yield* silenceable(yield* server)
      const driver = yield* driverOn(server, { schema, timeout: "1 second" }, { port: proxy.port, maxConnections: 2 })
      yield* open(driver, "a", "here")
      const calls = yield* watch(driver, "here")
      yield* Queue.takeAll(calls)

      proxy.silence()
      const errors = yield* Effect.all(
        Array.from({ length: 5 }, () => Effect.flip(driver.findSession("a"))),
        { concurrency: "unbounded" }
      )
      for (const error of errors) assert.include(String(error.cause), "did not answer in 1000 ms")
      // The connection that listens is found dead too, though nothing is ever said on it.
      yield* direct.append([message("a")], undefined, "there")
      proxy.speak()
      assert.deepStrictEqual(yield* nextNudges(driver, "here", calls), ["a"])
      yield* Effect.eventually(driver.findSession("a"))
    }))

  it.live("a statement that takes too long is given up, and its connection is of use again", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const { sql } = yield* processOn(server, { schema })
      const driver = yield* driverOn(server, { schema, timeout: "1 second" }, { maxConnections: 1 })
      yield* sql.withTransaction(Effect.gen(function*() {
        yield* sql.unsafe(`LOCK TABLE ${schema}.outboxes IN ACCESS EXCLUSIVE MODE`)
        const error = yield* Effect.flip(driver.outboxes(["a"]))
        assert.strictEqual(error._tag, "StoreError")
        assert.include(String(error.cause), "did not answer in 1000 ms")
      }))
      assert.deepStrictEqual(yield* Effect.eventually(driver.outboxes(["a"])), [])
    }))

  it.live("texts that PostgreSQL can't hold are errors, and the driver goes on", () =>
    Effect.gen(function*() {
      const driver = yield* driverOn(server, { schema: newSchema() })
      for (const session of ["a\u0000b", "a\ud800"]) {
        assert.strictEqual((yield* Effect.flip(open(driver, session, "n")))._tag, "StoreError")
        assert.strictEqual((yield* Effect.flip(driver.append([message(session)], undefined, "n")))._tag, "StoreError")
        assert.strictEqual((yield* Effect.flip(driver.findSession(session)))._tag, "StoreError")
      }
      assert.isUndefined(yield* driver.findSession("a"))
    }))

  it.live("a nudge is not lost to who takes nudges while a transaction adds to it", () =>
    Effect.gen(function*() {
      const schema = newSchema()
      const { driver, sql } = yield* processOn(server, { schema })
      const other = yield* driverOn(server, { schema })
      yield* open(driver, "a", "here")
      const calls = yield* watch(other, "here")
      yield* other.nudge("here", "a")
      yield* Effect.scoped(Effect.gen(function*() {
        const added = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void>()
        const sending = yield* Effect.forkScoped(sql.withTransaction(
          driver.append([message("a")], undefined, "there").pipe(
            Effect.andThen(Deferred.succeed(added, undefined)),
            Effect.andThen(Deferred.await(end))
          )
        ))
        yield* Deferred.await(added)
        assert.deepStrictEqual(yield* other.takeNudges("here", 10), [])
        assert.strictEqual((yield* other.outboxes(["a"]))[0]?.last, 0)
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(sending)
      }))
      assert.deepStrictEqual(yield* nextNudges(other, "here", calls), ["a"])
      assert.strictEqual((yield* other.outboxes(["a"]))[0]?.last, 1)
    }))
})

interface Proxy {
  readonly port: number
  /** Nothing passes from now on, and nothing is closed either: as when a cable is cut. */
  readonly silence: () => void
  readonly speak: () => void
}

const silenceable = (server: PostgresServer): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<{ readonly port: number; readonly isSilent: { now: boolean }; readonly close: () => void }>(
        (resume) => {
          const isSilent = { now: false }
          const sockets = new Set<Socket>()
          const forward = (from: Socket, to: Socket) => {
            sockets.add(from)
            // What is sent in the silence is gone for good, so these connections never recover.
            from.on("data", (data) => isSilent.now ? from.pause() : to.write(data))
            from.on("error", () => to.destroy()).on("close", () => to.destroy())
          }
          const proxy = createServer((client) => {
            const backend = connect(server.port, server.host)
            forward(client, backend)
            forward(backend, client)
          })
          const close = () => {
            proxy.close()
            for (const socket of sockets) socket.destroy()
          }
          proxy.listen(0, "127.0.0.1", () => {
            const address = proxy.address()
            if (typeof address === "object" && address !== null) {
              resume(Effect.succeed({ port: address.port, isSilent, close }))
            }
          })
        }
      ),
      ({ close }) => Effect.sync(close)
    ),
    ({ isSilent, port }) => ({
      port,
      silence: () => {
        isSilent.now = true
      },
      speak: () => {
        isSilent.now = false
      }
    })
  )
