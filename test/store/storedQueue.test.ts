/** The queue on a database: what it does when calls fail, in doubt or not, and when other servers are at work. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Latch, Layer, Random } from "effect"
import { TestClock } from "effect/testing"
import { Deduplicator, type MemoryStore, MessageQueue, SessionRegistry } from "resilient-websocket"
import { type StoreDriver, StoreError } from "../../src/internal/store/driver.ts"
import { layerOf, type StoreOptions } from "../../src/internal/store/layer.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"

const text = (payload: string) => ({ payload: JSON.stringify(payload), bytes: payload.length + 2 })
const all = { maxMessages: 1_000, maxBytes: 1_000_000 }

/** A server's store on a database; `faults` replaces operations of its driver. */
const open = Effect.fnUntraced(function*(
  database: ReturnType<typeof makeMemoryDatabase>,
  options: StoreOptions = {},
  faults: (driver: StoreDriver) => Partial<StoreDriver> = () => ({})
) {
  const driver = makeMemoryDriver(database)
  const context = yield* Layer.build(layerOf(Effect.succeed({ ...driver, ...faults(driver) }), 1, options))
  return {
    queue: Context.get(context, MessageQueue.MessageQueue),
    registry: Context.get(context, SessionRegistry.SessionRegistry),
    deduplicator: Context.get(context, Deduplicator.Deduplicator)
  }
})

/** Fails so many times, after it was done. */
const failingAfter = <Args extends ReadonlyArray<unknown>, A>(
  times: number,
  call: (...args: Args) => Effect.Effect<A, StoreError>
) => {
  let left = times
  return (...args: Args): Effect.Effect<A, StoreError> =>
    Effect.flatMap(
      call(...args),
      (result) =>
        left-- > 0 ? Effect.fail(new StoreError("test", new Error("the answer was lost"))) : Effect.succeed(result)
    )
}

/** Works the first time, and never again. */
const onlyOnce = <Args extends ReadonlyArray<unknown>>(
  call: (...args: Args) => Effect.Effect<void, StoreError>
): (...args: Args) => Effect.Effect<void, StoreError> => {
  let isDone = false
  return (...args) =>
    Effect.suspend(() => {
      if (isDone) return Effect.fail(new StoreError("test", new Error("it can't be reached any more")))
      isDone = true
      return call(...args)
    })
}

const payloadsOf = (result: MessageQueue.ReadResult) =>
  result.slots.map((slot) => slot.kind === "message" ? JSON.parse(slot.payload) as unknown : `gap ${slot.reason}`)

const readAll = (queue: MessageQueue.Interface, session: string, generation: number, after = 0) =>
  Effect.map(queue.read(session, generation, after, all), payloadsOf)

const letTimePass = Effect.forkChild(Effect.forever(Effect.andThen(TestClock.adjust("100 millis"), Effect.yieldNow)))

describe("an append whose answer was lost", () => {
  it.effect("is tried again, and is in the queue once", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(makeMemoryDatabase(), {}, ({ append }) => ({ append: failingAfter(3, append) }))
      yield* queue.open("s", 1)
      const time = yield* letTimePass
      const { first } = yield* queue.append("s", [text("a"), text("b")])
      yield* Fiber.interrupt(time)
      assert.strictEqual(first, 1)
      assert.deepStrictEqual(yield* readAll(queue, "s", 1), ["a", "b"])
    }))

  it.effect("and never comes fails with an error that says it is in doubt", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(
        makeMemoryDatabase(),
        { appendTimeout: "1 second" },
        ({ append }) => ({ append: failingAfter(1_000, append) })
      )
      yield* queue.open("s", 1)
      const time = yield* letTimePass
      const error = yield* Effect.flip(queue.append("s", [text("a")]))
      yield* Fiber.interrupt(time)
      assert.deepInclude(error, { _tag: "resilient-websocket/MessageQueueError", reason: "store" })
      assert.deepInclude(yield* queue.size("s"), { messages: 0 })
    }))
})

describe("messages that were given up when the answer was lost", () => {
  it.effect("are reported as expired at the next read", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(
        makeMemoryDatabase(),
        { queue: { ttl: "1 second" } },
        ({ giveUp }) => ({ giveUp: failingAfter(1, giveUp) })
      )
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a"), text("b")])
      yield* TestClock.adjust("2 seconds")
      const first = yield* Effect.exit(queue.read("s", 1, 0, all))
      assert.isTrue(Exit.isFailure(first))
      const { expired, slots } = yield* queue.read("s", 1, 0, all)
      assert.deepStrictEqual(expired.map(({ offset }) => offset), [1, 2])
      assert.deepStrictEqual(slots, [{ kind: "gap", offset: 1, end: 2, reason: "expired" }])
      assert.deepInclude(yield* queue.stats, { messages: 0, expired: 2 })
    }))

  it.effect("are reported once by the sweep", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(
        makeMemoryDatabase(),
        { queue: { ttl: "1 second" } },
        ({ giveUp }) => ({ giveUp: failingAfter(1, giveUp) })
      )
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a")])
      yield* TestClock.adjust("2 seconds")
      yield* Effect.exit(queue.expire(() => true))
      const again = yield* queue.expire(() => true)
      assert.deepStrictEqual(again.flatMap(({ messages }) => messages.map(({ offset }) => offset)), [1])
      assert.deepStrictEqual(yield* queue.expire(() => true), [])
    }))

  it.effect("are reported once, though two were giving them up in the same millisecond", () =>
    Effect.gen(function*() {
      const both = yield* Latch.make()
      let tries = 0
      const { queue } = yield* open(
        makeMemoryDatabase(),
        { queue: { ttl: "1 second" } },
        ({ giveUp }) => {
          const losing = failingAfter(2, giveUp)
          return {
            giveUp: (request) =>
              Effect.suspend(() => {
                if (++tries === 2) both.openUnsafe()
                return Effect.andThen(both.await, losing(request))
              })
          }
        }
      )
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a"), text("b")])
      yield* TestClock.adjust("2 seconds")
      const read = Effect.exit(queue.read("s", 1, 0, all))
      const exits = yield* Effect.all([read, read], { concurrency: 2 })
      assert.deepStrictEqual(exits.map(Exit.isFailure), [true, true])
      const { expired } = yield* queue.read("s", 1, 0, all)
      assert.deepStrictEqual(expired.map(({ offset }) => offset), [1, 2])
      assert.deepStrictEqual(yield* queue.expire(() => true), [])
      assert.deepInclude(yield* queue.stats, { messages: 0, expired: 2 })
    }))
})

describe("messages that two servers were giving up in the same millisecond, both without an answer", () => {
  it.effect("are reported by the one that did it", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const both = yield* Latch.make()
      let tries = 0
      const server = open(database, { queue: { overflow: "dropOldest", maxMessages: 2 } }, ({ giveUp }) => {
        const losing = failingAfter(1, giveUp)
        return {
          giveUp: (request) =>
            Effect.suspend(() => {
              if (++tries === 2) both.openUnsafe()
              return Effect.andThen(both.await, losing(request))
            })
        }
      })
      const one = yield* Random.withSeed(server, "one")
      const two = yield* Random.withSeed(server, "two")
      yield* one.queue.open("s", 1)
      yield* one.queue.append("s", [text("a"), text("b")])
      const exits = yield* Effect.all(
        [one, two].map(({ queue }) => Effect.exit(queue.append("s", [text("c")]))),
        { concurrency: 2 }
      )
      assert.deepStrictEqual(exits.map(Exit.isFailure), [true, true])
      const told = [...yield* one.queue.expire(() => true), ...yield* two.queue.expire(() => true)]
      assert.deepStrictEqual(told.map(({ messages }) => messages.map(({ offset }) => offset)), [[1]])
    }))
})

describe("messages that were dropped to make room", () => {
  const dropping: StoreOptions = { queue: { overflow: "dropOldest", maxMessages: 2 } }
  const told = (queue: MessageQueue.Interface) =>
    Effect.map(
      queue.expire(() => true),
      (all) => all.map(({ messages, reason }) => [reason, ...messages.map(({ offset }) => offset)])
    )

  it.effect("for one that was refused then, are reported all the same", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const other = makeMemoryDriver(database)
      const { queue } = yield* open(database, dropping, ({ giveUp }) => ({
        // Another server ends the session just then.
        giveUp: (request) =>
          Effect.tap(giveUp(request), () =>
            Effect.andThen(other.removeOutbox("s", 2), other.deleteSession("s", { at: 0, until: Infinity })))
      }))
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a"), text("b")])
      assert.deepInclude(yield* Effect.flip(queue.append("s", [text("c")])), { reason: "unknownSession" })
      assert.deepStrictEqual(yield* told(queue), [["overflow", 1]])
      assert.deepStrictEqual(yield* told(queue), [])
    }))

  it.effect("and whose fate goes with the outbox before it was known, are reported all the same", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(makeMemoryDatabase(), dropping, ({ giveUp }) => ({
        giveUp: failingAfter(1, giveUp)
      }))
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a"), text("b")])
      yield* Effect.flip(queue.append("s", [text("c")]))
      const { messages } = yield* queue.remove("s")
      assert.deepStrictEqual(messages.map(({ offset }) => offset), [2])
      assert.deepStrictEqual(yield* told(queue), [["overflow", 1]])
    }))
})

describe("a sweep", () => {
  it.effect("looks once at an outbox, also when it was scheduled several times", () =>
    Effect.gen(function*() {
      let tries = 0
      const { queue } = yield* open(makeMemoryDatabase(), { queue: { ttl: "1 second" } }, ({ giveUp }) => ({
        giveUp: (request) =>
          Effect.andThen(Effect.sync(() => void tries++), Effect.andThen(Effect.yieldNow, giveUp(request)))
      }))
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a")])
      yield* TestClock.adjust("2 seconds")
      yield* queue.read("s", 1, 0, all) // finds it before the sweep
      yield* queue.append("s", [text("b")])
      yield* TestClock.adjust("2 seconds")
      tries = 0
      const swept = yield* queue.expire(() => true)
      assert.deepStrictEqual(swept.flatMap(({ messages }) => messages.map(({ offset }) => offset)), [2])
      assert.strictEqual(tries, 1)
    }))
})

describe("a failed message", () => {
  it.effect("is given back once, though the ack's answer was lost", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(makeMemoryDatabase(), {}, ({ ack }) => ({ ack: failingAfter(1, ack) }))
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a"), text("b")])
      yield* queue.read("s", 1, 0, all)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(queue.ack("s", 1, 2, [[2, "failed"]]))))
      const { failed } = yield* queue.ack("s", 1, 2, [[2, "failed"]])
      assert.deepStrictEqual(failed.map(({ message, reason }) => [message.offset, reason]), [[2, "failed"]])
      assert.deepStrictEqual((yield* queue.ack("s", 1, 2, [[2, "failed"]])).failed, [])
    }))
})

describe("a failed message whose ack had no answer", () => {
  it.effect("is reported by the server that stored it, also when another one has the session by then", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const one = yield* open(database, {}, ({ ack }) => ({ ack: failingAfter(1, ack) }))
      const two = yield* open(database)
      yield* one.queue.open("s", 1)
      yield* one.queue.append("s", [text("a"), text("b")])
      yield* one.queue.read("s", 1, 0, all)
      yield* Effect.flip(one.queue.ack("s", 1, 1, [[1, "failed"]]))
      yield* two.queue.open("s", 2)
      // The client tells the new one too, to which the message is done with.
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* two.queue.ack("s", 2, 1, [[1, "failed"]])).failed, [])
      assert.deepInclude(yield* Effect.flip(one.queue.ack("s", 1, 1, [[1, "failed"]])), { reason: "fenced" })
      const told = Effect.map(
        one.queue.expire(() => true),
        (due) => due.map(({ messages, reason }) => [reason, ...messages.map(({ offset }) => offset)])
      )
      assert.deepStrictEqual(yield* told, [["failed", 1]])
      assert.deepStrictEqual(yield* told, [])
    }))

  it.effect("is reported by the server that ends the session before the ack is tried again", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(makeMemoryDatabase(), {}, ({ ack }) => ({ ack: failingAfter(1, ack) }))
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a")])
      yield* queue.read("s", 1, 0, all)
      yield* Effect.flip(queue.ack("s", 1, 1, [[1, "failed"]]))
      yield* queue.remove("s")
      const due = yield* queue.expire(() => true)
      assert.deepStrictEqual(due.map(({ messages, reason }) => [reason, messages.length]), [["failed", 1]])
    }))
})

describe("a removal whose answer was lost", () => {
  it.effect("gives the messages at the next try", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(makeMemoryDatabase(), {}, (driver) => ({
        removeOutbox: failingAfter(1, driver.removeOutbox)
      }))
      yield* queue.open("s", 1)
      yield* queue.append("s", [text("a")])
      assert.isTrue(Exit.isFailure(yield* Effect.exit(queue.remove("s"))))
      const { messages } = yield* queue.remove("s")
      assert.deepStrictEqual(messages.map(({ offset }) => offset), [1])
      assert.deepInclude(yield* Effect.flip(queue.remove("s")), { reason: "unknownSession" })
    }))
})

describe("two servers on one database", () => {
  it.effect("append to one log without holes, and the owner hears of it", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const one = yield* open(database)
      const two = yield* open(database)
      const heard: Array<string> = []
      yield* one.queue.onAppend((session) => heard.push(session))
      yield* one.queue.open("s", 1)
      yield* one.queue.append("s", [text("a")])
      yield* two.queue.append("s", [text("b")])
      yield* one.queue.append("s", [text("c")])
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* readAll(one.queue, "s", 1), ["a", "b", "c"])
      assert.deepInclude(yield* one.queue.size("s"), { messages: 3 })
      assert.isAtLeast(heard.length, 3)
    }))

  it.effect("fence each other: the older owner reads and acknowledges nothing, and is told", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const one = yield* open(database)
      const two = yield* open(database)
      const attach = (registry: SessionRegistry.Interface, token: string, next: string) =>
        registry.attach({
          session: "s",
          principal: undefined,
          authorized: false,
          tokenHash: token,
          nextTokenHash: next,
          instance: "client"
        })
      const moved: Array<string> = []
      yield* one.queue.onMoved((session, generation) => moved.push(`${session} ${generation}`))
      const first = yield* attach(one.registry, "", "t1")
      yield* one.queue.open("s", first.generation)
      yield* one.queue.append("s", [text("a")])
      yield* one.registry.detach("s", first.generation)
      yield* one.registry.release("s", first.generation)
      const second = yield* attach(two.registry, "t1", "t2")
      assert.isAbove(second.generation, first.generation)
      yield* two.queue.open("s", second.generation)
      assert.deepStrictEqual(yield* readAll(two.queue, "s", second.generation), ["a"])
      assert.deepInclude(yield* Effect.flip(one.queue.ack("s", first.generation, 1, [])), { reason: "fenced" })
      assert.deepInclude(
        yield* Effect.flip(one.registry.savePosition("s", first.generation, {
          epoch: "e",
          received: 1,
          handled: 1,
          failed: [],
          pending: { messages: 0, bytes: 0 }
        })),
        { reason: "fenced" }
      )
    }))

  it.effect("wait for each other when one still has something of the session, but not for ever", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const one = yield* open(database)
      const two = yield* open(database, { handoffTimeout: "1 second" })
      const wanted: Array<string> = []
      yield* one.registry.onWanted((session) => wanted.push(session))
      const request = (token: string, next: string) => ({
        session: "s",
        principal: undefined,
        authorized: false,
        tokenHash: token,
        nextTokenHash: next,
        instance: "client"
      })
      const first = yield* one.registry.attach(request("", "t1"))
      const taking = yield* Effect.forkChild(two.registry.attach(request("t1", "t2")))
      yield* TestClock.adjust("100 millis")
      assert.deepStrictEqual(wanted, ["s"])
      assert.isUndefined(taking.pollUnsafe())
      yield* one.registry.release("s", first.generation)
      yield* TestClock.adjust("100 millis")
      const second = yield* Fiber.join(taking)
      assert.isAbove(second.generation, first.generation)
      // Now the other way round, and nobody answers.
      const back = yield* Effect.forkChild(one.registry.attach(request("t2", "t3")))
      yield* TestClock.adjust("1 second")
      assert.isUndefined(back.pollUnsafe())
      yield* TestClock.adjust("2 seconds")
      assert.isAbove((yield* Fiber.join(back)).generation, second.generation)
    }))

  it.effect("find a session of a server that died, and end it after its retention", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const options = { registry: { retention: "1 minute" }, nodeTimeout: "5 seconds" } satisfies StoreOptions
      // It shows itself once, and then never again.
      const dead = yield* open(database, options, ({ touchNode }) => ({ touchNode: onlyOnce(touchNode) }))
      yield* dead.registry.attach({
        session: "s",
        principal: undefined,
        authorized: true,
        tokenHash: undefined,
        nextTokenHash: "t",
        instance: "client"
      })
      const alive = yield* open(database, options)
      const ended: Array<string> = []
      for (let second = 0; second < 80; second++) {
        yield* TestClock.adjust("1 second")
        ended.push(...(yield* alive.registry.expire))
      }
      assert.deepStrictEqual(ended, ["s"])
      assert.isUndefined(yield* alive.registry.find("s"))
      assert.isTrue(yield* alive.registry.remove("s"))
    }))
})

describe("a server that others take for dead", () => {
  const options = { nodeTimeout: "5 seconds", registry: { retention: "1 minute" } } satisfies StoreOptions

  it.effect("and that is still trying an append in doubt appends it once", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const tries: Array<number> = []
      const one = yield* open(database, options, ({ append, touchNode }) => ({
        touchNode: onlyOnce(touchNode),
        // Done at once, and answered only when the other server has long given this one up.
        append: (requests, stamp, node) =>
          Effect.flatMap(append(requests, stamp, node), (results) => {
            tries.push(results.length)
            return tries.length < 8 ? Effect.fail(new StoreError("test", new Error("lost"))) : Effect.succeed(results)
          })
      }))
      const two = yield* open(database, options)
      yield* one.queue.open("s", 1)
      const time = yield* Effect.forkChild(Effect.forever(Effect.gen(function*() {
        yield* TestClock.adjust("1 second")
        yield* Effect.ignore(two.registry.expire)
        yield* Effect.yieldNow
      })))
      yield* Effect.exit(one.queue.append("s", [text("x")]))
      yield* Fiber.interrupt(time)
      assert.isAbove(tries.length, 1)
      yield* two.queue.open("s", 2)
      assert.deepStrictEqual(yield* readAll(two.queue, "s", 2), ["x"])
    }))

  it.effect("and lives takes its sessions back", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      let isSilent = false
      const one = yield* open(database, options, ({ touchNode }) => ({
        touchNode: (node, at) =>
          isSilent ? Effect.fail(new StoreError("test", new Error("silent"))) : touchNode(node, at)
      }))
      const two = yield* open(database, options)
      yield* one.registry.attach({
        session: "s",
        principal: undefined,
        authorized: true,
        tokenHash: undefined,
        nextTokenHash: "t",
        instance: "client"
      })
      isSilent = true
      const ended: Array<string> = []
      for (let second = 0; second < 180; second++) {
        if (second === 12) isSilent = false
        yield* TestClock.adjust("1 second")
        ended.push(...(yield* two.registry.expire), ...(yield* one.registry.expire))
      }
      assert.deepStrictEqual(ended, [])
      assert.deepInclude(yield* two.registry.find("s"), { attached: true })
    }))
})

describe("news that was lost with its answer", () => {
  it.effect("is found in a round of looks", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const one = yield* open(database, {}, ({ takeNudges }) => ({ takeNudges: failingAfter(1_000, takeNudges) }))
      const two = yield* open(database)
      const heard: Array<string> = []
      yield* one.queue.open("s", 1)
      yield* one.queue.onAppend((session) => heard.push(session))
      yield* two.queue.append("s", [text("a")])
      for (let second = 0; second < 60; second++) yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(heard, ["s"])
      assert.deepStrictEqual(yield* readAll(one.queue, "s", 1), ["a"])
    }))
})

describe("a publish key", () => {
  it.effect("and its message are one step: the same again gives the first receipt, from any server", () =>
    Effect.gen(function*() {
      const database = makeMemoryDatabase()
      const one = yield* open(database, {}, ({ append }) => ({ append: failingAfter(1, append) }))
      const two = yield* open(database)
      yield* one.queue.open("s", 1)
      const message = { ...text("a"), id: "order-1" }
      const time = yield* letTimePass
      const first = yield* one.queue.appendOnce?.("s", message, "f") ?? Effect.die("not offered")
      yield* Fiber.interrupt(time)
      const second = yield* two.queue.appendOnce?.("s", message, "f") ?? Effect.die("not offered")
      assert.strictEqual(first._tag, "Appended")
      assert.deepInclude(second, { _tag: "Duplicate" })
      const other = yield* Effect.flip(two.queue.appendOnce?.("s", message, "g") ?? Effect.die("not offered"))
      assert.deepInclude(other, { _tag: "resilient-websocket/DeduplicationError", reason: "mismatch" })
      assert.deepInclude(yield* two.deduplicator.claim({ scope: "s", key: "order-1" }), { _tag: "Duplicate" })
      assert.deepStrictEqual(yield* readAll(one.queue, "s", 1), ["a"])
    }))
})

describe("what is cached", () => {
  it.effect("is bounded: the rest is read from the store in pages", () =>
    Effect.gen(function*() {
      const { queue } = yield* open(makeMemoryDatabase(), {
        cacheBytes: 10_000,
        queue: { maxMessages: 5_000 } satisfies MemoryStore.Options["queue"]
      })
      yield* queue.open("s", 1)
      const texts = Array.from({ length: 3_000 }, (_, i) => `message ${i}`)
      for (let i = 0; i < texts.length; i += 100) yield* queue.append("s", texts.slice(i, i + 100).map(text))
      const got: Array<unknown> = []
      while (got.length < texts.length) {
        const page = yield* queue.read("s", 1, got.length, { maxMessages: 64, maxBytes: 100_000 })
        got.push(...payloadsOf(page))
        assert.strictEqual(page.more, got.length < texts.length)
        if (got.length % 256 === 0) yield* queue.ack("s", 1, got.length, [])
      }
      assert.deepStrictEqual(got, texts)
    }))
})
