/**
 * Messages through their Schemas, both ways: to JSON text and back. `Schema.toCodecJson` does it, so that everything a
 * Schema can describe arrives as it was sent: NaN, a Date, an Option, a class.
 *
 * Most messages don't need that. If a Schema's messages are JSON as they are (see schemaShapes.ts), the JSON codec's
 * text is the plain one, and Effect compiles the Schema to JavaScript if the runtime allows it (`new Function`): three
 * times faster than walking it. What plain JSON would change goes through the codec. What no Schema can show beforehand
 * is tried: the sender decodes its own text, and refuses a message that would arrive as something else.
 *
 * A Schema is compiled once, however many clients use it.
 */
import { Cause, type Context, Effect, Exit, Schema, SchemaAST, type SchemaIssue } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"
import { exactFault, hasOddNumber, valueFault, withNegativeZeros } from "../../core/Payload.ts"
import { maxDepth } from "../../core/Protocol.ts"
import { difference, isAlike } from "./sameness.ts"
import { type Misfit, misfitOf, type Shape, shapeOf } from "./schemaShapes.ts"

/** Why a message can't be sent, and where in it. */
export interface Fault {
  readonly detail: string
  readonly path: ReadonlyArray<PropertyKey>
  /** It is no fault of the message, as it seems. */
  readonly isDefect?: boolean
}

export interface Coder<A> {
  /** The message as JSON text. */
  readonly encode: (message: A) => string | Fault
  /** A message from parsed JSON; the failure says why not. */
  readonly decode: (value: unknown) => Exit.Exit<A, unknown>
}

/** What the coding of a Schema may need. */
type Services = Context.Context<never>

/** A Schema whose coding needs these services. */
export type MessageSchema<A, R = never> = Schema.Codec<A, unknown, R, R>

const coders = new WeakMap<SchemaAST.AST, unknown>()
const trusted = new WeakSet<SchemaAST.AST>()

/**
 * The coder of a Schema. Throws if no messages can have it: see `misfit`. A Schema does not show whether its coding needs
 * services. If it does, it dies without them, and is compiled anew with them.
 */
export const makeCoder = <A, R>(schema: MessageSchema<A, R>, services: Context.Context<R>): Coder<A> => {
  let coder = compiledOnce(schema)
  let served: Coder<A> | undefined
  /** The coder with services. It stays if they help: a defect of the Schema's own must not slow down what comes later. */
  const retried = <B>(code: (coder: Coder<A>) => B, isDefect: (coded: B) => boolean): B => {
    served ??= compile(schema as MessageSchema<A>, services)
    const coded = code(served)
    if (!isDefect(coded)) coder = served
    return coded
  }
  return {
    encode: (message) => {
      const text = coder.encode(message)
      return isDefective(text) ? retried((served) => served.encode(message), isDefective) : text
    },
    decode: (value) => {
      const exit = coder.decode(value)
      return isDead(exit) ? retried((served) => served.decode(value), isDead) : exit
    }
  }
}

const isDefective = (text: string | Fault): boolean => typeof text !== "string" && text.isDefect === true
const isDead = (exit: Exit.Exit<unknown, unknown>): boolean => Exit.isFailure(exit) && Exit.hasDies(exit)

const compiledOnce = <A, R>(schema: MessageSchema<A, R>): Coder<A> => {
  const known = coders.get(schema.ast)
  if (known !== undefined) return known as Coder<A> // it was made from this Schema's AST
  const coder = compile(schema as MessageSchema<A>, undefined) // which services it needs is known when it is used
  coders.set(schema.ast, coder)
  return coder
}

/** Why no messages can have this Schema, if none can. */
export const misfit = <A, R>(schema: MessageSchema<A, R>): Misfit | undefined => {
  try {
    const found = misfitOf(schema.ast)
    if (found === undefined) compiledOnce(schema)
    return found
  } catch (cause) {
    return { path: [], detail: cause instanceof Error ? cause.message : String(cause) }
  }
}

/** Marks one of the library's own Schemas: tests show that its messages arrive as sent, so they are not tried. */
export const faithful = <S extends Schema.Constraint>(schema: S): S => {
  trusted.add(schema.ast)
  return schema
}

/** Any JSON, by the rule of `valueFault`; `decode` reads what arrives. For programs without Schemas. */
export const anyJson = (decode: (value: unknown) => Exit.Exit<unknown, unknown>): Schema.Codec<unknown, unknown> => {
  const schema = Schema.Unknown.annotate({})
  coders.set(schema.ast, { encode: (message) => valueText(message), decode } satisfies Coder<unknown>)
  return schema
}

const valueText = (message: unknown): string | Fault => {
  try {
    return valueFault(message) ?? stringify(message)
  } catch (cause) {
    return { path: [], detail: String(cause) } // from a getter, or too large for a string
  }
}

const compile = <A>(schema: MessageSchema<A>, services: Services | undefined): Coder<A> => {
  const shape = shapeOf(schema.ast)
  return shape.isPlain ? plainCoder(schema, shape, services) : jsonCoder(schema, services)
}

/** A coder that uses the JSON codec; every message is tried. */
const jsonCoder = <A>(schema: MessageSchema<A>, services: Services | undefined): Coder<A> => {
  const codec = Schema.toCodecJson(schema)
  const decode = compiledDecoder(codec, services)
  return { decode, encode: tried(schema, codec, decode, services) }
}

/** A coder that uses plain JSON where that is enough, and otherwise the JSON codec. */
const plainCoder = <A>(schema: MessageSchema<A>, shape: Shape, services: Services | undefined): Coder<A> => {
  const codec = Schema.toCodecJson(schema)
  const decodePlain = compiledDecoder(schema, services)
  const decodeCoded = compiledDecoder(codec, services)
  const isAlike = !shape.hasNumbers && !shape.hasAnything
  const decode = isAlike ? decodePlain : (value: unknown): Exit.Exit<A, unknown> => {
    const plain = decodePlain(value)
    return Exit.isSuccess(plain) ? plain : decodeCoded(value)
  }
  const encodePlain = compiledEncoder(schema, services)
  const encodeTried = tried(schema, codec, decode, services)
  return {
    decode,
    encode: (message) => {
      const encoded = encodePlain(message)
      if (Exit.isFailure(encoded)) return faultOf(encoded.cause)
      const { value } = encoded
      const text = plainText(value)
      if (typeof text === "string" && !isSuspect(shape, value, text)) return text
      const fault = exactFault(value)
      if (fault === undefined) return stringify(value) // a fault of JSON.stringify is one of these
      const coded = encodeTried(message)
      // Inside a place for anything, Effect does not say where the fault is.
      return typeof coded === "string" || !isAbove(coded.path, fault.path) ? coded : fault
    }
  }
}

const isAbove = (path: Fault["path"], other: Fault["path"]): boolean =>
  path.length < other.length && path.every((key, index) => key === other[index])

/** Whether JSON or the peer may not take a value. A quick check, which clears most. */
const isSuspect = ({ hasAnything, hasKeys, hasZeros, isDeep }: Shape, value: unknown, text: string): boolean =>
  hasAnything || (hasZeros && hasOddNumber(value)) || (hasKeys && text.includes("__proto__")) ||
  (isDeep && text.length > 2 * maxDepth)

/** Encodes, decodes as the peer will, and compares. */
const tried = <A>(
  schema: MessageSchema<A>,
  codec: MessageSchema<A>,
  decode: Coder<A>["decode"],
  services: Services | undefined
): Coder<A>["encode"] => {
  const encode = compiledEncoder(codec, services)
  const type = SchemaAST.toType(schema.ast)
  const shape = shapeOf(SchemaAST.toEncoded(codec.ast))
  const isTrusted = trusted.has(schema.ast)
  return (message) => {
    const encoded = encode(message)
    if (Exit.isFailure(encoded)) return faultOf(encoded.cause)
    const text = stringify(encoded.value)
    if (typeof text !== "string") return text
    const fault = !shape.isPlain || isSuspect(shape, encoded.value, text) ? exactFault(encoded.value) : undefined
    if (fault !== undefined) return fault
    if (isTrusted) return text
    const decoded = decode(JSON.parse(text))
    if (Exit.isFailure(decoded)) return notRead(faultOf(decoded.cause))
    if (isAlike(message, decoded.value)) return text
    const path = difference(type, message, decoded.value)
    return path === undefined ? text : { path, detail: "it would arrive as something else" }
  }
}

const notRead = ({ detail, path }: Fault): Fault => ({ path, detail: `it would not be read: ${detail}` })

const stringify = (value: unknown): string | Fault => {
  const text = plainText(value)
  return typeof text === "string" ? withNegativeZeros(value, text) : text
}

/** Fails on circular values, so that walking the value afterwards ends. */
const plainText = (value: unknown): string | Fault => {
  try {
    return JSON.stringify(value) ?? { path: [], detail: "JSON has no form for it" }
  } catch (cause) {
    return { path: [], detail: cause instanceof Error ? cause.message : String(cause) }
  }
}

const compiledEncoder = <A>(
  schema: MessageSchema<A>,
  services: Services | undefined
): (message: A) => Exit.Exit<unknown, unknown> => {
  SchemaJITCompiler.enable(SchemaAST.flip(schema.ast))
  if (services === undefined) return Schema.encodeUnknownExit(schema)
  const encode = Schema.encodeUnknownEffect(schema)
  return (message) => Effect.runSyncExitWith(services)(encode(message))
}

const compiledDecoder = <A>(schema: MessageSchema<A>, services: Services | undefined): Coder<A>["decode"] => {
  SchemaJITCompiler.enable(schema.ast)
  if (services === undefined) return Schema.decodeUnknownExit(schema)
  const decode = Schema.decodeUnknownEffect(schema)
  return (value) => Effect.runSyncExitWith(services)(decode(value))
}

/** Why a value does not fit, in Effect's words, and where. */
const faultOf = (cause: Cause.Cause<unknown>): Fault => {
  const error = Cause.squash(cause)
  if (!Schema.isSchemaError(error)) return { path: [], detail: String(error), isDefect: true }
  return { path: placeOf(error.issue), detail: error.message }
}

const placeOf = (issue: SchemaIssue.Issue): ReadonlyArray<PropertyKey> => {
  switch (issue._tag) {
    case "Pointer":
      return [...issue.path, ...placeOf(issue.issue)]
    case "Filter":
    case "Encoding":
      return placeOf(issue.issue)
    case "Composite":
    case "AnyOf": {
      const [only] = issue.issues
      return only === undefined ? [] : placeOf(only)
    }
    default:
      return []
  }
}
