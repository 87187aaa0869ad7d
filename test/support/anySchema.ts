/** Schemas of all kinds, nested at random, each with values of its type: what a contract may be made of. */
import {
  BigDecimal,
  Chunk,
  DateTime,
  Duration,
  HashMap,
  HashSet,
  Option,
  Redacted,
  Result,
  Schema,
  SchemaGetter
} from "effect"

/** A small generator of pseudo-random numbers (mulberry32): below `n`. */
export type Dice = (n: number) => number

export const makeDice = (seed: number): Dice => {
  let state = seed
  return (n) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % n
  }
}

/** Its values may be of any type: they are only ever given back to the Schema. */
export interface AnySchema {
  readonly name: string
  readonly schema: Schema.Codec<unknown, unknown>
  readonly value: (dice: Dice) => unknown
}

const make = <A, I>(name: string, schema: Schema.Codec<A, I>, value: (dice: Dice) => NoInfer<A>): AnySchema => ({
  name,
  schema: schema as Schema.Codec<unknown, unknown>, // and values of it come from `value`
  value
})

const oneOf = <A>(dice: Dice, parts: ReadonlyArray<A>): A => parts[dice(parts.length)] as A // never of none
const listOf = <A>(dice: Dice, item: () => A): Array<A> => Array.from({ length: dice(4) }, item)

const texts = [
  "",
  "a",
  "NaN",
  "-Infinity",
  "null",
  "3",
  "1970-01-01T00:00:00.005Z",
  "AQI=",
  "__proto__",
  "a\u0000\u2028",
  "\ud800",
  "\u{1F600}"
]
const text = (dice: Dice) => oneOf(dice, texts)
const numbers = [0, -0, 1, -1, 0.1, 2 ** 53, 1e308, 5e-324, Number.NaN, Infinity, -Infinity]
const number = (dice: Dice) => oneOf(dice, numbers)
const finite = (dice: Dice) => oneOf(dice, numbers.slice(0, 8))
const json = (dice: Dice): unknown =>
  oneOf<() => unknown>(dice, [
    () => text(dice),
    () => finite(dice),
    () => null,
    () => listOf(dice, () => text(dice)),
    () => ({ a: { b: [finite(dice)] }, [oneOf(dice, ["c", "d", "toJSON", "constructor"])]: text(dice) })
  ])()
const anything = (dice: Dice): unknown =>
  oneOf<() => unknown>(dice, [
    () => json(dice),
    () => json(dice),
    () => new Date(5),
    () => [undefined, 1],
    () => ({ a: undefined }),
    () => ({ a: [Number.NaN] }),
    () => new Map([[1, 2]]),
    () => new Uint8Array([1]),
    () => JSON.parse(`{"a":{"__proto__":1}}`),
    () => ({ f: () => 1 }),
    () => 3n
  ])()

class Point extends Schema.Class<Point>("Point")({ x: Schema.Number, at: Schema.optional(Schema.Date) }) {}
class Plain
  extends Schema.TaggedClass<Plain>("Plain")("Plain", { text: Schema.String, n: Schema.NullOr(Schema.Number) })
{}
class Failure extends Schema.TaggedError<Failure>("Failure")("Failure", { why: Schema.String }) {}

const Upper = Schema.String.pipe(Schema.decodeTo(Schema.String, {
  decode: SchemaGetter.transform((text: string) => text.toUpperCase()),
  encode: SchemaGetter.transform((text: string) => text.toLowerCase())
}))
const Rounded = Schema.Number.pipe(Schema.decodeTo(Schema.Number, {
  decode: SchemaGetter.passthrough(),
  encode: SchemaGetter.transform(Math.round)
}))

/** What has nothing inside. */
const leaves: ReadonlyArray<AnySchema> = [
  make("String", Schema.String, text),
  make("Number", Schema.Number, number),
  make("Finite", Schema.Finite, finite),
  make("Int", Schema.Int, () => 7),
  make("Boolean", Schema.Boolean, (dice) => dice(2) === 0),
  make("Null", Schema.Null, () => null),
  make("Undefined", Schema.Undefined, () => undefined),
  make("Literals", Schema.Literals(["a", 1, true]), (dice) => oneOf(dice, ["a", 1, true] as const)),
  make("BigInt", Schema.BigInt, (dice) => BigInt(dice(1000)) ** 9n),
  make("Literal of a bigint", Schema.Literal(3n), () => 3n as const),
  make("Symbol", Schema.Symbol, (dice) => dice(2) === 0 ? Symbol.for("s") : Symbol("s")),
  make("Enum", Schema.Enum({ A: "x", B: 2 }), (dice) => oneOf(dice, ["x", 2] as const)),
  make("TemplateLiteral", Schema.TemplateLiteral(["n", Schema.Number]), () => "n5" as const),
  make("Date", Schema.Date, (dice) => new Date(oneOf(dice, [0, 5, -1e12, 8.64e15, Number.NaN]))),
  make("DateFromString", Schema.DateFromString, (dice) => new Date(dice(1e9))),
  make("DateTimeUtc", Schema.DateTimeUtc, (dice) => DateTime.makeUnsafe(dice(1e9))),
  make("Duration", Schema.Duration, (dice) => oneOf(dice, [Duration.millis(3), Duration.infinity, Duration.nanos(7n)])),
  make("BigDecimal", Schema.BigDecimal, (dice) => BigDecimal.fromNumberUnsafe(dice(1000) / 8)),
  make("FiniteFromString", Schema.FiniteFromString, finite),
  make("Uint8Array", Schema.Uint8Array, (dice) => new Uint8Array(listOf(dice, () => dice(256)))),
  make("URL", Schema.URL, (dice) => new URL(`http://h/${dice(9)}`)),
  make("RegExp", Schema.RegExp, (dice) => new RegExp(`a${dice(9)}`, "g")),
  make("Redacted", Schema.Redacted(Schema.String), () => Redacted.make("secret")),
  make("instanceOf", Schema.instanceOf(WeakMap), () => new WeakMap()),
  make("Unknown", Schema.Unknown, anything),
  make("Any", Schema.Any, anything),
  make("Json", Schema.Json, (dice) => json(dice) as Schema.Json),
  make("ObjectKeyword", Schema.ObjectKeyword, (dice) => ({ a: anything(dice) })),
  make("empty Struct", Schema.Struct({}), (dice) => ({ a: anything(dice) })),
  make("Upper", Upper, (dice) => oneOf(dice, ["ABC", "aBc"])),
  make("Rounded", Rounded, finite),
  make("Point", Point, (dice) => new Point({ x: number(dice), ...(dice(2) === 0 ? {} : { at: new Date(dice(9)) }) })),
  make("Plain", Plain, (dice) => new Plain({ text: text(dice), n: dice(2) === 0 ? null : number(dice) })),
  make("Failure", Failure, (dice) => new Failure({ why: text(dice) }))
]

interface Tree {
  readonly value: number
  readonly children: ReadonlyArray<Tree>
}
const Tree = Schema.Struct({
  value: Schema.Number,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})
const tree = (dice: Dice, depth: number): Tree => ({
  value: number(dice),
  children: depth === 0 ? [] : [tree(dice, depth - 1)]
})

export const anySchema = (dice: Dice, depth = 3): AnySchema => {
  if (depth === 0 || dice(5) === 0) return oneOf(dice, leaves)
  const inner = () => anySchema(dice, depth - 1)
  const a = inner()
  const named = (name: string) => `${name}<${a.name}>`
  return oneOf<() => AnySchema>(dice, [
    () => {
      const b = inner()
      const schema = Schema.Struct({ a: a.schema, b: Schema.optional(b.schema), "c-d": Schema.optionalKey(b.schema) })
      return make(`{a: ${a.name}, b?: ${b.name}}`, schema, (dice) => ({
        a: a.value(dice),
        ...oneOf(dice, [{}, { b: undefined }, { b: b.value(dice) }]),
        ...(dice(2) === 0 ? {} : { "c-d": b.value(dice) })
      }))
    },
    () => {
      const b = inner()
      const schema = Schema.Union([
        Schema.TaggedStruct("A", { a: a.schema }),
        Schema.TaggedStruct("B", { b: b.schema })
      ])
      return make(
        `A{${a.name}} | B{${b.name}}`,
        schema,
        (dice) => dice(2) === 0 ? { _tag: "A", a: a.value(dice) } as const : { _tag: "B", b: b.value(dice) } as const
      )
    },
    () => {
      const b = inner()
      return make(
        `${a.name} | ${b.name}`,
        Schema.Union([a.schema, b.schema]),
        (dice) => oneOf(dice, [a, b]).value(dice)
      )
    },
    () => {
      const schema = Schema.Union([Schema.Struct({ a: a.schema }), Schema.Struct({ a: a.schema, b: Schema.String })])
      return make(named("overlap"), schema, (dice) => ({ a: a.value(dice), b: text(dice) }))
    },
    () => make(named("Array"), Schema.Array(a.schema), (dice) => listOf(dice, () => a.value(dice))),
    () => make(named("Tuple"), Schema.Tuple([Schema.String, a.schema]), (dice) => [text(dice), a.value(dice)] as const),
    () =>
      make(
        named("Record"),
        Schema.Record(Schema.String, a.schema),
        (dice) => Object.fromEntries(listOf(dice, () => [text(dice), a.value(dice)]))
      ),
    () => make(named("NullOr"), Schema.NullOr(a.schema), (dice) => dice(2) === 0 ? null : a.value(dice)),
    () => make(named("NullishOr"), Schema.NullishOr(a.schema), (dice) => oneOf(dice, [null, undefined, a.value(dice)])),
    () =>
      make(
        named("Option"),
        Schema.Option(a.schema),
        (dice) => dice(2) === 0 ? Option.none() : Option.some(a.value(dice))
      ),
    () =>
      make(
        named("Result"),
        Schema.Result(a.schema, Schema.String),
        (dice) => dice(2) === 0 ? Result.succeed(a.value(dice)) : Result.fail(text(dice))
      ),
    () => make(named("Chunk"), Schema.Chunk(a.schema), (dice) => Chunk.fromIterable(listOf(dice, () => a.value(dice)))),
    () =>
      make(
        named("ReadonlyMap"),
        Schema.ReadonlyMap(Schema.String, a.schema),
        (dice) => new Map(listOf(dice, () => [text(dice), a.value(dice)] as const))
      ),
    () =>
      make(named("ReadonlySet"), Schema.ReadonlySet(a.schema), (dice) => new Set(listOf(dice, () => a.value(dice)))),
    () =>
      make(
        named("HashMap"),
        Schema.HashMap(Schema.String, a.schema),
        (dice) => HashMap.fromIterable(listOf(dice, () => [text(dice), a.value(dice)] as const))
      ),
    () =>
      make(
        named("HashSet"),
        Schema.HashSet(Schema.String),
        (dice) => HashSet.fromIterable(listOf(dice, () => text(dice)))
      ),
    () => make("Tree", Tree, (dice) => tree(dice, oneOf(dice, [0, 1, 2, 40]))),
    () => make(named("brand"), a.schema.pipe(Schema.brand("branded")), (dice) => a.value(dice) as never)
  ])()
}
