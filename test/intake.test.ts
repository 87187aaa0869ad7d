/** What a peer can make the other side take in: so much memory, so fast, and no more than its turn. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Redacted, Schema } from "effect"
import { Socket } from "node:net"
import type { ResilientServer } from "resilient-websocket"
import { WebSocket } from "ws"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { makeStranger, type Stranger } from "./support/stranger.ts"

const { until } = H

const kibi = 1024
const any = Schema.Unknown as unknown as Schema.Codec<string, unknown> // a handler that takes whatever comes

/** A server whose handler waits for `open`, for sessions whose name begins with "slow". */
const slowServer = Effect.fnUntraced(function*(options: H.ServerOptions = {}) {
  const network = yield* makeNetwork
  const open = yield* Deferred.make<void>()
  const handled: Array<unknown> = []
  const server = yield* H.serverOn(network.context, {
    authenticate: H.byToken,
    incoming: any,
    onMessage: (message, { session }) =>
      Effect.andThen(
        session.startsWith("slow") ? Deferred.await(open) : Effect.void,
        Effect.sync(() => handled.push(message))
      ),
    rateLimit: "none",
    ...options
  })
  return { network, server, handled, open: Deferred.succeed(open, undefined) }
})

const quiet = Effect.repeat(H.turn, { times: 200 })

const connectedIs = (server: H.Server, count: number) =>
  until("they are connected", () => Effect.map(server.stats, ({ connections }) => connections === count))

const plainSocket = (url: string) =>
  Effect.acquireRelease(
    Effect.callback<WebSocket>((resume) => {
      const ws = new WebSocket(url)
      ws.on("error", () => {})
      ws.once("open", () => resume(Effect.succeed(ws)))
    }),
    (ws) => Effect.sync(() => ws.terminate())
  )

const text = "t".repeat(10 * kibi)

describe("what waits for a slow handler", () => {
  /** Each way to have a server keep what it has not handled; what of it may be dropped. */
  const kinds: ReadonlyArray<{
    readonly name: string
    readonly kind: "plain" | "protocol"
    readonly send: (stranger: Stranger, n: number) => void
    readonly drops?: boolean
  }> = [
    { name: "plain", kind: "plain", send: (stranger, n) => stranger.say(JSON.stringify(`${n} ${text}`)) },
    { name: "reliable", kind: "protocol", send: (stranger, n) => stranger.batch([`${n} ${text}`]) },
    {
      name: "volatile",
      kind: "protocol",
      send: (stranger, n) => stranger.say(JSON.stringify({ t: "volatile", m: [`${n} ${text}`] })),
      drops: true
    }
  ]
  for (const { drops = false, kind, name, send } of kinds) {
    it.effect(`is bounded in bytes: ${name} messages`, () =>
      Effect.gen(function*() {
        const { handled, network, open, server } = yield* slowServer({ maxUnhandledBytes: 1_024 * kibi })
        const stranger = yield* makeStranger(network, kind, "slow")
        yield* connectedIs(server, 1)
        for (let n = 1; n <= 300; n++) send(stranger, n)
        yield* quiet
        // A quarter of all, at two bytes a character, and the one that goes over it.
        const { pendingMessages } = yield* server.sessionStats("slow")
        assert.isAbove(pendingMessages, 0)
        assert.isAtMost(pendingMessages * text.length * 2, 256 * kibi + 2 * text.length)
        if (drops) {
          assert.strictEqual((yield* server.stats).totals.messagesVolatileSkipped, 300 - pendingMessages)
          return
        }
        assert.isAbove(stranger.unread(), 270 * text.length)
        yield* open
        yield* until("all is handled", () => handled.length === 300)
        assert.deepStrictEqual(
          handled.map((message) => parseInt(String(message))),
          Array.from({ length: 300 }, (_, n) => n + 1)
        )
      }))
  }

  it.effect("is not even parsed where a large frame of volatile messages would be dropped", () =>
    Effect.gen(function*() {
      const { network, server } = yield* slowServer({ maxUnhandledBytes: 1_024 * kibi })
      const stranger = yield* makeStranger(network, "protocol", "slow")
      yield* connectedIs(server, 1)
      const skipped = Effect.map(server.stats, ({ totals }) => totals.messagesVolatileSkipped)
      for (let n = 1; n <= 50; n++) stranger.say(JSON.stringify({ t: "volatile", m: [`${n} ${text}`] }))
      yield* quiet
      const before = yield* skipped
      assert.isAbove(before, 0)
      const nonsense = `{"t":"volatile","m":[${"[".repeat(100 * kibi)}`
      stranger.say(nonsense)
      yield* quiet
      assert.strictEqual(yield* skipped, before + 1)
      assert.strictEqual((yield* server.stats).totals.protocolErrors, 0)
      const other = yield* makeStranger(network, "protocol", "other")
      yield* connectedIs(server, 2)
      other.say(nonsense)
      yield* until("it is refused", () => Effect.map(server.stats, ({ totals }) => totals.protocolErrors === 1))
    }))

  it.effect("is bounded by its memory, and not by its text", () =>
    Effect.gen(function*() {
      const { network, server } = yield* slowServer({ maxUnhandledBytes: 4_096 * kibi })
      const stranger = yield* makeStranger(network, "protocol", "slow")
      yield* connectedIs(server, 1)
      const small = Array.from({ length: 1_000 }, () => ({})) // 3 kB of text, 50 kB of objects
      for (let n = 1; n <= 500; n++) stranger.batch([small])
      yield* quiet
      assert.isBelow((yield* server.sessionStats("slow")).pendingMessages, 1_024 / 50 + 1)
    }))

  it.effect("is bounded in gaps, and each of them is told in the end", () =>
    Effect.gen(function*() {
      const lost: Array<number> = []
      const { network, open, server } = yield* slowServer({
        window: { messages: 10 },
        onGap: ({ count }) => Effect.sync(() => lost.push(count))
      })
      const stranger = yield* makeStranger(network, "protocol", "slow")
      yield* connectedIs(server, 1)
      stranger.batch(["one"])
      for (let n = 2; n <= 1_001; n++) stranger.say(JSON.stringify({ t: "gap", o: n, e: n, reason: "expired" }))
      yield* quiet
      assert.isAtMost((yield* server.sessionStats("slow")).pendingMessages, 41)
      yield* open
      yield* until("all are told", () => lost.length === 1_000)
    }))

  it.effect("of all together is bounded; whoever waits for nothing goes on, one frame at a time", () =>
    Effect.gen(function*() {
      const { handled, network, open, server } = yield* slowServer({ maxUnhandledBytes: 1_024 * kibi })
      const slow = yield* Effect.forEach(
        H.numbered(40, "slow"),
        (name, n) => makeStranger(network, n % 2 === 0 ? "plain" : "protocol", name)
      )
      yield* connectedIs(server, 40)
      const say = (stranger: Stranger, n: number, message: string) =>
        n % 2 === 0 ? stranger.say(JSON.stringify(message)) : stranger.batch([message])
      for (let round = 0; round < 30; round++) slow.forEach((stranger, n) => say(stranger, n, text))
      yield* quiet
      let pending = 0
      for (const session of yield* server.sessions) pending += (yield* server.sessionStats(session)).pendingMessages
      // The total, and one for each.
      assert.isAtMost(pending * text.length * 2, 1_024 * kibi + 41 * 2 * text.length)
      assert.isAtLeast(pending, 40)

      const honest = yield* makeStranger(network, "protocol", "honest")
      yield* connectedIs(server, 41)
      for (let n = 1; n <= 100; n++) honest.batch([`honest ${n}`])
      yield* until("the honest one is served", () => handled.length === 100)
      yield* open
      yield* until("everybody is", () => handled.length === 100 + 40 * 30)
      yield* until("nothing is unread", () => slow.every(({ unread }) => unread() === 0))
    }))

  it.effect("of those who count together may be far more than that of others, who are read all the same", () =>
    Effect.gen(function*() {
      const { handled, network, open, server } = yield* slowServer({
        maxUnhandledBytes: 256 * kibi,
        authenticate: ({ token = Redacted.make("") }) => {
          const session = Redacted.value(token)
          return Effect.succeed({ session, principal: session.startsWith("slow") ? "slow" : session })
        }
      })
      const large = "l".repeat(60 * kibi)
      const slow = yield* Effect.forEach(
        H.numbered(60, "slow"),
        (name, n) => makeStranger(network, n % 2 === 0 ? "plain" : "protocol", name)
      )
      yield* connectedIs(server, 60)
      slow.forEach((stranger, n) => n % 2 === 0 ? stranger.say(JSON.stringify(large)) : stranger.batch([large]))
      yield* quiet
      // Twice the total, and what came at once with that.
      const waiting = slow.filter(({ unread }) => unread() > 0)
      assert.isAbove(waiting.length, 40)
      const late = yield* makeStranger(network, "plain", "slow, and late")
      late.say(JSON.stringify(large))

      for (const name of H.numbered(5, "honest")) {
        const honest = yield* makeStranger(network, "protocol", name)
        for (let n = 1; n <= 20; n++) honest.batch([`${name} ${n}`])
      }
      yield* until("the honest ones are served", () => handled.length === 100)
      yield* quiet
      assert.isAbove(late.unread(), 0)
      yield* open
      yield* until("everybody is", () => handled.length === 100 + 61)
      yield* until("nothing is unread", () => [late, ...slow].every(({ unread }) => unread() === 0))
    }))

  it.effect("of a plain peer is not even looked at when memory is scarce, and checked when its turn comes", () =>
    Effect.gen(function*() {
      const { handled, network, open, server } = yield* slowServer({ maxUnhandledBytes: 1_024 * kibi })
      const slow = yield* Effect.forEach(H.numbered(8, "slow"), (name) => makeStranger(network, "plain", name))
      yield* connectedIs(server, 8)
      const value = Array.from({ length: 10_000 }, (_, n) => ({ n }))
      const harmful = JSON.stringify([...value, 0]).replace("0]", `{"__proto__":1}]`)
      const noJson = "n".repeat(100 * kibi)
      for (const stranger of slow) stranger.say(JSON.stringify(text.repeat(10)))
      yield* quiet
      const [first, second, third] = slow
      first?.say(JSON.stringify(value))
      second?.say(harmful)
      third?.say(noJson)
      yield* quiet
      assert.strictEqual(second?.closed(), undefined)
      yield* open
      yield* until("all are handled", () => handled.length === 10)
      yield* until("the harmful one is refused", () => second?.closed() === 4503)
      assert.deepInclude(handled, value)
      assert.include(handled, noJson)
    }))

  it.effect("of a plain peer is not held against the connection that came after", () =>
    Effect.gen(function*() {
      const { handled, network, open, server } = yield* slowServer({ maxUnhandledBytes: 1_024 * kibi })
      const slow = yield* Effect.forEach(H.numbered(8, "slow"), (name) => makeStranger(network, "plain", name))
      yield* connectedIs(server, 8)
      for (const stranger of slow) stranger.say(JSON.stringify(text.repeat(10)))
      yield* quiet
      const harmful = JSON.stringify(Array.from({ length: 10_000 }, (_, n) => ({ n })))
      slow[1]?.say(harmful.replace("}]", `,"__proto__":1}]`))
      yield* quiet
      const again = yield* makeStranger(network, "plain", "slow2")
      yield* open
      again.say(`"still here"`)
      yield* until("it is handled", () => handled.includes("still here"))
      assert.strictEqual(again.closed(), undefined)
      assert.strictEqual(handled.length, 9)
    }))

  it.live("hides what a plain peer says, and not that its socket is gone", () =>
    Effect.gen(function*() {
      const { server, url } = yield* H.nodeServer({
        maxUnhandledBytes: 64 * kibi,
        connectionTimeout: "1 second",
        incoming: any,
        onMessage: () => Effect.never
      })
      const ws = yield* plainSocket(url)
      const socket: unknown = Reflect.get(ws, "_socket")
      assert(socket instanceof Socket)
      yield* connectedIs(server, 1)
      // More than the server reads, and than the kernel holds; no piece that was read has another frame in it.
      for (let n = 0; n < 100; n++) ws.send(JSON.stringify(text.repeat(20)))
      const [session = assert.fail()] = yield* server.sessions
      yield* until(
        "it is not read",
        () => Effect.map(server.sessionStats(session), ({ pendingMessages }) => pendingMessages > 0)
      )
      socket.resetAndDestroy()
      yield* connectedIs(server, 0)
    }))

  it.effect("is kept as text when memory is scarce, and arrives as it was sent", () =>
    Effect.gen(function*() {
      const { handled, network, open, server } = yield* slowServer({ maxUnhandledBytes: 1_024 * kibi })
      const value = Array.from({ length: 5_000 }, (_, n) => n % 3 === 0 ? {} : n % 3 === 1 ? [n] : `${n} é`)
      const slow = yield* Effect.forEach(H.numbered(10, "slow"), (name) => makeStranger(network, "protocol", name))
      yield* connectedIs(server, 10)
      for (const stranger of slow) stranger.batch([value])
      yield* quiet
      yield* open
      yield* until("all are handled", () => handled.length === 10)
      for (const message of handled) assert.deepStrictEqual(message, value)
    }))

  it.effect("holds nobody up once it is given up", () =>
    Effect.gen(function*() {
      const { handled, network, open, server } = yield* slowServer({ maxUnhandledBytes: 1_024 * kibi })
      for (const name of H.numbered(100, "slow")) {
        const stranger = yield* makeStranger(network, "plain", name)
        yield* connectedIs(server, 1)
        for (let n = 0; n < 30; n++) stranger.say(JSON.stringify(text))
        yield* quiet
        yield* server.endSession(name)
        yield* connectedIs(server, 0)
      }
      yield* open
      const honest = yield* makeStranger(network, "plain", "honest")
      for (let n = 0; n < 100; n++) honest.say(JSON.stringify(text))
      yield* until("the honest one is served", () => handled.filter((message) => message === text).length >= 100)
      yield* until("nothing of it is unread", () => honest.unread() === 0)
    }))

  it.effect("does not make its peer seem dead, at either side", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const { atClient, client, network, server } = yield* H.connected({
        server: { maxUnhandledBytes: 64 * kibi, onMessage: () => Deferred.await(gate) }
      })
      const receipts = yield* Effect.forEach(H.numbered(30), (text) => client.send(text.padEnd(4 * kibi)))
      yield* quiet
      yield* server.send("alice", "are you there?")
      const dials = network.dials
      yield* H.advance(180_000, 1_000)
      assert.strictEqual(network.dials, dials)
      assert.strictEqual((yield* server.stats).totals.connectionsTimedOut, 0)
      assert.deepStrictEqual(atClient, ["are you there?"])
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.forEach(receipts, ({ handled }) => handled)
    }))

  it.effect("is bounded at a client, too", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const got: Array<string> = []
      const { client, server } = yield* H.connected({
        client: {
          maxUnhandledBytes: 256 * kibi,
          onMessage: (message) => Effect.andThen(Deferred.await(gate), Effect.sync(() => got.push(message)))
        }
      })
      for (const text of H.numbered(300)) yield* server.send("alice", text.padEnd(10 * kibi))
      yield* quiet
      const { session } = yield* client.stats
      assert.isBelow(session.pendingMessages, 20)
      yield* Deferred.succeed(gate, undefined)
      yield* until("all came", () => got.length === 300)
    }))
})

describe("a peer over its rate", () => {
  const limited = { framesPerSecond: 100, burst: "1 second" } as const
  const kinds: Record<string, (stranger: Stranger, n: number) => void> = {
    reliable: (stranger, n) => stranger.batch([String(n)]),
    volatile: (stranger, n) => stranger.say(`{"t":"volatile","m":["${n}"]}`),
    gap: (stranger, n) => stranger.say(`{"t":"gap","o":${n},"e":${n},"reason":"expired"}`),
    ping: (stranger) => stranger.say(`{"t":"ping"}`),
    pong: (stranger) => stranger.say(`{"t":"pong","a":[0,0]}`),
    ack: (stranger) => stranger.say(`{"t":"ack","a":[0,0]}`),
    seen: (stranger) => stranger.say(`{"t":"seen","o":0}`.replace("0", "1")),
    auth: (stranger) => stranger.say(`{"t":"auth","auth":"peer"}`),
    plain: (stranger, n) => stranger.say(String(n))
  }
  for (const [name, send] of Object.entries(kinds)) {
    if (name === "seen") continue // see below: nothing was handled that could be seen
    it.effect(`is not read for a while, whatever it sends: ${name}`, () =>
      Effect.gen(function*() {
        const { network, server } = yield* slowServer({ rateLimit: limited })
        const stranger = yield* makeStranger(network, name === "plain" ? "plain" : "protocol", "peer")
        yield* connectedIs(server, 1)
        yield* H.advance(10_000, 1_000)
        for (let n = 1; n <= 500; n++) send(stranger, n)
        yield* quiet
        const unread = stranger.unread()
        assert.isAbove(unread, 0)
        yield* H.advance(2_000, 100)
        // It is read again, at its rate.
        assert.isAbove(stranger.unread(), 0)
        assert.isBelow(stranger.unread(), unread)
        yield* H.advance(3_000, 100)
        assert.strictEqual(stranger.unread(), 0)
        assert.isUndefined(stranger.closed())
        assert.isAtLeast((yield* server.stats).totals.connectionsThrottled, 2)
      }))
  }

  it.effect("of bytes is held as one of frames", () =>
    Effect.gen(function*() {
      const { network, server } = yield* slowServer({ rateLimit: { bytesPerSecond: 100 * kibi, burst: "1 second" } })
      const stranger = yield* makeStranger(network, "plain", "peer")
      yield* connectedIs(server, 1)
      for (let n = 0; n < 50; n++) stranger.say(JSON.stringify(text))
      yield* quiet
      assert.isAtLeast(stranger.unread(), 38 * text.length)
      yield* H.advance(5_000, 100)
      assert.strictEqual(stranger.unread(), 0)
    }))

  it.effect("is read as fast as it sends where there is none", () =>
    Effect.gen(function*() {
      const { network, server } = yield* slowServer({ rateLimit: "none" })
      const stranger = yield* makeStranger(network, "protocol", "peer")
      yield* connectedIs(server, 1)
      for (let n = 0; n < 100_000; n++) stranger.say(`{"t":"pong","a":[0,0]}`)
      yield* until("all is read", () => stranger.unread() === 0)
      assert.strictEqual((yield* server.stats).totals.connectionsThrottled, 0)
    }))

  it.live("by pings of the WebSocket layer is not read either", () =>
    Effect.gen(function*() {
      const { server, url } = yield* H.nodeServer({ rateLimit: { framesPerSecond: 10, burst: "1 second" } })
      const ws = yield* plainSocket(url)
      yield* connectedIs(server, 1)
      for (let n = 0; n < 100; n++) {
        ws.ping()
        ws.pong()
      }
      yield* until("it is noticed", () => Effect.map(server.stats, ({ totals }) => totals.connectionsThrottled > 0))
    }))

  it.effect("is refused as an option where it is none", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const wrong: Array<[string, NonNullable<ResilientServer.Options<string, string>["rateLimit"]>]> = [
        ["rateLimit.framesPerSecond", { framesPerSecond: 0 }],
        ["rateLimit.bytesPerSecond", { bytesPerSecond: 1.5 }],
        ["rateLimit.burst", { burst: -1 }]
      ]
      for (const [name, rateLimit] of wrong) {
        const error = yield* H.mistake(H.serverOn(network.context, { rateLimit }))
        assert.include(error.message, name)
      }
      assert.include(
        (yield* H.mistake(H.serverOn(network.context, { maxUnhandledBytes: 0 }))).message,
        "maxUnhandledBytes"
      )
    }))
})

describe("renewed tokens", () => {
  it.effect("are looked at a few a minute, and the newest of them counts", () =>
    Effect.gen(function*() {
      const asked: Array<string | undefined> = []
      const { network, server } = yield* slowServer({
        authenticate: ({ token }) => {
          asked.push(H.textOf(token))
          return Effect.succeed({ session: "peer", principal: "peer" })
        }
      })
      const stranger = yield* makeStranger(network, "protocol", "first")
      yield* connectedIs(server, 1)
      for (let n = 1; n <= 1_000; n++) stranger.say(`{"t":"auth","auth":"renewed ${n}"}`)
      yield* quiet
      assert.isAtMost(asked.length, 4)
      for (let seconds = 0; seconds < 60; seconds += 5) {
        stranger.say(`{"t":"ping"}`)
        yield* H.advance(5_000, 1_000)
      }
      assert.strictEqual(asked.at(-1), "renewed 1000")
      const before = asked.length
      for (let n = 1; n <= 60; n++) {
        stranger.say(`{"t":"auth","auth":"again ${n}"}`)
        yield* H.advance(1_000, 1_000)
      }
      assert.isAtMost(asked.length - before, 9)
      assert.isUndefined(stranger.closed())
    }))
})
