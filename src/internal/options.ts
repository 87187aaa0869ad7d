/** Checks of options, at construction: a mistake is a defect with a clear message, not a strange run. */
import { Duration } from "effect"

const fail = (name: string, value: unknown, wanted: string): never => {
  throw new RangeError(`resilient-websocket: option ${name} must be ${wanted}, got ${String(value)}`)
}

/** A whole number of at least `minimum`, or the default. */
export const count = (name: string, value: number | undefined, fallback: number, minimum = 1): number => {
  const result = value ?? fallback
  if (result === Infinity || (Number.isSafeInteger(result) && result >= minimum)) return result
  return fail(name, value, `a whole number of at least ${minimum}`)
}

/** A duration in ms, more than zero; `Infinity` is allowed. */
export const millis = (name: string, value: Duration.Input | undefined, fallback: Duration.Input): number => {
  const result = Duration.toMillis(Duration.fromInputUnsafe(value ?? fallback))
  return result > 0 ? result : fail(name, result, "a duration of more than zero")
}

/** A part of a whole, from 0 to 1. */
export const fraction = (name: string, value: number | undefined, fallback: number): number => {
  const result = value ?? fallback
  return result >= 0 && result <= 1 ? result : fail(name, value, "from 0 to 1")
}
