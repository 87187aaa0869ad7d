/** What a contract's Schemas let through arrives as it was sent, or is refused: never as something else. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Equal, Exit, Layer, Option, Schema } from "effect"
import { isDeepStrictEqual } from "node:util"
import { Contract, MemoryStore, ResilientClient, ResilientSocket, Transport } from "resilient-websocket"
import { decode, encodeBatch } from "../src/core/Codec.ts"
import { makeCoder, misfit } from "../src/internal/kit/schemas.ts"
import { type AnySchema, anySchema, makeDice } from "./support/anySchema.ts"
import * as H from "./support/harness.ts"

/** Judged apart from the library: by Node, or by the type's own equality. */
const isSame = (sent: unknown, arrived: unknown): boolean =>
  isDeepStrictEqual(sent, arrived) || Equal.equals(sent, arrived)

/** Over the wire and back, as text. */
const carried = (text: string): unknown => {
  const frame = decode(encodeBatch(1, text, "", ""))
  return frame.t === "batch" ? frame.m[0] : assert.fail(`the receiver refuses ${text.slice(0, 200)}`)
}

describe("Messages through Schemas", () => {
  it("of 1,000 Schemas arrive as they were sent, or are refused with what is wrong", () => {
    const dice = makeDice(11)
    let arrived = 0
    let refused = 0
    for (let i = 0; i < 1_000; i++) {
      const { name, schema, value } = anySchema(dice)
      assert.isUndefined(misfit(schema), name)
      const { decode, encode } = makeCoder(schema, Context.empty())
      for (let k = 0; k < 5; k++) {
        const message = value(dice)
        const text = encode(message)
        if (typeof text !== "string") {
          assert.notStrictEqual(text.detail, "", name)
          refused++
          continue
        }
        const result = decode(carried(text))
        assert.isTrue(Exit.isSuccess(result), `${name}: ${text} is not read`)
        if (Exit.isSuccess(result) && !isSame(message, result.value)) {
          assert.fail(`${name}: ${text} arrives as something else`)
        }
        arrived++
      }
    }
    assert.isAbove(arrived, 2_500)
    assert.isAbove(refused, 200)
  })

  const roundTrip = <A>(schema: Schema.Codec<A, unknown>, message: A) => {
    const { decode, encode } = makeCoder(schema, Context.empty())
    const text = encode(message)
    return typeof text === "string" ? { text, arrives: decode(carried(text)) } : text
  }

  it.each(
    [
      ["NaN", Schema.NullOr(Schema.Number), Number.NaN],
      ["infinite numbers", Schema.Struct({ n: Schema.Number }), { n: -Infinity }],
      ["-0", Schema.Struct({ n: Schema.Number, "-0": Schema.String }), { n: -0, "-0": "-0" }],
      ["-0 for a Finite", Schema.Struct({ n: Schema.Finite }), { n: -0 }],
      ["-0 for 0", Schema.Array(Schema.Literals([0, "zero"])), [-0, 0, "zero"]],
      ["-0 of an Enum", Schema.Enum({ none: 0, one: 1 }), -0],
      ["null, where a number may be", Schema.NullOr(Schema.Number), null],
      ["an optional key that is undefined", Schema.Struct({ a: Schema.optional(Schema.Number) }), { a: undefined }],
      ["an optional key that is not there", Schema.Struct({ a: Schema.optional(Schema.Number) }), {}],
      ["a Date beside a String", Schema.Union([Schema.Date, Schema.String]), new Date(5)],
      ["a String beside a Date", Schema.Union([Schema.Date, Schema.String]), "a"],
      [
        "bytes beside a Record",
        Schema.Union([Schema.Uint8Array, Schema.Record(Schema.String, Schema.Number)]),
        new Uint8Array([1])
      ],
      ["an Option of an Option", Schema.Option(Schema.Option(Schema.Date)), Option.some(Option.none())],
      ["a key called toJSON", Schema.Record(Schema.String, Schema.String), { toJSON: "x" }]
    ] as ReadonlyArray<readonly [string, Schema.Codec<unknown, unknown>, unknown]>
  )("carries %s", (_, schema, message) => {
    const result = roundTrip(schema, message)
    assert.deepStrictEqual("arrives" in result ? result.arrives : result, Exit.succeed(message))
  })

  it.each(
    [
      ["a String that reads as a Date", Schema.Union([Schema.Date, Schema.String]), "1970-01-01T00:00:00.005Z", []],
      ["NaN beside a String", Schema.Array(Schema.Union([Schema.String, Schema.Number])), ["a", Number.NaN], [1]],
      ["undefined beside null", Schema.Struct({ a: Schema.NullishOr(Schema.Number) }), { a: undefined }, ["a"]],
      [
        "a member of a union that another fits",
        Schema.Union([Schema.Struct({ a: Schema.Number }), Schema.Struct({ a: Schema.Number, b: Schema.Number })]),
        { a: 1, b: 2 },
        ["b"]
      ],
      ["NaN in anything", Schema.Struct({ a: Schema.Unknown }), { a: { b: [Number.NaN] } }, ["a", "b", 0]],
      ["a Date in Any", Schema.Struct({ a: Schema.Any }), { a: [new Date(5)] }, ["a", 0]],
      ["__proto__ in a Record", Schema.Record(Schema.String, Schema.Unknown), JSON.parse(`{"a":{"__proto__":1}}`), [
        "a",
        "__proto__"
      ]],
      ["a symbol of nobody", Schema.Struct({ a: Schema.Symbol }), { a: Symbol("mine") }, ["a"]],
      ["what does not fit", Schema.Struct({ a: Schema.Array(Schema.Struct({ b: Schema.Int })) }), {
        a: [{ b: 1 }, { b: 0.5 }]
      }, ["a", 1, "b"]]
    ] as ReadonlyArray<readonly [string, Schema.Codec<unknown, unknown>, unknown, ReadonlyArray<PropertyKey>]>
  )("refuses %s, and says where", (_, schema, message, path) => {
    const result = roundTrip(schema, message)
    if ("arrives" in result) return assert.fail(result.text)
    assert.deepStrictEqual(result.path, path)
  })

  it("refuses what nests deeper than the protocol lets it", () => {
    interface List {
      readonly next: List | null
    }
    const List = Schema.Struct({ next: Schema.NullOr(Schema.suspend((): Schema.Codec<List> => List)) })
    const nested = (levels: number): List => ({ next: levels === 1 ? null : nested(levels - 1) })
    assert.isTrue("arrives" in roundTrip(List, nested(64)))
    assert.include(roundTrip(List, nested(65)), { detail: "a payload nests deeper than 64" })
  })

  it("carries frames of sockets, which are not tried", () => {
    const frames = ["", "{}", `{"bytes":"AQI="}`, new Uint8Array(0), new Uint8Array([0, 255]), { open: "a" }]
    for (const frame of [...frames, { close: 1000, reason: "" }]) {
      const result = roundTrip(ResilientSocket.Frame, frame)
      assert.deepStrictEqual("arrives" in result ? result.arrives : result, Exit.succeed(frame))
    }
  })

  it("takes a message that was changed and is sent again", () => {
    const schema = Schema.Struct({ at: Schema.Date, tags: Schema.Option(Schema.Array(Schema.String)) })
    const tags = ["a"]
    const message = { at: new Date(1), tags: Option.some(tags) }
    assert.isTrue("arrives" in roundTrip(schema, message))
    tags.push("b")
    message.at.setTime(2)
    const again = roundTrip(schema, message)
    assert.deepStrictEqual("arrives" in again ? again.arrives : again, Exit.succeed(message))
  })

  it("leaves out keys that a Struct does not have, whatever else it has", () => {
    const row = { at: new Date(1), id: 7 }
    const result = roundTrip(Schema.NullOr(Schema.Struct({ at: Schema.Date })), row)
    assert.deepStrictEqual("arrives" in result ? result.arrives : result, Exit.succeed({ at: row.at }))
  })

  it("refuse a contract whose keys JSON can't have, when it is made", () => {
    const key = Symbol("key")
    const bad = Schema.Struct({ list: Schema.Array(Schema.Struct({ [key]: Schema.String })) })
    const make = () => Contract.make("test/Bad", { toServer: bad as never, toClient: Schema.String })
    assert.throws(make, /contract test\/Bad: toServer can't go over the wire at list\["\*"\]\[Symbol\(key\)\]/)
    const proto = Schema.Struct({ ["__proto__"]: Schema.String })
    assert.throws(() => Contract.make("test/Bad", { toServer: Schema.String, toClient: proto }), /toClient.*__proto__/)
  })

  it.effect("refuse a client with such a Schema by a defect", () =>
    Effect.gen(function*() {
      const incoming = Schema.Struct({ ["__proto__"]: Schema.String })
      const make = ResilientClient.make({ url: "ws://x", incoming, outgoing: Schema.String })
      const error = yield* H.mistake(Effect.provide(make, Layer.merge(MemoryStore.layer(), Transport.layerMemory)))
      assert.include(error.message, "option incoming must be a Schema of what JSON can hold")
    }).pipe(Effect.scoped))

  /** One message there and back, on a connection in memory. */
  const echoed = ({ schema }: AnySchema, message: unknown) => {
    const Echo = Contract.make("test/Echo", { toServer: schema, toClient: schema })
    const got: Array<unknown> = []
    const store = MemoryStore.layer()
    const Server = Echo.layerServer({
      onMessage: (message, context) => {
        got.push(message)
        return context.server.send(context.incoming.session, message)
      }
    }).pipe(Layer.provide(store))
    const Client = Echo.layerClient({
      url: "ws://memory",
      onMessage: (message) => Effect.sync(() => void got.push(message))
    }).pipe(Layer.provide(MemoryStore.layer()))
    return Effect.gen(function*() {
      const client = yield* Echo.Client
      const receipt = yield* client.send(message)
      yield* receipt.handled
      while (got.length < 2) yield* Effect.yieldNow
      return got
    }).pipe(Effect.provide(Client.pipe(Layer.provideMerge(Server), Layer.provide(Transport.layerMemory))))
  }

  it.live("arrive so over a connection, there and back", () =>
    Effect.gen(function*() {
      const dice = makeDice(7)
      let arrived = 0
      for (let i = 0; i < 60; i++) {
        const any = anySchema(dice)
        const message = any.value(dice)
        const exit = yield* Effect.exit(echoed(any, message))
        if (Exit.isFailure(exit)) {
          assert.include(String(exit.cause), "resilient-websocket/PayloadError", any.name)
          continue
        }
        for (const got of exit.value) assert.isTrue(isSame(message, got), any.name)
        arrived++
      }
      assert.isAbove(arrived, 30)
    }))
})
