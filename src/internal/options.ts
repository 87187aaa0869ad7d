/** Checks of options, at construction: a mistake is a typed error with a clear message, not a strange run. */
import { Config, ConfigProvider, Duration, Effect } from "effect"

/** Thrown by the checks, and made a `ConfigError` by {@link checked}. */
class OptionError extends Error {}

const fail = (name: string, value: unknown, wanted: string): never => {
  throw new OptionError(`option ${name} must be ${wanted}, got ${String(value)}`)
}

/** Runs a constructor whose option checks may throw. */
export const checked = <A, E, R>(make: Effect.Effect<A, E, R>): Effect.Effect<A, E | Config.ConfigError, R> =>
  Effect.catchDefect(make, (defect): Effect.Effect<never, Config.ConfigError> =>
    defect instanceof OptionError
      ? Effect.fail(new Config.ConfigError(new ConfigProvider.SourceError({ message: defect.message })))
      : Effect.die(defect))

/** A whole number of at least `minimum`, or `Infinity`; or the default. */
export const count = (name: string, value: number | undefined, fallback: number, minimum = 1): number => {
  const result = value ?? fallback
  if (result === Infinity || (Number.isSafeInteger(result) && result >= minimum)) return result
  return fail(name, value, `a whole number of at least ${minimum}`)
}

/** A duration in ms, more than zero; `Infinity` is allowed. */
export const millis = (name: string, value: Duration.Input | undefined, fallback: Duration.Input): number => {
  const duration = Duration.fromInput(value ?? fallback)
  const result = duration._tag === "None" ? Number.NaN : Duration.toMillis(duration.value)
  return result > 0 ? result : fail(name, value, "a duration of more than zero")
}

/** A part of a whole, over 0 and up to 1. */
export const fraction = (name: string, value: number | undefined, fallback: number): number => {
  const result = value ?? fallback
  return result > 0 && result <= 1 ? result : fail(name, value, "over 0 and up to 1")
}

/** `setTimeout` takes no more, in ms. */
export const longestTimer = 2 ** 31 - 1
