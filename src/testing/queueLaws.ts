/** Laws of `MessageQueue`: opening, appending, bounds and overflow. */
import { Effect, Fiber } from "effect"
import { MessageQueue } from "../MessageQueue.ts"
import {
  eventually,
  everything,
  holds,
  law,
  oddTexts,
  PassTime,
  payloads,
  perform,
  readOut,
  refused,
  same,
  type StoreLaw,
  textMessage
} from "./law.ts"

const fenced = { _tag: "resilient-websocket/MessageQueueError", reason: "fenced" }
const unknown = { _tag: "resilient-websocket/MessageQueueError", reason: "unknownSession" }

const texts = (...all: ReadonlyArray<string>) => all.map((text) => textMessage(text))

/** Appends texts, in one batch. */
const append = Effect.fnUntraced(function*(session: string, ...all: ReadonlyArray<string>) {
  const queue = yield* MessageQueue
  return yield* queue.append(session, texts(...all))
})

/** Opens the outbox of "s" for generation 1, with these messages in it. */
const opened = Effect.fnUntraced(function*(...all: ReadonlyArray<string>) {
  const queue = yield* MessageQueue
  const { epoch } = yield* queue.open("s", 1)
  if (all.length > 0) yield* append("s", ...all)
  return { queue, epoch }
})

/** Waits until this many senders wait for room. */
const suspended = Effect.fnUntraced(function*(count: number) {
  const queue = yield* MessageQueue
  yield* eventually(`${count} senders that wait`, Effect.map(queue.stats, (stats) => stats.suspended === count))
})

const opening: ReadonlyArray<StoreLaw> = [
  law(
    "an outbox is made with an epoch of its own, and keeps it when it is opened again",
    Effect.gen(function*() {
      const queue = yield* MessageQueue
      const first = yield* queue.open("s", 1)
      yield* same("a new outbox's position", [first.acked, first.last], [0, 0])
      yield* append("s", "a", "b")
      yield* perform(queue.read, "s", 1, 0, everything)
      yield* perform(queue.ack, "s", 1, 1, [])
      const expected = { epoch: first.epoch, acked: 1, last: 2 }
      yield* same("the position for the same generation", yield* queue.open("s", 1), expected)
      yield* same("the position for a newer generation", yield* queue.open("s", 7), expected)
      const other = yield* queue.open("t", 1)
      yield* holds("another outbox", other.epoch !== first.epoch, "an epoch of its own", other.epoch)
    })
  ),

  law(
    "an outbox that was removed is made anew with another epoch",
    Effect.gen(function*() {
      const { epoch, queue } = yield* opened("a")
      yield* queue.remove("s")
      const again = yield* queue.open("s", 2)
      yield* holds("the new outbox", again.epoch !== epoch, "another epoch", again.epoch)
      yield* same("the new outbox's position", [again.acked, again.last], [0, 0])
      yield* same("what is in it", readOut(yield* perform(queue.read, "s", 2, 0, everything)), [])
      yield* same("its first offset", (yield* append("s", "b")).first, 1)
    })
  ),

  law(
    "once a newer generation has opened the outbox, older owners are fenced and change nothing",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b", "c")
      yield* perform(queue.read, "s", 1, 0, { ...everything, maxMessages: 1 })
      yield* queue.open("s", 5)
      yield* refused("open by an older generation", queue.open("s", 4), fenced)
      yield* refused("read by an older owner", perform(queue.read, "s", 1, 0, everything), fenced)
      yield* refused("ack by an older owner", perform(queue.ack, "s", 1, 2, [[1, "failed"]]), fenced)
      yield* refused("giveBackSent by an older owner", queue.giveBackSent("s", 1), fenced)
      yield* refused("recover by an older owner", queue.recover("s", 1, 50), fenced)
      const result = yield* perform(queue.read, "s", 5, 0, everything)
      yield* same("what the newer owner reads", readOut(result), [`1 "a"`, `2 "b"`, `3 "c"`])
      yield* same("the next offset", (yield* append("s", "d")).first, 4)
    })
  ),

  law(
    "news of moves, which a store may miss, tell of outboxes that have moved",
    Effect.scoped(Effect.gen(function*() {
      const { queue } = yield* opened()
      const passTime = yield* PassTime
      const moves = new Set<string>()
      yield* queue.open("t", 2)
      yield* queue.onMoved((session, generation) => void moves.add(`${session} ${generation}`))
      yield* queue.open("s", 3)
      yield* queue.open("s", 3)
      yield* queue.open("new", 5)
      yield* refused("open by an older generation", queue.open("t", 1), fenced)
      yield* passTime(100)
      moves.delete("s 3")
      yield* same("what is told beside the move", [...moves], [])
    }))
  )
]

const appending: ReadonlyArray<StoreLaw> = [
  law(
    "appends take consecutive offsets, and come back as they were",
    Effect.gen(function*() {
      const { epoch, queue } = yield* opened()
      const first = yield* queue.append("s", [
        textMessage("a", { id: "id-a", trace: "00-trace-span-01" }),
        textMessage("b", { ttlMillis: Infinity }),
        textMessage("c", { ttlMillis: 60_000 })
      ])
      yield* same("the first append", [first.epoch, first.first, first.dropped], [epoch, 1, []])
      yield* same("the next one's offset", (yield* perform(queue.append, "s", texts("d", "e"))).first, 4)
      yield* same("the one after that", (yield* append("s", "f")).first, 6)
      const { more, slots } = yield* perform(queue.read, "s", 1, 0, everything)
      const { enqueuedAt } = first
      const common = { kind: "message", bytes: 3, enqueuedAt } as const
      const expected = [
        { ...common, offset: 1, payload: `"a"`, id: "id-a", trace: "00-trace-span-01", expiresAt: enqueuedAt + 5_000 },
        { ...common, offset: 2, payload: `"b"`, id: undefined, trace: undefined, expiresAt: Infinity },
        { ...common, offset: 3, payload: `"c"`, id: undefined, trace: undefined, expiresAt: enqueuedAt + 60_000 }
      ]
      for (const [i, message] of expected.entries()) {
        const slot = slots[i]
        if (slot?.kind !== "message") return yield* holds(`slot ${i}`, false, "a message", slot)
        const { bytes, enqueuedAt, expiresAt, id, kind, offset, payload, trace } = slot
        yield* same(`message ${i + 1}`, { kind, bytes, enqueuedAt, offset, payload, id, trace, expiresAt }, message)
      }
      yield* same("how many there are", [slots.length, more], [6, false])
    }),
    { queue: { ttl: 5_000 } }
  ),

  law(
    "those that append at once leave no hole, and each batch stays together",
    Effect.gen(function*() {
      const { queue } = yield* opened()
      const senders = Array.from({ length: 30 }, (_, i) => i)
      const results = yield* Effect.forEach(
        senders,
        (i) => perform(queue.append, "s", texts(`${i} of 3, 1`, `${i} of 3, 2`, `${i} of 3, 3`)),
        { concurrency: "unbounded" }
      )
      const read = readOut(yield* perform(queue.read, "s", 1, 0, everything))
      const expected: Array<string> = []
      results.forEach(({ first = 0 }, i) => {
        for (const part of [1, 2, 3]) expected[first + part - 2] = `${first + part - 1} "${i} of 3, ${part}"`
      })
      yield* same("what is read", read, expected)
      yield* same("the number of messages", read.length, 90)
    })
  ),

  law(
    "an append to a session that was never opened, or was removed, is refused",
    Effect.gen(function*() {
      const { queue } = yield* opened("a")
      yield* refused("an append to nowhere", perform(queue.append, "nowhere", texts("a")), unknown)
      yield* queue.remove("s")
      yield* refused("an append to what was removed", perform(queue.append, "s", texts("b")), unknown)
    })
  ),

  law(
    "an append needs no ownership, and wakes whoever owns the outbox",
    Effect.scoped(Effect.gen(function*() {
      const { queue } = yield* opened()
      const told: Array<string> = []
      yield* Effect.scoped(Effect.gen(function*() {
        yield* queue.onAppend((session) => void told.push(session))
        yield* append("s", "a")
        yield* eventually("news of the append", Effect.sync(() => told.includes("s")))
        told.length = 0
        yield* perform(queue.append, "s", texts("b"))
        yield* eventually("news of the next one", Effect.sync(() => told.includes("s")))
      }))
      told.length = 0
      let witnessed = false
      yield* queue.onAppend(() => void (witnessed = true))
      yield* append("s", "c")
      yield* eventually("news for another listener", Effect.sync(() => witnessed))
      yield* same("what a listener hears whose scope is closed", told, [])
    }))
  ),

  law(
    "any text can be a session, a payload or a message id",
    Effect.gen(function*() {
      const queue = yield* MessageQueue
      yield* Effect.forEach(oddTexts, (text) => queue.open(text, 1), { discard: true })
      yield* Effect.forEach(oddTexts, (text) => queue.append(text, [textMessage(text, { id: text })]), {
        concurrency: "unbounded",
        discard: true
      })
      for (const text of oddTexts) {
        const { slots } = yield* perform(queue.read, text, 1, 0, everything)
        const found = slots.map((slot) => slot.kind === "message" ? [slot.offset, slot.payload, slot.id] : [])
        yield* same(`what is in session ${text}`, found, [[1, JSON.stringify(text), text]])
        yield* same(`where ${text} is`, (yield* queue.find(text, text))?.offset, 1)
      }
    })
  ),

  law(
    "under a publish key a message is appended once, where the store can",
    Effect.gen(function*() {
      const { epoch, queue } = yield* opened("a")
      const { appendOnce } = queue
      if (appendOnce === undefined) return
      const message = { ...textMessage("b"), id: "key" }
      const results = yield* Effect.forEach([1, 2, 3], () => appendOnce("s", message, "print"), {
        concurrency: "unbounded"
      })
      const firsts = results.flatMap((result) => result._tag === "Appended" ? [result.appended.first] : [])
      yield* same("the appends of those that came at once", firsts, [2])
      const again = yield* appendOnce("s", message, "print")
      const receipt = again._tag === "Duplicate" ? again.receipt : undefined
      yield* same("a retry's receipt", [receipt?.messageId, receipt?.epoch, receipt?.offset], ["key", epoch, 2])
      const mismatch = { _tag: "resilient-websocket/DeduplicationError", reason: "mismatch", key: "key" }
      yield* refused("another content under the key", appendOnce("s", message, "another"), mismatch)
      yield* refused("an append to nowhere", appendOnce("nowhere", message, "print"), unknown)
      yield* queue.open("t", 1)
      yield* same("the key in another session", (yield* appendOnce("t", message, "another"))._tag, "Appended")
      yield* same("the next offset", (yield* append("s", "c")).first, 3)
    })
  )
]

const overflow: ReadonlyArray<StoreLaw> = [
  law(
    "a batch that does not fit is refused as a whole, one that just fits is taken",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b", "c")
      const error = {
        _tag: "resilient-websocket/QueueOverflowError",
        session: "s",
        limit: "messages",
        bound: 5,
        size: 3
      }
      yield* refused("three more", perform(queue.append, "s", texts("d", "e", "f")), error)
      yield* same("the size after it", (yield* queue.size("s")).messages, 3)
      yield* same("the offset of two more", (yield* perform(queue.append, "s", texts("g", "h"))).first, 4)
      yield* refused("one more", perform(queue.append, "s", texts("i")), { ...error, size: 5 })
      const read = readOut(yield* perform(queue.read, "s", 1, 0, everything))
      yield* same("what is read", read, [`1 "a"`, `2 "b"`, `3 "c"`, `4 "g"`, `5 "h"`])
      yield* perform(queue.ack, "s", 1, 2, [])
      yield* same("the offset after an ack", (yield* append("s", "j", "k")).first, 6)
    }),
    { queue: { maxMessages: 5 } }
  ),

  law(
    "payload bytes are bounded, and freed by acks",
    Effect.gen(function*() {
      const { queue } = yield* opened("12345678")
      const error = { _tag: "resilient-websocket/QueueOverflowError", limit: "bytes", bound: 20, size: 10 }
      yield* refused("eleven bytes more", perform(queue.append, "s", texts("123456789")), error)
      yield* same("the offset of ten more", (yield* append("s", "12345678")).first, 2)
      yield* same("the size", yield* queue.size("s"), { messages: 2, bytes: 20 })
      yield* perform(queue.read, "s", 1, 0, everything)
      yield* perform(queue.ack, "s", 1, 2, [])
      yield* same("the size after an ack", yield* queue.size("s"), { messages: 0, bytes: 0 })
      yield* same("the offset after an ack", (yield* append("s", "12345678", "12345678")).first, 3)
    }),
    { queue: { maxBytes: 20 } }
  ),

  law(
    "all sessions together are bounded",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b")
      yield* queue.open("t", 1)
      yield* append("t", "c")
      const error = { _tag: "resilient-websocket/QueueOverflowError", limit: "totalMessages", bound: 3 }
      yield* refused("a fourth message", perform(queue.append, "t", texts("d")), error)
      yield* perform(queue.read, "s", 1, 0, everything)
      yield* perform(queue.ack, "s", 1, 1, [])
      yield* same("its offset when there is room", (yield* append("t", "d")).first, 2)
    }),
    { queue: { maxTotalMessages: 3 } }
  ),

  law(
    "of all sessions together a share that has little has its part, whatever another one has taken",
    Effect.gen(function*() {
      const queue = yield* MessageQueue
      const fill = Effect.fnUntraced(function*(session: string, share: string) {
        yield* queue.open(session, 1, share)
        let count = 0
        while (yield* Effect.isSuccess(append(session, "x"))) count++
        return count
      })
      yield* same("what the first has by itself", yield* fill("a1", "a"), 70)
      yield* same("what else it has", yield* fill("a2", "a"), 0)
      const error = { _tag: "resilient-websocket/QueueOverflowError", limit: "shareMessages", bound: 40, size: 70 }
      yield* refused("one more of it", perform(queue.append, "a2", texts("x")), error)
      yield* same("what the next has", yield* fill("b", "b"), 3)
      yield* same("what the one after that has", yield* fill("c", "c"), 1)
      yield* same("the size of all together", (yield* queue.stats).messages, 74)
      yield* perform(queue.read, "a1", 1, 0, everything)
      yield* perform(queue.ack, "a1", 1, 60, [])
      yield* same("its next offset when there is room", (yield* append("a1", "x")).first, 71)
      yield* queue.remove("a1")
      yield* same("what is left", (yield* queue.stats).messages, 4)
    }),
    { queue: { maxTotalMessages: 80 } }
  ),

  law(
    "an outbox counts for the share that opened it last",
    Effect.gen(function*() {
      const queue = yield* MessageQueue
      yield* queue.open("s", 1, "a")
      yield* queue.append("s", Array.from({ length: 65 }, () => textMessage("x")))
      yield* queue.open("s", 2, "b")
      yield* queue.open("a", 1, "a")
      yield* queue.append("a", texts("1", "2", "3", "4", "5"))
      const error = { _tag: "resilient-websocket/QueueOverflowError", limit: "shareMessages", bound: 25, size: 65 }
      yield* refused("more of the other share", perform(queue.append, "s", texts("x")), error)
    }),
    { queue: { maxTotalMessages: 80 } }
  ),

  law(
    "dropOldest gives back what it drops, leaves a gap, and drops nothing that may be at the peer",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b", "c", "d")
      // At most half of the bound goes out.
      const read = readOut(yield* perform(queue.read, "s", 1, 0, everything))
      yield* same("what goes out", read, [`1 "a"`, `2 "b"`])
      const appended = yield* append("s", "e")
      yield* same("the append", [appended.first, payloads(appended.dropped)], [5, [`"c"`]])
      const tooMany = { _tag: "resilient-websocket/QueueOverflowError", limit: "messages" }
      yield* refused("more than what can be dropped", perform(queue.append, "s", texts("f", "g", "h")), tooMany)
      yield* perform(queue.ack, "s", 1, 2, [])
      const next = readOut(yield* perform(queue.read, "s", 1, 2, everything))
      yield* same("what comes next", next, ["3 overflow", `4 "d"`, `5 "e"`])
    }),
    { queue: { maxMessages: 4, overflow: "dropOldest" } }
  ),

  law(
    "dropNewest takes none of a batch that does not fit",
    Effect.gen(function*() {
      const { queue } = yield* opened("a")
      const appended = yield* append("s", "b", "c")
      yield* same("the append", [appended.first, appended.dropped], [undefined, []])
      yield* same("the offset of what fits", (yield* append("s", "d")).first, 2)
      yield* same("the overflows", (yield* queue.stats).overflows, 1)
    }),
    { queue: { maxMessages: 2, overflow: "dropNewest" } }
  ),

  law(
    "suspend lets senders wait for room, first come first served",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b", "c", "d")
      const first = yield* Effect.forkChild(append("s", "e"))
      yield* suspended(1)
      const second = yield* Effect.forkChild(append("s", "f", "g"))
      yield* suspended(2)
      yield* perform(queue.read, "s", 1, 0, everything)
      yield* perform(queue.ack, "s", 1, 4, [])
      const offsets = [(yield* Fiber.join(first)).first, (yield* Fiber.join(second)).first]
      yield* same("their offsets", offsets, [5, 6])
      yield* same("who waits", (yield* queue.stats).suspended, 0)
    }),
    { queue: { maxMessages: 4, overflow: "suspend" } }
  ),

  law(
    "a sender that is interrupted while it waits appends nothing",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b")
      const sender = yield* Effect.forkChild(append("s", "c"))
      yield* suspended(1)
      yield* Fiber.interrupt(sender)
      yield* suspended(0)
      yield* perform(queue.read, "s", 1, 0, everything)
      yield* perform(queue.ack, "s", 1, 2, [])
      yield* same("the next offset", (yield* append("s", "d")).first, 3)
    }),
    { queue: { maxMessages: 2, overflow: "suspend" } }
  ),

  law(
    "a sender waits no longer than suspendTimeout, and not at all for what never fits",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b")
      const error = { _tag: "resilient-websocket/QueueOverflowError", limit: "messages" }
      yield* refused("a batch larger than the bound", perform(queue.append, "s", texts("c", "d", "e")), error)
      const sender = yield* Effect.forkChild(append("s", "c"))
      yield* suspended(1)
      const passTime = yield* PassTime
      yield* passTime(1_100)
      yield* refused("the sender that waited", Fiber.join(sender), error)
      yield* same("the size", (yield* queue.size("s")).messages, 2)
    }),
    { queue: { maxMessages: 2, overflow: "suspend", suspendTimeout: 1_000 } }
  ),

  law(
    "a sender that waits when the session is removed is told that it is not known",
    Effect.gen(function*() {
      const { queue } = yield* opened("a", "b")
      const sender = yield* Effect.forkChild(append("s", "c"))
      yield* suspended(1)
      yield* queue.remove("s")
      yield* refused("the sender that waited", Fiber.join(sender), unknown)
    }),
    { queue: { maxMessages: 2, overflow: "suspend" } }
  )
]

export const queueLaws: ReadonlyArray<StoreLaw> = [...opening, ...appending, ...overflow]
