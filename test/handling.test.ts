/** What is told when: acks of finished messages, mistakes in options, hooks that can't decide. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Schema } from "effect"
import { SessionRegistry, WebSocketError } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"

const { advanceUntil, connected, until } = H

describe("a handler that hangs", () => {
  it.effect("does not keep back that the messages before were handled", () =>
    Effect.gen(function*() {
      const { client } = yield* connected({
        server: { onMessage: (text) => text === "hangs" ? Effect.never : Effect.void }
      })
      const quick = yield* client.send("quick")
      yield* client.send("hangs")
      const handled = yield* Effect.forkChild(quick.handled, { startImmediately: true })
      yield* advanceUntil("the quick one is acknowledged", () => handled.pollUnsafe() !== undefined)
      yield* Fiber.join(handled)
      assert.strictEqual((yield* client.stats).session.queuedMessages, 1)
    }))
})

describe("without a handler and without a consumer of the stream", () => {
  it.effect("nobody is waited for at the shutdown", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const server = yield* H.serverOn(network.context, { authenticate: H.byToken })
      const client = yield* H.clientOn(network.context, { token: "alice" })
      yield* client.awaitConnected()
      yield* client.send("unread")
      yield* until("it is there", () => Effect.map(server.stats, ({ totals }) => totals.messagesReceived === 1))
      // Time stands still: this would wait for ever.
      yield* server.shutdown
    }))
})

/** docs/stores.md says how many handlers may run again after a kill: those that have finished since the last position. */
describe("positions of finished handlers", () => {
  const watched = Effect.gen(function*() {
    const store = yield* H.makeStore()
    const registry = Context.get(store, SessionRegistry.SessionRegistry)
    const seen = { finished: 0, stored: 0, most: 0 }
    return {
      seen,
      finished: Effect.sync(() => {
        seen.finished++
        seen.most = Math.max(seen.most, seen.finished - seen.stored)
      }),
      serverStore: Context.add(store, SessionRegistry.SessionRegistry, {
        ...registry,
        savePosition: (session, generation, position) =>
          Effect.tap(
            registry.savePosition(session, generation, position),
            () => Effect.sync(() => void (seen.stored = Math.max(seen.stored, position.handled)))
          )
      })
    }
  })

  it.effect("are stored for half a window at the latest, of quick ones that never rest", () =>
    Effect.gen(function*() {
      const { finished, seen, serverStore } = yield* watched
      const clientStore = { queue: { maxMessages: 5_000 } }
      const { client } = yield* connected({ server: { onMessage: () => finished }, serverStore, clientStore })
      yield* Effect.forEach(H.numbered(5_000), (text) => client.send(text), { discard: true })
      yield* until("all are handled", () => seen.finished === 5_000)
      assert.isAtMost(seen.most, 512)
      assert.isAbove(seen.most, 1, "each was stored by itself")
      yield* until("all are stored, and no time had to pass", () => seen.stored === 5_000)
    }))

  it.effect("are stored within a second while a later handler takes its time", () =>
    Effect.gen(function*() {
      const { finished, seen, serverStore } = yield* watched
      const onMessage = (text: string) => text === "slow" ? Effect.never : finished
      const { client } = yield* connected({ server: { onMessage }, serverStore })
      yield* client.sendAll(["quick 1", "quick 2", "slow"])
      yield* until("both are handled", () => seen.finished === 2)
      yield* H.advance(1_000, 100)
      assert.strictEqual(seen.stored, 2)
    }))
})

describe("an authentication hook", () => {
  it.effect("that can't decide makes the client come back", () =>
    Effect.gen(function*() {
      let asked = 0
      const { client } = yield* connected({
        server: {
          authenticate: () =>
            ++asked === 1
              ? Effect.fail(
                new WebSocketError.HandshakeError({
                  reason: "unauthorized",
                  detail: "the directory is down",
                  retryable: true
                })
              )
              : Effect.succeed({ session: "alice" })
        },
        client: { reconnect: { base: 1, cap: 1 } }
      }).pipe((connecting) =>
        Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(connecting, { startImmediately: true })
          yield* advanceUntil("it is connected", () => fiber.pollUnsafe() !== undefined)
          return yield* Fiber.join(fiber)
        })
      )
      assert.strictEqual((yield* client.state)._tag, "Connected")
      assert.strictEqual(asked, 2)
    }))
})

describe("mistakes are typed errors", () => {
  it.effect("a ttl that is no duration", () =>
    Effect.gen(function*() {
      const { client } = yield* connected()
      const error = yield* Effect.flip(client.send("late", { ttl: "soon" as "1 second" }))
      assert.strictEqual(error._tag, "resilient-websocket/PayloadError")
    }))

  it.effect("a payload that the Schema refuses, as the cause of the dead letter", () =>
    Effect.gen(function*() {
      const { client, server } = yield* connected({ server: { incoming: Schema.Literals(["yes", "no"]) } })
      const letters = yield* H.collect(server.deadLetters)
      yield* client.send("perhaps")
      yield* until("there is a dead letter", () => letters.length > 0)
      assert.deepInclude(letters[0]?.cause, { _tag: "resilient-websocket/PayloadError", direction: "decode" })
    }))
})
