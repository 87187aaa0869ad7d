/** Laws of `giveUp`: expiry, overflow and ends of sessions, made by somebody who has read the outbox before. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import {
  ack,
  append,
  appendEach,
  chunkRanges,
  fate,
  gap,
  giveUp,
  type Law,
  open,
  OTHER,
  readAll,
  stateOf,
  T,
  unrevised
} from "./kit.ts"

export const giveUpLaws = (law: Law): void => {
  law(
    "what is given up leaves gaps, and its chunks, bytes and messages are gone",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [2, 2, 3])
      const before = yield* stateOf(driver, "s")
      const fates = [
        fate(2, 4, { reason: "expired", at: T + 1 + 1 / 4_096 }),
        fate(6, 6, { reason: "overflow", maybeHandled: true, at: T + 1 })
      ]
      const outcome = yield* driver.giveUp({
        session: "s",
        revision: before.revision,
        generation: 1,
        removeGaps: [],
        addGaps: [gap(2, 4), gap(6, 6, "overflow")],
        removeChunks: [4],
        fates,
        expiresAt: T + 900
      })
      const page = yield* readAll(other, "s")
      assert.deepStrictEqual(outcome, { _tag: "Done", revision: page.state.revision })
      assert.isAbove(page.state.revision, before.revision)
      assert.deepStrictEqual(unrevised(page.state), {
        ...unrevised(before),
        messages: 3,
        bytes: 50,
        expiresAt: T + 900
      })
      assert.deepStrictEqual(page.gaps, [gap(2, 4), gap(6, 6, "overflow")])
      assert.deepStrictEqual(chunkRanges(page), ["1-2", "5-7"])
      assert.deepStrictEqual(yield* other.fates("s", 1, 9), fates)
      assert.deepStrictEqual(yield* driver.totals, { sessions: 1, messages: 3, bytes: 50 })
    })
  )

  law(
    "gaps are read where they end beyond what was read",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [20])
      const gaps = [gap(2, 4, "expired"), gap(5, 5, "overflow"), gap(9, 11, "fresh"), gap(20, 20, "sessionEnded")]
      yield* giveUp(driver, yield* stateOf(driver, "s"), { addGaps: gaps.toReversed() })
      const read = (after: number) =>
        Effect.map(readAll(driver, "s", after), (page) => page.gaps.map(({ first }) => first))
      assert.deepStrictEqual((yield* readAll(driver, "s")).gaps, gaps)
      assert.deepStrictEqual(yield* read(3), [2, 5, 9, 20])
      assert.deepStrictEqual(yield* read(4), [5, 9, 20])
      assert.deepStrictEqual(yield* read(5), [9, 20])
      assert.deepStrictEqual(yield* read(11), [20])
      assert.deepStrictEqual(yield* read(20), [])
    })
  )

  law(
    "who has read an older revision is told of the conflict, and nothing changes",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [5, 5])
      const before = yield* stateOf(driver, "s")
      const request = { addGaps: [gap(1, 5)], removeChunks: [5], fates: [fate(1, 5)], expiresAt: T }
      assert.strictEqual((yield* giveUp(driver, before, request))._tag, "Done")
      const page = yield* readAll(driver, "s")
      // Also the very same, again.
      assert.deepStrictEqual(yield* giveUp(driver, before, request), { _tag: "Conflict" })
      const another = { addGaps: [gap(6, 10)], removeChunks: [10], fates: [fate(6, 10)], expiresAt: Infinity }
      assert.deepStrictEqual(yield* giveUp(other, before, another), { _tag: "Conflict" })
      assert.deepStrictEqual(yield* readAll(driver, "s"), page)
      assert.strictEqual((yield* driver.fates("s", 1, 99)).length, 1)
    })
  )

  law(
    "whatever raises the revision is a conflict: opening, marking",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [5])
      const stale = Effect.fnUntraced(function*(change: Effect.Effect<unknown, unknown>) {
        const before = yield* stateOf(driver, "s")
        yield* change
        return yield* giveUp(driver, before, { addGaps: [gap(1, 1)], generation: undefined })
      })
      const { revision } = yield* stateOf(driver, "s")
      const request = { session: "s", generation: 1 }
      assert.deepStrictEqual(yield* stale(driver.markSent({ ...request, revision, sent: 1 })), { _tag: "Conflict" })
      assert.deepStrictEqual(yield* stale(open(driver, "s", 2)), { _tag: "Conflict" })
      assert.strictEqual((yield* stale(append(driver, "s")))._tag, "Done")
    })
  )

  law(
    "an older owner is fenced; who owns nothing is not asked for a generation",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s", 1)
      yield* appendEach(driver, "s", [5])
      const state = yield* open(other, "s", 2, OTHER)
      const request = { addGaps: [gap(1, 1)], fates: [fate(1, 1)] }
      assert.deepStrictEqual(yield* giveUp(driver, state, { ...request, generation: 1 }), { _tag: "Fenced" })
      assert.deepStrictEqual(yield* giveUp(driver, state, { ...request, session: "t" }), { _tag: "Missing" })
      assert.deepStrictEqual((yield* readAll(driver, "s")).gaps, [])
      assert.deepStrictEqual(yield* driver.fates("s", 1, 9), [])
      assert.strictEqual((yield* giveUp(driver, state, { ...request, generation: undefined }))._tag, "Done")
    })
  )

  law(
    "new gaps take the place of those they cover",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [5, 5, 5])
      yield* giveUp(driver, yield* stateOf(driver, "s"), { addGaps: [gap(2, 3), gap(6, 7), gap(12, 13)], expiresAt: T })
      yield* giveUp(driver, yield* stateOf(driver, "s"), {
        removeGaps: [2, 6],
        addGaps: [gap(2, 10, "overflow")],
        removeChunks: [10]
      })
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual(page.gaps, [gap(2, 10, "overflow"), gap(12, 13)])
      assert.deepStrictEqual(chunkRanges(page), ["1-5", "11-15"])
      const { bytes, expiresAt, messages } = page.state
      assert.deepStrictEqual({ bytes, expiresAt, messages }, { bytes: 100, expiresAt: T, messages: 4 })
    })
  )

  law(
    "acks between the read and the giving up count once",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [4, 4, 4])
      const read = yield* stateOf(driver, "s")
      yield* ack(driver, "s", 6)
      const request = { addGaps: [gap(1, 3), gap(5, 8), gap(10, 10)], removeChunks: [4, 8] }
      assert.strictEqual((yield* giveUp(driver, read, request))._tag, "Done")
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual(page.gaps, [gap(7, 8), gap(10, 10)])
      assert.deepStrictEqual(chunkRanges(page), ["9-12"])
      const { acked, bytes, messages } = page.state
      assert.deepStrictEqual({ acked, bytes, messages }, { acked: 6, bytes: 40, messages: 3 })
      assert.deepStrictEqual(yield* ack(driver, "s", 12), { _tag: "Acked", released: 3 })
      assert.deepStrictEqual(yield* driver.totals, { sessions: 1, messages: 0, bytes: 0 })
    })
  )

  law(
    "a gap that an ack has cut since it was read is replaced all the same",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [12])
      yield* giveUp(driver, yield* stateOf(driver, "s"), { addGaps: [gap(3, 8)] })
      const read = yield* stateOf(driver, "s")
      yield* ack(driver, "s", 5)
      yield* giveUp(driver, read, { removeGaps: [3], addGaps: [gap(3, 10, "fresh")] })
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual(page.gaps, [gap(6, 10, "fresh")])
      assert.strictEqual(page.state.messages, 2)
      assert.deepStrictEqual(yield* ack(driver, "s", 12), { _tag: "Acked", released: 2 })
    })
  )

  law(
    "everything can be given up, and what comes next is kept",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [3, 3])
      yield* giveUp(driver, yield* stateOf(driver, "s"), {
        addGaps: [gap(1, 6, "fresh")],
        removeChunks: [3, 6],
        expiresAt: Infinity
      })
      yield* append(driver, "s", { expiresAt: T + 3 })
      const page = yield* readAll(driver, "s")
      assert.deepStrictEqual([page.gaps, chunkRanges(page)], [[gap(1, 6, "fresh")], ["7-7"]])
      const { bytes, expiresAt, last, messages } = page.state
      assert.deepStrictEqual({ bytes, expiresAt, last, messages }, {
        bytes: 10,
        expiresAt: T + 3,
        last: 7,
        messages: 1
      })
    })
  )
}
