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
}

export interface Coder<A> {
  /** The message as JSON text. */
  readonly encode: (message: A) => string | Fault
  /** A message from parsed JSON; the failure says why not. */
  readonly decode: (value: unknown) => Exit.Exit<A, unknown>
}

/** What the coding of a Schema may need. */
type Services = Context.Context<never>

/** A coder that many clients share, each with its own services. */
interface Compiled<A> {
  readonly encode: (message: A, services: Services) => string | Fault
  readonly decode: (value: unknown, services: Services) => Exit.Exit<A, unknown>
}

/** A Schema whose coding needs these services. */
export type MessageSchema<A, R = never> = Schema.Codec<A, unknown, R, R>

const coders = new WeakMap<SchemaAST.AST, unknown>()
const trusted = new WeakSet<SchemaAST.AST>()

/** The coder of a Schema. Throws if no messages can have it: see `misfit`. */
export const makeCoder = <A, R>(schema: MessageSchema<A, R>, services: Context.Context<R>): Coder<A> => {
  const { decode, encode } = compiledOnce(schema)
  return { encode: (message) => encode(message, services), decode: (value) => decode(value, services) }
}

const compiledOnce = <A, R>(schema: MessageSchema<A, R>): Compiled<A> => {
  const known = coders.get(schema.ast)
  if (known !== undefined) return known as Compiled<A> // it was made from this Schema's AST
  const coder = compile(schema as MessageSchema<A>) // which services it needs is known when it is used
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
  coders.set(schema.ast, { encode: (message) => valueText(message), decode } satisfies Compiled<unknown>)
  return schema
}

const valueText = (message: unknown): string | Fault => {
  try {
    return valueFault(message) ?? stringify(message)
  } catch (cause) {
    return { path: [], detail: String(cause) } // from a getter, or too large for a string
  }
}

const compile = <A>(schema: MessageSchema<A>): Compiled<A> => {
  const shape = shapeOf(schema.ast)
  return shape.isPlain ? plainCoder(schema, shape) : jsonCoder(schema)
}

/** A coder that uses the JSON codec; every message is tried. */
const jsonCoder = <A>(schema: MessageSchema<A>): Compiled<A> => {
  const codec = Schema.toCodecJson(schema)
  const decode = compiledDecoder(codec)
  return { decode, encode: tried(schema, codec, decode) }
}

/** A coder that uses plain JSON where that is enough, and otherwise the JSON codec. */
const plainCoder = <A>(schema: MessageSchema<A>, shape: Shape): Compiled<A> => {
  const codec = Schema.toCodecJson(schema)
  const decodePlain = compiledDecoder(schema)
  const decodeCoded = compiledDecoder(codec)
  const isAlike = !shape.hasNumbers && !shape.hasAnything
  const decode = isAlike ? decodePlain : (value: unknown, services: Services): Exit.Exit<A, unknown> => {
    const plain = decodePlain(value, services)
    return Exit.isSuccess(plain) ? plain : decodeCoded(value, services)
  }
  const encodePlain = compiledEncoder(schema)
  const encodeTried = tried(schema, codec, decode)
  return {
    decode,
    encode: (message, services) => {
      const encoded = encodePlain(message, services)
      if (Exit.isFailure(encoded)) return faultOf(encoded.cause)
      const { value } = encoded
      const text = plainText(value)
      if (typeof text === "string" && !isSuspect(shape, value, text)) return text
      const fault = exactFault(value)
      if (fault === undefined) return stringify(value) // a fault of JSON.stringify is one of these
      const coded = encodeTried(message, services)
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
  decode: Compiled<A>["decode"]
): Compiled<A>["encode"] => {
  const encode = compiledEncoder(codec)
  const type = SchemaAST.toType(schema.ast)
  const shape = shapeOf(SchemaAST.toEncoded(codec.ast))
  const isTrusted = trusted.has(schema.ast)
  return (message, services) => {
    const encoded = encode(message, services)
    if (Exit.isFailure(encoded)) return faultOf(encoded.cause)
    const text = stringify(encoded.value)
    if (typeof text !== "string") return text
    const fault = !shape.isPlain || isSuspect(shape, encoded.value, text) ? exactFault(encoded.value) : undefined
    if (fault !== undefined) return fault
    if (isTrusted) return text
    const decoded = decode(JSON.parse(text), services)
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

type Coding<In, Out> = (value: In, services: Services) => Exit.Exit<Out, unknown>

const compiledEncoder = <A>(schema: MessageSchema<A>): Coding<A, unknown> => {
  SchemaJITCompiler.enable(SchemaAST.flip(schema.ast))
  return withServices(Schema.encodeUnknownExit(schema), Schema.encodeUnknownEffect(schema))
}

const compiledDecoder = <A>(schema: MessageSchema<A>): Coding<unknown, A> => {
  SchemaJITCompiler.enable(schema.ast)
  return withServices(Schema.decodeUnknownExit(schema), Schema.decodeUnknownEffect(schema))
}

/** A Schema does not show whether its coding needs services. Without them it dies: then it is coded with them, always. */
const withServices = <In, Out>(
  code: (value: In) => Exit.Exit<Out, unknown>,
  codeEffect: (value: In) => Effect.Effect<Out, unknown>
): Coding<In, Out> => {
  let needsServices = false
  return (value, services) => {
    if (!needsServices) {
      const exit = code(value)
      if (Exit.isSuccess(exit) || !Exit.hasDies(exit)) return exit
    }
    const exit = Effect.runSyncExitWith(services)(codeEffect(value))
    if (!Exit.hasDies(exit)) needsServices = true
    return exit
  }
}

/** Why a value does not fit, in Effect's words, and where. */
const faultOf = (cause: Cause.Cause<unknown>): Fault => {
  const error = Cause.squash(cause)
  if (!Schema.isSchemaError(error)) return { path: [], detail: String(error) }
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
