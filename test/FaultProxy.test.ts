import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Crypto from "node:crypto"
import * as Net from "node:net"
import { FaultProxy } from "resilient-websocket/testing/node"

// Sockets are real; time is the test's. Where something must *not* arrive, round trips on another connection
// through the same proxy show that it had its chance.

/** What has come out of a socket so far, and events to await. */
class Peer {
  readonly socket: Net.Socket
  readonly closed: Promise<string | undefined>
  received = Buffer.alloc(0)
  isClosed = false
  #wake = () => {}

  constructor(socket: Net.Socket) {
    this.socket = socket
    let code: string | undefined
    socket.on("error", (error) => {
      code = "code" in error ? String(error.code) : error.message
    })
    this.closed = new Promise((resolve) =>
      socket.once("close", () => {
        this.isClosed = true
        resolve(code)
        this.#wake()
      })
    )
    socket.on("data", (chunk) => {
      this.received = Buffer.concat([this.received, chunk])
      this.#wake()
    })
  }

  /** Waits for `bytes` more than were taken before, and takes them. */
  async take(bytes: number): Promise<string> {
    while (this.received.length < bytes) {
      if (this.isClosed) throw new Error(`closed after ${this.received.length} of ${bytes} bytes`)
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const taken = this.received.toString("latin1", 0, bytes)
    this.received = this.received.subarray(bytes)
    return taken
  }
}

interface Target {
  readonly port: number
  /** The server's side of the next connection. */
  readonly accepted: Effect.Effect<Net.Socket>
}

const target = Effect.acquireRelease(
  Effect.promise(async () => {
    const sockets = new Set<Net.Socket>()
    const waiting: Array<(socket: Net.Socket) => void> = []
    const ready: Array<Net.Socket> = []
    const server = Net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      socket.on("error", () => {})
      sockets.add(socket)
      socket.once("close", () => sockets.delete(socket))
      const next = waiting.shift()
      if (next === undefined) ready.push(socket)
      else next(socket)
    })
    await new Promise<void>((resolve) => server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, resolve))
    const address = server.address()
    if (address === null || typeof address === "string") throw new Error("no port")
    const accepted = Effect.promise(async () => {
      const next = ready.shift()
      return next ?? new Promise<Net.Socket>((resolve) => waiting.push(resolve))
    })
    return { server, sockets, port: address.port, accepted }
  }),
  ({ server, sockets }) =>
    Effect.promise(() =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      })
    )
)

const dialRaw = (port: number, options?: { readonly allowHalfOpen: boolean }) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const socket = Net.connect({ port, host: "127.0.0.1", ...options })
      socket.on("error", () => {})
      return socket
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

/** A client connected through the proxy to a server: both ends, known to be forwarded. */
const connect = Effect.fnUntraced(function*(proxy: FaultProxy.FaultProxy, server: Target) {
  const client = new Peer(yield* dialRaw(proxy.port))
  const far = new Peer(yield* server.accepted)
  // The target lets connections be half open, for the test of just that; here it closes when the client does.
  far.socket.once("end", () => far.socket.end()).resume()
  yield* roundTrip({ client, far })
  return { client, far }
})

interface Connection {
  readonly client: Peer
  readonly far: Peer
}

const roundTrip = ({ client, far }: Connection) =>
  Effect.promise(async () => {
    client.socket.write("ping")
    assert.strictEqual(await far.take(4), "ping")
    far.socket.write("pong")
    assert.strictEqual(await client.take(4), "pong")
  })

const manyRoundTrips = (connection: Connection) => Effect.repeat(roundTrip(connection), { times: 20 })

/** Waits, a turn of the event loop at a time, until what sockets do in the background has come so far. */
const until = <A>(effect: Effect.Effect<A>, predicate: (a: A) => boolean): Effect.Effect<A> =>
  effect.pipe(
    Effect.tap(() => Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))),
    Effect.repeat({ until: predicate })
  )

const make = (server: Target, options?: Partial<FaultProxy.Options>) =>
  FaultProxy.make({
    target: { host: "127.0.0.1", port: server.port },
    seed: 1,
    faultsPerMinute: 0,
    connectionGrace: 0,
    ...options
  })

const bytes = (length: number, salt: number): Buffer => {
  const key = Buffer.alloc(16, salt)
  return Crypto.createCipheriv("aes-128-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(length))
}

const digest = (data: Uint8Array): string => Crypto.createHash("sha256").update(data).digest("hex")

/** The first seed whose first fault is a cut of the wanted kind. */
const seedOfCut = (reset: boolean): number => {
  for (let seed = 0;; seed++) {
    const fault = FaultProxy.planFault(seed, 0, FaultProxy.defaultMix, "cut")
    if (fault.kind === "cut" && fault.reset === reset) return seed
  }
}

describe("the fault proxy without faults", () => {
  it.effect("forwards 64 MiB each way intact, reading no faster than the other side takes", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const size = 64 * 1024 * 1024
      const up = bytes(size, 1)
      const down = bytes(size, 2)
      const client = yield* dialRaw(proxy.port)
      const far = yield* server.accepted
      client.pause()
      client.end(up)
      far.end(down)
      // Nobody reads yet: the bytes on their way must come to a halt with the buffers of the kernel full.
      const probe = yield* connect(proxy, server)
      let before = -1
      const halted = yield* until(
        Effect.andThen(manyRoundTrips(probe), proxy.counts),
        (counts) => {
          // The probe itself moves some bytes: 20 round trips of 8.
          const moved = counts.bytes - before
          before = counts.bytes
          return moved < 1000
        }
      )
      assert.isBelow(halted.bytes, size)
      const read = (socket: Net.Socket) =>
        Effect.callback<string>((resume) => {
          const hash = Crypto.createHash("sha256")
          socket.on("data", (chunk) => hash.update(chunk)).resume()
          socket.once("end", () => resume(Effect.sync(() => hash.digest("hex"))))
        })
      const [gotDown, gotUp] = yield* Effect.all([read(client), read(far)], { concurrency: 2 })
      assert.strictEqual(gotDown, digest(down))
      assert.strictEqual(gotUp, digest(up))
    }))

  it.effect("passes on that one side has ended while the other still speaks", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const client = new Peer(yield* dialRaw(proxy.port, { allowHalfOpen: true }))
      const far = new Peer(yield* server.accepted)
      client.socket.end("question")
      yield* Effect.promise(async () => {
        const ended = new Promise<void>((resolve) => far.socket.once("end", resolve))
        far.socket.resume()
        assert.strictEqual(await far.take(8), "question")
        await ended
        far.socket.end("answer")
        assert.strictEqual(await client.take(6), "answer")
        assert.strictEqual(await client.closed, undefined)
        assert.strictEqual(await far.closed, undefined)
      })
      yield* until(proxy.counts, (counts) => counts.open === 0)
    }))

  it.effect("delivers what was sent before a clean end, though the sender is gone by then", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const probe = yield* connect(proxy, server)
      const client = new Peer(yield* dialRaw(proxy.port))
      const far = new Peer(yield* server.accepted)
      const sent = bytes(1024 * 1024, 5)
      far.socket.pause()
      far.socket.end()
      client.socket.end(sent)
      yield* Effect.promise(() => client.closed)
      yield* manyRoundTrips(probe)
      far.socket.resume()
      assert.strictEqual(yield* Effect.promise(() => far.closed), undefined)
      assert.isTrue(far.received.equals(sent))
    }))

  it.effect("closes the client's connection if the target can't be reached", () =>
    Effect.gen(function*() {
      const gone = yield* Effect.scoped(target)
      const proxy = yield* make(gone)
      const client = new Peer(yield* dialRaw(proxy.port))
      yield* Effect.promise(() => client.closed)
      const counts = yield* until(proxy.counts, (counts) => counts.open === 0)
      assert.deepInclude(counts, { unreachable: 1, connections: 0, faults: 0 })
    }))

  it.effect("connects each client to the target that is chosen for it, and to none if none is", () =>
    Effect.gen(function*() {
      const first = yield* target
      const second = yield* target
      const choices = [second, first, undefined, second]
      const choose = () => {
        const server = choices.shift()
        return server && { host: "127.0.0.1", port: server.port }
      }
      const proxy = yield* make(first, { target: choose })
      yield* connect(proxy, second)
      yield* connect(proxy, first)
      const refused = new Peer(yield* dialRaw(proxy.port))
      yield* Effect.promise(() => refused.closed)
      assert.deepInclude(yield* proxy.counts, { connections: 2, unreachable: 1, faults: 0 })
      yield* connect(proxy, second)
    }))

  it.effect("passes on a reset as a reset", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const { client, far } = yield* connect(proxy, server)
      far.socket.resetAndDestroy()
      assert.strictEqual(yield* Effect.promise(() => client.closed), "ECONNRESET")
    }))

  it.effect("carries 1,000 connections, and faults hit only their victims", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const connections = yield* Effect.forEach(Array.from({ length: 1000 }), () => connect(proxy, server))
      for (let i = 0; i < 50; i++) yield* proxy.faultNow("cut")
      yield* TestClock.adjust("50 millis")
      yield* until(proxy.counts, (counts) => counts.open === 950)
      yield* until(
        Effect.sync(() => connections.filter(({ client, far }) => client.isClosed && far.isClosed)),
        (closed) => closed.length === 50
      )
      yield* Effect.forEach(connections.filter(({ client }) => !client.isClosed), roundTrip, { concurrency: 950 })
      assert.deepInclude(yield* proxy.counts, { connections: 1000, cuts: 50, faults: 50 })
    }))
})

describe("a cut", () => {
  it.effect("lets a prefix of a chunk through and closes both sides", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server, { seed: seedOfCut(false) })
      const { client, far } = yield* connect(proxy, server)
      const fault = yield* proxy.faultNow("cut")
      const sent = bytes(10_000, 3)
      client.socket.write(sent)
      yield* Effect.promise(() => Promise.all([client.closed, far.closed]))
      assert.isTrue(fault.kind === "cut" && fault.at > 0)
      assert.isAbove(far.received.length, 0)
      assert.isBelow(far.received.length, sent.length)
      assert.isTrue(far.received.equals(sent.subarray(0, far.received.length)))
      assert.deepInclude(yield* proxy.counts, { cuts: 1, resets: 0, faults: 1 })
    }))

  it.effect("chooses among the connections that are still open", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const [last, ...others] = yield* Effect.forEach(Array.from({ length: 20 }), () => connect(proxy, server))
      for (const { client } of others) client.socket.end()
      yield* until(proxy.counts, (counts) => counts.open === 1)
      yield* proxy.faultNow("cut")
      yield* TestClock.adjust("50 millis")
      yield* Effect.promise(async () => last?.client.closed)
      assert.deepInclude(yield* proxy.counts, { cuts: 1, open: 0 })
    }))

  it.effect("is sometimes a reset", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server, { seed: seedOfCut(true) })
      const { client, far } = yield* connect(proxy, server)
      yield* proxy.faultNow("cut")
      client.socket.write("some bytes")
      assert.strictEqual(yield* Effect.promise(() => client.closed), "ECONNRESET")
      yield* Effect.promise(() => far.closed)
      assert.deepInclude(yield* proxy.counts, { cuts: 1, resets: 1 })
    }))

  it.effect("does not wait longer than 50 ms for bytes", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const { client, far } = yield* connect(proxy, server)
      yield* proxy.faultNow("cut")
      yield* TestClock.adjust("49 millis")
      assert.strictEqual((yield* proxy.counts).cuts, 0)
      yield* TestClock.adjust("1 millis")
      yield* Effect.promise(() => Promise.all([client.closed, far.closed]))
      assert.strictEqual((yield* proxy.counts).cuts, 1)
    }))
})

describe("a stall", () => {
  it.effect("holds everything back both ways for its time, and then lets it through", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const stalled = yield* connect(proxy, server)
      const fault = yield* proxy.faultNow("stall")
      const other = yield* connect(proxy, server)
      stalled.client.socket.write("up")
      stalled.far.socket.write("down")
      yield* manyRoundTrips(other)
      assert.strictEqual(stalled.far.received.length + stalled.client.received.length, 0)
      assert.isTrue(fault.kind === "stall" && fault.millis >= 50 && fault.millis <= 800)
      yield* TestClock.adjust(fault.kind === "stall" ? fault.millis : 0)
      assert.strictEqual(yield* Effect.promise(() => stalled.far.take(2)), "up")
      assert.strictEqual(yield* Effect.promise(() => stalled.client.take(4)), "down")
      assert.deepInclude(yield* proxy.counts, { stalls: 1, faults: 1, open: 2 })
    }))
})

describe("a half-open connection", () => {
  const halfOpen = Effect.gen(function*() {
    const server = yield* target
    const proxy = yield* make(server, { halfOpenLinger: "3 seconds" })
    const victim = yield* connect(proxy, server)
    yield* proxy.faultNow("halfOpen")
    const other = yield* connect(proxy, server)
    victim.client.socket.write("0123456789")
    yield* until(proxy.counts, (counts) => counts.halfOpens === 1)
    return { other, proxy, victim }
  })

  it.effect("swallows bytes from the middle of a chunk on, and nobody is told", () =>
    Effect.gen(function*() {
      const { other, proxy, victim: { client, far } } = yield* halfOpen
      client.socket.write("more")
      far.socket.write("answer")
      yield* manyRoundTrips(other)
      yield* TestClock.adjust("1 hour")
      yield* manyRoundTrips(other)
      assert.isBelow(far.received.length, 10)
      assert.strictEqual(far.received.toString(), "0123456789".slice(0, far.received.length))
      assert.strictEqual(client.received.length, 0)
      assert.isFalse(client.isClosed || far.isClosed)
      assert.strictEqual((yield* proxy.counts).open, 2)
    }))

  it.effect("closes for the other side only some time after one side gave it up", () =>
    Effect.gen(function*() {
      const { other, proxy, victim: { client, far } } = yield* halfOpen
      client.socket.destroy()
      yield* Effect.promise(() => client.closed)
      yield* manyRoundTrips(other)
      yield* TestClock.adjust("2999 millis")
      yield* manyRoundTrips(other)
      assert.isFalse(far.isClosed)
      yield* TestClock.adjust("1 millis")
      yield* Effect.promise(() => far.closed)
      yield* until(proxy.counts, (counts) => counts.open === 1)
    }))

  it.effect("is gone as soon as both sides have given it up", () =>
    Effect.gen(function*() {
      const { proxy, victim: { client, far } } = yield* halfOpen
      far.socket.destroy()
      client.socket.destroy()
      yield* until(proxy.counts, (counts) => counts.open === 1)
    }))
})

describe("refused dials", () => {
  it.effect("hit new connections only, until healed", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const established = yield* connect(proxy, server)
      yield* proxy.refuse
      const refused = new Peer(yield* dialRaw(proxy.port))
      yield* Effect.promise(() => refused.closed)
      yield* roundTrip(established)
      assert.deepInclude(yield* proxy.counts, { refusals: 1, refusedDials: 1, connections: 1 })
      yield* proxy.heal
      yield* connect(proxy, server)
    }))
})

describe("what a test asks for", () => {
  it.effect("a cut ends all connections at both sides, and new ones come through", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const connections = [yield* connect(proxy, server), yield* connect(proxy, server)]
      yield* proxy.cut
      assert.deepInclude(yield* proxy.counts, { cuts: 2, faults: 2, open: 0 })
      yield* Effect.promise(() => Promise.all(connections.flatMap(({ client, far }) => [client.closed, far.closed])))
      yield* connect(proxy, server)
    }))

  it.effect("a refusal is seen by who waits for it", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      yield* proxy.refuse
      yield* proxy.refuse
      const waiting = yield* Effect.forkChild(proxy.awaitCounts(({ refusedDials }) => refusedDials === 1))
      const refused = new Peer(yield* dialRaw(proxy.port))
      yield* Effect.promise(() => refused.closed)
      assert.strictEqual((yield* Fiber.join(waiting)).refusals, 2)
      yield* proxy.heal
      yield* connect(proxy, server)
    }))

  it.effect("half-open connections are silent until they are healed, and then end; in one direction, the other passes", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const { client, far } = yield* connect(proxy, server)
      yield* proxy.halfOpen({ direction: "toServer" })
      const other = yield* connect(proxy, server)
      client.socket.write("lost")
      far.socket.write("answer")
      yield* Effect.promise(() => client.take(6))
      yield* manyRoundTrips(other)
      assert.strictEqual(far.received.length, 0)
      yield* proxy.halfOpen()
      far.socket.write("lost")
      client.socket.destroy()
      assert.deepInclude(yield* proxy.counts, { halfOpens: 3, open: 2 })
      yield* proxy.heal
      yield* Effect.promise(() => Promise.all([far.closed, other.client.closed, other.far.closed]))
      assert.strictEqual((yield* proxy.counts).open, 0)
      assert.strictEqual(client.received.length, 0)
    }))

  it.effect("what is late comes at its time, in order, up to the end of it", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const { client, far } = yield* connect(proxy, server)
      yield* proxy.delay("3 seconds", { direction: "toServer" })
      const other = yield* connect(proxy, server).pipe(Effect.forkChild)
      client.socket.write("late")
      far.socket.write("answer")
      yield* Effect.promise(() => client.take(6))
      assert.strictEqual(far.received.length, 0)
      yield* until(TestClock.adjust("1 second"), () => far.received.length > 0)
      assert.strictEqual(yield* Effect.promise(() => far.take(4)), "late")
      yield* until(TestClock.adjust("1 second"), () => other.pollUnsafe() !== undefined)
      yield* proxy.delay("Infinity")
      client.socket.end("last")
      yield* TestClock.adjust("1 day")
      assert.isFalse(far.isClosed)
      yield* proxy.heal
      assert.strictEqual(yield* Effect.promise(() => far.take(4)), "last")
      assert.strictEqual(yield* Effect.promise(() => far.closed), undefined)
    }))

  it.effect("what is late is bounded, and its sender waits", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const { client, far } = yield* connect(proxy, server)
      yield* proxy.delay("Infinity")
      const size = 64 * 1024 * 1024
      client.socket.end(bytes(size, 6))
      const probe = yield* make(server)
      yield* manyRoundTrips(yield* connect(probe, server))
      assert.isAbove(client.socket.writableLength, 0)
      const hash = Crypto.createHash("sha256")
      far.socket.removeAllListeners("data").on("data", (chunk: Buffer) => hash.update(chunk))
      yield* proxy.heal
      yield* Effect.promise(() => far.closed)
      assert.strictEqual(hash.digest("hex"), digest(bytes(size, 6)))
    }))

  it.effect("it listens where it is told", () =>
    Effect.gen(function*() {
      const server = yield* target
      const first = yield* make(server)
      const [port, url] = yield* Effect.scoped(Effect.map(make(server), (proxy) => [proxy.port, proxy.url] as const))
      assert.strictEqual(url, `ws://127.0.0.1:${port}`)
      assert.strictEqual((yield* make(server, { port })).port, port)
      assert.deepInclude(yield* Effect.flip(make(server, { port: first.port })), {
        _tag: "resilient-websocket/TransportError",
        operation: "listen"
      })
    }))
})

describe("the plan of faults", () => {
  const plan = (seed: number) => Array.from({ length: 10_000 }, (_, n) => FaultProxy.planFault(seed, n))

  it("is a function of the seed", () => {
    assert.deepStrictEqual(plan(7), plan(7))
    assert.notDeepEqual(plan(7), plan(8))
  })

  it("has the kinds in the shares asked for", () => {
    const kinds = plan(7).map((fault) => fault.kind)
    const share = (kind: FaultProxy.FaultKind) => kinds.filter((k) => k === kind).length / kinds.length
    assert.approximately(share("cut"), 0.7, 0.02)
    assert.approximately(share("stall"), 0.15, 0.02)
    assert.approximately(share("halfOpen"), 0.05, 0.02)
    assert.approximately(share("refuse"), 0.1, 0.02)
    const onlyStalls = { cut: 0, stall: 1, halfOpen: 0, refuse: 0 }
    for (let n = 0; n < 1000; n++) assert.strictEqual(FaultProxy.planFault(7, n, onlyStalls).kind, "stall")
  })

  it("keeps a fault's other parameters when its kind is replaced", () => {
    const cut = FaultProxy.planFault(7, 3, FaultProxy.defaultMix, "cut")
    const halfOpen = FaultProxy.planFault(7, 3, FaultProxy.defaultMix, "halfOpen")
    assert.isTrue(cut.kind === "cut" && halfOpen.kind === "halfOpen" && cut.at === halfOpen.at)
  })

  it.effect("is what a proxy does, whatever else happens to it", () =>
    Effect.gen(function*() {
      const server = yield* target
      const run = (dialsFirst: number) =>
        Effect.gen(function*() {
          const proxy = yield* make(server, { seed: 42 })
          const faults: Array<FaultProxy.Fault> = []
          yield* Effect.forEach(Array.from({ length: dialsFirst }), () => connect(proxy, server))
          for (let i = 0; i < 20; i++) faults.push(yield* proxy.faultNow())
          return faults
        }).pipe(Effect.scoped)
      const planned = Array.from({ length: 20 }, (_, n) => FaultProxy.planFault(42, n))
      assert.deepStrictEqual(yield* run(20), planned)
      assert.deepStrictEqual(yield* run(30), planned)
    }))
})

describe("the schedule of faults", () => {
  const onlyRefusals = { cut: 0, stall: 0, halfOpen: 0, refuse: 1 }

  it.effect("keeps the rate asked for, the same way for the same seed, until it is stopped", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxies = yield* Effect.forEach(
        [1, 1],
        (seed) => make(server, { seed, faultsPerMinute: 600, mix: onlyRefusals })
      )
      yield* TestClock.adjust("5 minutes")
      const [first, second] = yield* Effect.forEach(proxies, (proxy) => proxy.counts)
      assert.approximately(first?.faults ?? 0, 3000, 200)
      assert.deepStrictEqual(first, second)
      for (const proxy of proxies) yield* proxy.heal
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(yield* Effect.forEach(proxies, (proxy) => proxy.counts), [first, second])
      // Dials are let through again at once.
      for (const proxy of proxies) yield* connect(proxy, server)
    }))

  it.effect("waits for a connection to hit", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server, {
        faultsPerMinute: 60_000,
        mix: { cut: 1, stall: 0, halfOpen: 0, refuse: 0 }
      })
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* proxy.counts).faults, 0)
      const client = new Peer(yield* dialRaw(proxy.port))
      yield* until(TestClock.adjust("50 millis"), () => client.isClosed)
      assert.strictEqual((yield* proxy.counts).faults, 1)
    }))

  it.effect("takes back what has not struck yet when it is stopped, and ends stalls", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server)
      const connection = yield* connect(proxy, server)
      yield* proxy.faultNow("stall")
      yield* proxy.faultNow("cut")
      yield* proxy.heal
      yield* manyRoundTrips(connection)
      assert.deepInclude(yield* proxy.counts, { cuts: 0, stalls: 1, open: 1 })
      yield* proxy.faultNow("cut")
      yield* TestClock.adjust("50 millis")
      yield* Effect.promise(() => connection.client.closed)
    }))

  it.live("at 100 faults a second clients that dial again still get through", () =>
    Effect.gen(function*() {
      const server = yield* target
      const proxy = yield* make(server, { seed: 5, faultsPerMinute: 6000, halfOpenLinger: "20 millis" })
      const echo = Effect.map(server.accepted, (socket) => {
        socket.once("end", () => socket.destroy())
        socket.pipe(socket, { end: false })
      })
      yield* Effect.forkScoped(Effect.forever(echo))
      const roundTrips = Effect.gen(function*() {
        const client = new Peer(yield* dialRaw(proxy.port))
        for (let i = 0; i < 50; i++) {
          client.socket.write("ping")
          const answered = yield* Effect.tryPromise(() => client.take(4))
          assert.strictEqual(answered, "ping")
        }
      }).pipe(Effect.scoped)
      const dial = Effect.exit(Effect.timeout(roundTrips, "500 millis"))
      const client = Effect.repeat(dial, { until: () => Effect.map(proxy.counts, ({ faults }) => faults >= 60) })
      yield* Effect.all(Array.from({ length: 10 }, () => client), { concurrency: 10 })
      yield* proxy.heal
      yield* roundTrips
    }))
})

describe("the end of the scope", () => {
  const handles = () => process.getActiveResourcesInfo().filter((name) => /TCP|Timeout/.test(name)).sort()

  it.live("closes every socket and timer, whatever state they are in", () =>
    Effect.gen(function*() {
      const before = handles()
      yield* Effect.gen(function*() {
        const server = yield* target
        const scope = yield* Scope.make()
        const proxy = yield* make(server, { faultsPerMinute: 60 }).pipe(Scope.provide(scope))
        const connections = yield* Effect.forEach(Array.from({ length: 20 }), () => connect(proxy, server))
        yield* proxy.faultNow("halfOpen")
        yield* proxy.faultNow("stall")
        yield* proxy.faultNow("cut")
        yield* proxy.faultNow("refuse")
        for (const { client } of connections.slice(10)) client.socket.write(bytes(100_000, 4))
        yield* Scope.close(scope, Exit.void)
        yield* Effect.promise(() => Promise.all(connections.map(({ client }) => client.closed)))
        assert.strictEqual((yield* proxy.counts).open, 0)
        const late = new Peer(yield* dialRaw(proxy.port))
        assert.strictEqual(yield* Effect.promise(() => late.closed), "ECONNREFUSED")
      }).pipe(Effect.scoped)
      yield* until(Effect.sync(handles), (now) => now.length <= before.length)
    }))
})

describe("bad options", () => {
  it.effect("are a defect that names them", () =>
    Effect.gen(function*() {
      const server = yield* target
      const bad = [{ seed: 0.5 }, { faultsPerMinute: -1 }, { faultsPerMinute: Number.NaN }, {
        mix: { cut: 0, stall: 0, halfOpen: 0, refuse: 0 }
      }]
      for (const options of bad) {
        const exit = yield* Effect.exit(make(server, options))
        assert.match(String(exit), new RegExp(`option ${Object.keys(options)[0]}`))
      }
    }))
})
