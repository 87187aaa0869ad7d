/**
 * What a payload may be (PROTOCOL.md §3.2, §5.1): one rule, for the decoder and for the sender. The decoder refuses
 * what breaks it; the encoder must not send what would be refused, or would arrive as something else.
 *
 * A fault names its place. The path is built on the way out, so that a payload without one costs nothing for it.
 */
import { maxDepth } from "./Protocol.ts"

export interface PayloadFault {
  readonly code: "malformed" | "tooDeep"
  readonly detail: string
  /** Keys and indexes, from the outside in. */
  readonly path: ReadonlyArray<string | number>
}

const forbiddenKey: PayloadFault = { code: "malformed", detail: "a payload can't have the key __proto__", path: [] }
const overflow: PayloadFault = { code: "malformed", detail: "a number beyond the range of a double", path: [] }
const tooDeep: PayloadFault = { code: "tooDeep", detail: `a payload nests deeper than ${maxDepth}`, path: [] }
const ownForm: PayloadFault = {
  code: "malformed",
  detail: "JSON would have another value: it has a toJSON, or is a JSON.rawJSON",
  path: []
}

/**
 * What is wrong with a payload that was parsed from JSON. It may nest `depth` levels. It may not have a `__proto__`
 * key, which JSON.parse makes an own property and the first careless copy turns into a prototype. Nor may it have a
 * number that no double holds, which JSON.parse makes Infinity and the next JSON text null.
 */
export const payloadFault = (value: unknown, depth = maxDepth): PayloadFault | undefined => {
  if (typeof value !== "object" || value === null) return isOverflow(value) ? overflow : undefined
  if (depth === 0) return tooDeep
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const child: unknown = value[i]
      if (typeof child === "object" ? child === null : !isOverflow(child)) continue
      const fault = payloadFault(child, depth - 1)
      if (fault !== undefined) return within(i, fault)
    }
    return undefined
  }
  for (const key in value) {
    if (key === "__proto__") return within(key, forbiddenKey)
    const child: unknown = (value as Fields)[key]
    if (typeof child === "object" ? child === null : !isOverflow(child)) continue
    const fault = payloadFault(child, depth - 1)
    if (fault !== undefined) return within(key, fault)
  }
  return undefined
}

/**
 * What is wrong with a value to be sent as JSON: what the receiver would refuse, and what JSON would silently change
 * (NaN, a Map, a Date, an instance of a class, a hole in an array …). JSON may change one thing, as programs mean
 * nothing by it: it omits a property that is `undefined`.
 *
 * Getters are read, here and again when the JSON is written. Properties of an array other than its elements, and what
 * is not enumerable, are not part of a value.
 */
export const valueFault = (value: unknown): PayloadFault | undefined => faultOf(value, maxDepth, true)

/** The same for what must arrive exactly as it is: a property that is `undefined` is a fault too. */
export const exactFault = (value: unknown): PayloadFault | undefined => faultOf(value, maxDepth, false)

const faultOf = (value: unknown, depth: number, isLoose: boolean): PayloadFault | undefined => {
  switch (typeof value) {
    case "string":
    case "boolean":
      return undefined
    case "number":
      return Number.isFinite(value) ? undefined : noJson(String(value))
    case "object":
      if (value === null) return undefined
      if (depth === 0) return tooDeep
      return Array.isArray(value) ? elementFault(value, depth, isLoose) : propertyFault(value, depth, isLoose)
    default:
      return noJson(value === undefined ? "undefined" : `a ${typeof value}`)
  }
}

const elementFault = (
  array: ReadonlyArray<unknown>,
  depth: number,
  isLoose: boolean
): PayloadFault | undefined => {
  if (!isPlainArray(array)) return noJson(instanceName(array))
  if (hasOwnForm(array)) return ownForm
  for (let i = 0; i < array.length; i++) {
    const child = array[i]
    if (typeof child === "string" || (typeof child === "number" && Number.isFinite(child))) continue
    const fault = child === undefined && !(i in array) ? noJson("a hole") : faultOf(child, depth - 1, isLoose)
    if (fault !== undefined) return within(i, fault)
  }
  return undefined
}

const propertyFault = (object: object, depth: number, isLoose: boolean): PayloadFault | undefined => {
  if (!isPlainObject(object)) return noJson(instanceName(object))
  if (hasOwnForm(object)) return ownForm
  for (const key in object) {
    if (key === "__proto__") return within(key, forbiddenKey)
    const child: unknown = (object as Fields)[key]
    // Most properties are one of these, which need no call.
    if (typeof child === "string" || (typeof child === "number" && Number.isFinite(child))) continue
    if (child === undefined && isLoose) continue
    const fault = faultOf(child, depth - 1, isLoose)
    if (fault !== undefined) return within(key, fault)
  }
  const symbols = Object.getOwnPropertySymbols(object)
  return symbols.length === 0 ? undefined : noJson(`the key ${String(symbols[0])}`)
}

/** The text that JSON.stringify made of this value, but with -0, which JSON has and JavaScript writes as 0. */
export const withNegativeZeros = (value: unknown, text: string): string => {
  if (!hasOddNumber(value)) return text
  let mark = "-0"
  while (text.includes(`"${mark}"`)) mark += "0"
  return JSON.stringify(value, (_, part: unknown) => Object.is(part, -0) ? mark : part).replaceAll(`"${mark}"`, "-0")
}

/**
 * Whether JSON.stringify would change a number in the value: -0, or one that is not finite. Walking the value costs
 * less than scanning its text: most properties are not objects, and need no call.
 */
export const hasOddNumber = (value: unknown): boolean => {
  if (typeof value === "number") return isOdd(value)
  if (typeof value !== "object" || value === null) return false
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) if (hasOddNumber(value[i])) return true
    return false
  }
  for (const key in value) {
    const child: unknown = (value as Fields)[key]
    if (typeof child === "number" ? isOdd(child) : typeof child === "object" && hasOddNumber(child)) {
      return true
    }
  }
  return false
}

const isOdd = (value: number): boolean => value === 0 ? 1 / value < 0 : value - value !== 0

/**
 * Whether JSON.stringify asks it for another value (an enumerable `toJSON` or not), or writes its raw text unchecked,
 * which may be `1e999`.
 */
const hasOwnForm = (value: object): boolean =>
  typeof (value as Fields)["toJSON"] === "function" ||
  (Object.getPrototypeOf(value) === null && isRawJson !== undefined && isRawJson(value))

/**
 * Of `JSON.rawJSON`, where the runtime has it. Such objects have no prototype, and asking is too dear for each object.
 */
const { isRawJSON: isRawJson } = JSON as { readonly isRawJSON?: (value: unknown) => boolean }

/** As people write it: `items[0].at`; undefined if the fault is the payload itself. */
export const pathText = (path: ReadonlyArray<PropertyKey>): string | undefined => {
  if (path.length === 0) return undefined
  let text = ""
  for (const key of path) {
    if (typeof key === "number") text += `[${key}]`
    else if (typeof key === "string" && /^[A-Za-z_$][\w$]*$/.test(key)) text += text === "" ? key : `.${key}`
    else text += `[${typeof key === "symbol" ? String(key) : JSON.stringify(key)}]`
  }
  return text
}

type Fields = { readonly [key: string]: unknown }

const isOverflow = (value: unknown): boolean => value === Infinity || value === -Infinity

const noJson = (what: string): PayloadFault => ({ code: "malformed", detail: `JSON has no form for ${what}`, path: [] })

const within = (key: string | number, fault: PayloadFault): PayloadFault => ({ ...fault, path: [key, ...fault.path] })

/** Even from another realm (an iframe, a `vm` context), whose `Object.prototype` is not ours. */
const isPlainObject = (object: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(object)
  if (prototype === Object.prototype || prototype === null) return true
  return Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype as object, "hasOwnProperty")
}

const isPlainArray = (array: ReadonlyArray<unknown>): boolean => {
  const prototype: unknown = Object.getPrototypeOf(array)
  return prototype === Array.prototype || (Array.isArray(prototype) && isPlainObject(prototype))
}

const instanceName = (value: object): string => {
  const { constructor } = value as { readonly constructor?: unknown }
  const name = typeof constructor === "function" ? constructor.name : ""
  return name === "" ? "an object of a class" : `an instance of ${name}`
}
