/** `Deduplicator` over a driver: keys hold across servers and restarts. */
import { Duration, Effect, Option, Random } from "effect"
import * as Deduplicator from "../../Deduplicator.ts"
import { DeduplicationError } from "../../WebSocketError.ts"
import { makeId } from "../kit/ids.ts"
import { checkWindow } from "../kit/windows.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"
import type { Members } from "./members.ts"
import type { KeyTarget } from "./publishKeys.ts"
import { ifStorable } from "./texts.ts"

export interface StoredDeduplicatorOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly members: Members
  readonly windows: Windows
  readonly leaseMillis: number
}

/** The window, which appends with a publish key use too. */
export interface Windows {
  windowMillis: number
  readonly retryHorizonMillis: number
  readonly maxKeys: number
}

/** How many keys one sweep forgets, and how many sweeps run in a row. */
const sweepSize = 1_000
const maxSweeps = 100

export const makeStoredDeduplicator = Effect.fnUntraced(function*(options: StoredDeduplicatorOptions) {
  const { call, driver, leaseMillis, members: { now }, windows } = options
  const totals: Totals = { claims: 0, duplicates: 0, mismatches: 0, earlyRotations: 0 }
  let counted = { keys: 0, inFlight: 0 }

  const forgottenBefore = () => now() - windows.windowMillis

  /** Sweeps a bounded part of what is over; the rest, or a store that is down, is for the next time. */
  const sweep = Effect.gen(function*() {
    for (let i = 0; i < maxSweeps; i++) {
      const keys = yield* call("sweepKeys", driver.sweepKeys(forgottenBefore(), now(), sweepSize))
      if (keys < sweepSize) break
    }
    for (let i = 0; i < maxSweeps; i++) {
      const fates = yield* call("sweepFates", driver.sweepFates(forgottenBefore(), sweepSize))
      if (fates < sweepSize) break
    }
    counted = yield* call("countKeys", driver.countKeys(forgottenBefore(), now()))
  })

  return Deduplicator.make({
    claim: claimWith(options, yield* Random.Random, totals),
    renew: (held) =>
      Effect.suspend(() => {
        const at = now()
        return call(
          "renewKey",
          driver.renewKey({ ...targetOf(held), token: held.token, now: at, until: at + leaseMillis })
        )
      }).pipe(Effect.mapError(failed(held))),
    commit: (held) =>
      Effect.suspend(() => {
        const { atMillis, epoch, messageId, offset } = held.receipt
        const receipt = { messageId, epoch, offset, atMillis }
        return ifStorable(
          "commitKey",
          [messageId, epoch],
          call("commitKey", driver.commitKey({ ...targetOf(held), token: held.token, now: now(), receipt }))
        )
      }).pipe(Effect.mapError(failed(held))),
    release: (held) =>
      Effect.mapError(
        Effect.suspend(() => call("releaseKey", driver.releaseKey({ ...targetOf(held), token: held.token }))),
        failed(held)
      ),
    lookup: (target) =>
      Effect.suspend(() =>
        ifStorable(
          "lookupKey",
          [target.scope, target.key],
          call("lookupKey", driver.lookupKey(targetOf(target), forgottenBefore()))
        )
      ).pipe(
        Effect.map(Option.fromUndefinedOr),
        Effect.mapError(failed(target))
      ),
    window: Effect.sync(() => Duration.millis(windows.windowMillis)),
    setWindow: (input) =>
      Effect.sync(() => {
        windows.windowMillis = checkWindow(input, windows.retryHorizonMillis)
      }),
    rotate: Effect.catch(sweep, (error) => Effect.logWarning("forgetting old keys is put off", error.cause)),
    stats: Effect.suspend(() =>
      Effect.map(
        // The count now, or that of the last sweep while the store does not answer.
        Effect.orElseSucceed(call("countKeys", driver.countKeys(forgottenBefore(), now())), () => counted),
        (count) => ({ ...count, ...totals, windowMillis: windows.windowMillis })
      )
    )
  })
})

interface Totals {
  claims: number
  duplicates: number
  mismatches: number
  readonly earlyRotations: number
}

const claimWith = (
  { call, driver, leaseMillis, members, windows }: StoredDeduplicatorOptions,
  random: (typeof Random.Random)["Service"],
  totals: Totals
): Deduplicator.Store["claim"] =>
(request) =>
  Effect.suspend(() => {
    const at = members.now()
    const { fingerprint, key, scope } = request
    const token = makeId(random)
    const claiming = call(
      "claimKey",
      driver.claimKey({
        scope,
        key,
        fingerprint,
        token,
        now: at,
        until: at + leaseMillis,
        forgottenBefore: at - windows.windowMillis,
        maxKeys: windows.maxKeys
      })
    )
    return ifStorable("claimKey", [scope, key, fingerprint], claiming).pipe(
      Effect.mapError(failed(request)),
      Effect.flatMap((result): Effect.Effect<Deduplicator.Claim, DeduplicationError> => {
        switch (result._tag) {
          case "Claimed":
            totals.claims++
            return Effect.succeed({ _tag: "Claimed", token, leaseMillis })
          case "InFlight":
            return Effect.succeed({ _tag: "InFlight", retryAfterMillis: Math.max(0, result.until - at) })
          case "Duplicate":
            totals.duplicates++
            return Effect.succeed(result)
          case "Mismatch":
            totals.mismatches++
            return Effect.succeed(result)
          case "Full":
            return Effect.fail(new DeduplicationError({ scope, key, reason: "full" }))
        }
      })
    )
  })

const failed = ({ key, scope }: KeyTarget) => (error: StoreError) =>
  new DeduplicationError({ scope, key, reason: "store", cause: error.cause })

const targetOf = ({ key, scope }: KeyTarget): KeyTarget => ({ scope, key })
