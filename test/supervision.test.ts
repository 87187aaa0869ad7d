/** Background workers that die of a defect in a service: logged, counted, restarted; and what happens past the limit. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Latch } from "effect"
import { spawnSync } from "node:child_process"
import { CircuitBreaker, Deduplicator, MessageQueue, SessionRegistry, Transport } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { recordLogs } from "./support/logs.ts"
import { programPath } from "./support/sharedByRun.ts"

const { advanceUntil, turn, until } = H

/** The program's exit says why, and not just that it was interrupted. */
const assertDied = (exit: Exit.Exit<unknown, unknown>): void => {
  assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
  assert.include(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", "the bomb")
}

/** Makes the next `count` calls of what it wraps die. */
class Bomb {
  count = 0
  exploded = 0

  effect<A, E, R>(inner: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.suspend(() => {
      if (this.count === 0) return inner
      this.count--
      this.exploded++
      return Effect.die(new Error("the bomb"))
    })
  }

  call<Args extends ReadonlyArray<unknown>, A, E, R>(
    inner: (...args: Args) => Effect.Effect<A, E, R>
  ): (...args: Args) => Effect.Effect<A, E, R> {
    return (...args) => this.effect(inner(...args))
  }
}

type Rig = (store: H.Store, bomb: Bomb) => H.Store

const rigQueue =
  (rig: (queue: MessageQueue.Interface, bomb: Bomb) => Partial<MessageQueue.Interface>): Rig => (store, bomb) => {
    const queue = Context.get(store, MessageQueue.MessageQueue)
    return Context.add(store, MessageQueue.MessageQueue, { ...queue, ...rig(queue, bomb) })
  }

const rigRegistry =
  (rig: (registry: SessionRegistry.Interface, bomb: Bomb) => Partial<SessionRegistry.Interface>): Rig =>
  (store, bomb) => {
    const registry = Context.get(store, SessionRegistry.SessionRegistry)
    return Context.add(store, SessionRegistry.SessionRegistry, { ...registry, ...rig(registry, bomb) })
  }

const workers: Record<string, { readonly worker: string; readonly rig: Rig; readonly count?: number }> = {
  "delivery, reading": { worker: "delivery", rig: rigQueue(({ read }, bomb) => ({ read: bomb.call(read) })) },
  "delivery, acknowledging": { worker: "delivery", rig: rigQueue(({ ack }, bomb) => ({ ack: bomb.call(ack) })) },
  sessions: { worker: "sessions", rig: rigRegistry(({ expire }, bomb) => ({ expire: bomb.effect(expire) })) },
  expiry: { worker: "expiry", rig: rigQueue(({ expire }, bomb) => ({ expire: bomb.call(expire) })) },
  deduplicator: {
    worker: "deduplicator",
    rig: (store, bomb) => {
      const deduplicator = Context.get(store, Deduplicator.Deduplicator)
      return Context.add(store, Deduplicator.Deduplicator, {
        ...deduplicator,
        rotate: bomb.effect(deduplicator.rotate)
      })
    }
  },
  handler: {
    worker: "handler",
    rig: rigRegistry(({ savePosition }, bomb) => ({ savePosition: bomb.call(savePosition) }))
  },
  "handler, twice": {
    worker: "handler",
    count: 2,
    rig: rigRegistry(({ savePosition }, bomb) => ({ savePosition: bomb.call(savePosition) }))
  }
}

const alice = CircuitBreaker.session("alice")

describe("a server's worker that dies", () => {
  for (const [name, { count = 1, rig, worker }] of Object.entries(workers)) {
    it.effect(`is logged, counted and restarted, and all goes on (${name})`, () => {
      const { layer, logs } = recordLogs()
      return Effect.gen(function*() {
        const bomb = new Bomb()
        const store = rig(yield* H.makeStore(), bomb)
        const breaker = Context.get(store, CircuitBreaker.CircuitBreaker)
        const { atClient, atServer, client, server } = yield* H.connected({ serverStore: store })
        bomb.count = count
        const receipts = yield* Effect.forEach(
          H.numbered(50),
          (text) => Effect.all([client.send(text), server.send("alice", text)])
        )
        // A transition for the worker that watches them; and time, for those that wait for it.
        yield* breaker.isolate(alice, "a test")
        yield* breaker.release(alice)
        yield* advanceUntil(
          "it died and was restarted",
          () => Effect.map(server.stats, ({ totals }) => totals.workerRestarts === count)
        )
        assert.strictEqual(bomb.exploded, count)
        assert.strictEqual(logs.filter((log) => log.includes(`${worker} failed; it is restarted`)).length, count)
        const last = yield* Effect.all([client.send("last"), server.send("alice", "last")])
        yield* advanceUntil("all is handled", () => atServer.length >= 51 && atClient.length >= 51)
        for (const [up, down] of [...receipts, last]) {
          yield* up.handled
          yield* down.handled
        }
        assert.deepStrictEqual([atServer, atClient], [[...H.numbered(50), "last"], [...H.numbered(50), "last"]])
        // Positions, windows and watermarks came out right: nothing is pending anywhere.
        assert.deepInclude(yield* server.sessionStats("alice"), { pendingMessages: 0, queuedMessages: 0 })
        assert.strictEqual((yield* server.stats).totals.messagesHandled, 51)
      }).pipe(Effect.provide(layer))
    })
  }

  it.effect("in the middle of a position leaves the sender's window whole", () =>
    Effect.gen(function*() {
      const bomb = new Bomb()
      const store = rigRegistry(({ savePosition }) => ({ savePosition: bomb.call(savePosition) }))(
        yield* H.makeStore(),
        bomb
      )
      const { atServer, client } = yield* H.connected({
        serverStore: store,
        server: { window: { messages: 8, bytes: 1_000 } }
      })
      for (let round = 0; round < 5; round++) {
        bomb.count = 1
        for (const text of H.numbered(4)) yield* client.send(text)
        yield* advanceUntil("these are handled", () => atServer.length === 4 * (round + 1) && bomb.count === 0)
      }
      const last = yield* client.send("last")
      yield* advanceUntil("the last is handled", () => atServer.includes("last"))
      yield* last.handled
      assert.strictEqual((yield* client.stats).queue.messages, 0)
    }))
})

describe("a client's connector that dies", () => {
  it.effect("dials again", () => {
    const { layer, logs } = recordLogs()
    return Effect.gen(function*() {
      const network = yield* makeNetwork
      const bomb = new Bomb()
      bomb.count = 2
      const dialler = Context.get(network.context, Transport.TransportClient)
      yield* H.serverOn(network.context, { onMessage: () => Effect.void })
      const client = yield* H.clientOn(Context.make(Transport.TransportClient, { dial: bomb.call(dialler.dial) }))
      const receipt = yield* client.send("through")
      yield* advanceUntil("it is connected", () => Effect.map(client.state, ({ _tag }) => _tag === "Connected"))
      yield* receipt.handled
      assert.strictEqual((yield* client.stats).totals.workerRestarts, 2)
      assert.strictEqual(logs.filter((log) => log.includes("connector failed; it is restarted")).length, 2)
    }).pipe(Effect.provide(layer))
  })

  it.effect("past the limit closes the client", () =>
    Effect.gen(function*() {
      const dial = () => Effect.die("always")
      const client = yield* H.clientOn(Context.make(Transport.TransportClient, { dial }), {
        restartIntensity: { restarts: 2, period: "1 minute" }
      })
      yield* advanceUntil("it is closed", () => Effect.map(client.state, ({ _tag }) => _tag === "Closed"))
      assert.strictEqual(yield* H.tagOf(client.send("too late")), "resilient-websocket/ShutdownError")
      assert.strictEqual(yield* H.tagOf(client.awaitConnected()), "resilient-websocket/ShutdownError")
    }))
})

describe("a server whose worker keeps dying", () => {
  const rigged = Effect.fnUntraced(function*(intensity: { restarts: number; period: string }) {
    const bomb = new Bomb()
    const store = rigRegistry(({ expire }) => ({ expire: bomb.effect(expire) }))(yield* H.makeStore(), bomb)
    const { server, ...rest } = yield* H.connected({
      serverStore: store,
      server: { restartIntensity: { restarts: intensity.restarts, period: "1 minute" } }
    })
    return { bomb, server, ...rest }
  })

  it.effect("past the limit closes itself, and ends the fiber that made it", () => {
    const { layer, logs } = recordLogs()
    return Effect.gen(function*() {
      const made = yield* Deferred.make<Effect.Success<ReturnType<typeof rigged>>>()
      const program = yield* rigged({ restarts: 3, period: "1 minute" }).pipe(
        Effect.tap((rig) => Deferred.succeed(made, rig)),
        Effect.andThen(Effect.never),
        Effect.scoped,
        Effect.forkChild({ startImmediately: true })
      )
      const { bomb, client, server } = yield* Deferred.await(made)
      bomb.count = Infinity
      yield* advanceUntil("it has failed", () => program.pollUnsafe() !== undefined)
      assertDied(yield* Fiber.await(program))
      assert.strictEqual((yield* client.state)._tag, "Closed")
      assert.strictEqual(yield* H.tagOf(server.send("alice", "too late")), "resilient-websocket/ShutdownError")
      assert.strictEqual((yield* server.shutdown).closed, 1)
      assert.isTrue(logs.some((log) => log.startsWith("Fatal") && log.includes("sessions")))
    }).pipe(Effect.provide(layer))
  })

  it.live.each(["alone", "beside", "deep", "provided"])(
    "past the limit ends a program that launched it (%s) with its cause",
    (way) =>
      Effect.gen(function*() {
        const path = yield* Effect.promise(() => programPath("givesUp"))
        const ended = spawnSync(process.execPath, ["--no-warnings", path, way], { encoding: "utf8", timeout: 60_000 })
        assert.strictEqual(ended.status, 1)
        assert.include(ended.stdout, "the server closes because its worker expiry can't go on")
        assert.match(ended.stdout, /ERROR.*the bomb/)
      })
  )

  it.effect("but rarely goes on for ever", () =>
    Effect.gen(function*() {
      const { bomb, client, server } = yield* rigged({ restarts: 1, period: "1 minute" })
      for (let i = 1; i <= 5; i++) {
        bomb.count = 1
        yield* advanceUntil("it was restarted", () =>
          Effect.map(server.stats, ({ totals }) => totals.workerRestarts === i))
        yield* H.advance(61_000, 1_000)
      }
      yield* (yield* client.send("still here")).handled
    }))
})

describe("a handshake that breaks off by a defect", () => {
  it.effect("is answered, and works the next time", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const bomb = new Bomb()
      const store = rigRegistry(({ attach }) => ({ attach: bomb.call(attach) }))(yield* H.makeStore(), bomb)
      bomb.count = 1
      const server = yield* H.serverOn(network.context, {}, { store })
      const client = yield* H.clientOn(network.context)
      yield* until("it was refused", () => Effect.map(client.state, ({ _tag }) => _tag === "Disconnected"))
      assert.deepInclude(yield* client.state, { _tag: "Disconnected" })
      yield* advanceUntil("it is connected", () => Effect.map(client.state, ({ _tag }) => _tag === "Connected"))
      assert.deepInclude((yield* server.stats).totals, { connectionsFailed: 1, connectionsFresh: 1 })
    }))
})

describe("a store that takes its time", () => {
  it.effect("may give the session to a new connection while a handler's position is being stored: nothing is lost", () =>
    Effect.gen(function*() {
      const store = yield* H.makeStore()
      const registry = Context.get(store, SessionRegistry.SessionRegistry)
      const attaching = yield* Latch.make(true)
      const handling = yield* Latch.make(false)
      const slow = Context.add(store, SessionRegistry.SessionRegistry, {
        ...registry,
        attach: (request) => Effect.tap(registry.attach(request), () => attaching.await)
      })
      const handled: Array<string> = []
      const { client, network } = yield* H.connected({
        serverStore: slow,
        server: {
          window: { messages: 2, bytes: 10_000 }, // stored after each
          onMessage: (text) => Effect.andThen(handling.await, Effect.sync(() => handled.push(text)))
        }
      })
      const receipts = yield* Effect.forEach(H.numbered(6), (text) => client.send(text))
      yield* until(
        "some are there",
        () => Effect.map(client.locate(receipts[1]?.messageId ?? ""), (state) => state === "sent")
      )
      yield* attaching.close
      network.newest().cut()
      yield* advanceUntil("it attaches", () => Effect.map(registry.find("alice"), (info) => info?.generation === 2))
      yield* handling.open
      yield* until("what was there is handled", () => handled.length > 0)
      yield* turn
      yield* attaching.open
      yield* advanceUntil("all is handled", () => handled.length >= 6)
      for (const { handled } of receipts) yield* handled
      assert.deepStrictEqual(handled, H.numbered(6))
    }))
})
