/**
 * A replica that lacks the newest part takes the database over while clients are connected: what is sent after that is
 * handled once and in order, and said to be handled only when it was; what the database lost is counted.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Schedule, type Scope } from "effect"
import type { Message } from "resilient-websocket"
import { PostgresStore } from "resilient-websocket/postgres"
import { RedisStore } from "resilient-websocket/redis"
import { FaultProxy } from "resilient-websocket/testing/node"
import * as H from "../support/harness.ts"
import { connectTo, postgres, startPostgres, startStandby } from "../support/postgresServer.ts"
import { redis, type RedisServer, startRedis } from "../support/redisServer.ts"
import { describeWithService } from "../support/services.ts"

type StoreLayer = Layer.Layer<H.StoreServices, unknown>

/** A database with a replica. */
interface Replicated {
  /** The layers of a server's store on it. */
  readonly store: StoreLayer
  /** From here on the replica gets nothing more. */
  readonly detach: Effect.Effect<void>
  /** The primary dies, and the replica is where it was. */
  readonly failOver: Effect.Effect<void>
}

/** A proxy to a database, which may be taken to another one while nobody is connected. */
const proxyTo = Effect.fnUntraced(function*(primary: number) {
  let port = primary
  const proxy = yield* FaultProxy.make({ target: () => ({ host: "127.0.0.1", port }) })
  return {
    port: proxy.port,
    cut: Effect.andThen(proxy.refuse, proxy.cut),
    leadTo: (replica: number) => Effect.andThen(Effect.sync(() => void (port = replica)), proxy.heal)
  }
})

const eventually = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.retry(effect, { schedule: Schedule.spaced("20 millis"), times: 10_000 })

/** How far a Redis is in what it wrote, or was given to write. */
const offsetOf = (server: Pick<RedisServer, "command">) =>
  Effect.map(
    server.command("INFO", "replication"),
    (info) => Number(/master_repl_offset:(\d+)/.exec(info)?.[1] ?? assert.fail("no offset"))
  )

const replicatedRedis: Effect.Effect<Replicated, unknown, Scope.Scope> = Effect.gen(function*() {
  const primary = yield* startRedis()
  const replica = yield* startRedis({ config: ["--replicaof", "127.0.0.1", String(primary.port)] })
  yield* eventually(
    Effect.filterOrFail(
      replica.command("INFO", "replication"),
      (info) => info.includes("master_link_status:up"),
      () => "not in step"
    )
  )
  const proxy = yield* proxyTo(primary.port)
  return {
    store: RedisStore.layer({ url: `redis://127.0.0.1:${proxy.port}`, callTimeout: "2 seconds" }),
    detach: Effect.gen(function*() {
      // Waits for what was written so far, by whomever: what is lost is what comes after.
      const written = yield* offsetOf(primary)
      yield* eventually(Effect.filterOrFail(offsetOf(replica), (offset) => offset >= written, () => "not in step"))
      yield* replica.command("REPLICAOF", "NO", "ONE")
    }).pipe(Effect.orDie),
    failOver: Effect.gen(function*() {
      yield* proxy.cut
      yield* primary.kill
      yield* proxy.leadTo(replica.port)
    })
  }
})

const replicatedPostgres: Effect.Effect<Replicated, unknown, Scope.Scope> = Effect.gen(function*() {
  const primary = yield* startPostgres({ config: ["wal_level = replica", "max_wal_senders = 4", "hot_standby = on"] })
  const standby = yield* startStandby(primary)
  const atPrimary = yield* connectTo(primary)
  const atStandby = yield* connectTo(standby)
  const proxy = yield* proxyTo(primary.port)
  const { database, host, username } = primary
  return {
    store: PostgresStore.layer({ host, port: proxy.port, username, database, callTimeout: "2 seconds" }),
    detach: Effect.gen(function*() {
      const [now] = yield* atPrimary<{ lsn: string }>`SELECT pg_current_wal_flush_lsn()::text AS lsn`
      yield* eventually(Effect.filterOrFail(
        atStandby<{ ok: boolean }>`SELECT pg_last_wal_replay_lsn() >= ${now?.lsn ?? ""}::pg_lsn AS ok`,
        ([row]) => row?.ok === true,
        () => "not in step"
      ))
      yield* atStandby`SELECT pg_promote()`
    }).pipe(Effect.orDie),
    failOver: Effect.gen(function*() {
      yield* proxy.cut
      yield* primary.kill
      yield* proxy.leadTo(standby.port)
    })
  }
})

/** Two servers on the database, a client at the first, and messages both ways, from the second server too. */
const scene = Effect.fnUntraced(function*(database: Replicated) {
  const makeStore = Layer.build(Layer.fresh(Layer.orDie(database.store)))
  const atServer: Array<string> = []
  const atClient: Array<string> = []
  const options: H.ServerOptions = {
    authenticate: H.byToken,
    onMessage: (message) => Effect.sync(() => atServer.push(message))
  }
  const first = yield* H.nodeServer(options, { store: yield* makeStore })
  const second = yield* H.nodeServer(options, { store: yield* makeStore })
  // It sends only when all is over: it never had to do with the session.
  const third = yield* H.nodeServer(options, { store: yield* makeStore })
  const client = yield* H.nodeClient({
    url: first.url,
    token: "ann",
    onMessage: (message) => Effect.sync(() => atClient.push(message))
  })
  yield* client.awaitConnected()
  return { atClient, atServer, client, first: first.server, second: second.server, third: third.server }
})

/** Sends that are told of as not done are sent again: a database that fails over is away for a moment. */
const persistently = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.retry(effect, { schedule: Schedule.spaced("50 millis"), times: 4_000 })

const numbers = (count: number, prefix: string) => Array.from({ length: count }, (_, i) => `${prefix}${i + 1}`)

const failsOver = (make: Effect.Effect<Replicated, unknown, Scope.Scope>) =>
  Effect.gen(function*() {
    const database = yield* make
    const { atClient, atServer, client, first, second, third } = yield* scene(database)
    const from = (server: H.Server, keys: ReadonlyArray<string>) =>
      Effect.forEach(keys, (key) => persistently(server.send("ann", key)))
    const handled = (receipts: ReadonlyArray<{ readonly handled?: Effect.Effect<void, unknown> | undefined }>) =>
      Effect.forEach(receipts, ({ handled = Effect.die("skipped") }) => handled, { concurrency: "unbounded" })

    yield* handled(yield* from(first, numbers(20, "before ")))
    yield* handled(yield* from(second, numbers(20, "before, elsewhere ")))
    yield* database.detach
    // What the replica will not have. All of it reaches the client.
    const lost = [
      ...yield* from(first, numbers(30, "lost ")),
      ...yield* from(second, numbers(30, "lost, elsewhere "))
    ]
    yield* handled(lost)
    yield* Effect.forEach(numbers(30, "lost up "), (key) => client.send(key))
    yield* H.until("all are there", () => atServer.length >= 30)
    yield* database.failOver

    const sending = yield* Effect.forkChild(Effect.all([
      from(first, numbers(50, "after ")),
      from(second, numbers(50, "after, elsewhere ")),
      from(third, numbers(50, "after, a newcomer's ")),
      Effect.forEach(numbers(50, "after, up "), (key) => client.send(key))
    ], { concurrency: "unbounded" }))
    const [own, elsewhere, newcomers, up] = yield* Fiber.join(sending)
    yield* handled([...own, ...elsewhere, ...newcomers, ...up])
    // What was told to be handled was.
    for (const prefix of ["after ", "after, elsewhere ", "after, a newcomer's ", "lost ", "lost, elsewhere "]) {
      const ofSender = atClient.filter((message) => message.startsWith(prefix))
      assert.deepStrictEqual([...new Set(ofSender)], ofSender, "none twice")
      assert.deepStrictEqual(ofSender, numbers(ofSender.length, prefix), "in order")
    }
    assert.strictEqual(atClient.filter((message) => message.startsWith("after")).length, 150)
    assert.deepStrictEqual(atServer, [...numbers(30, "lost up "), ...numbers(50, "after, up ")])

    // It was counted, at the server that has the session; nobody was sent away.
    yield* H.until("it is counted", () => Effect.map(first.stats, ({ totals }) => totals.messagesLost > 0))
    assert.strictEqual((yield* first.stats).totals.messagesLost, 60)
    assert.strictEqual((yield* client.state)._tag, "Connected")
    assert.strictEqual((yield* client.stats).totals.connectionsTotal, 1)
  })

interface Sent {
  readonly key: string
  /** Given to `send` when the replica had taken over. */
  readonly isAfter: boolean
  /** `send` failed before, perhaps when the message was in the queue already. */
  readonly isAgain: boolean
  readonly handled: Effect.Effect<void, unknown>
  isHandled: boolean
}

/** Messages are sent all the time, 50 a second by each of three, while the database loses its newest second. */
const failsOverInTraffic = (make: Effect.Effect<Replicated, unknown, Scope.Scope>) =>
  Effect.gen(function*() {
    const database = yield* make
    const { atClient, atServer, client, first, second } = yield* scene(database)
    let isAfter = false
    /** A second of it before the replica is left behind, a second after, and so many when it has taken over. */
    const wanted = 60
    const stream = Effect.fnUntraced(function*(
      name: string,
      send: (key: string) => Effect.Effect<Message.Receipt, unknown>
    ) {
      const all: Array<Sent> = []
      for (let n = 1, after = 0;; n++) {
        if (after === wanted) return all
        const key = `${name} ${n}`
        const began = isAfter
        if (began) after++
        let attempts = 0
        const { handled = Effect.die("skipped") } = yield* persistently(Effect.suspend(() => {
          attempts++
          return send(key)
        }))
        const sent: Sent = { key, isAfter: began, isAgain: attempts > 1, handled, isHandled: false }
        all.push(sent)
        yield* Effect.forkScoped(Effect.ignore(Effect.tap(handled, () => Effect.sync(() => sent.isHandled = true))))
        yield* Effect.sleep("20 millis")
      }
    })
    const streams = yield* Effect.forkChild(Effect.all([
      stream("down", (key) => first.send("ann", key)),
      stream("from elsewhere", (key) => second.send("ann", key)),
      stream("up", (key) => client.send(key))
    ], { concurrency: "unbounded" }))
    yield* Effect.sleep("1 second")
    yield* database.detach
    yield* Effect.sleep("1 second")
    yield* database.failOver
    isAfter = true
    const [down, elsewhere, up] = yield* Fiber.join(streams)

    for (const [sent, got] of [[down, atClient], [elsewhere, atClient], [up, atServer]] as const) {
      const after = sent.filter(({ isAfter }) => isAfter)
      yield* Effect.forEach(after, ({ handled }) => handled, { concurrency: "unbounded" })
      const times = new Map<string, number>()
      for (const key of got) times.set(key, (times.get(key) ?? 0) + 1)
      for (const { isAfter, isAgain, isHandled, key } of sent) {
        const count = times.get(key) ?? 0
        // Of what another server had sent in the second that is lost, it may be told what became of a later one.
        if (isAfter || (isHandled && sent !== elsewhere)) assert.isAtLeast(count, 1, `${key} was lost`)
        if (!isAgain) assert.isAtMost(count, 1, `${key} came twice`)
      }
      // In order, each where it came first.
      const keys = new Set(sent.map(({ key }) => key))
      const arrived = [...new Set(got.filter((key) => keys.has(key)))]
      const wanted = sent.map(({ key }) => key).filter((key) => times.has(key))
      const again = new Set(sent.filter(({ isAgain }) => isAgain).map(({ key }) => key))
      assert.deepStrictEqual(arrived.filter((key) => !again.has(key)), wanted.filter((key) => !again.has(key)))
    }
    assert.strictEqual((yield* client.state)._tag, "Connected")
  })

describeWithService(redis, "Redis that fails over", () => {
  it.live("loses nothing that is sent after that", () => failsOver(replicatedRedis))

  it.live("in the midst of traffic loses nothing either", () => failsOverInTraffic(replicatedRedis))
})

describeWithService(postgres, "PostgreSQL that fails over", () => {
  it.live("loses nothing that is sent after that", () => failsOver(replicatedPostgres))

  it.live("in the midst of traffic loses nothing either", () => failsOverInTraffic(replicatedPostgres))
})
