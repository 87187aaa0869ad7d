/** What a Redis store does when servers are killed, freeze, are full, refuse or are set up badly. */
import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Schedule, type Scope } from "effect"
import type { StoreDriver, StoreError } from "../../src/internal/store/driver.ts"
import type { AppendResult } from "../../src/internal/store/outboxes.ts"
import { makeRedisDriver } from "../../src/redis/redisDriver.ts"
import {
  ack,
  append,
  failsAsStore,
  fate,
  gap,
  giveUp,
  message,
  NODE,
  numbers,
  open,
  OTHER,
  position,
  publishKey,
  readAll,
  row,
  stateOf,
  T
} from "../support/driverLaws/kit.ts"
import { connectDriver, connectDriverToCluster, newPrefix } from "../support/redisDrivers.ts"
import {
  describeWithRedis,
  describeWithRedisCluster,
  redis,
  type RedisServer,
  startRedis,
  startRedisCluster
} from "../support/redisServer.ts"
import { describeWithService } from "../support/services.ts"

/** As the store's retries do: until Redis is back. */
const untilItWorks = <A>(effect: Effect.Effect<A, StoreError>) => Effect.retry(effect, Schedule.spaced("20 millis"))

const sessions = ["a", "b", "c", "d", "e", "f", "g", "h"]

/** Appends batches to all sessions, each under its stamp until it is done, and says what was accepted, in order. */
const appendBatches = Effect.fnUntraced(function*(
  driver: StoreDriver,
  writer: string,
  batches: number,
  afterEach: (batch: number) => Effect.Effect<unknown, never, Scope.Scope> = () => Effect.void
) {
  const accepted: Array<{ readonly session: string; readonly body: string; readonly result: AppendResult }> = []
  for (let batch = 1; batch <= batches; batch++) {
    const requests = sessions.map((session) => message(session, { body: `${writer} ${batch}` }))
    const results = yield* untilItWorks(driver.append(requests, { writer, sequence: batch }, NODE))
    for (const [i, result] of results.entries()) {
      accepted.push({ session: requests[i]?.session ?? "", body: requests[i]?.body ?? "", result })
    }
    yield* afterEach(batch)
  }
  return accepted
})

type Accepted = Effect.Success<ReturnType<typeof appendBatches>>

/** Each accepted message is where it was said to be, there is nothing else, and no hole. */
const assertExactlyThose = Effect.fnUntraced(function*(driver: StoreDriver, accepted: Accepted) {
  for (const session of sessions) {
    const { chunks, state } = yield* readAll(driver, session)
    const own = accepted.filter((message) => message.session === session)
    assert.deepStrictEqual(chunks.map(({ first }) => first), numbers(1, own.length))
    assert.strictEqual(state.messages, own.length)
    for (const { body, result } of own) {
      assert.strictEqual(result._tag, "Appended")
      if (result._tag === "Appended") assert.strictEqual(chunks[result.first - 1]?.body, body)
    }
  }
})

const openAll = (driver: StoreDriver) => Effect.forEach(sessions, (session) => open(driver, session))

describeWithRedis("a Redis store", {}, (server) => {
  it.live("holds what two servers append and acknowledge at once, each message once", () =>
    Effect.gen(function*() {
      const redis = yield* server
      const options = { prefix: newPrefix() }
      const driver = yield* connectDriver(redis, options)
      const other = yield* connectDriver(redis, options)
      yield* openAll(driver)
      const released = new Map<string, number>()
      let isOver = false
      const ackHalf = Effect.gen(function*() {
        const states = yield* other.outboxes(sessions)
        const outcomes = yield* other.ack(states.map(({ acked, last, session }) => (
          { session, generation: 1, upTo: Math.ceil((acked + last) / 2), fates: [] }
        )))
        for (const [i, outcome] of outcomes.entries()) {
          const session = states[i]?.session ?? ""
          if (outcome._tag === "Acked") released.set(session, (released.get(session) ?? 0) + outcome.released)
        }
      })
      const acking = yield* Effect.forkScoped(Effect.repeat(ackHalf, { until: () => isOver }))
      const accepted = yield* Effect.all(
        [appendBatches(driver, "one", 100), appendBatches(other, "two", 100)],
        { concurrency: "unbounded" }
      )
      isOver = true
      yield* Fiber.join(acking)
      const firsts = new Set(
        accepted.flat().map(({ result, session }) =>
          `${session} ${result._tag === "Appended" ? result.first : result._tag}`
        )
      )
      assert.strictEqual(firsts.size, 200 * sessions.length)
      for (const session of sessions) {
        const { chunks, state } = yield* readAll(driver, session)
        assert.strictEqual(state.last, 200)
        assert.deepStrictEqual(chunks.map(({ first }) => first), numbers(state.acked + 1, 200))
        assert.strictEqual(state.messages, 200 - state.acked)
        assert.strictEqual(released.get(session), state.acked)
      }
      const totals = yield* driver.totals
      const messages = (yield* driver.outboxes(sessions)).reduce((sum, state) => sum + state.messages, 0)
      assert.deepStrictEqual(totals, { sessions: sessions.length, messages, bytes: messages * 10 })
    }))

  it.live("leaves nothing behind of sessions, keys and nodes that are gone", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis()
      const driver = yield* connectDriver(redis, { partitions: 16 })
      const before = yield* redis.command("DBSIZE")
      assert.strictEqual(before, ":1")
      yield* openAll(driver)
      yield* appendBatches(driver, NODE, 3)
      yield* Effect.forEach(sessions, (session) =>
        Effect.gen(function*() {
          yield* driver.putSession(row(session, { detachedAt: T }))
          yield* driver.nudge(OTHER, session)
          yield* driver.claimKey({
            ...publishKey(session, "k"),
            token: "t",
            now: T,
            until: T + 1
          })
          yield* ack(driver, session, 2, { fates: [fate(1, 1)] })
          yield* giveUp(driver, yield* stateOf(driver, session), { addGaps: [gap(3, 3)], removeChunks: [3] })
        }))
      yield* driver.touchNode(OTHER, T)

      yield* Effect.forEach(sessions, (session) =>
        Effect.andThen(driver.removeOutbox(session, 3), driver.deleteSession(session)))
      yield* driver.sweepKeys(T, T + 1, 100)
      yield* driver.forgetNode(OTHER)
      yield* driver.forgetNode(NODE)
      // What stays is the format, and the totals of each partition.
      const keys = yield* redis.command("KEYS", "*")
      const left = keys.split("\r\n").filter((line) =>
        line.includes("{")
      )
      assert.deepStrictEqual(left.filter((key) => !/^\{rws:\d+\}:(totals|format)$/.test(key)), [])
      assert.deepStrictEqual(yield* driver.totals, { sessions: 0, messages: 0, bytes: 0 })
    }))

  it.live("works on with scripts that the server has forgotten", () =>
    Effect.gen(function*() {
      const redis = yield* server
      const driver = yield* connectDriver(redis, { prefix: newPrefix() })
      yield* open(driver, "a")
      yield* redis.command("SCRIPT", "FLUSH")
      assert.strictEqual((yield* append(driver, "a"))._tag, "Appended")
    }))

  it.live("takes the number of partitions from the data, and refuses another", () =>
    Effect.gen(function*() {
      const redis = yield* server
      const prefix = newPrefix()
      const driver = yield* connectDriver(redis, { prefix, partitions: 4 })
      yield* openAll(driver)
      const error = yield* Effect.flip(connectDriver(redis, { prefix, partitions: 8 }))
      assert.include(String(error._tag === "StoreError" ? error.cause : error), "has format 1:4, not 1:8")
      const other = yield* connectDriver(redis, { prefix })
      assert.lengthOf(yield* other.outboxes(sessions), sessions.length)
      yield* failsAsStore(Effect.scoped(connectDriver(redis, { prefix: "{braces}" })))
      yield* failsAsStore(Effect.scoped(connectDriver(redis, { prefix, partitions: 0 })))
    }))

  it.live("fails for texts that have no bytes, rather than to mix them up", () =>
    Effect.gen(function*() {
      const driver = yield* connectDriver(yield* server, { prefix: newPrefix() })
      yield* failsAsStore(open(driver, "\ud800"))
      yield* failsAsStore(driver.findSession("\udfff"))
      assert.deepStrictEqual(yield* driver.outboxes(["\ufffd"]), [])
    }))

  it.live("takes the publish key of an append only with the session as its scope", () =>
    Effect.gen(function*() {
      const driver = yield* connectDriver(yield* server, { prefix: newPrefix(), partitions: 16 })
      yield* open(driver, "a")
      yield* failsAsStore(append(driver, "a", {
        publish: publishKey("elsewhere", "k")
      }))
    }))

  it.live("works with Effect's own NodeRedis", () =>
    Effect.gen(function*() {
      const services = yield* Layer.build(NodeRedis.layer({ url: (yield* server).url }))
      const driver = yield* Effect.provideContext(makeRedisDriver({ prefix: newPrefix() }), services)
      const called = yield* Deferred.make<void>()
      yield* open(driver, "a", 1, OTHER)
      yield* append(driver, "a")
      yield* driver.watch(OTHER, () => Deferred.doneUnsafe(called, Exit.void))
      yield* Deferred.await(called)
      assert.deepStrictEqual(yield* driver.takeNudges(OTHER, 10), ["a"])
      assert.lengthOf(yield* driver.warnings, 1)
    }))
})

describeWithService(redis, "a Redis server that fails", () => {
  it.live("loses nothing that was accepted when it is killed, and the store goes on by itself", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis({ appendfsync: "always" })
      // Of more than one partition, so that a batch may be done in part when the server dies.
      const driver = yield* connectDriver(redis, { partitions: 4 })
      const other = yield* connectDriver(redis)
      yield* openAll(driver)
      const killAt = (batches: ReadonlyArray<number>) => (batch: number) =>
        batches.includes(batch) ? Effect.forkScoped(Effect.andThen(redis.kill, redis.start)) : Effect.void
      const accepted = yield* Effect.all([
        appendBatches(driver, "one", 60, killAt([10, 40])),
        appendBatches(other, "two", 60)
      ], { concurrency: "unbounded" })
      yield* untilItWorks(driver.totals)
      yield* assertExactlyThose(driver, accepted.flat())
    }))

  it.live("tells of nudges again when it is back", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis({ appendfsync: "always" })
      const driver = yield* connectDriver(redis)
      const other = yield* connectDriver(redis)
      let called = yield* Deferred.make<void>()
      yield* other.watch(OTHER, () => Deferred.doneUnsafe(called, Exit.void))
      yield* Deferred.await(called)
      yield* redis.kill
      yield* redis.start

      // Nudges that come before it has subscribed again are not told of: only the next one is waited for.
      called = yield* Deferred.make<void>()
      const nudging = untilItWorks(driver.takeNudges(OTHER, 10)).pipe(
        Effect.andThen(untilItWorks(driver.nudge(OTHER, "a"))),
        Effect.repeat(Schedule.spaced("20 millis"))
      )
      yield* Effect.raceFirst(Deferred.await(called), nudging)
      assert.deepStrictEqual(yield* other.takeNudges(OTHER, 10), ["a"])
    }))

  it.live("is an error within the time limit when it freezes, and when it is gone", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis()
      const driver = yield* connectDriver(redis, { commandTimeout: "200 millis" })
      yield* open(driver, "a")
      yield* redis.freeze
      yield* failsAsStore(append(driver, "a"))
      yield* redis.thaw
      yield* untilItWorks(driver.totals)
      yield* redis.kill
      yield* failsAsStore(append(driver, "a"))
      yield* failsAsStore(driver.clock)
    }))

  it.live("ends its connections with the scope, also when it is gone", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis()
      yield* Effect.scoped(Effect.gen(function*() {
        const driver = yield* connectDriver(redis)
        yield* driver.watch(NODE, () => {})
        yield* redis.kill
      }))
      yield* failsToConnect(redis)
    }))

  it.live("is full: no new work is taken, and what there is can be finished", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis({ config: ["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"] })
      const driver = yield* connectDriver(redis, { partitions: 2 })
      yield* open(driver, "a")
      yield* driver.putSession(row("a"))
      const body = "x".repeat(100_000)
      const error = yield* Effect.flip(Effect.repeat(append(driver, "a", { body }), { times: 100 }))
      assert.include(String(error.cause), "OOM")
      const state = yield* stateOf(driver, "a")
      assert.isAbove(state.last, 5)

      // Also when it is fuller than full.
      yield* redis.command("CONFIG", "SET", "maxmemory", "1mb")
      yield* failsAsStore(append(driver, "a"))
      yield* failsAsStore(driver.putSession(row("b")))
      const again = yield* Effect.flatMap(connectDriver(redis, { partitions: 2 }), (other) => open(other, "a"))
      yield* driver.markSent({ session: "a", generation: 1, revision: again.revision, sent: 2 })
      assert.deepStrictEqual(yield* ack(driver, "a", 1), { _tag: "Acked", released: 1 })
      yield* giveUp(driver, yield* stateOf(driver, "a"), {
        addGaps: [gap(2, 2)],
        removeChunks: [2],
        fates: [fate(2, 2)]
      })
      assert.deepStrictEqual(yield* driver.savePositions([position("a", 1)]), ["Saved"])
      assert.deepStrictEqual(yield* driver.putSession(row("a", { detachedAt: T, revision: 2 })), {
        _tag: "Stored",
        position: "at 1"
      })
      assert.deepStrictEqual(yield* ack(driver, "a", state.last), { _tag: "Acked", released: state.last - 2 })
      assert.isTrue(yield* driver.removeOutbox("a", state.last))
      assert.isTrue(yield* driver.deleteSession("a"))

      // Redis frees large values in the background.
      yield* redis.command("CONFIG", "SET", "maxmemory", "6mb")
      yield* untilItWorks(open(driver, "a"))
      assert.strictEqual((yield* untilItWorks(append(driver, "a", { body })))._tag, "Appended")
    }))

  it.live("is a replica, which may not be written to", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis()
      const driver = yield* connectDriver(redis)
      yield* open(driver, "a")
      yield* redis.command("REPLICAOF", "127.0.0.1", "1")
      const error = yield* Effect.flip(append(driver, "a"))
      assert.include(String(error.cause), "READONLY")
      yield* redis.command("REPLICAOF", "NO", "ONE")
      assert.strictEqual((yield* append(driver, "a"))._tag, "Appended")
    }))

  it.live("is not there at the start", () =>
    Effect.gen(function*() {
      const redis = yield* startRedis()
      yield* redis.stop
      yield* failsToConnect(redis)
    }))
})

const failsToConnect = (redis: RedisServer) => Effect.flip(connectDriver(redis))

describeWithService(redis, "a Redis cluster that fails", () => {
  it.live("loses nothing that was accepted when a master is killed, and the store goes on by itself", () =>
    Effect.gen(function*() {
      const servers = yield* startRedisCluster({ appendfsync: "always" })
      const [, second = assert.fail("no second server")] = servers
      const driver = yield* connectDriverToCluster(servers)
      yield* openAll(driver)
      const accepted = yield* appendBatches(
        driver,
        "one",
        60,
        (batch) => batch === 20 ? Effect.forkScoped(Effect.andThen(second.kill, second.start)) : Effect.void
      )
      yield* untilItWorks(driver.totals)
      yield* assertExactlyThose(driver, accepted)
    }))

  it.live("goes on with the replica of a master that is gone, and tells of nudges there", () =>
    Effect.gen(function*() {
      const servers = yield* startRedisCluster({ replicas: true })
      const [first = assert.fail("no server")] = servers
      const driver = yield* connectDriverToCluster(servers)
      const other = yield* connectDriverToCluster(servers)
      yield* openAll(driver)
      yield* appendBatches(driver, "one", 40, (batch) => batch === 20 ? first.kill : Effect.void)
      yield* appendBatches(other, "two", 1)
      // Redis loses what was not replicated in time, whole outboxes if need be, but never a part of a step.
      yield* openAll(driver)
      for (const session of sessions) {
        assert.strictEqual((yield* append(driver, session))._tag, "Appended")
        const { chunks, state } = yield* readAll(driver, session)
        assert.deepStrictEqual(chunks.map(({ first }) => first), numbers(1, state.last))
        assert.strictEqual(state.messages, state.last)
      }
      const called = yield* Deferred.make<void>()
      yield* other.watch(OTHER, () => Deferred.doneUnsafe(called, Exit.void))
      yield* Effect.forEach(sessions, (session) => driver.nudge(OTHER, session))
      yield* Deferred.await(called)
      const taken: Array<string> = []
      while (taken.length < sessions.length) taken.push(...yield* untilItWorks(other.takeNudges(OTHER, 10)))
      assert.sameMembers(taken, sessions)
    }))
})

describe("how Redis is set up", () => {
  const warningsWith = (config: ReadonlyArray<string>, appendfsync: "none" | "always" | "everysec" = "none") =>
    Effect.gen(function*() {
      const redis = yield* startRedis({ appendfsync, config })
      const driver = yield* connectDriver(redis)
      return yield* driver.warnings
    })

  describeWithService(redis, "is warned of", () => {
    it.live("when messages may be lost or evicted", () =>
      Effect.gen(function*() {
        const [evicts, nothing] = yield* warningsWith(["--maxmemory-policy", "allkeys-lru"])
        assert.include(evicts, "maxmemory-policy is allkeys-lru")
        assert.include(nothing, "keeps nothing on disk")
        assert.match((yield* warningsWith(["--save", "60 1"]))[0] ?? "", /snapshots only/)
        assert.match((yield* warningsWith([], "everysec"))[0] ?? "", /the last second/)
        assert.deepStrictEqual(yield* warningsWith([], "always"), [])
      }))

    it.live("when it can't be checked", () =>
      Effect.gen(function*() {
        const warnings = yield* warningsWith(["--rename-command", "CONFIG", ""])
        assert.lengthOf(warnings, 1)
        assert.include(warnings[0], "could not be checked")
      }))
  })
})

describeWithRedisCluster("a Redis cluster", { appendfsync: "everysec" }, (servers) => {
  it.live("is asked how it is set up server by server", () =>
    Effect.gen(function*() {
      const redis = yield* servers
      const driver = yield* connectDriverToCluster(redis, { prefix: newPrefix() })
      const warnings = yield* driver.warnings
      assert.lengthOf(warnings, 3)
      for (const { port } of redis) assert.isTrue(warnings.some((warning) => warning.includes(`:${port}: appendfsync`)))
    }))
})
