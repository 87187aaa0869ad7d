/** Laws of `openOutbox`, `append` and its stamp. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import {
  ack,
  append,
  appendEach,
  chunkRanges,
  failsAsStore,
  firsts,
  type Law,
  message,
  NODE,
  numbers,
  only,
  open,
  OTHER,
  publishKey,
  readAll,
  stateOf,
  T,
  tags,
  unrevised
} from "./kit.ts"

export const openingLaws = (law: Law): void => {
  law(
    "an outbox that is opened first is empty, with the identity it was given",
    Effect.fnUntraced(function*({ driver, other }) {
      const state = yield* open(driver, "s", 3)
      const empty = { acked: 0, last: 0, messages: 0, bytes: 0, sent: 0, expiresAt: Infinity }
      const expected = { session: "s", generation: 3, epoch: "epoch of s", node: NODE, ...empty }
      assert.deepStrictEqual(unrevised(state), expected)
      assert.deepStrictEqual(yield* stateOf(other, "s"), state)
    })
  )

  law(
    "a newer generation takes the outbox over as it is, and its revision rises",
    Effect.fnUntraced(function*({ driver, other }) {
      const first = yield* open(driver, "s", 1)
      yield* append(driver, "s", { count: 2, expiresAt: T + 5 })
      yield* ack(driver, "s", 1)
      const request = { session: "s", generation: 2, node: OTHER, newEpoch: "another" }
      const second = yield* other.openOutbox(request)
      const rest = { epoch: "epoch of s", acked: 1, last: 2, messages: 1, bytes: 10, sent: 0, expiresAt: T + 5 }
      assert.deepStrictEqual(unrevised(second), { session: "s", generation: 2, node: OTHER, ...rest })
      assert.isAbove(second.revision, first.revision)
      // The same again, as after an answer that was lost.
      const again = yield* other.openOutbox(request)
      assert.deepStrictEqual(unrevised(again), unrevised(second))
      assert.isAtLeast(again.revision, second.revision)
    })
  )

  law(
    "an older generation changes nothing by opening, and is shown the newer one",
    Effect.fnUntraced(function*({ driver, other }) {
      const newer = yield* open(driver, "s", 5)
      assert.deepStrictEqual(yield* open(other, "s", 4, OTHER), newer)
      assert.deepStrictEqual(yield* stateOf(driver, "s"), newer)
    })
  )

  law(
    "two that open at once get one outbox, which belongs to the newer one",
    Effect.fnUntraced(function*({ driver, other }) {
      for (const session of ["a", "b", "c"]) {
        const [one, two] = yield* Effect.all([
          driver.openOutbox({ session, generation: 1, node: NODE, newEpoch: "one" }),
          other.openOutbox({ session, generation: 2, node: OTHER, newEpoch: "two" })
        ], { concurrency: "unbounded" })
        assert.strictEqual(one.epoch, two.epoch)
        const state = yield* stateOf(driver, session)
        assert.deepStrictEqual([state.generation, state.node, state.epoch], [2, OTHER, one.epoch])
      }
    })
  )
}

export const appendLaws = (law: Law): void => {
  law(
    "appends take consecutive offsets, in the order given, whatever else is in the batch",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "a")
      yield* open(driver, "b")
      const batch = [
        message("a", { count: 2, bytes: 5, enqueuedAt: T + 1, expiresAt: T + 50, body: "[1,2]" }),
        message("b", { count: 1, bytes: 6, enqueuedAt: T + 2, expiresAt: Infinity, body: "[3]" }),
        message("a", { count: 3, bytes: 7, enqueuedAt: T + 3, expiresAt: T + 40, body: "[4,5,6]" })
      ]
      assert.deepStrictEqual(yield* driver.append(batch, undefined, NODE), [
        { _tag: "Appended", epoch: "epoch of a", first: 1 },
        { _tag: "Appended", epoch: "epoch of b", first: 1 },
        { _tag: "Appended", epoch: "epoch of a", first: 3 }
      ])
      assert.deepStrictEqual(firsts(yield* appendEach(other, "a", [4])), [6])

      const page = yield* readAll(other, "a")
      assert.deepStrictEqual(page.chunks.slice(0, 2), [
        { first: 1, last: 2, bytes: 5, enqueuedAt: T + 1, expiresAt: T + 50, body: "[1,2]" },
        { first: 3, last: 5, bytes: 7, enqueuedAt: T + 3, expiresAt: T + 40, body: "[4,5,6]" }
      ])
      assert.deepStrictEqual(chunkRanges(page), ["1-2", "3-5", "6-9"])
      const { bytes, expiresAt, last, messages } = yield* stateOf(driver, "a")
      assert.deepStrictEqual({ bytes, expiresAt, last, messages }, {
        bytes: 52,
        expiresAt: T + 40,
        last: 9,
        messages: 9
      })
    })
  )

  law(
    "an append changes neither the revision nor the owner",
    Effect.fnUntraced(function*({ driver, other }) {
      const { generation, node, revision } = yield* open(driver, "s", 4)
      yield* other.append([message("s")], undefined, OTHER)
      const state = yield* stateOf(driver, "s")
      assert.deepStrictEqual([state.generation, state.node, state.revision], [generation, node, revision])
    })
  )

  law(
    "a batch reaches many sessions; those without an outbox are missing, the others not held up",
    Effect.fnUntraced(function*({ driver }) {
      const sessions = numbers(1, 60).map((n) => `session ${n}`)
      const opened = sessions.filter((_, i) => i % 3 > 0)
      yield* Effect.forEach(opened, (session) => open(driver, session), { concurrency: 10, discard: true })
      const results = yield* driver.append(sessions.map((session) => message(session)), undefined, NODE)
      const expected = sessions.map((_, i) => i % 3 > 0 ? "Appended" : "Missing")
      assert.deepStrictEqual(tags(results), expected)
      assert.deepStrictEqual(yield* driver.totals, { sessions: 40, messages: 40, bytes: 400 })
    })
  )

  law(
    "a batch of nothing is nothing",
    Effect.fnUntraced(function*({ driver }) {
      assert.deepStrictEqual(yield* driver.append([], undefined, NODE), [])
      assert.deepStrictEqual(yield* driver.append([], { writer: NODE, sequence: 1 }, NODE), [])
      assert.deepStrictEqual(yield* driver.ack([]), [])
      assert.deepStrictEqual(yield* driver.savePositions([]), [])
      assert.deepStrictEqual(yield* driver.outboxes([]), [])
    })
  )

  law(
    "two that append to the same sessions at once leave no hole and take no offset twice",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "a")
      yield* open(driver, "b")
      const batches = numbers(1, 20).map((n) => {
        // In opposite orders, which locks one by one would not survive.
        const sessions = n % 2 === 0 ? ["a", "b"] : ["b", "a"]
        return sessions.map((session) => message(session, { count: 1 + n % 3, body: `batch ${n}` }))
      })
      const results = yield* Effect.forEach(
        batches,
        (batch, i) => (i % 4 < 2 ? driver : other).append(batch, undefined, NODE),
        {
          concurrency: "unbounded"
        }
      )
      for (const session of ["a", "b"]) {
        const { chunks, state } = yield* readAll(driver, session)
        assert.strictEqual(chunks.length, 20)
        assert.strictEqual(state.last, state.messages)
        let last = 0
        for (const chunk of chunks) {
          assert.strictEqual(chunk.first, last + 1)
          last = chunk.last
        }
        assert.strictEqual(state.last, last)
        // Each was told where its own messages are.
        const told = batches.map((batch, i) => results[i]?.[batch.findIndex((request) => request.session === session)])
        const bodyAt = new Map(chunks.map(({ body, first }) => [first, body]))
        told.forEach((result, i) => {
          assert.strictEqual(result?._tag, "Appended")
          if (result?._tag === "Appended") assert.strictEqual(bodyAt.get(result.first), `batch ${i + 1}`)
        })
      }
    })
  )

  law(
    "what would be more messages than allowed is refused as a whole, what just fits is not",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const limited = (count: number) => message("s", { count, bytes: count, maxMessages: 10 })
      const results = yield* driver.append([limited(7), limited(4), limited(3), limited(1)], undefined, NODE)
      assert.deepStrictEqual(results, [
        { _tag: "Appended", epoch: "epoch of s", first: 1 },
        { _tag: "Full", limit: "messages", messages: 7, bytes: 7 },
        { _tag: "Appended", epoch: "epoch of s", first: 8 },
        { _tag: "Full", limit: "messages", messages: 10, bytes: 10 }
      ])
      assert.deepStrictEqual(chunkRanges(yield* readAll(driver, "s")), ["1-7", "8-10"])
      // What is acked makes room at once, also when its chunk is not done with.
      yield* ack(driver, "s", 2)
      assert.deepStrictEqual(firsts([yield* append(driver, "s", limited(2))]), [11])
    })
  )

  law(
    "what would be more bytes than allowed is refused, what just fits is not",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const limited = (bytes: number) => message("s", { bytes, maxBytes: 100 })
      const results = yield* driver.append([limited(60), limited(41), limited(40), limited(1)], undefined, NODE)
      assert.deepStrictEqual(results, [
        { _tag: "Appended", epoch: "epoch of s", first: 1 },
        { _tag: "Full", limit: "bytes", messages: 1, bytes: 60 },
        { _tag: "Appended", epoch: "epoch of s", first: 2 },
        { _tag: "Full", limit: "bytes", messages: 2, bytes: 100 }
      ])
    })
  )
}

export const stampLaws = (law: Law): void => {
  law(
    "a batch with the same stamp is done once and has the same results, whoever tries it again",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "a")
      yield* open(driver, "b")
      const batch = [
        message("a", { publish: publishKey("a", "k") }),
        message("a", { publish: publishKey("a", "k") }),
        message("a", { count: 2, maxMessages: 2 }),
        message("b", { bytes: 50, maxBytes: 40 }),
        message("missing"),
        message("b", { count: 3 }),
        message("a", { publish: publishKey("a", "k", { fingerprint: "f" }) })
      ]
      const stamp = { writer: `${NODE}/1`, sequence: 5 }
      const results = yield* driver.append(batch, stamp, NODE)
      assert.deepStrictEqual(tags(results), [
        "Appended",
        "Duplicate",
        "Full",
        "Full",
        "Missing",
        "Appended",
        "Duplicate"
      ])

      // Whatever has become of the outboxes since.
      yield* ack(driver, "a", 1)
      yield* open(driver, "missing")
      const states = yield* Effect.forEach(["a", "b", "missing"], (session) => stateOf(driver, session))
      assert.deepStrictEqual(yield* driver.append(batch, stamp, NODE), results)
      assert.deepStrictEqual(yield* other.append(batch, stamp, NODE), results)
      assert.deepStrictEqual(
        yield* Effect.forEach(["a", "b", "missing"], (session) => stateOf(driver, session)),
        states
      )

      // The next one is done.
      const next = yield* driver.append([message("a")], { ...stamp, sequence: 6 }, NODE)
      assert.deepStrictEqual(firsts(next), [2])
    })
  )

  law(
    "a batch that is tried again while its first try is going on is done once",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "a")
      yield* open(driver, "b")
      for (const sequence of numbers(1, 10)) {
        const attempt = (by: typeof driver) =>
          by.append([message("a"), message("b", { count: 2 })], { writer: NODE, sequence }, NODE)
        const results = yield* Effect.all([attempt(driver), attempt(other), attempt(driver)], {
          concurrency: "unbounded"
        })
        for (const result of results) assert.deepStrictEqual(firsts(result), [sequence, 2 * sequence - 1])
      }
      assert.deepStrictEqual(yield* driver.totals, { sessions: 2, messages: 30, bytes: 200 })
    })
  )

  law(
    "a batch older than the writer's newest does nothing and fails",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* driver.append([message("s")], { writer: NODE, sequence: 8 }, NODE)
      const state = yield* stateOf(driver, "s")
      yield* failsAsStore(driver.append([message("s")], { writer: NODE, sequence: 7 }, NODE))
      yield* failsAsStore(other.append([message("s")], { writer: NODE, sequence: 1 }, NODE))
      assert.deepStrictEqual(yield* stateOf(driver, "s"), state)
    })
  )

  law(
    "writers don't know of each other, and a forgotten node's are forgotten",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const writers = ["n_1", "n_1/a", "n_1/b/c", "n_11", "nx1/a", "N_1/a", "n_1a/x"]
      const appendAll = Effect.forEach(
        writers,
        (writer) =>
          Effect.map(driver.append([message("s")], { writer, sequence: 3 }, NODE), (results) => only(firsts(results)))
      )
      assert.deepStrictEqual(yield* appendAll, [1, 2, 3, 4, 5, 6, 7])
      assert.deepStrictEqual(yield* appendAll, [1, 2, 3, 4, 5, 6, 7])
      yield* driver.forgetNode("n_1")
      assert.deepStrictEqual(yield* appendAll, [8, 9, 10, 4, 5, 6, 7])
    })
  )
}
