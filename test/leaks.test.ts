/**
 * What peers can do over and over, and sessions that come and go, leave nothing behind: also with times that never end.
 * Judged by the heap after a collection: so much is done that even a few bytes each would show.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { CircuitBreaker, MemoryStore, MessageQueue, SessionRegistry } from "resilient-websocket"

setFlagsFromString("--expose-gc")
const collect: () => void = runInNewContext("gc")

const times = 100_000
const allowedBytes = 2 * 1024 * 1024

const heapUsed = (): number => {
  for (let i = 0; i < 3; i++) collect()
  return process.memoryUsage().heapUsed
}

const request = (session: string): SessionRegistry.AttachRequest => ({
  session,
  principal: undefined,
  authorized: true,
  tokenHash: undefined,
  nextTokenHash: "hash",
  instance: "instance"
})

type Store = Context.Context<
  MessageQueue.MessageQueue | SessionRegistry.SessionRegistry | CircuitBreaker.CircuitBreaker
>

const attach = (store: Store, session: string) =>
  Context.get(store, SessionRegistry.SessionRegistry).attach(request(session))

const message = (ttlMillis: number): MessageQueue.NewMessage => ({ payload: `"x"`, bytes: 3, ttlMillis })

const deeds: ReadonlyArray<{
  readonly name: string
  readonly do: (store: Store, n: number) => Effect.Effect<unknown, unknown>
}> = [
  {
    name: "one session that loses its connection again and again",
    do: (store) =>
      Effect.flatMap(
        attach(store, "s"),
        ({ generation }) => Context.get(store, SessionRegistry.SessionRegistry).detach("s", generation)
      )
  },
  {
    name: "sessions that are made, detached and removed",
    do: (store, n) => {
      const registry = Context.get(store, SessionRegistry.SessionRegistry)
      return Effect.flatMap(
        attach(store, `s${n}`),
        ({ generation }) => Effect.andThen(registry.detach(`s${n}`, generation), registry.remove(`s${n}`))
      )
    }
  },
  {
    name: "sessions that are made, ended and removed",
    do: (store, n) => {
      const registry = Context.get(store, SessionRegistry.SessionRegistry)
      return Effect.andThen(
        attach(store, `s${n}`),
        Effect.andThen(registry.end(`s${n}`), registry.remove(`s${n}`))
      )
    }
  },
  {
    name: "outboxes that are removed with messages in them that would have lived for long",
    do: (store, n) => {
      const queue = Context.get(store, MessageQueue.MessageQueue)
      return Effect.andThen(
        queue.open(`s${n}`, 1),
        Effect.andThen(queue.append(`s${n}`, [message(1e9)]), queue.remove(`s${n}`))
      )
    }
  },
  {
    name: "one outbox whose every message is to expire before the one that was acknowledged before it",
    do: (store, n) => {
      const queue = Context.get(store, MessageQueue.MessageQueue)
      const pass = Effect.flatMap(queue.append("s", [message(1e9 - n * 1_000)]), ({ first = 0 }) =>
        Effect.andThen(
          queue.read("s", 1, first - 1, { maxMessages: 1, maxBytes: 100 }),
          queue.ack("s", 1, first, [])
        ))
      return Effect.andThen(queue.open("s", 1), pass)
    }
  },
  {
    name: "a circuit that opens and is reset",
    do: (store) => {
      const breaker = Context.get(store, CircuitBreaker.CircuitBreaker)
      const key = CircuitBreaker.session("s")
      return Effect.andThen(breaker.report(key, { _tag: "Failure", trip: true }), breaker.reset(key))
    }
  }
]

describe("after a hundred thousand times nothing is left of", () => {
  it.effect.each(deeds)("$name", (deed) =>
    Effect.gen(function*() {
      const store = yield* Layer.build(MemoryStore.layer({ registry: { retention: Infinity } }))
      for (let n = 0; n < times / 10; n++) yield* deed.do(store, n)
      const before = heapUsed()
      for (let n = times / 10; n < times + times / 10; n++) yield* deed.do(store, n)
      assert.isBelow(heapUsed() - before, allowedBytes)
    }))
})
