/** Messages to a principal: its sessions that are connected get them, and those that are not are no one's dead letter. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as H from "./support/harness.ts"
import { Door, type Stranger } from "./support/strangers.ts"

const sessionOf = ({ answer }: Stranger): string => answer?.session ?? assert.fail("no session")
const gotten = ({ received }: Stranger) => received.flatMap(({ m, t }) => t === "batch" ? m ?? [] : [])

const open = Effect.fnUntraced(function*() {
  const door = new Door()
  const server = yield* H.serverOn(door.context, {
    authenticate: ({ token }) => Effect.succeed({ principal: token })
  }, { store: { queue: { ttl: "1 minute" }, registry: { retention: "1 hour" } } })
  const letters = yield* H.collect(server.deadLetters)
  const tab = Effect.fnUntraced(function*(principal: string) {
    const stranger = door.come("192.0.2.1", { auth: principal })
    yield* H.until("it is welcome", () => stranger.answer?.t === "welcome")
    return stranger
  })
  return { server, letters, tab }
})

describe("a message to a principal", () => {
  it.effect("reaches the tabs that are open, and none of those that were reloaded", () =>
    Effect.gen(function*() {
      const { letters, server, tab } = yield* open()
      const other = yield* tab("bob")
      const first = yield* tab("ann")
      let second = yield* tab("ann")
      for (let i = 0; i < 10; i++) {
        second.leave()
        yield* H.advance(1_000)
        second = yield* tab("ann")
      }
      const sessions = yield* server.sessionsOf("ann")
      assert.strictEqual(sessions.length, 12)
      const connected = sessions.filter(({ connected }) => connected).map(({ session }) => session)
      assert.sameMembers(connected, [sessionOf(first), sessionOf(second)])
      assert.deepStrictEqual(sessions.slice(2).every(({ endsAtMillis }) => endsAtMillis !== undefined), true)
      const sent = yield* server.broadcast("hello", { principal: "ann" })
      assert.deepStrictEqual(sent, { accepted: 2, skipped: 0, failures: [] })
      yield* H.until("they have it", () => gotten(first).length + gotten(second).length === 2)
      assert.deepStrictEqual([gotten(first), gotten(second), gotten(other)], [["hello"], ["hello"], []])
      first.leave()
      second.leave()
      yield* H.advance(120_000)
      assert.isAtMost(letters.length, 2)
    }))

  it.effect("waits for the session that was there last when none is", () =>
    Effect.gen(function*() {
      const { server, tab } = yield* open()
      const tabs = [yield* tab("ann"), yield* tab("ann"), yield* tab("ann")]
      const [first, second, third] = tabs
      if (first === undefined || second === undefined || third === undefined) return assert.fail("no tabs")
      for (const one of [first, third, second]) {
        one.leave()
        yield* H.advance(1_000)
      }
      assert.strictEqual((yield* server.broadcast("later", { principal: "ann" })).accepted, 1)
      assert.strictEqual((yield* server.sessionStats(sessionOf(second))).queuedMessages, 1)
    }))

  it.effect("goes to the other sessions that are named too, once to each; and to nobody where there is none", () =>
    Effect.gen(function*() {
      const { server, tab } = yield* open()
      const ann = yield* tab("ann")
      const bob = yield* tab("bob")
      const sessions = [sessionOf(ann), sessionOf(bob)]
      assert.strictEqual((yield* server.broadcast("both", { principal: "ann", sessions })).accepted, 2)
      assert.strictEqual((yield* server.broadcast("nobody", { principal: "eve" })).accepted, 0)
      yield* H.until("they have it", () => gotten(ann).length + gotten(bob).length === 2)
      const wrong = { principal: 7 as unknown as string }
      assert.strictEqual(yield* H.tagOf(server.broadcast("wrong", wrong)), "resilient-websocket/PayloadError")
    }))
})
