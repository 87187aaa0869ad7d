/** Turns: who sends all the time is not read before those who send little. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Session } from "../../src/core/Session.ts"
import { makeIntake } from "../../src/internal/intake.ts"
import { makePair } from "../../src/internal/memoryTransport.ts"
import { Peer } from "../../src/internal/peer.ts"
import { makeRecorder } from "../../src/Metrics.ts"

const window = { messages: 100, bytes: 1_000_000 }

const make = Effect.gen(function*() {
  const recorder = yield* makeRecorder
  const connected = new Set<Peer>()
  let tasks: Array<() => void> = []
  const intake = makeIntake({
    limits: { unhandledBytes: 1_000_000, rate: undefined },
    now: () => 0,
    later: (task) => tasks.push(task),
    run: () => assert.fail("nothing is limited in rate"),
    connected,
    peers: connected,
    recorder,
    onTurn: () => {},
    onLimited: () => {}
  })
  const connect = (session: string): Peer => {
    const core = new Session({ role: "server", window, maxPayload: 1_000_000 })
    const peer = new Peer({ key: session, session, principal: undefined, core, plain: false })
    peer.connection = makePair({ url: "/", headers: {}, remoteAddress: undefined }, () => {})[1]
    connected.add(peer)
    return peer
  }
  const nextTurn = (): void => {
    const due = tasks
    tasks = []
    for (const task of due) task()
  }
  const isRead = (peer: Peer): boolean => peer.reading.stopped === 0
  return { intake, connect, nextTurn, isRead, tasks: () => tasks.length }
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

  it.effect("is all there for one that is alone", () =>
    Effect.gen(function*() {
      const { connect, intake, isRead, tasks } = yield* make
      const only = connect("only")
      for (let n = 0; n < 1_000; n++) intake.took(only, 60_000)
      assert.isTrue(isRead(only))
      assert.strictEqual(tasks(), 0)
    }))
})
