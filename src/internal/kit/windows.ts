/** The deduplication window that fits a store's other times. */
import type { Duration } from "effect"
import type * as Deduplicator from "../../Deduplicator.ts"
import type * as MessageQueue from "../../MessageQueue.ts"
import type * as SessionRegistry from "../../SessionRegistry.ts"
import * as Check from "./options.ts"

const defaultTtl = 5 * 60_000
const defaultRetention = 10 * 60_000
const defaultWindow = 15 * 60_000

/** A publish key must outlive every retry of its message, so its window follows from the store's other times. */
export const deduplicatorOptions = ({ deduplicator, queue, registry }: {
  readonly queue?: MessageQueue.Options | undefined
  readonly deduplicator?: Deduplicator.Options | undefined
  readonly registry?: SessionRegistry.Options | undefined
}): Deduplicator.Options => {
  const ttl = millis(queue?.ttl, defaultTtl)
  const retention = millis(registry?.retention, defaultRetention)
  // If messages may be retried for ever, keys can't be remembered that long: then the window is the user's choice.
  if (!Number.isFinite(ttl + retention)) return deduplicator ?? {}
  const retryHorizon = deduplicator?.retryHorizon ?? ttl + retention
  const window = deduplicator?.window ?? Math.max(defaultWindow, ttl + retention)
  return { ...deduplicator, window, retryHorizon }
}

/** The longest time after which anything may still retry, in ms; 0 if it is not known. */
export const horizonMillis = (input: Duration.Input | undefined): number => {
  const millis = input === undefined ? 0 : Check.millisOf(input)
  return millis >= 0 ? millis : Check.fail("retryHorizon", input, "a duration of more than zero")
}

/** A window in ms: finite, and no shorter than anything may still retry. */
export const checkWindow = (input: Duration.Input, retryHorizonMillis: number): number => {
  const window = Check.millisOf(input)
  if (!(window > 0 && window < Infinity)) return Check.fail("window", input, "a duration of more than zero, and finite")
  return window >= retryHorizonMillis
    ? window
    : Check.fail("window", input, `at least the retry horizon, ${retryHorizonMillis} ms: late retries would pass`)
}

const millis = (input: Duration.Input | undefined, fallback: number): number => Check.millisOf(input ?? fallback)
