/**
 * A server that stood still, or was cut off from the store, for longer than others wait: before the store has confirmed
 * that a session is still its own, it handles nothing of it, and takes nothing that a handler sends.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Latch } from "effect"
import { type SessionRegistry, WebSocketError } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { severalServers } from "./support/severalServers.ts"

/** Two servers, of which `a` may be in doubt whether others have taken it for dead. */
const scene = Effect.fnUntraced(function*(options: H.ServerOptions = {}) {
  let isSure = true
  const answers = yield* Latch.make(true)
  const asked: Array<string> = []
  const handled: Array<string> = []
  const world = yield* severalServers({
    rigRegistry: (registry): Partial<SessionRegistry.Interface> => ({
      confirm: {
        isSure: () => isSure,
        session: (session, generation) =>
          Effect.suspend(() => {
            asked.push(session)
            return Effect.andThen(answers.await, registry.find(session))
          }).pipe(
            Effect.tap(() => Effect.sync(() => isSure = true)),
            Effect.flatMap((info) =>
              info?.generation === generation
                ? Effect.void
                : Effect.fail(
                  new WebSocketError.SessionRegistryError({ session, operation: "confirm", reason: "fenced" })
                )
            )
          )
      }
    }),
    server: { onMessage: (text) => Effect.sync(() => handled.push(text)), ...options }
  })
  return {
    ...world,
    asked,
    handled,
    /** From now on `a` does not know, and the store does not say. */
    standStill: Effect.andThen(Effect.sync(() => isSure = false), answers.close),
    goOn: answers.open
  }
})

describe("a server that may have been taken for dead", () => {
  it.effect("handles nothing before the store says that the session is its own", () =>
    Effect.gen(function*() {
      const { asked, client, goOn, handled, standStill } = yield* scene()
      yield* (yield* client.send("before")).handled ?? Effect.die("skipped")
      assert.deepStrictEqual(asked, [])
      yield* standStill
      const receipt = yield* client.send("after")
      yield* client.send("volatile", { volatile: true })
      yield* H.until("it asks", () => asked.length > 0)
      yield* H.turn
      assert.deepStrictEqual(handled, ["before"])
      yield* goOn
      yield* receipt.handled ?? Effect.die("skipped")
      yield* H.until("all is handled", () => handled.length === 3)
      assert.sameMembers(handled, ["before", "after", "volatile"])
      assert.deepStrictEqual(asked, ["alice"])
    }))

  it.effect("leaves what it had received to the server that has the session by then", () =>
    Effect.gen(function*() {
      const { a, asked, client, goOn, handled, moveToB, standStill } = yield* scene()
      yield* standStill
      const receipt = yield* client.send("once")
      yield* H.until("it asks", () => asked.length > 0)
      yield* moveToB
      yield* H.advanceUntil("it is handled there", () => handled.length > 0)
      yield* goOn
      yield* H.advanceUntil("it has let go", () => Effect.map(a.stats, ({ connections }) => connections === 0))
      yield* receipt.handled ?? Effect.die("skipped")
      assert.deepStrictEqual(handled, ["once"])
    }))

  it.effect("takes nothing that the handler sends which was running, until the store says so, or at all", () =>
    Effect.gen(function*() {
      const error = (name: string) => `resilient-websocket/${name}Error`
      const results: Array<string> = []
      const gates = new Map<string, Deferred.Deferred<void>>()
      for (const text of ["kept", "lost"]) gates.set(text, yield* Deferred.make<void>())
      const started: Array<string> = []
      const { a, client, goOn, moveToB, received, standStill } = yield* scene({
        // A handler that can't be interrupted: it goes on whatever happens to its session.
        onMessage: (text, { server, session }) =>
          Effect.gen(function*() {
            if (started.push(text) > 2) return // again, at the other server
            yield* Deferred.await(gates.get(text) ?? assert.fail(text))
            const sent = yield* H.tagOf(server.send(session, `answer to ${text}`))
            const all = yield* H.tagOf(server.sendAll(session, [`answers to ${text}`]))
            const told = yield* H.tagOf(server.broadcast(`news of ${text}`))
            results.push(`${text}: ${sent}, ${all}, ${told}`)
          }).pipe(Effect.uninterruptible)
      })
      const answer = (text: string) => Deferred.succeed(gates.get(text) ?? assert.fail(text), undefined)
      yield* client.send("kept")
      yield* H.until("it is being handled", () => started.length === 1)
      yield* standStill
      yield* answer("kept")
      yield* H.turn
      assert.deepStrictEqual(received, [])
      yield* goOn
      yield* H.until("it has answered", () => results.length === 1)
      yield* H.until("the answers are there", () => received.length === 3)

      yield* client.send("lost")
      yield* H.until("it is being handled", () => started.length === 2)
      yield* standStill
      yield* moveToB
      yield* answer("lost")
      yield* H.turn
      yield* goOn
      yield* H.advanceUntil("it is refused", () => results.length === 2)
      assert.deepStrictEqual(results, [
        "kept: success, success, success",
        `lost: ${error("MessageQueue")}, ${error("MessageQueue")}, ${error("SessionRegistry")}`
      ])
      yield* H.advanceUntil("it has let go", () => Effect.map(a.stats, ({ connections }) => connections === 0))
      assert.deepStrictEqual(received, ["answer to kept", "answers to kept", "news of kept"])
    }))
})
