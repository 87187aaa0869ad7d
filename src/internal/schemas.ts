/**
 * Messages through their Schemas, both ways. Compiled to JavaScript where the runtime allows that (`new Function`),
 * which is three times faster than walking the Schema; elsewhere Effect walks it.
 */
import { type Exit, Schema, SchemaAST } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"

export const makeEncoder = <A>(schema: Schema.Codec<A, unknown>): (message: A) => Exit.Exit<unknown, unknown> => {
  SchemaJITCompiler.enable(SchemaAST.flip(schema.ast))
  return Schema.encodeUnknownExit(schema)
}

export const makeDecoder = <A>(schema: Schema.Codec<A, unknown>): (value: unknown) => Exit.Exit<A, unknown> => {
  SchemaJITCompiler.enable(schema.ast)
  return Schema.decodeUnknownExit(schema)
}
