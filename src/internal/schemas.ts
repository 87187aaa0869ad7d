/**
 * Messages through their Schemas, both ways. Compiled to JavaScript where the runtime allows that (`new Function`),
 * which is three times faster than walking the Schema; elsewhere Effect walks it. A Schema is compiled once, however
 * many clients use it.
 */
import { type Exit, Schema, SchemaAST } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"

type Coder = (value: unknown) => Exit.Exit<unknown, unknown>

const encoders = new WeakMap<SchemaAST.AST, Coder>()
const decoders = new WeakMap<SchemaAST.AST, Coder>()

export const makeEncoder = <A>(schema: Schema.Codec<A, unknown>): (message: A) => Exit.Exit<unknown, unknown> => {
  let encoder = encoders.get(schema.ast)
  if (encoder === undefined) {
    SchemaJITCompiler.enable(SchemaAST.flip(schema.ast))
    encoder = Schema.encodeUnknownExit(schema)
    encoders.set(schema.ast, encoder)
  }
  return encoder
}

export const makeDecoder = <A>(schema: Schema.Codec<A, unknown>): (value: unknown) => Exit.Exit<A, unknown> => {
  let decoder = decoders.get(schema.ast)
  if (decoder === undefined) {
    SchemaJITCompiler.enable(schema.ast)
    decoder = Schema.decodeUnknownExit(schema)
    decoders.set(schema.ast, decoder)
  }
  return decoder as (value: unknown) => Exit.Exit<A, unknown> // it was made of this Schema's AST
}
