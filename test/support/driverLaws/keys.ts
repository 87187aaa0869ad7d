/** Laws of publish keys that are claimed. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import type { ClaimKeyRequest } from "../../../src/internal/store/publishKeys.ts"
import { type Law, numbers, publishKey, receipt, T } from "./kit.ts"

const CLAIMED = { _tag: "Claimed" } as const

/** A claim of `key` under `token`, from `now` for 100 ms. */
const claim = (key: string, token: string, now = T, fields: Partial<ClaimKeyRequest> = {}): ClaimKeyRequest => ({
  ...publishKey("scope", key),
  token,
  now,
  until: now + 100,
  ...fields
})

export const keyLaws = (law: Law): void => {
  law(
    "a key is claimed by one, committed with a receipt, and known from then on",
    Effect.fnUntraced(function*({ driver, other }) {
      const mine = claim("k", "mine")
      assert.isUndefined(yield* driver.lookupKey(mine, 0))
      assert.deepStrictEqual(yield* driver.claimKey(mine), CLAIMED)
      assert.deepStrictEqual(yield* other.claimKey(claim("k", "theirs", T + 50)), { _tag: "InFlight", until: T + 100 })
      assert.isUndefined(yield* driver.lookupKey(mine, 0))
      // The same again, as after an answer that was lost.
      assert.deepStrictEqual(yield* driver.claimKey(mine), CLAIMED)

      const committed = { messageId: "m", epoch: "e", offset: 12, atMillis: T + 60 }
      const commit = { ...mine, now: T + 60, receipt: committed }
      assert.isTrue(yield* driver.commitKey(commit))
      assert.isTrue(yield* driver.commitKey(commit))
      assert.isTrue(yield* driver.commitKey({ ...commit, now: T + 900 }))
      assert.deepStrictEqual(yield* other.lookupKey(mine, T), committed)
      const duplicate = { _tag: "Duplicate", receipt: committed } as const
      assert.deepStrictEqual(yield* other.claimKey(claim("k", "theirs", T + 900)), duplicate)
      assert.deepStrictEqual(yield* driver.claimKey(claim("k", "mine", T + 900)), duplicate)
      // Who lost it can't commit over it.
      assert.isFalse(yield* other.commitKey({ ...commit, token: "theirs", receipt: receipt("other") }))
      assert.deepStrictEqual(yield* driver.lookupKey(mine, T), committed)
    })
  )

  law(
    "of those that claim at once one gets it",
    Effect.fnUntraced(function*({ driver, other }) {
      for (const n of numbers(1, 8)) {
        const results = yield* Effect.forEach(
          ["a", "b", "c", "d"],
          (token, i) => (i % 2 === 0 ? driver : other).claimKey(claim(`k${n}`, token)),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(results.map(({ _tag }) => _tag).toSorted(), [
          "Claimed",
          "InFlight",
          "InFlight",
          "InFlight"
        ])
      }
    })
  )

  law(
    "a claim ends with its lease: then it can't be renewed or committed, and somebody else may have it",
    Effect.fnUntraced(function*({ driver, other }) {
      const mine = claim("k", "mine")
      yield* driver.claimKey(mine)
      const after = { ...mine, now: T + 101 }
      assert.isFalse(yield* driver.commitKey({ ...after, receipt: receipt("k") }))
      assert.isFalse(yield* driver.renewKey({ ...after, until: T + 300 }))
      assert.isUndefined(yield* driver.lookupKey(mine, 0))
      assert.deepStrictEqual(yield* other.claimKey(claim("k", "theirs", T + 101)), CLAIMED)

      // Whose clock is behind is fenced by the token.
      const behind = { ...mine, now: T + 50 }
      assert.isFalse(yield* driver.commitKey({ ...behind, receipt: receipt("k") }))
      assert.isFalse(yield* driver.renewKey({ ...behind, until: T + 300 }))
      yield* driver.releaseKey(behind)
      const theirs = { ...mine, token: "theirs", now: T + 150 }
      assert.isTrue(yield* other.commitKey({ ...theirs, receipt: receipt("theirs") }))
      assert.strictEqual((yield* driver.lookupKey(mine, 0))?.messageId, "theirs")
    })
  )

  law(
    "a lease that is renewed ends later",
    Effect.fnUntraced(function*({ driver, other }) {
      const mine = claim("k", "mine")
      yield* driver.claimKey(mine)
      assert.isTrue(yield* driver.renewKey({ ...mine, now: T + 90, until: T + 190 }))
      assert.isFalse(yield* driver.renewKey({ ...mine, token: "theirs", now: T + 90, until: T + 500 }))
      assert.deepStrictEqual(yield* other.claimKey(claim("k", "theirs", T + 150)), { _tag: "InFlight", until: T + 190 })
      assert.isTrue(yield* driver.commitKey({ ...mine, now: T + 180, receipt: receipt("k") }))
      // Nothing is held any more.
      assert.isFalse(yield* driver.renewKey({ ...mine, now: T + 180, until: T + 500 }))
      assert.isFalse(yield* driver.renewKey({ ...claim("l", "mine"), until: T + 500 }))
    })
  )

  law(
    "a released key is free again; what is committed is not released, nor what another holds",
    Effect.fnUntraced(function*({ driver, other }) {
      const mine = claim("k", "mine")
      yield* driver.claimKey(mine)
      yield* other.releaseKey({ ...mine, token: "theirs" })
      assert.strictEqual((yield* other.claimKey(claim("k", "theirs")))._tag, "InFlight")
      yield* driver.releaseKey(mine)
      yield* driver.releaseKey(mine)
      assert.isFalse(yield* driver.commitKey({ ...mine, receipt: receipt("k") }))
      assert.deepStrictEqual(yield* other.claimKey(claim("k", "theirs")), CLAIMED)
      yield* other.commitKey({ ...mine, token: "theirs", receipt: receipt("k") })
      yield* other.releaseKey({ ...mine, token: "theirs" })
      assert.deepStrictEqual(yield* driver.lookupKey(mine, 0), receipt("k"))
    })
  )

  law(
    "fingerprints are compared where both are there",
    Effect.fnUntraced(function*({ driver }) {
      const asked = (key: string, fingerprint: string | undefined) =>
        driver.claimKey(claim(key, "another", T, { fingerprint }))
      yield* driver.claimKey(claim("with", "mine", T, { fingerprint: "one" }))
      yield* driver.claimKey(claim("without", "mine"))
      const inFlight = { _tag: "InFlight", until: T + 100 } as const
      assert.deepStrictEqual(yield* asked("with", "two"), { _tag: "Mismatch", receipt: undefined })
      for (const fingerprint of ["one", undefined]) assert.deepStrictEqual(yield* asked("with", fingerprint), inFlight)
      for (const fingerprint of ["one", undefined]) {
        assert.deepStrictEqual(yield* asked("without", fingerprint), inFlight)
      }

      for (const key of ["with", "without"]) {
        yield* driver.commitKey({ ...claim(key, "mine"), receipt: receipt(key) })
      }
      assert.deepStrictEqual(yield* asked("with", "two"), { _tag: "Mismatch", receipt: receipt("with") })
      assert.strictEqual((yield* asked("with", "one"))._tag, "Duplicate")
      assert.strictEqual((yield* asked("with", undefined))._tag, "Duplicate")
      assert.strictEqual((yield* asked("without", "one"))._tag, "Duplicate")
      // The claim that is over had another one: that is forgotten with it.
      yield* driver.claimKey(claim("later", "mine", T, { fingerprint: "one" }))
      assert.deepStrictEqual(yield* driver.claimKey(claim("later", "b", T + 101, { fingerprint: "two" })), CLAIMED)
    })
  )

  law(
    "keys are as old as their commit, whatever the receipt says, and are forgotten by that",
    Effect.fnUntraced(function*({ driver }) {
      const mine = claim("k", "mine")
      yield* driver.claimKey(mine)
      yield* driver.commitKey({ ...mine, now: T + 50, receipt: receipt("k", { atMillis: 5 }) })
      assert.deepStrictEqual(yield* driver.lookupKey(mine, T + 50), receipt("k", { atMillis: 5 }))
      assert.isUndefined(yield* driver.lookupKey(mine, T + 51))
      assert.deepStrictEqual(yield* driver.countKeys(T + 50, T + 60), { keys: 1, inFlight: 0 })
      assert.deepStrictEqual(yield* driver.countKeys(T + 51, T + 60), { keys: 0, inFlight: 0 })
      const again = claim("k", "another", T + 900, { forgottenBefore: T + 51, fingerprint: "other" })
      assert.deepStrictEqual(yield* driver.claimKey(again), CLAIMED)
      assert.deepStrictEqual(yield* driver.countKeys(T + 51, T + 900), { keys: 0, inFlight: 1 })
    })
  )

  law(
    "no new key is claimed when as many are kept; one that is kept is told as it is",
    Effect.fnUntraced(function*({ driver }) {
      const asked = (key: string, now = T) => driver.claimKey(claim(key, `token of ${key}`, now, { maxKeys: 2 }))
      assert.deepStrictEqual(yield* asked("a"), CLAIMED)
      assert.deepStrictEqual(yield* asked("b"), CLAIMED)
      assert.deepStrictEqual(yield* asked("c"), { _tag: "Full" })
      assert.deepStrictEqual(yield* asked("b"), CLAIMED)
      yield* driver.commitKey({ ...claim("a", "token of a"), receipt: receipt("a") })
      assert.deepStrictEqual(yield* asked("c"), { _tag: "Full" })
      assert.strictEqual((yield* asked("a"))._tag, "Duplicate")
      yield* driver.releaseKey(claim("b", "token of b"))
      assert.deepStrictEqual(yield* asked("c"), CLAIMED)
      assert.deepStrictEqual(yield* asked("d"), { _tag: "Full" })
      // Its lease over, and swept.
      assert.strictEqual(yield* driver.sweepKeys(0, T + 101, 10), 1)
      assert.deepStrictEqual(yield* asked("d", T + 101), CLAIMED)
    })
  )

  law(
    "what is over is swept, at most as much as asked for, and nothing else",
    Effect.fnUntraced(function*({ driver, other }) {
      for (const n of numbers(1, 4)) {
        yield* driver.claimKey(claim(`done ${n}`, "mine", T + 10 * n))
        yield* driver.commitKey({ ...claim(`done ${n}`, "mine", T + 10 * n), receipt: receipt(`done ${n}`) })
        yield* driver.claimKey(claim(`held ${n}`, "mine", T + 10 * n))
      }
      const count = (forgottenBefore: number, now: number) => other.countKeys(forgottenBefore, now)
      assert.deepStrictEqual(yield* count(0, T), { keys: 4, inFlight: 4 })
      assert.strictEqual(yield* driver.sweepKeys(T + 10, T + 50, 100), 0)
      // Commits at 10, 20, 30, 40; leases until 110, 120, 130, 140.
      assert.strictEqual(yield* driver.sweepKeys(T + 30, T + 50, 100), 2)
      assert.deepStrictEqual(yield* count(0, T), { keys: 2, inFlight: 4 })
      assert.strictEqual(yield* driver.sweepKeys(T + 30, T + 135, 2), 2)
      assert.strictEqual(yield* driver.sweepKeys(T + 30, T + 135, 2), 1)
      assert.deepStrictEqual(yield* count(0, T), { keys: 2, inFlight: 1 })
      assert.deepStrictEqual(yield* driver.lookupKey(claim("done 3", "mine"), 0), receipt("done 3"))
      assert.isUndefined(yield* driver.lookupKey(claim("done 2", "mine"), 0))
      assert.strictEqual((yield* driver.claimKey(claim("held 4", "another", T + 50)))._tag, "InFlight")
      assert.strictEqual(yield* driver.sweepKeys(Infinity, Infinity, 100), 3)
      assert.deepStrictEqual(yield* count(0, T), { keys: 0, inFlight: 0 })
    })
  )
}
