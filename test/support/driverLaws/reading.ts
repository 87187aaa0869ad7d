/** Laws of `read`, `ack`, `markSent`, `advance` and of what is removed. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { isSwept, sweptFate } from "../../../src/internal/store/outboxes.ts"
import {
  ack,
  append,
  appendEach,
  chunkRanges,
  defined,
  fate,
  firsts,
  gap,
  giveUp,
  type Law,
  message,
  NODE,
  open,
  OTHER,
  publishKey,
  readAll,
  stateOf,
  T,
  unrevised
} from "./kit.ts"

export const readLaws = (law: Law): void => {
  law(
    "reading goes on page by page from any offset, and removes nothing",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [2, 2, 1, 3, 1])
      const read = Effect.fnUntraced(function*(after: number, maxChunks: number) {
        const page = defined(yield* other.read({ session: "s", after, maxChunks, maxBytes: 100_000 }))
        assert.strictEqual(page.state.last, 9)
        return [page.chunks.map(({ first, last }) => `${first}-${last}`), page.more]
      })
      assert.deepStrictEqual(yield* read(0, 2), [["1-2", "3-4"], true])
      assert.deepStrictEqual(yield* read(4, 2), [["5-5", "6-8"], true])
      assert.deepStrictEqual(yield* read(8, 2), [["9-9"], false])
      assert.deepStrictEqual(yield* read(5, 2), [["6-8", "9-9"], false])
      assert.deepStrictEqual(yield* read(6, 1), [["6-8"], true])
      assert.deepStrictEqual(yield* read(3, 10), [["3-4", "5-5", "6-8", "9-9"], false])
      assert.deepStrictEqual(yield* read(9, 10), [[], false])
      assert.deepStrictEqual(yield* read(100, 10), [[], false])
      assert.deepStrictEqual(yield* read(0, 5), [["1-2", "3-4", "5-5", "6-8", "9-9"], false])
    })
  )

  law(
    "a page holds about as many bytes as asked for, and one chunk at least",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const body = "x".repeat(1_000)
      yield* driver.append(Array.from({ length: 10 }, () => message("s", { body, bytes: 1_000 })), undefined, NODE)
      const count = Effect.fnUntraced(function*(maxBytes: number) {
        const page = defined(yield* driver.read({ session: "s", after: 0, maxChunks: 100, maxBytes }))
        assert.strictEqual(page.more, page.chunks.length < 10)
        return page.chunks.length
      })
      assert.strictEqual(yield* count(1), 1)
      assert.strictEqual(yield* count(900), 1)
      assert.include([3, 4], yield* count(3_500))
      assert.strictEqual(yield* count(20_000), 10)
    })
  )

  law(
    "what was never opened can't be read, asked for or removed",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      assert.isUndefined(yield* driver.read({ session: "t", after: 0, maxChunks: 1, maxBytes: 1 }))
      assert.deepStrictEqual(yield* driver.fates("t", 0, 100), [])
      assert.isTrue(yield* driver.removeOutbox("t", 0))
      const states = yield* driver.outboxes(["t", "s", "u"])
      assert.deepStrictEqual(states.map(({ session }) => session), ["s"])
    })
  )
}

export const ackLaws = (law: Law): void => {
  law(
    "an ack removes what is wholly done with, and counts every message",
    Effect.fnUntraced(function*({ driver, other }) {
      const { revision } = yield* open(driver, "s")
      yield* driver.markSent({ session: "s", generation: 1, revision, sent: 4 })
      yield* appendEach(driver, "s", [2, 3, 1])
      const before = yield* stateOf(driver, "s")
      const counts = Effect.fnUntraced(function*() {
        const { chunks, state } = yield* readAll(other, "s")
        // Acks are not what others wait for with a revision, and don't touch what else is noted.
        const { acked, bytes, messages, ...rest } = state
        const { acked: _, bytes: __, messages: ___, ...unchanged } = before
        assert.deepStrictEqual(rest, unchanged)
        return { acked, bytes, messages, chunks: chunks.map(({ first, last }) => `${first}-${last}`) }
      })
      assert.deepStrictEqual(yield* ack(driver, "s", 1), { _tag: "Acked", released: 1 })
      assert.deepStrictEqual(yield* counts(), { acked: 1, bytes: 60, messages: 5, chunks: ["1-2", "3-5", "6-6"] })
      assert.deepStrictEqual(yield* ack(driver, "s", 4), { _tag: "Acked", released: 3 })
      assert.deepStrictEqual(yield* counts(), { acked: 4, bytes: 40, messages: 2, chunks: ["3-5", "6-6"] })
      assert.deepStrictEqual(yield* ack(driver, "s", 5), { _tag: "Acked", released: 1 })
      assert.deepStrictEqual(yield* counts(), { acked: 5, bytes: 10, messages: 1, chunks: ["6-6"] })
      // Again, and an older one.
      assert.deepStrictEqual(yield* ack(driver, "s", 5), { _tag: "Acked", released: 0 })
      assert.deepStrictEqual(yield* ack(driver, "s", 2), { _tag: "Acked", released: 0 })
      // The rest.
      assert.deepStrictEqual(yield* ack(driver, "s", 6), { _tag: "Acked", released: 1 })
      assert.deepStrictEqual(yield* counts(), { acked: 6, bytes: 0, messages: 0, chunks: [] })
      assert.deepStrictEqual(firsts([yield* append(driver, "s")]), [7])
    })
  )

  law(
    "a batch of acks reaches many sessions, each with its own outcome",
    Effect.fnUntraced(function*({ driver }) {
      const request = { fates: [], generation: 1 }
      for (const session of ["a", "b", "c"]) {
        yield* open(driver, session, session === "b" ? 2 : 1)
        yield* appendEach(driver, session, [3, 3])
      }
      const outcomes = yield* driver.ack([
        { session: "a", upTo: 4, ...request },
        { session: "b", upTo: 4, ...request },
        { session: "nowhere", upTo: 4, ...request },
        { session: "c", upTo: 6, ...request },
        { session: "a", upTo: 5, ...request }
      ])
      assert.deepStrictEqual(outcomes, [
        { _tag: "Acked", released: 4 },
        { _tag: "Fenced" },
        { _tag: "Missing" },
        { _tag: "Acked", released: 6 },
        { _tag: "Acked", released: 1 }
      ])
      assert.strictEqual((yield* stateOf(driver, "b")).acked, 0)
      assert.deepStrictEqual(yield* driver.totals, { sessions: 3, messages: 7, bytes: 90 })
    })
  )

  law(
    "a fenced ack notes no fates either",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s", 1)
      yield* appendEach(driver, "s", [5])
      yield* open(other, "s", 2, OTHER)
      assert.deepStrictEqual(yield* ack(driver, "s", 5, { fates: [fate(2, 2)] }), { _tag: "Fenced" })
      assert.deepStrictEqual(yield* driver.fates("s", 1, 100), [])
      assert.deepStrictEqual(yield* ack(other, "s", 5, { generation: 2 }), { _tag: "Acked", released: 5 })
    })
  )

  law(
    "acking past gaps releases messages only, and cuts the gap it ends in",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [10])
      yield* giveUp(driver, yield* stateOf(driver, "s"), { addGaps: [gap(2, 3), gap(5, 8, "overflow")] })
      assert.strictEqual((yield* stateOf(driver, "s")).messages, 4)

      assert.deepStrictEqual(yield* ack(driver, "s", 4), { _tag: "Acked", released: 2 })
      assert.deepStrictEqual((yield* readAll(driver, "s")).gaps, [gap(5, 8, "overflow")])
      assert.deepStrictEqual(yield* ack(driver, "s", 6), { _tag: "Acked", released: 0 })
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual(page.gaps, [gap(7, 8, "overflow")])
      assert.deepStrictEqual([page.state.acked, page.state.messages], [6, 2])
      assert.deepStrictEqual(yield* ack(driver, "s", 9), { _tag: "Acked", released: 1 })
      assert.deepStrictEqual(yield* ack(driver, "s", 10), { _tag: "Acked", released: 1 })
      assert.deepStrictEqual((yield* readAll(driver, "s")).gaps, [])
    })
  )

  law(
    "fates are noted with an ack once, and told of where they touch what is asked for",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [20])
      const [a, b, c] = [
        fate(3, 3, { reason: "failed", maybeHandled: true, at: T + 1 }),
        fate(5, 7, { reason: "undecodable", at: T + 2 }),
        fate(9, 9, { reason: "failed", at: T + 3 })
      ] as const
      yield* ack(driver, "s", 7, { fates: [b, a] })
      yield* ack(driver, "s", 7, { fates: [b, a] })
      yield* ack(driver, "s", 10, { fates: [c] })
      assert.deepStrictEqual(yield* other.fates("s", 1, 100), [a, b, c])
      assert.deepStrictEqual(yield* other.fates("s", 7, 8), [b])
      assert.deepStrictEqual(yield* other.fates("s", 6, 6), [b])
      assert.deepStrictEqual(yield* other.fates("s", 4, 5), [b])
      assert.deepStrictEqual(yield* other.fates("s", 3, 9), [a, b, c])
      assert.deepStrictEqual(yield* other.fates("s", 4, 4), [])
      assert.deepStrictEqual(yield* other.fates("s", 10, 20), [])
    })
  )

  law(
    "two that append and ack at once lose neither",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [1])
      let there = 1
      const appendTwo = Effect.map(append(other, "s", { count: 2 }), (result) => {
        if (result._tag === "Appended") there = Math.max(there, result.first + 1)
      })
      const appends = Effect.all(Array.from({ length: 20 }, () => appendTwo), { concurrency: 4 })
      const acks = Effect.gen(function*() {
        let released = 0
        for (let upTo = 1; upTo <= 30; upTo += 3) {
          // No more than is there: an ack of more says that the store has lost something.
          const outcome = yield* ack(driver, "s", Math.min(upTo, there))
          if (outcome._tag === "Acked") released += outcome.released
        }
        return released
      })
      const [, released] = yield* Effect.all([appends, acks], { concurrency: "unbounded" })
      const { chunks, state } = yield* readAll(driver, "s")
      assert.strictEqual(state.last, 41)
      assert.strictEqual(state.acked, released)
      assert.strictEqual(state.messages, 41 - released)
      assert.strictEqual(state.bytes, 10 * chunks.length)
    })
  )
}

export const ownerLaws = (law: Law): void => {
  law(
    "what was sent is noted for the owner that has read the newest revision",
    Effect.fnUntraced(function*({ driver, other }) {
      const { revision } = yield* open(driver, "s", 2)
      const request = { session: "s", generation: 2, revision, sent: 5 }
      const done = yield* driver.markSent(request)
      const state = yield* stateOf(other, "s")
      assert.deepStrictEqual(done, { _tag: "Done", revision: state.revision })
      assert.isAbove(state.revision, revision)
      assert.strictEqual(state.sent, 5)

      assert.deepStrictEqual(yield* driver.markSent({ ...request, sent: 6 }), { _tag: "Conflict" })
      const fenced = { ...request, generation: 1, revision: state.revision, sent: 6 }
      assert.deepStrictEqual(yield* driver.markSent(fenced), { _tag: "Fenced" })
      assert.deepStrictEqual(yield* driver.markSent({ ...request, session: "t" }), { _tag: "Missing" })
      assert.deepStrictEqual(yield* stateOf(driver, "s"), state)

      // It may go back: what was sent did not arrive.
      yield* driver.markSent({ ...request, revision: state.revision, sent: 0 })
      assert.strictEqual((yield* stateOf(driver, "s")).sent, 0)
    })
  )

  law(
    "of two that mark at once one is told of the conflict",
    Effect.fnUntraced(function*({ driver, other }) {
      let { revision } = yield* open(driver, "s")
      for (let sent = 1; sent <= 5; sent++) {
        const request = { session: "s", generation: 1, revision, sent }
        const outcomes = yield* Effect.all([driver.markSent(request), other.markSent(request)], { concurrency: 2 })
        assert.deepStrictEqual(outcomes.map(({ _tag }) => _tag).toSorted(), ["Conflict", "Done"])
        revision = (yield* stateOf(driver, "s")).revision
      }
    })
  )

  law(
    "offsets that the peer has and the store lost are taken",
    Effect.fnUntraced(function*({ driver, other }) {
      const { revision } = yield* open(driver, "s", 2)
      yield* appendEach(driver, "s", [3])
      const advance = (session: string, generation: number, last: number) =>
        driver.advance({ session, generation, last, at: T })
      const { lost, state } = defined(yield* advance("s", 2, 10))
      assert.deepStrictEqual([lost, state.acked, state.last, state.messages, state.bytes], [7, 0, 10, 3, 30])
      assert.strictEqual(state.revision, revision)
      assert.deepStrictEqual(yield* stateOf(other, "s"), state)
      // Never back.
      const again = defined(yield* advance("s", 2, 5))
      assert.deepStrictEqual([again.lost, again.state.last], [0, 10])
      assert.deepStrictEqual(firsts([yield* append(driver, "s")]), [11])
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual(chunkRanges(page), ["1-3", "11-11"])
      assert.deepStrictEqual(page.gaps, [gap(4, 10, "fresh")])
      assert.deepStrictEqual(yield* driver.fates("s", 1, 99), [lostFate(4, 10)])

      // An older owner is shown the newer one.
      const stale = defined(yield* driver.advance({ session: "s", generation: 1, last: 50, at: T }))
      assert.deepStrictEqual([stale.lost, stale.state.generation, stale.state.last], [0, 2, 11])
      assert.isUndefined(yield* advance("t", 1, 50))
    })
  )

  law(
    "an append that knows of more than there is goes behind that, in the same log only",
    Effect.fnUntraced(function*({ driver, other }) {
      const { epoch } = yield* open(driver, "s")
      yield* appendEach(driver, "s", [3])
      assert.deepStrictEqual(yield* append(other, "s", { known: { epoch, last: 2 } }), {
        _tag: "Appended",
        epoch,
        first: 4
      })
      assert.deepStrictEqual(yield* append(other, "s", { known: { epoch: "another", last: 90 } }), {
        _tag: "Appended",
        epoch,
        first: 5
      })
      const known = { epoch, last: 8 }
      const batch = [message("s", { known, count: 2 }), message("s", { known })]
      const results = yield* driver.append(batch, { writer: `${OTHER}/0`, sequence: 1 }, OTHER)
      assert.deepStrictEqual(results, [{ _tag: "Appended", epoch, first: 9, lost: 3 }, {
        _tag: "Appended",
        epoch,
        first: 11
      }])
      // The same batch again.
      assert.deepStrictEqual(yield* driver.append(batch, { writer: `${OTHER}/0`, sequence: 1 }, OTHER), results)
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual([page.state.last, page.state.messages], [11, 8])
      assert.deepStrictEqual(page.gaps, [gap(6, 8, "fresh")])
      assert.deepStrictEqual(yield* driver.fates("s", 1, 99), [lostFate(6, 8)])
      const published = yield* append(driver, "s", {
        known: { epoch, last: 13 },
        publish: publishKey("s", "k")
      })
      assert.deepStrictEqual(published, { _tag: "Appended", epoch, first: 14, lost: 2 })
      assert.strictEqual((yield* driver.lookupKey({ scope: "s", key: "k" }, 0))?.offset, 14)
      // The gaps go with an ack.
      assert.deepStrictEqual(yield* ack(driver, "s", 12), { _tag: "Acked", released: 8 })
      const after = yield* readAll(driver, "s")
      assert.deepStrictEqual([after.state.messages, after.gaps], [1, [gap(13, 13, "fresh")]])
    })
  )

  law(
    "an ack beyond the last message says that the store has lost some, and takes their offsets",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s", 2)
      yield* appendEach(driver, "s", [3, 2])
      assert.deepStrictEqual(yield* ack(driver, "s", 9, { generation: 1 }), { _tag: "Fenced" })
      assert.deepStrictEqual(yield* ack(driver, "s", 9, { generation: 2 }), { _tag: "Acked", released: 5, lost: 4 })
      const state = yield* stateOf(other, "s")
      assert.deepStrictEqual([state.acked, state.last, state.messages, state.bytes], [9, 9, 0, 0])
      assert.deepStrictEqual(firsts([yield* append(other, "s")]), [10])
      assert.deepStrictEqual(chunkRanges(yield* readAll(driver, "s")), ["10-10"])
      assert.deepStrictEqual(yield* driver.totals, { sessions: 1, messages: 1, bytes: 10 })
    })
  )
}

const lostFate = (first: number, end: number) => fate(first, end, { reason: "fresh", maybeHandled: true })

export const removalLaws = (law: Law): void => {
  law(
    "an outbox is not removed when something was appended since",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [2])
      yield* append(other, "s")
      const state = yield* stateOf(driver, "s")
      assert.isFalse(yield* driver.removeOutbox("s", 2))
      assert.deepStrictEqual(yield* stateOf(driver, "s"), state)
      assert.isFalse(yield* driver.removeOutbox("s", 3, state.revision - 1))
      const more = { last: 3, revision: state.revision }
      assert.deepInclude(yield* stateOf(driver, "s"), more)
      assert.isTrue(yield* driver.removeOutbox("s", 3, state.revision))
      assert.isTrue(yield* driver.removeOutbox("s", 3))
    })
  )

  law(
    "an outbox that is removed leaves nothing",
    Effect.fnUntraced(function*({ driver, other }) {
      for (const session of ["s", "t"]) {
        yield* open(driver, session)
        yield* appendEach(driver, session, [4, 4, 4])
        yield* ack(driver, session, 2, { fates: [fate(1, 1)] })
        yield* giveUp(driver, yield* stateOf(driver, session), {
          addGaps: [gap(6, 7)],
          fates: [fate(6, 7, { reason: "expired" })]
        })
      }
      assert.isTrue(yield* other.removeOutbox("s", 12))
      assert.isUndefined(yield* driver.read({ session: "s", after: 0, maxChunks: 9, maxBytes: 9 }))
      assert.deepStrictEqual(yield* driver.fates("s", 0, 100), [])
      assert.deepStrictEqual(yield* driver.outboxes(["s"]), [])
      assert.deepStrictEqual(yield* append(driver, "s"), { _tag: "Missing" })
      assert.deepStrictEqual(yield* ack(driver, "s", 3), { _tag: "Missing" })
      assert.deepStrictEqual(yield* driver.totals, { sessions: 1, messages: 8, bytes: 120 })
      assert.strictEqual((yield* driver.fates("t", 0, 100)).length, 2)

      // A new one under the same name begins anew.
      const state = yield* driver.openOutbox({ session: "s", generation: 1, node: NODE, newEpoch: "new" })
      const empty = { acked: 0, last: 0, messages: 0, bytes: 0, sent: 0, expiresAt: Infinity }
      assert.deepStrictEqual(unrevised(state), { session: "s", generation: 1, epoch: "new", node: NODE, ...empty })
      assert.deepStrictEqual(firsts([yield* append(driver, "s")]), [1])
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual([chunkRanges(page), page.gaps], [["1-1"], []])

      yield* driver.removeOutbox("s", 12)
      yield* driver.removeOutbox("t", 12)
      assert.deepStrictEqual(yield* driver.totals, { sessions: 0, messages: 0, bytes: 0 })
      assert.strictEqual(yield* driver.sweepFates(Infinity, 10), 0)
    })
  )

  law(
    "publish keys outlive the outbox",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* append(driver, "s", { publish: publishKey("s", "k") })
      yield* driver.removeOutbox("s", 1)
      assert.strictEqual((yield* driver.lookupKey({ scope: "s", key: "k" }, T))?.offset, 1)
    })
  )

  law(
    "totals count all sessions, whoever asks",
    Effect.fnUntraced(function*({ driver, other }) {
      assert.deepStrictEqual(yield* driver.totals, { sessions: 0, messages: 0, bytes: 0 })
      for (let n = 1; n <= 20; n++) {
        yield* open(driver, `session ${n}`)
        yield* appendEach(driver, `session ${n}`, [n, 1])
      }
      assert.deepStrictEqual(yield* other.totals, { sessions: 20, messages: 230, bytes: 2_300 })
      yield* ack(driver, "session 20", 20)
      assert.deepStrictEqual(yield* other.totals, { sessions: 20, messages: 210, bytes: 2_100 })
    })
  )

  law(
    "old fates are swept, at most as many as asked for, and what they told is not known from then on",
    Effect.fnUntraced(function*({ driver }) {
      for (const session of ["a", "b"]) {
        yield* open(driver, session)
        yield* appendEach(driver, session, [9])
        const fates = [1, 2, 3].map((offset) => fate(offset, offset, { at: T + offset }))
        yield* ack(driver, session, 9, { fates })
      }
      const left = Effect.map(
        Effect.all([driver.fates("a", 1, 9), driver.fates("b", 1, 9)]),
        (both) => both.flat().filter((one) => !isSwept(one)).length
      )
      assert.strictEqual(yield* driver.sweepFates(T + 1, 100), 0)
      assert.strictEqual(yield* left, 6)
      assert.strictEqual(yield* driver.sweepFates(T + 3, 3), 3)
      assert.strictEqual(yield* left, 3)
      assert.strictEqual(yield* driver.sweepFates(T + 3, 3), 1)
      assert.deepStrictEqual(yield* driver.fates("a", 1, 9), [sweptFate(2), fate(3, 3, { at: T + 3 })])
      assert.deepStrictEqual(yield* driver.fates("a", 3, 9), [fate(3, 3, { at: T + 3 })])
      assert.strictEqual(yield* driver.sweepFates(Infinity, 100), 2)
      assert.strictEqual(yield* left, 0)
      assert.deepStrictEqual(yield* driver.fates("b", 2, 9), [sweptFate(3)])
      // It stays, whatever is swept later, and as long as the outbox.
      yield* appendEach(driver, "b", [1])
      yield* ack(driver, "b", 10, { fates: [fate(1, 1, { at: T + 9 })] })
      assert.strictEqual(yield* driver.sweepFates(Infinity, 100), 1)
      assert.deepStrictEqual(yield* driver.fates("b", 1, 10), [sweptFate(3)])
      yield* driver.removeOutbox("b", 10)
      yield* open(driver, "b")
      assert.deepStrictEqual(yield* driver.fates("b", 1, 10), [])
    })
  )
}
