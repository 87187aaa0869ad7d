/** Turns: who sends all the time is not read before those who send little. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Liveness } from "../../src/core/Liveness.ts"
import { Session } from "../../src/core/Session.ts"
import { Intake } from "../../src/internal/handle/intake.ts"
import { memoryOf, messageBytes } from "../../src/internal/kit/weight.ts"
import { plain } from "../../src/internal/session/dialects.ts"
import { Link } from "../../src/internal/session/link.ts"
import { Peer } from "../../src/internal/session/peer.ts"
import { makePair } from "../../src/internal/transports/memoryTransport.ts"
import { makeRecorder } from "../../src/Metrics.ts"

const window = { messages: 100, bytes: 1_000_000 }

const make = Effect.gen(function*() {
  const recorder = yield* makeRecorder
  const connected = new Set<Peer>()
  let onTurn: (peer: Peer) => void = () => {}
  let tasks: Array<() => void> = []
  const intake = new Intake({
    limits: { unhandledBytes: 1_000_000, rate: undefined },
    now: () => 0,
    later: (task) => tasks.push(task),
    run: () => assert.fail("nothing is limited in rate"),
    connected,
    recorder,
    onTurn: (peer) => onTurn(peer),
    onLimited: () => {}
  })
  const connect = (session: string, share = session): Peer => {
    const core = new Session({ role: "server", window, maxPayload: 1_000_000 })
    const peer = new Peer({ key: session, session, principal: undefined, core, dialect: plain, share })
    peer.link = new Link({
      connection: makePair({ url: "/", headers: {}, remoteAddress: undefined }, () => {})[1],
      flow: undefined,
      liveness: new Liveness({ interval: 1, timeout: 1, now: 0 }),
      plainSent: 0,
      isTroubled: false,
      now: 0
    })
    connected.add(peer)
    return peer
  }
  const nextTurn = (): void => {
    const due = tasks
    tasks = []
    for (const task of due) task()
  }
  const isRead = (peer: Peer): boolean => peer.reading.stopped === 0
  /** It sends a message that takes so much memory, and waits for its handler. */
  const say = (peer: Peer, bytes: number): void => {
    const value = "x".repeat((bytes - memoryOf("") - messageBytes) / 2)
    peer.incoming.received({ weight: 0, kind: "loose", value, volatile: false, trace: undefined, from: undefined })
    intake.hold(peer, 1)
  }
  /** Its handler has ended. */
  const handled = (peer: Peer): void => {
    const delivery = peer.incoming.front() ?? assert.fail("nothing waits")
    peer.incoming.took(delivery)
    intake.done(delivery)
    intake.release(peer, delivery.weight)
  }
  return {
    intake,
    connect,
    nextTurn,
    isRead,
    say,
    handled,
    tasks: () => tasks.length,
    onTurn: (run: (peer: Peer) => void) => void (onTurn = run)
  }
})

describe("a turn of the event loop", () => {
  it.effect("takes in so much; who is over it stands in line, and who sends little never does", () =>
    Effect.gen(function*() {
      const { connect, intake, isRead, nextTurn, tasks } = yield* make
      const heavy = Array.from({ length: 50 }, (_, n) => connect(`heavy ${n}`))
      const light = Array.from({ length: 50 }, (_, n) => connect(`light ${n}`))
      for (const peer of heavy) intake.took(peer, 60_000)
      assert.isAbove(heavy.filter(isRead).length, 0)
      const waiting = heavy.filter((peer) => !isRead(peer))
      assert.isAbove(waiting.length, 40)

      const served = new Map<Peer, number>()
      for (let turn = 0; turn < 100; turn++) {
        for (const peer of light) {
          assert.isTrue(isRead(peer))
          intake.took(peer, 100)
        }
        let bytes = 0
        for (const peer of heavy) {
          // All that is there to read, until it is not read any more.
          for (let frames = 0; frames < 1_000 && isRead(peer); frames++) {
            intake.took(peer, 1_000)
            bytes += 1_000
            served.set(peer, (served.get(peer) ?? 0) + 1)
          }
        }
        assert.isBelow(bytes, 1_000_000)
        nextTurn()
      }
      // Each of them has had its turns.
      assert.strictEqual(served.size, 50)
      for (const peer of heavy) intake.detached(peer)
      nextTurn()
      assert.strictEqual(tasks(), 0)
    }))

  it.effect("is taken up by frames that are not complete, too", () =>
    Effect.gen(function*() {
      const { connect, intake, isRead } = yield* make
      const heavy = Array.from({ length: 50 }, (_, n) => connect(`heavy ${n}`))
      for (const peer of heavy) intake.coming(peer, 64_000)
      assert.isAbove(heavy.filter((peer) => !isRead(peer)).length, 40)
    }))

  it.effect("is taken up by what was many small frames as by what they cost, the next time by one alone", () =>
    Effect.gen(function*() {
      const { connect, intake, isRead, nextTurn } = yield* make
      const peers = Array.from({ length: 50 }, (_, n) => connect(`peer ${n}`))
      const heldBack = new Set<Peer>()
      let served: Array<Peer> = []
      /** As connections do: a piece that is not taken in comes first when the peer is read again. */
      const read = (): number => {
        served = []
        for (const peer of peers) {
          if (!isRead(peer)) continue
          if (!heldBack.delete(peer)) intake.coming(peer, 60_000)
          if (!isRead(peer)) heldBack.add(peer)
          else served.push(peer)
          if (isRead(peer)) { for (let n = 0; n < 10_000; n++) intake.took(peer, 6) }
        }
        return served.length
      }
      assert.strictEqual(read(), 1)
      const known = new Set(served)
      for (let turns = 0; known.size < peers.length; turns++) {
        assert.isBelow(turns, 100)
        nextTurn()
        assert.isAtMost(read(), 5)
        for (const peer of served) known.add(peer)
      }
      const times = new Map<Peer, number>()
      for (let turns = 0; turns < 400; turns++) {
        nextTurn()
        // Who was read without a piece stands in line again with it.
        assert.isAtMost(read(), 2)
        for (const peer of served) times.set(peer, (times.get(peer) ?? 0) + 1)
      }
      assert.strictEqual(times.size, peers.length)
    }))

  it.effect("goes on when a handler disconnects who stands in line", () =>
    Effect.gen(function*() {
      const { connect, intake, nextTurn, onTurn } = yield* make
      const [first, second, third] = [connect("first"), connect("second"), connect("third")]
      intake.took(third, 300_000)
      assert.isTrue(intake.keep(first, "x", 40_000))
      assert.isTrue(intake.keep(second, "x", 40_000))
      const turns: Array<string> = []
      onTurn(({ session }) => {
        turns.push(session)
        intake.detached(second)
        intake.detached(third)
      })
      nextTurn()
      nextTurn()
      assert.deepStrictEqual(turns, ["first"])
    }))

  it.effect("is all there for one that is alone", () =>
    Effect.gen(function*() {
      const { connect, intake, isRead, tasks } = yield* make
      const only = connect("only")
      for (let n = 0; n < 1_000; n++) intake.took(only, 60_000)
      assert.isTrue(isRead(only))
      assert.strictEqual(tasks(), 0)
    }))
})

describe("a share that has more than its part where it is crowded", () => {
  it.effect("is read again when it has handled that, whatever others hold", () =>
    Effect.gen(function*() {
      const { connect, handled, intake, isRead, nextTurn, say } = yield* make
      const greedy = Array.from({ length: 40 }, (_, n) => connect(`greedy ${n}`, "greedy"))
      const idle = connect("idle", "greedy")
      const others = Array.from({ length: 100 }, (_, n) => connect(`other ${n}`))
      for (const other of others.slice(0, 20)) say(other, 20_000)
      for (const peer of greedy) say(peer, 42_000)
      assert.isFalse(isRead(idle))
      greedy.forEach((peer, n) => {
        handled(peer)
        say(others[20 + n] ?? assert.fail(), 20_000)
      })
      for (let turn = 0; turn < 10; turn++) nextTurn()
      assert.isAbove(intake.total(), 1_000_000)
      for (const peer of [idle, ...greedy]) assert.isTrue(isRead(peer))
    }))

  it.effect("is read again when it is another's turn to wait", () =>
    Effect.gen(function*() {
      const { connect, handled, intake, isRead, nextTurn, say } = yield* make
      const first = Array.from({ length: 40 }, (_, n) => connect(`first ${n}`, "first"))
      const second = Array.from({ length: 20 }, (_, n) => connect(`second ${n}`, "second"))
      const idle = [connect("idle of the first", "first"), connect("idle of the second", "second")]
      for (const peer of first) say(peer, 52_000)
      assert.deepStrictEqual(idle.map(isRead), [false, true])
      first.slice(0, 38).forEach((peer, n) => {
        handled(peer)
        say(second[n % 20] ?? assert.fail(), 52_000)
      })
      for (const peer of second) say(peer, 20_000)
      for (let turn = 0; turn < 10; turn++) nextTurn()
      assert.isAbove(intake.total(), 2_000_000)
      assert.deepStrictEqual(idle.map(isRead), [true, false])
    }))

  it.effect("has what it held before it was another's, until that is handled", () =>
    Effect.gen(function*() {
      const { connect, handled, intake, isRead, say } = yield* make
      const peer = connect("peer", "before")
      for (let n = 0; n < 21; n++) say(peer, 100_000)
      const before = connect("another", "before")
      const after = connect("one of the other share", "after")
      peer.share = "after"
      for (const each of [before, after]) intake.attached(each)
      assert.deepStrictEqual([before, after].map(isRead), [false, true])
      while (peer.incoming.size > 0) handled(peer)
      assert.strictEqual(intake.total(), 0)
      assert.strictEqual(peer.reading.held, 0)
    }))
})
