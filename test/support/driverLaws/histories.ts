/** Laws of outboxes in a store that may have lost its newest part: who settles them, and what is moved. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import type { StoreDriver } from "../../../src/internal/store/driver.ts"
import type { AppendRequest } from "../../../src/internal/store/outboxes.ts"
import {
  ack,
  append,
  defined,
  gap,
  giveUp,
  type Law,
  NODE,
  open,
  OTHER,
  type Pair,
  readAll,
  stateOf,
  T
} from "./kit.ts"

const known = (last: number) => ({ epoch: "epoch of s", last })

const owner = (generation: number, last: number, unsettled: AppendRequest["unsettled"] = "settle") => ({
  unsettled,
  generation,
  known: known(last)
})

const advance = (driver: StoreDriver, generation: number, last: number, isMoved = false) =>
  Effect.map(driver.advance({ session: "s", generation, last, at: T, isMoved }), (done) => ({
    settled: done?.state.settled,
    from: done?.state.unsettledFrom,
    last: done?.state.last,
    lost: done?.lost
  }))

/** Messages and gaps as they are in the log. */
const contents = (driver: StoreDriver) =>
  Effect.map(readAll(driver, "s"), ({ chunks, gaps, state }) => ({
    chunks: chunks.map(({ first, last }) => [first, last]),
    gaps: gaps.map(({ end, first, reason }) => [first, end, reason]),
    messages: state.messages,
    bytes: state.bytes
  }))

export const historyLaws = (law: Law): void => {
  /** An outbox of three messages, of which the store does not know whether there were more. */
  const begin = ({ driver, forget }: Pair) =>
    Effect.gen(function*() {
      yield* open(driver, "s")
      yield* append(driver, "s", { count: 3, bytes: 30 })
      yield* defined(forget)("s")
    })

  law("others are refused until the owner has said how far it goes", (pair) =>
    Effect.gen(function*() {
      const { driver } = pair
      yield* begin(pair)
      assert.isFalse((yield* stateOf(driver, "s")).settled)
      assert.deepStrictEqual(yield* append(driver, "s", { unsettled: "refuse" }), { _tag: "Unsettled", node: NODE })
      assert.deepStrictEqual(yield* ack(driver, "s", 2), { _tag: "Unsettled" })
      const appended = yield* append(driver, "s", owner(1, 5))
      assert.deepInclude(appended, { _tag: "Appended", first: 6, lost: 2 })
      assert.deepInclude(yield* append(driver, "s", { unsettled: "refuse" }), { _tag: "Appended", first: 7 })
      assert.deepInclude(yield* ack(driver, "s", 6), { _tag: "Acked", released: 4 })
    }))

  law("an owner whom a newer one has followed settles nothing", (pair) =>
    Effect.gen(function*() {
      const { driver, other } = pair
      yield* begin(pair)
      yield* open(other, "s", 2, OTHER)
      assert.deepStrictEqual(yield* append(driver, "s", owner(1, 5)), { _tag: "Unsettled", node: OTHER })
      assert.deepInclude(yield* advance(driver, 1, 5), { settled: false, last: 3 })
      assert.deepStrictEqual(yield* advance(other, 2, 4), { settled: true, from: undefined, last: 4, lost: 1 })
    }))

  law(
    "what others appended at positions that the peer may know is moved, once, and leaves a gap",
    (pair) =>
      Effect.gen(function*() {
        const { driver, other } = pair
        yield* begin(pair)
        assert.deepInclude(yield* append(other, "s", { unsettled: "allow" }), { _tag: "Appended", first: 4 })
        assert.deepInclude(yield* append(other, "s", { unsettled: "allow" }), { _tag: "Appended", first: 5 })
        assert.deepStrictEqual(yield* append(driver, "s", owner(1, 4)), { _tag: "Unsettled", node: NODE })
        assert.deepStrictEqual(yield* advance(driver, 1, 4), { settled: false, from: 3, last: 5, lost: 0 })
        // There is more by now than whoever moves has seen.
        const early = yield* append(driver, "s", owner(1, 4, "moved"))
        assert.deepStrictEqual(early, { _tag: "Unsettled", node: NODE })
        const moved = yield* append(driver, "s", { ...owner(1, 5, "moved"), count: 2, bytes: 20 })
        assert.deepInclude(moved, { _tag: "Appended", first: 6 })
        assert.deepStrictEqual(yield* contents(driver), {
          chunks: [[1, 3], [6, 7]],
          gaps: [[4, 5, "fresh"]],
          messages: 5,
          bytes: 50
        })
        assert.deepInclude(yield* append(driver, "s", { ...owner(1, 7, "moved") }), { _tag: "Appended", first: 8 })
        assert.deepInclude(yield* driver.totals, { messages: 6, bytes: 60 })
        yield* ack(driver, "s", 8)
        assert.deepInclude(yield* driver.totals, { messages: 0, bytes: 0 })
      })
  )

  law("what others appended behind everything that the peer knows stays where it is", (pair) =>
    Effect.gen(function*() {
      const { driver, other } = pair
      yield* begin(pair)
      yield* append(other, "s", { unsettled: "allow" })
      assert.deepStrictEqual(yield* advance(driver, 1, 3), { settled: true, from: undefined, last: 4, lost: 0 })
      assert.deepInclude(yield* contents(driver), { chunks: [[1, 3], [4, 4]], gaps: [] })
    }))

  law("where nothing is left to move, that is said", (pair) =>
    Effect.gen(function*() {
      const { driver, other } = pair
      yield* begin(pair)
      yield* append(other, "s", { unsettled: "allow" })
      assert.deepInclude(yield* advance(driver, 1, 4), { settled: false, from: 3 })
      assert.deepInclude(yield* advance(driver, 1, 3, true), { settled: true })
      yield* defined(pair.forget)("s")
      yield* append(other, "s", { unsettled: "allow" })
      assert.deepInclude(yield* advance(driver, 1, 5), { settled: false, from: 4 })
      assert.deepInclude(yield* advance(driver, 1, 5, true), { settled: true, from: undefined, last: 5 })
    }))

  law(
    "an owner that the store has forgotten knows better than the one before, who has settled it",
    (pair) =>
      Effect.gen(function*() {
        const { driver, other } = pair
        yield* begin(pair)
        assert.deepInclude(yield* append(driver, "s", owner(1, 3)), { _tag: "Appended", first: 4 })
        // It has opened it as the second, and given out 4 and 5 before the store lost that.
        assert.deepStrictEqual(yield* append(other, "s", owner(2, 5)), { _tag: "Unsettled", node: NODE })
        assert.deepStrictEqual(yield* ack(other, "s", 5, { generation: 2 }), { _tag: "Unsettled" })
        assert.deepStrictEqual(yield* advance(other, 2, 5), { settled: false, from: 3, last: 5, lost: 1 })
        assert.deepInclude(yield* open(other, "s", 2, OTHER), { settled: false, unsettledFrom: 3 })
        assert.deepInclude(yield* append(other, "s", owner(2, 5, "moved")), { _tag: "Appended", first: 6 })
        assert.deepStrictEqual(yield* contents(other), {
          chunks: [[1, 3], [6, 6]],
          gaps: [[4, 5, "fresh"]],
          messages: 4,
          bytes: 40
        })
        assert.deepInclude(yield* append(other, "s", owner(2, 6)), { _tag: "Appended", first: 7 })
      })
  )

  law("and has nothing moved that comes behind what it gave out", (pair) =>
    Effect.gen(function*() {
      const { driver, other } = pair
      yield* begin(pair)
      yield* append(driver, "s", owner(1, 3))
      assert.deepStrictEqual(yield* advance(other, 2, 3), { settled: true, from: undefined, last: 4, lost: 0 })
      yield* open(other, "s", 2, OTHER)
      assert.deepInclude(yield* append(other, "s", owner(2, 4)), { _tag: "Appended", first: 5 })
      // What was said of an older history is of no account in a newer one.
      yield* defined(pair.forget)("s")
      assert.deepStrictEqual(yield* advance(other, 2, 5), { settled: true, from: undefined, last: 5, lost: 0 })
    }))

  law(
    "what was noted in a history in which the caller has settled it counts no more",
    (pair) =>
      Effect.gen(function*() {
        const { driver, other } = pair
        yield* begin(pair)
        const history = yield* driver.history
        yield* append(other, "s", { unsettled: "allow" })
        const settling = (settledIn: string | undefined) =>
          Effect.map(
            driver.advance({ session: "s", generation: 1, last: 4, at: T, settledIn }),
            (done) => done?.state.settled
          )
        assert.isFalse(yield* settling(undefined))
        assert.isFalse(yield* settling("another one"))
        assert.isTrue(yield* settling(history))
      })
  )

  law(
    "what the peer is done with is not moved, and a move keeps others from giving up by what they have read",
    (pair) =>
      Effect.gen(function*() {
        const { driver, other } = pair
        yield* begin(pair)
        yield* advance(driver, 1, 3)
        yield* append(driver, "s", { ...owner(1, 3), count: 3, bytes: 30 })
        yield* ack(driver, "s", 5)
        const before = yield* stateOf(driver, "s")
        assert.deepInclude(yield* advance(other, 2, 6), { settled: false, from: 5 })
        yield* open(other, "s", 2, OTHER)
        const opened = yield* stateOf(driver, "s")
        assert.deepInclude(yield* append(other, "s", owner(2, 6, "moved")), { _tag: "Appended", first: 7 })
        assert.deepInclude(yield* stateOf(driver, "s"), { messages: 1, acked: 5, last: 7 })
        for (const { revision } of [before, opened]) {
          const outcome = yield* giveUp(driver, { ...opened, revision }, { addGaps: [gap(6, 6, "overflow")] })
          assert.strictEqual(outcome._tag, "Conflict")
        }
        yield* ack(other, "s", 7, { generation: 2 })
        assert.deepInclude(yield* driver.totals, { messages: 0 })
        assert.deepInclude(yield* stateOf(driver, "s"), { messages: 0 })
      })
  )

  law(
    "an outbox that is put back is not settled, and others wait for its owner",
    ({ driver, other }) =>
      Effect.gen(function*() {
        const request = { session: "s", generation: 1, node: NODE, newEpoch: "epoch of s" }
        assert.isFalse((yield* driver.openOutbox({ ...request, isPutBack: true })).settled)
        assert.deepStrictEqual(yield* append(other, "s", { unsettled: "refuse" }), { _tag: "Unsettled", node: NODE })
        assert.deepInclude(yield* append(other, "s", { unsettled: "allow" }), { _tag: "Appended", first: 1 })
        assert.deepInclude(yield* advance(driver, 1, 3), { settled: false, from: 0, last: 3 })
        // Of one that is there it says nothing.
        yield* open(driver, "t")
        assert.isTrue((yield* driver.openOutbox({ ...request, session: "t", isPutBack: true })).settled)
      })
  )
}
