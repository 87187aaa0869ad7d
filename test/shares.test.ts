/**
 * Bounds on all together are shared: whoever takes all they can leave room for those who have little. With the memory
 * store, and with SQLite.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { join } from "node:path"
import type { MemoryStore, ResilientServer } from "resilient-websocket"
import { SqliteStore } from "resilient-websocket/sqlite"
import * as H from "./support/harness.ts"
import { Door, type Stranger } from "./support/strangers.ts"
import { temporaryDirectory } from "./support/temporary.ts"

const stores: ReadonlyArray<{
  readonly name: string
  /** What a message counts as in the bytes of all, beside its payload. */
  readonly beside: number
  readonly make: (options: MemoryStore.Options) => Effect.Effect<H.Store, unknown, import("effect").Scope.Scope>
}> = [
  { name: "memory", beside: 160, make: (options) => H.makeStore(options) },
  {
    name: "sqlite",
    beside: 0,
    make: (options) =>
      Effect.flatMap(temporaryDirectory, (directory) =>
        Effect.map(
          Layer.build(SqliteStore.layer({ filename: join(directory, "store.db"), ...options })),
          (context): H.Store => Context.merge(Context.empty(), context)
        ))
  }
]

const attacker = "203.0.113.9"

const answered = (stranger: Stranger) => H.until("an answer", () => stranger.answer !== undefined)

const open = Effect.fnUntraced(function*(
  store: (typeof stores)[number],
  options: H.ServerOptions = {},
  storeOptions: MemoryStore.Options = {}
) {
  const door = new Door()
  const server = yield* H.serverOn(door.context, { shutdownTimeout: 50, ...options }, {
    store: yield* store.make(storeOptions)
  })
  const welcomed = Effect.fnUntraced(function*(address: string, fields?: object) {
    const stranger = door.come(address, fields)
    yield* answered(stranger)
    assert.strictEqual(stranger.answer?.t, "welcome", JSON.stringify(stranger.answer))
    return stranger
  })
  return { door, server, welcomed }
})

const sessionOf = ({ answer }: Stranger): string => answer?.session ?? assert.fail("no session")

describe.each(stores)("with the store $name", (store) => {
  it.live("handshakes that one address leaves hanging keep nobody else out, and no more than the bound hang", () =>
    Effect.gen(function*() {
      const { door, server, welcomed } = yield* open(store, { maxHandshakes: 100 })
      const hanging = Array.from({ length: 1_000 }, () => door.knock(attacker))
      assert.strictEqual(hanging.filter(({ closedWith }) => closedWith === undefined).length, 100)
      const refused = hanging.find(({ closedWith }) => closedWith !== undefined)
      assert.deepInclude(refused?.answer, { t: "reject", code: "overloaded", detail: "100 handshakes at once already" })
      for (let i = 0; i < 50; i++) yield* welcomed(`192.0.2.${i}`)
      // One who hesitates is not turned away for those who have more.
      const slow = door.knock("198.51.100.1")
      for (let i = 0; i < 500; i++) door.knock(attacker)
      slow.hello()
      yield* answered(slow)
      assert.strictEqual(slow.answer?.t, "welcome")
      assert.strictEqual((yield* server.stats).connections, 51)
    }))

  it.live(
    "20,000 sessions of nobody known leave room for those of others, who keep theirs",
    () =>
      Effect.gen(function*() {
        const got: Array<string> = []
        const { door, server, welcomed } = yield* open(store, {
          authenticate: H.byToken,
          onMessage: (text) => Effect.sync(() => got.push(text))
        }, { registry: { maxSessions: 500 } })
        const early = yield* welcomed("192.0.2.1", { auth: "early" })
        yield* welcomed("192.0.2.2")
        const speaker = yield* welcomed("192.0.2.3")
        speaker.say({ t: "batch", o: 1, m: ["from one who is not known"] })
        speaker.leave()
        let served = 0
        for (let round = 0; round < 200; round++) {
          const crowd = Array.from({ length: 100 }, () => door.come(attacker))
          yield* H.until("answers", () => crowd.every(({ answer }) => answer !== undefined))
          served += crowd.filter(({ answer }) => answer?.t === "welcome").length
          for (const stranger of crowd) if (round % 2 === 0) stranger.leave()
          if (round % 20 !== 0) continue
          const late = yield* welcomed(`198.51.100.${round}`, round % 40 === 0 ? { auth: `late-${round}` } : {})
          late.say({ t: "batch", o: 1, m: [`${round}`] })
        }
        assert.isAbove(served, 400)
        assert.isAtMost((yield* server.stats).sessions, 500)
        yield* H.until("all is handled", () => got.length === 11)
        // Those who were there before are still, also one who is not known and away.
        yield* (yield* server.send("early", "hello")).handled.pipe(
          Effect.raceFirst(H.until("it is sent", () => early.received.some(({ t }) => t === "batch")))
        )
        const back = yield* welcomed("192.0.2.3", {
          session: sessionOf(speaker),
          token: speaker.answer?.token,
          out: { epoch: "mine", acked: 0, last: 1 }
        })
        assert.strictEqual(sessionOf(back), sessionOf(speaker))
      })
  )

  it.live(
    "peers that read nothing fill their part of all messages, and leave others theirs",
    () =>
      Effect.gen(function*() {
        const max = 4_000
        const { server, welcomed } = yield* open(store, { authenticate: H.byToken }, {
          queue: { maxTotalMessages: max, maxMessages: 1_000 }
        })
        const fill = Effect.fnUntraced(function*(session: string) {
          for (let size = 500; size > 0; size = size >> 1) {
            while ((yield* H.tagOf(server.sendAll(session, H.numbered(size)))) === "success");
          }
          return yield* Effect.flip(server.send(session, "one more"))
        })
        for (const address of [attacker, "203.0.113.10", "203.0.113.11"]) {
          for (let i = 0; i < 6; i++) {
            const error = yield* fill(sessionOf(yield* welcomed(address)))
            assert.strictEqual(error._tag, "resilient-websocket/QueueOverflowError")
          }
        }
        const { messages } = (yield* server.stats).queue
        assert.isAtMost(messages, max)
        for (let i = 0; i < 5; i++) {
          const honest = yield* welcomed(`192.0.2.${i}`, { auth: `honest-${i}` })
          yield* server.send(`honest-${i}`, "yours")
          yield* server.sendAll(`honest-${i}`, H.numbered(5))
          yield* H.until("it is sent", () => honest.received.some(({ t }) => t === "batch"))
        }
        const greedy = yield* fill(sessionOf(yield* welcomed(attacker)))
        assert.deepInclude(greedy, { _tag: "resilient-websocket/QueueOverflowError", limit: "shareMessages" })
        assert.isAtMost((yield* server.stats).queue.messages, max)
      })
  )

  it.live("peers of one address that read nothing leave room for another of it", () =>
    Effect.gen(function*() {
      const { server, welcomed } = yield* open(store, {}, { queue: { maxTotalMessages: 4_000, maxMessages: 1_000 } })
      for (let i = 0; i < 10; i++) {
        const deaf = sessionOf(yield* welcomed(attacker))
        for (let size = 500; size > 0; size = size >> 1) {
          while ((yield* H.tagOf(server.sendAll(deaf, H.numbered(size)))) === "success");
        }
        const error = yield* Effect.flip(server.send(deaf, "one more"))
        assert.strictEqual(error._tag, "resilient-websocket/QueueOverflowError")
      }
      for (let i = 0; i < 5; i++) {
        const honest = yield* welcomed(attacker)
        yield* server.send(sessionOf(honest), "yours")
        yield* server.send(sessionOf(honest), "and one more")
        yield* H.until("it is sent", () => honest.received.some(({ t }) => t === "batch"))
      }
    }))

  it.live("bytes of all together are shared as messages are", () =>
    Effect.gen(function*() {
      const { server, welcomed } = yield* open(store, {}, { queue: { maxTotalBytes: 400_000, maxBytes: 1e9 } })
      const large = "x".repeat(4_998 - store.beside)
      const deaf = sessionOf(yield* welcomed(attacker))
      while ((yield* H.tagOf(server.send(deaf, large))) === "success");
      const refused = yield* Effect.flip(server.send(deaf, large))
      assert.deepInclude(refused, { limit: "shareBytes", bound: 200_000, size: 350_000 })
      yield* server.send(sessionOf(yield* welcomed("192.0.2.1")), large)
    }))

  it.live("a share is whatever `shareOf` says, asked before and after it is known who it is", () =>
    Effect.gen(function*() {
      const asked: Array<ResilientServer.Newcomer> = []
      const { server, welcomed } = yield* open(store, {
        authenticate: H.byToken,
        shareOf: (newcomer) => {
          asked.push(newcomer)
          return newcomer.principal?.slice(0, 1) ?? "nobody"
        }
      }, { queue: { maxTotalMessages: 80 } })
      yield* welcomed("10.0.0.1", { auth: "a1" })
      assert.deepStrictEqual(asked.map(({ principal, remoteAddress }) => [principal, remoteAddress]), [
        [undefined, "10.0.0.1"],
        ["a1", "10.0.0.1"]
      ])
      yield* welcomed("10.0.0.2", { auth: "a2" })
      yield* welcomed("10.0.0.1", { auth: "b1" })
      yield* server.sendAll("a1", H.numbered(70))
      assert.deepInclude(yield* Effect.flip(server.send("a2", "too many")), { limit: "shareMessages", size: 70 })
      yield* server.send("b1", "fine")
    }))

  it.live("a bound that is reached by one share alone refuses that one", () =>
    Effect.gen(function*() {
      const { door, server, welcomed } = yield* open(store, {}, { registry: { maxSessions: 3 } })
      for (let i = 0; i < 3; i++) {
        const stranger = yield* welcomed(attacker)
        stranger.say({ t: "batch", o: 1, m: ["x"] })
      }
      const fourth = door.come(attacker)
      yield* answered(fourth)
      assert.deepInclude(fourth.answer, { t: "reject", code: "overloaded", detail: "3 sessions already" })
      assert.strictEqual((yield* server.stats).sessions, 3)
    }))
})

describe("the session of a stranger", () => {
  const memory = stores[0] ?? assert.fail("no store")

  const gone = Effect.fnUntraced(function*(
    deed: (stranger: Stranger, server: H.Server) => Effect.Effect<unknown, unknown>,
    fields: object = {},
    options: H.ServerOptions = {}
  ) {
    const { server, welcomed } = yield* open(memory, { authenticate: H.byToken, ...options })
    const stranger = yield* welcomed("192.0.2.1", fields)
    yield* deed(stranger, server)
    yield* H.turn
    stranger.leave()
    yield* H.advance(59_000)
    assert.strictEqual((yield* server.stats).sessions, 1)
    yield* H.advance(3_000)
    const { sessions } = yield* server.stats
    if (sessions === 0) return true
    // Then the registry's retention holds.
    yield* H.advance(530_000)
    assert.strictEqual((yield* server.stats).sessions, 1)
    yield* H.advance(12_000)
    assert.strictEqual((yield* server.stats).sessions, 0)
    return false
  })

  it.effect("that never said anything is kept for a minute", () =>
    Effect.gen(function*() {
      assert.isTrue(yield* gone(() => Effect.void))
    }))

  it.effect("is kept for the retention once it has said something, or something was sent to it", () =>
    Effect.gen(function*() {
      assert.isFalse(yield* gone((stranger) => Effect.sync(() => stranger.say({ t: "batch", o: 1, m: ["hi"] }))))
      assert.isFalse(yield* gone((stranger) => Effect.sync(() => stranger.say({ t: "volatile", m: ["hi"] }))))
      assert.isFalse(yield* gone((stranger, server) => server.send(sessionOf(stranger), "yours", { ttl: Infinity })))
    }))

  it.effect("is kept for the retention when it is no stranger's", () =>
    Effect.gen(function*() {
      assert.isFalse(yield* gone(() => Effect.void, { auth: "ann" }))
    }))

  it.effect("stays when it comes back in time, and its minute begins anew", () =>
    Effect.gen(function*() {
      const { server, welcomed } = yield* open(memory)
      let stranger = yield* welcomed("192.0.2.1")
      for (let i = 0; i < 5; i++) {
        stranger.leave()
        yield* H.advance(50_000)
        const back = yield* welcomed("192.0.2.1", { session: sessionOf(stranger), token: stranger.answer?.token })
        assert.strictEqual(sessionOf(back), sessionOf(stranger))
        stranger = back
      }
      assert.strictEqual((yield* server.stats).sessions, 1)
    }))

  it.effect("to whom something is sent while it is away is kept for the retention", () =>
    Effect.gen(function*() {
      const { server, welcomed } = yield* open(memory)
      const stranger = yield* welcomed("192.0.2.1")
      stranger.leave()
      yield* H.advance(30_000)
      yield* server.send(sessionOf(stranger), "yours", { ttl: Infinity })
      yield* H.advance(120_000)
      const back = yield* welcomed("192.0.2.1", { session: sessionOf(stranger), token: stranger.answer?.token })
      assert.strictEqual(sessionOf(back), sessionOf(stranger))
    }))
})
