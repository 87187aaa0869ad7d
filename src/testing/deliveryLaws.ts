/** Laws of `MessageQueue`: reading, acks, expiry, and how an outbox ends. */
import { Effect } from "effect"
import { MessageQueue } from "../MessageQueue.ts"
import {
  everything,
  holds,
  law,
  PassTime,
  payloads,
  perform,
  readOut,
  refused,
  same,
  type StoreLaw,
  textMessage
} from "./law.ts"

const unknown = { _tag: "resilient-websocket/MessageQueueError", reason: "unknownSession" }

/** The outbox of "s", opened for generation 1, with these messages in it. */
const opened = Effect.fnUntraced(function*(...texts: ReadonlyArray<string>) {
  const queue = yield* MessageQueue
  const { epoch } = yield* queue.open("s", 1)
  if (texts.length > 0) yield* queue.append("s", texts.map((text) => textMessage(text)))
  const read = (after: number, limit: Partial<typeof everything> & { readonly maxMessageBytes?: number } = {}) =>
    perform(queue.read, "s", 1, after, { ...everything, ...limit })
  return { queue, epoch, read, passTime: yield* PassTime }
})
const all = () => true

const reading: ReadonlyArray<StoreLaw> = [
  law(
    "reading removes nothing, and begins after the offset that it is given",
    Effect.gen(function*() {
      const { read } = yield* opened("a", "b", "c", "d")
      yield* same("the first read", readOut(yield* read(0)), [`1 "a"`, `2 "b"`, `3 "c"`, `4 "d"`])
      yield* same("a read of what was read before", readOut(yield* read(2)), [`3 "c"`, `4 "d"`])
      yield* same("a read from further back", readOut(yield* read(1)), [`2 "b"`, `3 "c"`, `4 "d"`])
      yield* same("a read of the end", readOut(yield* read(4)), [])
      yield* same("a read of all of it", readOut(yield* read(0)).length, 4)
    })
  ),

  law(
    "a read ends with its limits, and says whether there is more",
    Effect.gen(function*() {
      const { read } = yield* opened("aa", "bb", "cc", "dd")
      const limited = Effect.fnUntraced(function*(after: number, limit: Partial<typeof everything>) {
        const result = yield* read(after, limit)
        return [readOut(result).join(), result.more]
      })
      yield* same("two messages", yield* limited(0, { maxMessages: 2 }), [`1 "aa",2 "bb"`, true])
      yield* same("the two after them", yield* limited(2, { maxMessages: 2 }), [`3 "cc",4 "dd"`, false])
      yield* same("nine bytes", yield* limited(0, { maxBytes: 9 }), [`1 "aa",2 "bb"`, true])
      yield* same("less than one message's bytes", yield* limited(2, { maxBytes: 1 }), [`3 "cc"`, true])
    })
  ),

  law(
    "a message that the peer can't take becomes a gap, and comes back once",
    Effect.gen(function*() {
      const { queue, read } = yield* opened("a", "far too long", "c")
      const result = yield* read(0, { maxMessageBytes: 5 })
      yield* same("what is read", readOut(result), [`1 "a"`, "2 overflow", `3 "c"`])
      yield* same("what is too large", payloads(result.oversized), [`"far too long"`])
      const again = yield* read(0, { maxMessageBytes: 5 })
      yield* same("what is read again", [readOut(again)[1], again.oversized], ["2 overflow", []])
      yield* same("the size", (yield* queue.size("s")).messages, 2)
    })
  ),

  law(
    "a message is found by its publisher's id, or by its epoch and offset",
    Effect.gen(function*() {
      const { epoch, queue, read } = yield* opened("a")
      const { enqueuedAt } = yield* queue.append("s", [textMessage("b", { id: "its id" })])
      const found = { state: "waiting", offset: 2, enqueuedAt } as const
      yield* same("the one with an id", yield* queue.find("s", "its id"), found)
      yield* same("the other's state", (yield* queue.find("s", `${epoch}-1`))?.state, "waiting")
      yield* read(0, { maxMessages: 1 })
      yield* same("its state when it was read", (yield* queue.find("s", `${epoch}-1`))?.state, "sent")
      yield* same("the state of what was not read", (yield* queue.find("s", "its id"))?.state, "waiting")
      yield* perform(queue.ack, "s", 1, 1, [])
      yield* same("what was acked", yield* queue.find("s", `${epoch}-1`), undefined)
      yield* same("an id that nobody gave", yield* queue.find("s", "another"), undefined)
      yield* same("a session that is not there", yield* queue.find("nowhere", "its id"), undefined)
    })
  )
]

const acks: ReadonlyArray<StoreLaw> = [
  law(
    "an ack is cumulative and idempotent, and gives each failed message back once",
    Effect.gen(function*() {
      const { queue, read } = yield* opened("a", "b", "c", "d")
      yield* read(0)
      const first = yield* perform(queue.ack, "s", 1, 2, [[1, "failed"]])
      yield* same("the messages released", first.released, 2)
      yield* holds("their time", first.newestEnqueuedAt !== undefined, "the newest one's", first.newestEnqueuedAt)
      const failures = first.failed.map(({ message, reason }) => [message.offset, message.payload, reason])
      yield* same("what failed", failures, [[1, `"a"`, "failed"]])
      const again = yield* perform(queue.ack, "s", 1, 2, [[1, "failed"]])
      yield* same("the same ack again", [again.released, again.failed], [0, []])
      yield* same("an older ack", (yield* perform(queue.ack, "s", 1, 1, [])).released, 0)
      yield* same("what is left to read", readOut(yield* read(2)), [`3 "c"`, `4 "d"`])
      yield* same("an ack beyond the end", (yield* perform(queue.ack, "s", 1, 100, [])).released, 2)
      yield* same("the size", yield* queue.size("s"), { messages: 0, bytes: 0 })
      // A store that knows that it may lose its newest messages takes the peer's word for more.
      const { acked } = yield* queue.open("s", 1)
      yield* holds("the position", acked === 4 || acked === 100, "4, or 100", acked)
    })
  ),

  law(
    "what others can learn of an outbox is how far it has come, and what was given up",
    Effect.gen(function*() {
      const { epoch, passTime, queue, read } = yield* opened("a", "b")
      yield* queue.append("s", [textMessage("c", { ttlMillis: 1_000 }), textMessage("d")])
      yield* read(0, { maxMessages: 2 })
      yield* perform(queue.ack, "s", 1, 2, [[1, "rejected:100 %: sold out"], [2, "failed"]])
      yield* passTime(1_100)
      yield* queue.expire(all)
      const learn = Effect.fnUntraced(function*(after: number) {
        const [progress] = yield* queue.progress([{ session: "s", after }])
        const dead = (progress?.dead ?? []).flatMap(({ end, first, maybeHandled, reason }) =>
          Array.from({ length: end - first + 1 }, (_, i) => `${first + i} ${reason} ${maybeHandled}`)
        )
        return [progress?.epoch, progress?.acked, dead.toSorted().join()]
      })
      yield* same("all of it", yield* learn(0), [
        epoch,
        2,
        "1 rejected:100 %: sold out false,2 failed false,3 expired false"
      ])
      yield* same("what comes after offset 2", yield* learn(2), [epoch, 2, "3 expired false"])
      const both = yield* queue.progress([{ session: "nowhere", after: 0 }, { session: "s", after: 3 }])
      yield* same("an outbox that is not there", both[0], undefined)
      yield* same("the one beside it", both[1]?.acked, 2)
    })
  ),

  law(
    "totals tell what came, went and was refused",
    Effect.gen(function*() {
      const { queue, read } = yield* opened("a", "b", "c")
      yield* Effect.ignore(perform(queue.append, "s", [textMessage("d")]))
      yield* read(0)
      yield* perform(queue.ack, "s", 1, 2, [])
      const { acknowledged, appended, messages, overflows } = yield* queue.stats
      const expected = { acknowledged: 2, appended: 3, messages: 1, overflows: 1 }
      yield* same("the totals", { acknowledged, appended, messages, overflows }, expected)
      yield* perform(queue.ack, "s", 1, 3, [])
      const left = yield* queue.stats
      yield* same("what is left", [left.messages, left.bytes], [0, 0])
    }),
    { queue: { maxMessages: 3 } }
  )
]

const expiry: ReadonlyArray<StoreLaw> = [
  law(
    "what expires leaves a gap in its slot, and comes back once, from expire",
    Effect.gen(function*() {
      const { epoch, passTime, queue, read } = yield* opened()
      const mixed = [
        textMessage("a", { ttlMillis: Infinity }),
        textMessage("b"),
        textMessage("c", { ttlMillis: Infinity })
      ]
      yield* queue.append("s", mixed)
      yield* same("what expires before its time", yield* queue.expire(all), [])
      yield* passTime(1_100)
      const expired = (yield* queue.expire(all)).map((one) => [one.session, one.epoch, payloads(one.messages)])
      yield* same("what expires", expired, [["s", epoch, [`"b"`]]])
      yield* same("what expires again", yield* queue.expire(all), [])
      const result = yield* read(0)
      yield* same("what is read", readOut(result), [`1 "a"`, "2 expired", `3 "c"`])
      yield* same("what a read gives back of it", result.expired, [])
      yield* same("the size", (yield* queue.size("s")).messages, 2)
    }),
    { queue: { ttl: 1_000 } }
  ),

  law(
    "what a read finds expired comes back from it, once",
    Effect.gen(function*() {
      const { passTime, queue, read } = yield* opened("a", "b")
      yield* queue.append("s", [textMessage("c", { ttlMillis: Infinity })])
      yield* passTime(1_100)
      const result = yield* read(0)
      yield* same("what is read", readOut(result), ["1 expired", "2 expired", `3 "c"`])
      yield* same("what comes back", payloads(result.expired), [`"a"`, `"b"`])
      const again = yield* read(0)
      yield* same("a second read", [readOut(again).length, again.expired], [3, []])
      yield* same("what expire finds", yield* queue.expire(all), [])
      yield* same("how many expired", (yield* queue.stats).expired, 2)
    }),
    { queue: { ttl: 1_000 } }
  ),

  law(
    "what was read can't expire, until a read says that it did not arrive",
    Effect.gen(function*() {
      const { passTime, queue, read } = yield* opened("a", "b", "c")
      yield* read(0, { maxMessages: 2 })
      yield* passTime(1_100)
      const expired = (yield* queue.expire(all)).flatMap(({ messages }) => payloads(messages))
      yield* same("what expires", expired, [`"c"`])
      yield* same("what is left", (yield* queue.size("s")).messages, 2)
      // The peer has the first: the second is no longer on its way.
      const result = yield* read(1)
      yield* same("what is read", readOut(result), ["2 expired", "3 expired"])
      yield* same("what comes back", payloads(result.expired), [`"b"`])
      yield* same("an ack of the first", (yield* perform(queue.ack, "s", 1, 1, [])).released, 1)
    }),
    { queue: { ttl: 1_000 } }
  ),

  law(
    "only sessions that the caller owns expire by its hand",
    Effect.gen(function*() {
      const { passTime, queue } = yield* opened("a")
      yield* queue.open("t", 1)
      yield* queue.append("t", [textMessage("b")])
      yield* passTime(1_100)
      const owned = yield* queue.expire((session) => session === "t")
      yield* same("the session that is owned", owned.map(({ session }) => session), ["t"])
      yield* same("what expires for who owns nothing", yield* queue.expire(() => false), [])
      const others = yield* queue.expire(all)
      yield* same("the other one, for its owner", others.map(({ session }) => session), ["s"])
    }),
    { queue: { ttl: 1_000 } }
  ),

  law(
    "expired messages make room",
    Effect.gen(function*() {
      const { passTime, queue } = yield* opened("a", "b")
      yield* passTime(1_100)
      yield* queue.expire(all)
      const { first } = yield* queue.append("s", [textMessage("c"), textMessage("d")])
      yield* same("the next offset", first, 3)
    }),
    { queue: { ttl: 1_000, maxMessages: 2 } }
  )
]

const ends: ReadonlyArray<StoreLaw> = [
  law(
    "what a peer that lost its state may have handled is given back, and leaves a gap",
    Effect.gen(function*() {
      const { queue, read } = yield* opened("a", "b", "c", "d")
      yield* read(0, { maxMessages: 3 })
      yield* perform(queue.ack, "s", 1, 1, [])
      yield* same("what is given back", payloads(yield* queue.giveBackSent("s", 1)), [`"b"`, `"c"`])
      yield* same("what is given back again", yield* queue.giveBackSent("s", 1), [])
      yield* same("what is read", readOut(yield* read(1)), ["2 fresh", "3 fresh", `4 "d"`])
      yield* same("the size", (yield* queue.size("s")).messages, 1)
    })
  ),

  law(
    "offsets that the peer has and the store lost are taken",
    Effect.gen(function*() {
      const { epoch, queue, read } = yield* opened("a")
      yield* read(0)
      const position = yield* queue.recover("s", 1, 5)
      yield* same("the position", position, { epoch, acked: 0, last: 5 })
      yield* same("the same again, and an older one", [
        (yield* queue.recover("s", 1, 5)).last,
        (yield* queue.recover("s", 1, 3)).last
      ], [5, 5])
      yield* same("the next offset", (yield* queue.append("s", [textMessage("b")])).first, 6)
      yield* same("what is read after what the peer has", readOut(yield* read(5)), [`6 "b"`])
      yield* perform(queue.ack, "s", 1, 6, [])
      yield* same("the position in the end", yield* queue.open("s", 1), { epoch, acked: 6, last: 6 })
    })
  ),

  law(
    "an outbox that is removed gives back what was in it, and is gone",
    Effect.gen(function*() {
      const { epoch, queue, read } = yield* opened("a", "b", "c", "d")
      yield* read(0, { maxMessages: 2 })
      yield* perform(queue.ack, "s", 1, 1, [])
      const removed = yield* queue.remove("s")
      yield* same("its epoch", removed.epoch, epoch)
      yield* same("its messages", payloads(removed.messages), [`"b"`, `"c"`, `"d"`])
      const { maybeHandled } = removed
      yield* holds("those that may have been handled", maybeHandled >= 1, "at least the one sent", maybeHandled)
      yield* refused("its removal, again", queue.remove("s"), unknown)
      yield* refused("a read of it", read(0), unknown)
      yield* refused("an ack of it", perform(queue.ack, "s", 1, 4, []), unknown)
      yield* same("its progress", yield* queue.progress([{ session: "s", after: 0 }]), [undefined])
    })
  )
]

export const deliveryLaws: ReadonlyArray<StoreLaw> = [...reading, ...acks, ...expiry, ...ends]
