/** Sessions that move between servers on one store: at once, on request, by force, at a shutdown; and what they keep. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Logger, Schedule } from "effect"
import { type ResilientServer, SessionRegistry, WebSocketError } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { sayHello } from "./support/harnessHello.ts"
import { clientOf, type Cluster, makeCluster, serverAt } from "./support/harnessServers.ts"

const { advanceUntil, turn, until } = H

const stateIs = (client: H.Client, tag: string) => () => Effect.map(client.state, ({ _tag }) => _tag === tag)

const isBack = (client: H.Client) => advanceUntil("it is connected again", stateIs(client, "Connected"))

const handledOf = ({ registry }: Cluster) => Effect.map(registry.attach(probe), ({ position }) => position?.handled)

/** Attaches as somebody else would, to see what is stored. */
const probe: SessionRegistry.AttachRequest = {
  session: "alice",
  principal: "alice",
  authorized: true,
  tokenHash: undefined,
  nextTokenHash: "probe",
  instance: "probe"
}

/** Servers at both hosts, and what each has handled. `onMessage` of each is wrapped so that it counts what it began. */
const both = Effect.fnUntraced(function*(
  cluster: Cluster,
  handlers: ReadonlyArray<NonNullable<ResilientServer.Options<string, string>["onMessage"]> | undefined> = [],
  options: H.ServerOptions = {}
) {
  const began: [Array<string>, Array<string>] = [[], []]
  const done: [Array<string>, Array<string>] = [[], []]
  const make = (index: 0 | 1) =>
    serverAt(cluster.hosts[index], {
      onMessage: (message, context) => {
        began[index].push(message)
        const handler = handlers[index]
        const handled = handler === undefined ? Effect.void : handler(message, context)
        return Effect.tap(handled, () => Effect.sync(() => done[index].push(message)))
      },
      ...options
    })
  return { servers: [yield* make(0), yield* make(1)] as const, began, done }
})

describe("a session of which nothing waits to be handled", () => {
  it.effect("is released with its connection, and goes on at another server at once", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const { done, servers } = yield* both(cluster)
      const client = yield* clientOf(cluster, { reconnect: { base: "100 millis", cap: "100 millis" } })
      yield* client.awaitConnected()
      yield* (yield* client.send("a")).handled
      cluster.target = 1
      cluster.hosts[0].network.newest().cut()
      yield* until("it is released", () => cluster.tenancy.owners.size === 0)
      assert.isAtMost(yield* isBack(client), 200)
      assert.deepInclude(yield* client.state, { result: "resumed" })
      yield* (yield* client.send("b")).handled
      assert.deepStrictEqual([done, cluster.tenancy.forced], [[["a"], ["b"]], 0])
      assert.strictEqual((yield* servers[1].sessionStats("alice")).generation, 2)
    }))

  it.effect("goes on there although nothing was handled yet, with what was on its way", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const { done } = yield* both(cluster)
      const { network } = cluster.hosts[0]
      // Batches are lost on the way to the first server, so that it never stores a position of its own accord.
      network.passes = (direction, frame) => direction === "toClient" || !frame.includes(`"batch"`)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      const { handled } = yield* client.send("in doubt")
      yield* turn
      cluster.target = 1
      network.newest().cut()
      yield* until("it noticed", stateIs(client, "Disconnected"))
      yield* isBack(client)
      assert.deepInclude(yield* client.state, { result: "resumed" })
      yield* handled
      assert.deepStrictEqual(done, [[], ["in doubt"]])
    }))

  it.effect("is told that it is fresh, until it knows, also by a server that was not there before", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      yield* both(cluster)
      const { network } = cluster.hosts[0]
      network.passes = (direction, frame) => direction === "toServer" || !frame.includes(`"welcome"`)
      const client = yield* clientOf(cluster, { handshakeTimeout: "1 second" })
      yield* advanceUntil("the welcome is lost", stateIs(client, "Disconnected"))
      cluster.target = 1
      yield* isBack(client)
      assert.deepInclude(yield* client.state, { result: "fresh" })
      const welcome = cluster.hosts[1].network.newest().frames.find(({ frame }) => frame.includes(`"welcome"`))
      assert.deepInclude(JSON.parse(welcome?.frame ?? ""), { continued: { in: false, out: false } })
    }))

  it.effect("goes on there also when the welcome of a server in between, which had used up the token, was lost", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const done: Array<string> = []
      const onMessage = (message: string) => Effect.sync(() => done.push(message))
      yield* serverAt(cluster.hosts[0], { onMessage })
      yield* serverAt(cluster.hosts[1], { onMessage })
      const [first, second] = cluster.hosts
      // Batches are lost on the way to the first server, so that it never stores a position of its own accord.
      first.network.passes = (direction, frame) => direction === "toClient" || !frame.includes(`"batch"`)
      second.network.passes = (direction, frame) => direction === "toServer" || !frame.includes(`"welcome"`)
      const client = yield* clientOf(cluster, { handshakeTimeout: "1 second" })
      yield* client.awaitConnected()
      const { handled } = yield* client.send("in doubt")
      yield* turn
      cluster.target = 1
      first.network.newest().cut()
      yield* until("it noticed", stateIs(client, "Disconnected"))
      yield* advanceUntil("it dials the second server", () => second.network.links.length > 0)
      yield* advanceUntil("the welcome is lost", stateIs(client, "Disconnected"))
      first.network.passes = () => true
      cluster.target = 0
      yield* advanceUntil("it is connected again", stateIs(client, "Connected"))
      assert.deepInclude(yield* client.state, { result: "resumed" })
      yield* handled
      assert.deepStrictEqual(done, ["in doubt"])
    }))

  it.effect("is kept by the server that a newer connection attached to while the older one was replaced", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster({ registry: { retention: "1 minute" } })
      yield* both(cluster)
      const first = yield* clientOf(cluster)
      yield* first.awaitConnected()
      const second = yield* clientOf(cluster)
      yield* second.awaitConnected()
      yield* until("the first is told", stateIs(first, "Stopped"))
      yield* turn
      assert.deepInclude(yield* cluster.registry.find("alice"), { attached: true })
      assert.strictEqual(cluster.tenancy.owners.size, 1)
      yield* H.advance(65_000)
      assert.strictEqual((yield* second.state)._tag, "Connected")
    }))
})

describe("a session that another server wants", () => {
  /** A client at host 0 whose connection is half-open, and that has come to host 1. */
  const goesOver = Effect.fnUntraced(function*(cluster: Cluster) {
    cluster.target = 1
    cluster.hosts[0].network.newest().vanish()
    yield* advanceUntil("the other server is asked", () => cluster.hosts[1].network.links.length > 0)
    yield* turn
  })

  /** Servers that don't find out by themselves that a connection is half-open. */
  const slowToNotice = { heartbeat: "5 minutes" } as const

  it.effect("is left when its handler is done: nothing is handled twice, and the rest there", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const latch = yield* Deferred.make<void>()
      const { began, done, servers } = yield* both(cluster, [
        (message) => message === "b" ? Deferred.await(latch) : Effect.void
      ], slowToNotice)
      const events = yield* H.collect(servers[0].connections)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      const receipts = yield* client.sendAll(["a", "b", "c", "d"])
      yield* until("it is at b", () => began[0].length === 2)
      yield* goesOver(cluster)
      yield* H.advance(1_000)
      assert.notStrictEqual((yield* client.state)._tag, "Connected")
      yield* Deferred.succeed(latch, undefined)
      yield* isBack(client)
      for (const { handled } of receipts) yield* handled
      assert.deepStrictEqual(began, [["a", "b"], ["c", "d"]])
      assert.deepStrictEqual([done, cluster.tenancy.forced], [[["a", "b"], ["c", "d"]], 0])
      assert.deepInclude(events.at(-1), { _tag: "Disconnected", code: 4008 })
    }))

  it.effect("is taken by force when that takes too long: the handler is interrupted, and nothing of it acknowledged", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      let interrupted = 0
      const { began, done, servers } = yield* both(cluster, [
        (message) =>
          message === "b" ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++)) : Effect.void
      ], slowToNotice)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      const receipts = yield* client.sendAll(["a", "b", "c"])
      yield* until("it is at b", () => began[0].length === 2)
      yield* goesOver(cluster)
      yield* isBack(client)
      for (const { handled } of receipts) yield* handled
      // What was done before it was stored before the session went.
      assert.deepStrictEqual([done, cluster.tenancy.forced], [[["a"], ["b", "c"]], 1])
      yield* advanceUntil("it is told", () => interrupted === 1)
      assert.deepInclude(yield* servers[0].sessionStats("alice"), { pendingMessages: 0, connected: false })
      assert.strictEqual((yield* servers[0].stats).totals.messagesHandled, 1)
    }))

  it.effect("comes back later, and goes on from what is stored and not from what is left in memory", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const { done } = yield* both(cluster)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      for (const [index, target] of ([1, 0, 1, 0] as const).entries()) {
        yield* (yield* client.send(`m${index}`)).handled
        const { network } = cluster.hosts[cluster.target]
        cluster.target = target
        network.newest().cut()
        yield* until("it noticed", stateIs(client, "Disconnected"))
        yield* isBack(client)
        assert.deepInclude(yield* client.state, { result: "resumed" })
      }
      assert.deepStrictEqual(done, [["m0", "m2"], ["m1", "m3"]])
    }))

  it.effect("by another instance closes the older one for good", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      yield* both(cluster)
      const first = yield* clientOf(cluster)
      yield* first.awaitConnected()
      cluster.target = 1
      const second = yield* clientOf(cluster)
      yield* advanceUntil("the second has it", stateIs(second, "Connected"))
      yield* advanceUntil("the first is told", stateIs(first, "Stopped"))
      yield* H.advance(5_000)
      assert.strictEqual((yield* second.state)._tag, "Connected")
      assert.deepStrictEqual([cluster.tenancy.forced, cluster.hosts[1].network.links.length], [0, 1])
    }))
})

describe("a hello that was overtaken", () => {
  it.effect("by a later dial of the same client is refused, also at another server, and uses up no token", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      yield* both(cluster, [], { authenticate: () => Effect.succeed({}) })
      const [here, there] = [cluster.hosts[0].network, cluster.hosts[1].network]
      const first = yield* sayHello(here, { attempt: 1 })
      const resume = (attempt?: number) => ({
        session: first.answer.session,
        token: first.answer.token,
        ...(attempt === undefined ? {} : { attempt })
      })
      first.connection.terminate()
      yield* until("it is released", () => cluster.tenancy.owners.size === 0)
      const third = yield* sayHello(there, resume(3))
      assert.strictEqual(third.answer.t, "welcome")
      third.connection.terminate()
      yield* until("it is released", () => cluster.tenancy.owners.size === 0)
      const second = yield* sayHello(here, resume(2))
      assert.deepInclude(second.answer, { t: "reject", code: "replaced" })
      assert.deepInclude(yield* cluster.registry.find(first.answer.session), { generation: 2 })
      // One that has no number is an older client, and not checked.
      const older = yield* sayHello(here, { ...resume(), token: third.answer.token })
      assert.strictEqual(older.answer.t, "welcome")
    }))
})

describe("a connection of a session that has moved", () => {
  it.effect("is not taken for one with a hole in it, until it is closed", () =>
    Effect.gen(function*() {
      // Nobody is told yet who has it now.
      const cluster = yield* makeCluster({}, (registry) => ({ ...registry, find: () => Effect.never }))
      const { began, servers } = yield* both(cluster, [() => Effect.never])
      const { network } = cluster.hosts[0]
      const { answer, connection } = yield* sayHello(network, { auth: "alice" })
      assert.strictEqual(answer.t, "welcome")
      const say = (frame: object) => connection.send(JSON.stringify(frame))
      say({ t: "batch", o: 1, m: ["a", "b"] })
      yield* until("the first is being handled", () => began[0].length === 1)
      const { generation } = yield* cluster.registry.attach(probe)
      yield* cluster.queue.open("alice", generation)
      say({ t: "batch", o: 3, m: ["c"] })
      yield* H.advance(1_000)
      assert.strictEqual((yield* servers[0].stats).totals.protocolErrors, 0)
      assert.isFalse(network.newest().frames.some(({ frame }) => frame.includes(`"reject"`)))
      assert.deepStrictEqual(began[0], ["a"])
    }))
})

describe("a store that has lost its newest", () => {
  it.effect("messages goes on behind what the client has received, and says so", () => {
    const logs: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => void logs.push(`${logLevel} ${String(message)}`))
    return Effect.gen(function*() {
      const cluster = yield* makeCluster()
      yield* both(cluster)
      const { network } = cluster.hosts[0]
      const { answer, connection } = yield* sayHello(network, { auth: "alice" })
      connection.terminate()
      const epoch = JSON.parse(
        network.newest().frames.find(({ frame }) => frame.includes(`"welcome"`))?.frame ?? ""
      ).out.epoch
      const ahead = (received: number) => ({
        auth: "alice",
        token: answer.token,
        in: { epoch, received, handled: received, failed: [], pending: { messages: 0, bytes: 0 } }
      })
      const tooFar = yield* sayHello(network, ahead(1_000_001))
      assert.deepInclude(tooFar.answer, { t: "reject", code: "protocol" })
      const again = yield* sayHello(network, ahead(7))
      assert.deepInclude(again.answer, { t: "welcome", out: { epoch, acked: 0, last: 7 } })
      assert.isTrue(logs.some((log) => log.startsWith("Warn") && log.includes("ends at 0")))
    }).pipe(Effect.provide(Logger.layer([logger])))
  })

  it.effect("positions takes the client's log up behind what was acknowledged, and leaves it in no doubt", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      yield* both(cluster)
      const { network } = cluster.hosts[0]
      const { answer, connection } = yield* sayHello(network, { auth: "alice" })
      connection.terminate()
      const [first] = network.newest().frames.filter(({ frame }) => frame.includes(`"welcome"`))
      const { epoch } = JSON.parse(first?.frame ?? "").out
      const behind = yield* sayHello(cluster.hosts[1].network, {
        auth: "alice",
        token: answer.token,
        out: { epoch: "mine", acked: 5, last: 9 },
        in: { epoch, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } }
      })
      assert.deepInclude(behind.answer, {
        result: "fresh",
        reason: "positionLost",
        continued: { in: false, out: true },
        in: { epoch: "mine", received: 5, handled: 5, failed: [], pending: { messages: 0, bytes: 0 } }
      })
    }))
})

describe("a session whose retention is over", () => {
  it.effect("leaves nothing, neither at the server that ends it nor at the one that had it", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster({ registry: { retention: "1 minute" }, queue: { ttl: Infinity } })
      const { servers } = yield* both(cluster)
      const events = yield* H.collect(servers[0].connections)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      const letters = [yield* H.collect(servers[0].deadLetters), yield* H.collect(servers[1].deadLetters)]
      cluster.hosts[0].network.dialling = "refused"
      cluster.hosts[0].network.newest().cut()
      const { handled } = yield* servers[0].send("alice", "too late")
      yield* H.advance(90_000)
      assert.deepStrictEqual(letters.flat().map(({ message, reason }) => [message, reason]), [[
        "too late",
        "sessionEnded"
      ]])
      assert.deepInclude(yield* Effect.flip(handled), { reason: "sessionEnded" })
      assert.deepInclude(events.at(-1), { _tag: "Ended", session: "alice" })
      assert.strictEqual(yield* H.tagOf(servers[0].sessionStats("alice")), "resilient-websocket/SessionNotFoundError")
      assert.deepInclude(yield* cluster.queue.stats, { sessions: 0, messages: 0 })
      assert.deepStrictEqual(yield* cluster.registry.count, { sessions: 0, attached: 0 })
    }))

  it.effect("is ended later when the store fails half-way", () =>
    Effect.gen(function*() {
      let failures = 0
      const cluster = yield* makeCluster({ registry: { retention: "1 minute" } }, (registry) => ({
        ...registry,
        remove: (session) =>
          failures++ === 0
            ? Effect.fail(
              new WebSocketError.SessionRegistryError({ session, operation: "remove", reason: "store", cause: "down" })
            )
            : registry.remove(session)
      }))
      yield* both(cluster)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      cluster.hosts[0].network.dialling = "refused"
      cluster.hosts[0].network.newest().cut()
      yield* advanceUntil("it failed", () => failures === 1)
      yield* advanceUntil("it is tried again", () => failures === 2)
      assert.isFalse(yield* cluster.registry.remove("alice"))
      assert.deepInclude(yield* cluster.queue.stats, { sessions: 0 })
    }))
})

describe("a handler that commits its message itself", () => {
  /** A registry whose commits are rolled back with the handler's transaction. */
  const rollingBack = (rolledBack: { left: number }) => (registry: SessionRegistry.Interface) => ({
    ...registry,
    commitPosition: (...args: Parameters<SessionRegistry.Interface["commitPosition"]>) =>
      Effect.suspend(() => rolledBack.left-- > 0 ? Effect.void : registry.commitPosition(...args))
  })
  const soon = { handlerRetry: Schedule.upTo(Schedule.spaced("10 millis"), { times: 3 }) }

  it.effect("has it stored before it ends, with what came before it, and acknowledged when it has", () =>
    Effect.gen(function*() {
      const stored: Array<number> = []
      const cluster = yield* makeCluster({}, (registry) => ({
        ...registry,
        commitPosition: (session, generation, position) =>
          Effect.tap(
            registry.commitPosition(session, generation, position),
            () => Effect.sync(() => stored.push(position.handled))
          )
      }))
      const latch = yield* Deferred.make<void>()
      yield* both(cluster, [
        (message, { commit }) => message === "b" ? Effect.andThen(commit, Deferred.await(latch)) : Effect.void
      ])
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      const receipts = yield* client.sendAll(["a", "b"])
      yield* until("it is stored", () => stored.length > 0)
      yield* turn
      assert.deepStrictEqual(stored, [2])
      assert.strictEqual(yield* client.locate(receipts[1]?.messageId ?? ""), "sent")
      yield* Deferred.succeed(latch, undefined)
      for (const { handled } of receipts) yield* handled
      assert.strictEqual(yield* handledOf(cluster), 2)
    }))

  it.effect("and fails after that counts as done, as its writes are there", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const written: Array<string> = []
      const { began } = yield* both(cluster, [(message, { commit }) =>
        // The write is rolled back when the commit fails.
        Effect.andThen(
          Effect.tap(commit, () => Effect.sync(() => written.push(message))),
          message === "a" ? Effect.fail("after the transaction") : Effect.void
        )], soon)
      const client = yield* clientOf(cluster)
      const letters = yield* H.collect(client.deadLetters)
      yield* client.awaitConnected()
      const receipts = yield* client.sendAll(["a", "b"])
      yield* advanceUntil("b is handled", () => began[0].includes("b"))
      for (const { handled } of receipts) yield* handled
      assert.deepStrictEqual([began[0], written, letters], [["a", "a", "b"], ["a", "b"], []])
      assert.strictEqual(yield* handledOf(cluster), 2)
    }))

  it.effect("whose transaction rolled back is retried", () =>
    Effect.gen(function*() {
      const rolledBack = { left: 1 }
      const cluster = yield* makeCluster({}, rollingBack(rolledBack))
      const { began, done } = yield* both(cluster, [(_, { commit }) =>
        Effect.suspend(() => {
          const rollsBack = rolledBack.left > 0
          return Effect.andThen(commit, rollsBack ? Effect.fail("rolled back") : Effect.void)
        })], soon)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      const { handled } = yield* client.send("a")
      yield* advanceUntil("it is tried again", () => began[0].length === 2)
      yield* handled
      assert.deepStrictEqual([began[0], done[0]], [["a", "a"], ["a"]])
      assert.strictEqual(yield* handledOf(cluster), 1)
    }))

  it.effect("is not retried when the session has a new owner, which handles it", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const latch = yield* Deferred.make<void>()
      const tags: Array<string> = []
      const { began, done } = yield* both(cluster, [(_, { commit }) =>
        Effect.andThen(
          // Deaf to interruption, as a transaction may be.
          Effect.uninterruptible(Deferred.await(latch)),
          Effect.tapError(Effect.uninterruptible(commit), (error) => Effect.sync(() => tags.push(error.reason)))
        )], soon)
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      const { handled } = yield* client.send("a")
      yield* until("it is begun", () => began[0].length === 1)
      cluster.target = 1
      cluster.hosts[0].network.newest().vanish()
      yield* advanceUntil("it is dialled", () => cluster.hosts[1].network.links.length > 0)
      yield* isBack(client)
      yield* handled
      yield* Deferred.succeed(latch, undefined)
      yield* H.advance(2_000)
      assert.deepStrictEqual([began, done], [[["a"], ["a"]], [[], ["a"]]])
      assert.strictEqual(cluster.tenancy.forced, 1)
    }))

  it.effect("may do so for volatile messages and plain peers, to no effect", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const { done, servers } = yield* both(cluster, [(_, { commit }) => commit])
      const client = yield* clientOf(cluster)
      yield* client.awaitConnected()
      yield* client.send("volatile", { volatile: true })
      yield* until("it is handled", () => done[0].length === 1)
      assert.strictEqual(yield* handledOf(cluster), 0)
      assert.strictEqual((yield* servers[0].stats).totals.deadLetters, 0)
    }))
})

describe("a server with a durable store that shuts down", () => {
  it.effect("hands its sessions over: nothing becomes a dead letter, and the client goes on elsewhere", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const { began, done, servers } = yield* both(
        cluster,
        [(message) => message === "stuck" ? Effect.never : Effect.sleep("2 seconds")],
        { shutdownTimeout: "10 seconds" }
      )
      const atClient: Array<string> = []
      // Takes one message and no more, so that others wait in the store.
      let isOpen = false
      const client = yield* clientOf(cluster, {
        window: { messages: 1 },
        onMessage: (message) =>
          Effect.suspend(() => isOpen ? Effect.sync(() => void atClient.push(message)) : Effect.never)
      })
      yield* client.awaitConnected()
      const letters = yield* H.collect(servers[0].deadLetters)
      const ups = yield* client.sendAll(["a", "stuck", "after"])
      yield* until("it is begun", () => began[0].length === 1)
      yield* servers[0].sendAll("alice", H.numbered(3))
      yield* turn
      cluster.target = 1
      const closing = yield* Effect.forkChild(servers[0].shutdown, { startImmediately: true })
      assert.strictEqual(yield* H.tagOf(servers[0].send("alice", "late")), "resilient-websocket/ShutdownError")
      yield* advanceUntil("it is closed", () => closing.pollUnsafe() !== undefined)
      const report = yield* Fiber.join(closing)
      assert.deepInclude(report, { pending: 3, flushed: 0, retained: 3, dropped: 0, closed: 1 })
      assert.isAtMost(report.durationMillis, 10_000)
      assert.deepStrictEqual([letters, done[0], cluster.tenancy.owners.get("alice")], [[], ["a"], undefined])
      isOpen = true
      yield* isBack(client)
      assert.deepInclude(yield* client.state, { result: "resumed" })
      for (const { handled } of ups) yield* handled
      assert.deepStrictEqual([done[1], cluster.tenancy.forced], [["stuck", "after"], 0])
    }))
})

describe("a welcome that is lost", () => {
  it.effect("does not make the client take the server's first ping for it", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      yield* both(cluster, [], { heartbeat: "1 second", heartbeatTimeout: "2 seconds" })
      const { network } = cluster.hosts[0]
      let lost = 1
      network.passes = (direction, frame) => direction === "toServer" || !frame.includes(`"welcome"`) || lost-- <= 0
      const client = yield* clientOf(cluster, { handshakeTimeout: "2 seconds" })
      yield* advanceUntil("it was probed", () =>
        network.links.some(({ frames }) => frames.some(({ frame }) => frame === `{"t":"ping"}`)))
      yield* turn
      assert.strictEqual((yield* client.state)._tag, "Connecting")
      yield* isBack(client)
    }))
})
