/** A transaction of the application that sends holds up those who send to the same session, and nobody else. */
import { assert, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { MessageQueue } from "resilient-websocket"
import { PostgresStore } from "resilient-websocket/postgres"
import { describeWithDatabase, newSchema } from "../support/postgresServer.ts"

const message = (text: string) => ({ payload: JSON.stringify(text), bytes: text.length + 2 })
const all = { maxMessages: 100, maxBytes: 100_000 }

describeWithDatabase("PostgresStore and locked sessions", (server) => {
  it.live("an open transaction that sends to a session holds up senders and acks of that session alone", () =>
    Effect.gen(function*() {
      const { database, host, port, username } = yield* server
      const context = yield* Layer.build(PostgresStore.layer({ database, host, port, username, schema: newSchema() }))
      const queue = Context.get(context, MessageQueue.MessageQueue)
      const sql = Context.get(context, SqlClient.SqlClient)
      const others = Array.from({ length: 12 }, (_, index) => `other ${index}`)
      for (const session of ["locked", ...others]) yield* queue.open(session, 1)
      yield* queue.append("locked", [message("first")])
      const hasSent = yield* Deferred.make<void>()
      const mayCommit = yield* Deferred.make<void>()
      const transaction = yield* Effect.forkScoped(sql.withTransaction(Effect.gen(function*() {
        yield* queue.append("locked", [message("of the transaction")])
        yield* Deferred.succeed(hasSent, undefined)
        yield* Deferred.await(mayCommit)
      })))
      yield* Deferred.await(hasSent)
      const behind = yield* Effect.forkScoped(queue.append("locked", [message("behind it")]))
      const ack = yield* Effect.forkScoped(queue.ack("locked", 1, 1, []))
      // Each of them twice: also those whose first batch had the locked one in it.
      for (const text of ["a", "b"]) {
        yield* Effect.forEach(others, (session) => queue.append(session, [message(text)]), { concurrency: "unbounded" })
        yield* Effect.forEach(others, (session) => queue.ack(session, 1, text === "a" ? 1 : 2, []), {
          concurrency: "unbounded"
        })
      }
      assert.isUndefined(behind.pollUnsafe())
      assert.isUndefined(ack.pollUnsafe())
      yield* Deferred.succeed(mayCommit, undefined)
      yield* Fiber.join(transaction)
      assert.strictEqual((yield* Fiber.join(behind)).first, 3)
      assert.strictEqual((yield* Fiber.join(ack)).released, 1)
      const { slots } = yield* queue.read("locked", 1, 1, all)
      assert.deepStrictEqual(
        slots.map((slot) => slot.kind === "message" ? JSON.parse(slot.payload) : slot.kind),
        ["of the transaction", "behind it"]
      )
    }))
})
