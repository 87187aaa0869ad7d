/** Laws of publish keys in `append`. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import {
  append,
  firsts,
  type Law,
  message,
  NODE,
  numbers,
  open,
  publishKey,
  readAll,
  receipt,
  stateOf,
  T,
  tags
} from "./kit.ts"

const claim = (key: string, fields: { readonly fingerprint?: string } = {}) => ({
  ...publishKey("s", key),
  token: `token of ${key}`,
  now: T,
  until: T + 100,
  ...fields
})

export const publishLaws = (law: Law): void => {
  law(
    "a message's publish key is committed with it, and the same again appends nothing",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* append(driver, "s")
      const publish = publishKey("s", "k")
      const expected = { messageId: "k", epoch: "epoch of s", offset: 2, atMillis: T + 7 }
      const fields = { publish, enqueuedAt: T + 7 }
      assert.deepStrictEqual(yield* append(driver, "s", fields), { _tag: "Appended", epoch: "epoch of s", first: 2 })
      assert.deepStrictEqual(yield* other.lookupKey(publish, T), expected)

      const duplicate = { _tag: "Duplicate", receipt: expected } as const
      assert.deepStrictEqual(yield* append(other, "s", { publish, enqueuedAt: T + 9 }), duplicate)
      // A full outbox does not hide that it was done.
      assert.deepStrictEqual(yield* append(driver, "s", { publish, maxMessages: 1 }), duplicate)
      assert.deepStrictEqual(yield* other.claimKey({ ...claim("k"), now: T + 9 }), duplicate)
      assert.strictEqual((yield* stateOf(driver, "s")).last, 2)
      assert.deepStrictEqual(yield* driver.countKeys(T, T), { keys: 1, inFlight: 0 })
    })
  )

  law(
    "a key that comes twice in one batch is appended once",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const keys = ["k", "l", "k", "m"].map((key) => message("s", { publish: publishKey("s", key) }))
      const results = yield* driver.append([...keys, message("s")], undefined, NODE)
      assert.deepStrictEqual(firsts(results), [1, 2, undefined, 3, 4])
      const expected = { messageId: "k", epoch: "epoch of s", offset: 1, atMillis: T }
      assert.deepStrictEqual(results[2], { _tag: "Duplicate", receipt: expected })
    })
  )

  law(
    "two that publish under one key at once append one message",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      for (const n of numbers(1, 10)) {
        const publish = publishKey("s", `k${n}`)
        const results = yield* Effect.all([
          append(driver, "s", { publish }),
          append(other, "s", { publish }),
          append(driver, "s", { publish })
        ], { concurrency: "unbounded" })
        assert.deepStrictEqual(tags(results).toSorted(), ["Appended", "Duplicate", "Duplicate"])
      }
      assert.strictEqual((yield* readAll(driver, "s")).chunks.length, 10)
    })
  )

  law(
    "the same key with another fingerprint is a mismatch; without one it is the same",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const publish = (key: string, fingerprint: string | undefined) =>
        append(driver, "s", { publish: publishKey("s", key, { fingerprint }) })
      assert.strictEqual((yield* publish("k", "one"))._tag, "Appended")
      assert.deepStrictEqual(yield* publish("k", "two"), { _tag: "Mismatch" })
      assert.strictEqual((yield* publish("k", "one"))._tag, "Duplicate")
      assert.strictEqual((yield* publish("k", undefined))._tag, "Duplicate")
      assert.strictEqual((yield* publish("l", undefined))._tag, "Appended")
      assert.strictEqual((yield* publish("l", "one"))._tag, "Duplicate")
      assert.strictEqual((yield* stateOf(driver, "s")).last, 2)
    })
  )

  law(
    "a key that somebody holds a claim on is in flight until the claim ends",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      assert.deepStrictEqual(yield* other.claimKey(claim("k", { fingerprint: "one" })), { _tag: "Claimed" })
      const publish = publishKey("s", "k")
      const at = (enqueuedAt: number, fingerprint?: string) =>
        append(driver, "s", { publish: { ...publish, fingerprint }, enqueuedAt })
      assert.deepStrictEqual(yield* at(T + 99), { _tag: "InFlight", until: T + 100 })
      assert.deepStrictEqual(yield* at(T + 99, "two"), { _tag: "Mismatch" })
      assert.strictEqual((yield* stateOf(driver, "s")).last, 0)

      assert.strictEqual((yield* at(T + 101))._tag, "Appended")
      // The claim's holder comes too late, whatever its clock says.
      const late = { ...claim("k"), now: T + 50 }
      assert.isFalse(yield* other.commitKey({ ...late, receipt: receipt("k") }))
      assert.isFalse(yield* other.renewKey({ ...late, until: T + 300 }))
      yield* other.releaseKey(late)
      assert.strictEqual((yield* driver.lookupKey(publish, T))?.offset, 1)
    })
  )

  law(
    "a message that is not appended leaves its key free",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const publish = publishKey("s", "k")
      assert.strictEqual((yield* append(driver, "s", { publish, maxMessages: 0 }))._tag, "Full")
      assert.strictEqual((yield* append(driver, "s", { publish, maxBytes: 1 }))._tag, "Full")
      assert.strictEqual((yield* append(driver, "gone", { publish: publishKey("gone", "k") }))._tag, "Missing")
      assert.isUndefined(yield* driver.lookupKey(publish, 0))
      assert.deepStrictEqual(yield* driver.countKeys(0, T), { keys: 0, inFlight: 0 })
      assert.strictEqual((yield* append(driver, "s", { publish }))._tag, "Appended")
    })
  )

  law(
    "no new key is taken when as many are kept; one that is kept is known",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const publish = (key: string, fields: { readonly forgottenBefore?: number } = {}) =>
        message("s", { publish: publishKey("s", key, { maxKeys: 2, ...fields }), enqueuedAt: T })
      const batch = ["k", "l", "m", "k"].map((key) => publish(key))
      assert.deepStrictEqual(
        tags(yield* driver.append(batch, undefined, NODE)),
        ["Appended", "Appended", "KeysFull", "Duplicate"]
      )
      assert.strictEqual((yield* stateOf(driver, "s")).last, 2)
      assert.isUndefined(yield* driver.lookupKey(publishKey("s", "m"), 0))
      assert.strictEqual(yield* driver.sweepKeys(T + 1, T, 1), 1)
      const after = yield* driver.append([publish("m", { forgottenBefore: T })], undefined, NODE)
      assert.deepStrictEqual(firsts(after), [3])
    })
  )

  law(
    "a key that was committed too long ago is forgotten, swept or not",
    Effect.fnUntraced(function*({ driver }) {
      yield* open(driver, "s")
      const publish = publishKey("s", "k")
      yield* append(driver, "s", { publish, enqueuedAt: T })
      const again = (forgottenBefore: number) =>
        append(driver, "s", { publish: { ...publish, forgottenBefore }, enqueuedAt: T + 500 })
      assert.strictEqual((yield* again(T))._tag, "Duplicate")
      assert.deepStrictEqual(firsts([yield* again(T + 1)]), [2])
      const expected = { messageId: "k", epoch: "epoch of s", offset: 2, atMillis: T + 500 }
      assert.deepStrictEqual(yield* driver.lookupKey(publish, T + 1), expected)
    })
  )
}
