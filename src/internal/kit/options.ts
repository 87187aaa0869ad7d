/**
 * Checks of options, at construction: names, kinds, ranges. A mistake becomes a typed error with a clear message, not
 * odd behaviour later. So does an unknown name: a misspelt option would silently keep its default.
 */
import { Cause, Config, ConfigProvider, Duration, Effect, Layer, Option } from "effect"
import { pathText } from "../../core/Payload.ts"
import { type MessageSchema, misfit } from "./schemas.ts"

/** The longest that `setTimeout` takes, in ms: 24 days. */
export const longestTimer = 2 ** 31 - 1

const units: Record<keyof Duration.DurationObject, true> = {
  weeks: true,
  days: true,
  hours: true,
  minutes: true,
  seconds: true,
  milliseconds: true,
  microseconds: true,
  nanoseconds: true
}
const headerName = /^[-!#$%&'*+.^_`|~0-9A-Za-z]+$/
/** Finds a character that no header value may have. */
const headerText = /[^\t\x20-\x7e\x80-\xff]/

/** Thrown by checks: a mistake of the program, and so a defect of whatever has the option. */
export class OptionError extends Cause.IllegalArgumentError {}

/** Throws an {@link OptionError}. */
export const fail = (name: string, value: unknown, wanted: string): never => {
  throw new OptionError(`option ${name} must be ${wanted}, got ${shown(value)}`)
}

const shown = (value: unknown): string => {
  if (typeof value === "string") return JSON.stringify(value)
  if (typeof value === "function") return "a function"
  if (Array.isArray(value)) return "an array"
  return typeof value === "object" && value !== null && !Duration.isDuration(value) ? "an object" : String(value)
}

/** A layer whose options are checked first; a mistake is a defect. */
export const checkedLayer = <Options extends object, A, E, R>(
  options: Options | undefined,
  shape: Shape<NoInfer<Options>>,
  make: () => Layer.Layer<A, E, R>
): Layer.Layer<A, E, R> =>
  Layer.unwrap(Effect.sync(() => {
    check(options, shape)
    return make()
  }))

/** A layer with options read from `Config`: there a mistake is not the program's, and a failure. */
export const fromConfig = <Options, A, E, R>(
  options: Config.Wrap<Options>,
  layer: (options: Options) => Layer.Layer<A, E, R>
): Layer.Layer<A, E | Config.ConfigError, R> =>
  Layer.unwrap(Effect.map(Config.unwrap(options), layer)).pipe(
    Layer.catchCause((cause) => {
      const defect = Cause.squash(cause)
      return Layer.effectContext(
        defect instanceof OptionError
          ? Effect.fail(new Config.ConfigError(new ConfigProvider.SourceError({ message: defect.message })))
          : Effect.failCause(cause)
      )
    })
  )

// --- one value, with its default

/** A whole number of at least `minimum`, or `Infinity`; `fallback` if left out. */
export const count = (name: string, value: number | undefined, fallback: number, minimum = 1): number => {
  const result = value === undefined ? fallback : value
  if (result === Infinity || (Number.isSafeInteger(result) && result >= minimum)) return result
  return fail(name, value, `a whole number of at least ${minimum}`)
}

/** A duration in ms, more than zero; `Infinity` is allowed. */
export const millis = (name: string, value: Duration.Input | undefined, fallback: Duration.Input): number => {
  const result = millisOf(value === undefined ? fallback : value)
  return result > 0 ? result : fail(name, value, "a duration of more than zero")
}

/** A duration in ms; NaN if it is not one. */
export const millisOf = (input: Duration.Input): number => {
  // Effect takes NaN for zero, and ignores unknown units in an object.
  if (Number.isNaN(input) || (isPlainObject(input) && !Duration.isDuration(input) && !isInUnits(input))) {
    return Number.NaN
  }
  return Option.getOrElse(Option.map(Duration.fromInput(input), Duration.toMillis), () => Number.NaN)
}

const isInUnits = (input: object): boolean =>
  Object.keys(input).length > 0 &&
  Object.entries(input).every(([unit, amount]) =>
    Object.hasOwn(units, unit) && (amount === undefined || typeof amount === "number")
  )

/** A fraction above 0 and up to 1. */
export const fraction = (name: string, value: number | undefined, fallback: number): number => {
  const result = value === undefined ? fallback : value
  return typeof result === "number" && result > 0 && result <= 1 ? result : fail(name, value, "over 0 and up to 1")
}

/** A Schema that messages can have; throws for any other. */
export const schema = <A, R>(name: string, value: MessageSchema<A, R>): MessageSchema<A, R> => {
  const fault = schemaFault(value)
  if (fault === undefined) return value
  throw new OptionError(`option ${name} must be a Schema of what JSON can hold: ${fault}`)
}

/** Why messages can't have this Schema; undefined if they can. */
export const schemaFault = <A, R>(value: MessageSchema<A, R>): string | undefined => {
  const fault = misfit(value)
  if (fault === undefined) return undefined
  const place = pathText(fault.path)
  return place === undefined ? fault.detail : `at ${place}: ${fault.detail}`
}

// --- a whole object

/** Throws if an option's value is invalid; not called for one that is left out. */
type Check = (name: string, value: unknown) => void

/**
 * All options of one object, and what each may be. An option of the interface that is missing here does not compile.
 */
export type Shape<A> = { readonly [Key in keyof Required<A>]: Check }

/**
 * Checks that an object has only known options, of the right kind. `path` is the name of the option that holds the
 * object, with a dot.
 */
export const check = <A extends object>(options: A | undefined, shape: Shape<NoInfer<A>>, path = ""): void => {
  if (options === undefined) return
  if (!isPlainObject(options)) throw new OptionError(`the options must be an object, got ${shown(options)}`)
  for (const [key, value] of Object.entries(options)) {
    if (!Object.hasOwn(shape, key)) throw new OptionError(unknownName("option", path, key, Object.keys(shape)))
    if (value !== undefined) shape[key as keyof A](`${path}${key}`, value)
  }
}

/** Only the options that the shape has, for code that knows no others. */
export const pick = <A extends object, Key extends PropertyKey>(
  options: A,
  shape: { readonly [Name in Key]: Check }
): Pick<A, Extract<keyof A, Key>> =>
  // Its entries are those of `options`.
  Object.fromEntries(Object.entries(options).filter(([key]) => Object.hasOwn(shape, key))) as Pick<
    A,
    Extract<keyof A, Key>
  >

/** Names only, for options that are checked with every call. */
export type Names<A> = { readonly [Key in keyof Required<A>]: true }

/** What is wrong with the names in an object; undefined, at next to no cost, if nothing is. */
export const wrongName = (
  options: object,
  names: Readonly<Record<string, true>>,
  kind = "option"
): string | undefined => {
  if (!isPlainObject(options)) {
    return `there must be an object of ${kind}s, got ${shown(options)}`
  }
  for (const key in options) if (names[key] !== true) return unknownName(kind, "", key, Object.keys(names))
  return undefined
}

/** The message for an unknown name. */
const unknownName = (kind: string, path: string, key: string, names: ReadonlyArray<string>): string => {
  const nearest = nearestOf(key, names)
  const known = nearest === undefined ? `there are ${names.join(", ")}` : `did you mean ${path}${nearest}?`
  return `there is no ${kind} ${path}${key}: ${known}`
}

/** The name that was probably meant: one that is near enough, or contains the given one, or is contained in it. */
const nearestOf = (key: string, names: ReadonlyArray<string>): string | undefined => {
  const wanted = key.toLowerCase()
  const enough = 1 + wanted.length / 3
  let nearest: string | undefined
  let least = Infinity
  for (const name of names) {
    const candidate = name.toLowerCase()
    const isPart = wanted.length > 2 && (candidate.includes(wanted) || wanted.includes(candidate))
    const distance = Math.min(distanceOf(wanted, candidate), isPart ? enough : Infinity)
    if (distance >= least || distance > enough) continue
    least = distance
    nearest = name
  }
  return nearest
}

/** Levenshtein's distance: letters to insert, remove or replace. Quadratic, but names are short. */
const distanceOf = (a: string, b: string): number => {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(replaced, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1))
    }
    previous = row
  }
  return previous[b.length] ?? 0
}

const isPlainObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value)

// --- kinds

const kind = (wanted: string, is: (value: unknown) => boolean): Check => (name, value) => {
  if (!is(value)) fail(name, value, wanted)
}

export const duration: Check = (name, value) => {
  millis(name, value as Duration.Input, Infinity) // takes any value, and throws if it is not a duration
}
export const whole = (minimum = 1): Check => (name, value) => {
  count(name, value as number, Infinity, minimum) // likewise
}
/** Any value: for options that are checked elsewhere. */
export const anything: Check = () => {}
/** Anything but null: for options that are checked elsewhere. */
export const given = kind("given, or left out", (value) => value !== null)
export const text = kind("a string", (value) => typeof value === "string")
export const nonEmpty = kind("a string that is not empty", (value) => typeof value === "string" && value !== "")
export const bool = kind("true or false", (value) => typeof value === "boolean")
export const func = kind("a function", (value) => typeof value === "function")
export const object = kind("an object", isPlainObject)
/** Not a string, which is iterable but never meant. */
export const isIterable = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Symbol.iterator in value
export const iterable = kind("an iterable", isIterable)
/** A value that passes one of several tests. */
export const either = (wanted: string, ...are: ReadonlyArray<(value: unknown) => boolean>): Check =>
  kind(wanted, (value) => are.some((is) => is(value)))

/** The same for a secret: the value is not shown. */
export const secret = (wanted: string, ...are: ReadonlyArray<(value: unknown) => boolean>): Check => (name, value) => {
  if (!are.some((is) => is(value))) throw new OptionError(`option ${name} must be ${wanted}`)
}

export const oneOf = <A>(...allowed: ReadonlyArray<A>): Check =>
  kind(`one of ${allowed.map(shown).join(", ")}`, (value) => allowed.some((each) => each === value))

/** Options within an option. */
export const nested = <A extends object>(shape: Shape<A>): Check => (name, value) =>
  check(isPlainObject(value) ? value as A : fail(name, value, "an object"), shape, `${name}.`)

/** HTTP headers by name, in the characters that HTTP allows: with any others, every dial would fail. */
export const headers: Check = (name, value) => {
  const isRight = isPlainObject(value) &&
    Object.entries(value).every(([header, text]) =>
      headerName.test(header) && typeof text === "string" && !headerText.test(text)
    )
  // The value is not shown: headers hold secrets.
  if (!isRight) {
    fail(name, value, "an object of HTTP headers: strings without line breaks and of no other letters than Latin-1 has")
  }
}
