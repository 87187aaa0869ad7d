/**
 * Whether what arrives is what was sent. The sender checks it for messages whose Schema does not guarantee it.
 *
 * Effect's `Equal` remembers what it has compared, but users change their messages and send them again: so `Equal` is
 * used only for types with an equality of their own.
 */
import { Equal, type SchemaAST } from "effect"

/** Where two values differ, from the outside in; undefined if they don't. */
type Place = ReadonlyArray<PropertyKey> | undefined

/**
 * Compares a message with what its text decodes to. `ast` is the AST of the message's type, if known: keys that a
 * Struct does not have are not part of a message. 0 and -0 count as the same, and so do a Buffer and its bytes.
 */
export const difference = (ast: SchemaAST.AST | undefined, sent: unknown, arrived: unknown): Place => {
  if (sent === arrived || Object.is(sent, arrived)) return undefined
  if (typeof sent !== "object" || typeof arrived !== "object" || sent === null || arrived === null) return []
  const inner = ast === undefined ? undefined : plainOf(ast)
  if (inner?._tag === "Objects") return shapeDifference(inner, sent, arrived)
  const place = Array.isArray(sent) || Array.isArray(arrived)
    ? elementDifference(inner, sent, arrived)
    : instanceDifference(sent, arrived)
  return place !== undefined && Equal.isEqual(sent) && Equal.equals(sent, arrived) ? undefined : place
}

/** Whether the two are certainly the same: enough for most messages, at a tenth of the cost of `difference`. */
export const isAlike = (sent: unknown, arrived: unknown): boolean => {
  if (sent === arrived) return true
  if (typeof sent !== "object" || typeof arrived !== "object" || sent === null || arrived === null) {
    return Object.is(sent, arrived)
  }
  if (sent instanceof Uint8Array && arrived instanceof Uint8Array) return sameBytes(sent, arrived)
  const prototype: unknown = Object.getPrototypeOf(sent)
  if (prototype !== Object.getPrototypeOf(arrived)) return false
  if (prototype === Date.prototype) return Object.is((sent as Date).getTime(), (arrived as Date).getTime())
  if (Array.isArray(sent)) return Array.isArray(arrived) && areElementsAlike(sent, arrived)
  if (prototype !== Object.prototype && Object.prototype.toString.call(sent) !== "[object Object]") return false
  return arePropertiesAlike(sent as Properties, arrived as Properties)
}

const areElementsAlike = (sent: ReadonlyArray<unknown>, arrived: ReadonlyArray<unknown>): boolean => {
  if (sent.length !== arrived.length) return false
  for (let i = 0; i < sent.length; i++) {
    if (!isAlike(sent[i], arrived[i]) || (sent[i] === undefined && i in sent !== i in arrived)) return false
  }
  return true
}

const arePropertiesAlike = (sent: Properties, arrived: Properties): boolean => {
  let keys = 0
  for (const key in sent) {
    const value = sent[key]
    if (!isAlike(value, arrived[key]) || (value === undefined && !(key in arrived))) return false
    keys++
  }
  if (keys === 0) return false // it may keep its contents outside its properties
  for (const _ in arrived) keys--
  return keys === 0
}

type Properties = { readonly [key: string]: unknown }

/** The Struct, Record or Array that a value of this Schema must be, if there is only one. */
const plainOf = (ast: SchemaAST.AST): SchemaAST.AST | undefined => {
  if (ast._tag === "Suspend") return plainOf(ast.thunk())
  if (ast._tag !== "Union") return ast
  const [first, ...others] = ast.types.filter((type) => !isScalar(type))
  return first === undefined || others.length > 0 ? undefined : plainOf(first)
}

/** Whether no value of this type is an object. */
export const isScalar = ({ _tag }: SchemaAST.AST): boolean =>
  _tag === "String" || _tag === "Number" || _tag === "Boolean" || _tag === "Null" || _tag === "Undefined" ||
  _tag === "Void" || _tag === "Literal" || _tag === "Enum" || _tag === "TemplateLiteral" || _tag === "BigInt" ||
  _tag === "Symbol" || _tag === "UniqueSymbol" || _tag === "Never"

const shapeDifference = (ast: SchemaAST.Objects, sent: object, arrived: object): Place => {
  const isRecord = ast.indexSignatures.length > 0
  const fields = new Map(ast.propertySignatures.map(({ name, type }) => [name, type]))
  const keys = new Set<PropertyKey>([...fields.keys(), ...Reflect.ownKeys(arrived)])
  if (isRecord || fields.size === 0) { for (const key of enumerableKeys(sent)) keys.add(key) }
  const [record] = ast.indexSignatures.length === 1 ? ast.indexSignatures : []
  for (const key of keys) {
    if (key in sent !== key in arrived) return [key]
    const place = difference(fields.get(key) ?? record?.type, valueAt(sent, key), valueAt(arrived, key))
    if (place !== undefined) return [key, ...place]
  }
  return undefined
}

const elementDifference = (ast: SchemaAST.AST | undefined, sent: object, arrived: object): Place => {
  if (!Array.isArray(sent) || !Array.isArray(arrived) || sent.length !== arrived.length) return []
  const [rest] = ast?._tag === "Arrays" && ast.rest.length === 1 ? ast.rest : []
  for (let i = 0; i < sent.length; i++) {
    const type = ast?._tag === "Arrays" ? ast.elements[i] ?? rest : undefined
    const place = i in sent === i in arrived ? difference(type, sent[i], arrived[i]) : []
    if (place !== undefined) return [i, ...place]
  }
  return undefined
}

/** For all other objects: first compares what they hold outside their properties, then their own properties. */
const instanceDifference = (sent: object, arrived: object): Place => {
  if (sent instanceof Uint8Array && arrived instanceof Uint8Array) return sameBytes(sent, arrived) ? undefined : []
  const isPlain = isOfNoClass(sent) && isOfNoClass(arrived)
  if (!isPlain && Object.getPrototypeOf(sent) !== Object.getPrototypeOf(arrived)) return []
  if (!isPlain && difference(undefined, contentsOf(sent), contentsOf(arrived)) !== undefined) return []
  const keys = enumerableKeys(sent)
  if (keys.length !== enumerableKeys(arrived).length) {
    const key = [...keys, ...enumerableKeys(arrived)].find((key) =>
      !Object.hasOwn(sent, key) || !Object.hasOwn(arrived, key)
    )
    return key === undefined ? [] : [key]
  }
  for (const key of keys) {
    if (!Object.hasOwn(arrived, key)) return [key]
    const place = difference(undefined, valueAt(sent, key), valueAt(arrived, key))
    if (place !== undefined) return [key, ...place]
  }
  return undefined
}

/** What an object holds outside its properties. */
const contentsOf = (value: object): unknown => {
  if (value instanceof Date) return value.getTime()
  if (value instanceof Error) return [value.name, value.message, value.cause]
  if (value instanceof Map || value instanceof Set || value instanceof URLSearchParams) return [...value]
  if (value instanceof RegExp || value instanceof URL) return [String(value)]
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
  if (value instanceof ArrayBuffer) return new Uint8Array(value)
  // For an object without properties: its text and its elements, which for some types say nothing.
  if (Reflect.ownKeys(value).length > 0) return undefined
  const entries = Symbol.iterator in value && typeof value[Symbol.iterator] === "function"
    ? [...value as Iterable<unknown>]
    : []
  return [String(value), entries]
}

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

const isOfNoClass = (value: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}

const enumerableKeys = (value: object): ReadonlyArray<PropertyKey> =>
  Reflect.ownKeys(value).filter((key) => Object.prototype.propertyIsEnumerable.call(value, key))

const valueAt = (value: object, key: PropertyKey): unknown => (value as { readonly [key: PropertyKey]: unknown })[key]
