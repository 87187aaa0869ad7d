import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { decode, encodeBatch, encodeVolatile } from "../../src/core/Codec.ts"
import { exactFault, pathText, payloadFault, valueFault } from "../../src/core/Payload.ts"
import { maxDepth } from "../../src/core/Protocol.ts"
import { Violation } from "../../src/core/Violation.ts"
import { makeDice } from "../support/anySchema.ts"
import { fixed, int } from "../support/coreArbitraries.ts"

type Dice = ReturnType<typeof makeDice>
const pick = <A>(dice: Dice, parts: ReadonlyArray<A>): A => parts[dice(parts.length)] as A // never of none

/** Mostly JSON, with now and then what is none, or what no peer takes. */
const value = (dice: Dice, depth: number): unknown => {
  if (dice(40) === 0) {
    return pick<unknown>(dice, [
      undefined,
      Number.NaN,
      -Infinity,
      1n,
      Symbol("s"),
      new Date(5),
      new Map(),
      () => 1,
      nest(80)
    ])
  }
  if (depth === 0 || dice(3) === 0) {
    return pick<unknown>(dice, [null, true, 0, -0, 1e308, "", "\u0000", "\ud800", "__proto__"])
  }
  if (dice(2) === 0) return Array.from({ length: dice(4) }, () => value(dice, depth - 1))
  const object: { [key: string]: unknown } = {}
  for (let i = dice(4); i > 0; i--) {
    const key = pick(dice, ["a", "b", "0", "", "toString", "constructor", ...(dice(10) === 0 ? ["__proto__"] : [])])
    const property = { value: value(dice, depth - 1), enumerable: true, configurable: true }
    Object.defineProperty(object, key, property)
  }
  return object
}

const nest = (levels: number): unknown => levels === 0 ? 0 : [nest(levels - 1)]

const frames = (payload: unknown) => {
  const text = JSON.stringify(payload)
  return [decode(encodeBatch(1, text, "", "")), decode(encodeVolatile([text]))]
}

describe("Payload", () => {
  it.prop(
    "that is taken to be sent is taken by the receiver, and is what was sent",
    [int(0, 2 ** 31 - 1)],
    ([seed]) => {
      const payload = value(makeDice(seed), 5)
      if (exactFault(payload) !== undefined) return
      assert.isUndefined(valueFault(payload))
      for (const frame of frames(payload)) {
        if (frame.t !== "batch" && frame.t !== "volatile") throw new Error(`refused: ${JSON.stringify(payload)}`)
        // JSON.stringify of both: a -0 arrives as 0.
        assert.strictEqual(JSON.stringify(frame.m[0]), JSON.stringify(payload))
      }
    },
    fixed(3000)
  )

  it.prop("that the receiver refuses is refused to be sent, at the same place", [int(0, 2 ** 31 - 1)], ([seed]) => {
    const payload = value(makeDice(seed), 5)
    let text: string | undefined
    try {
      text = JSON.stringify(payload)
    } catch {
      assert.isDefined(exactFault(payload))
    }
    if (text === undefined) return
    const fault = payloadFault(JSON.parse(text))
    if (fault === undefined) return
    for (const frame of frames(payload)) assert.instanceOf(frame, Violation)
    assert.isDefined(valueFault(payload))
    if (valueFault(payload)?.code === fault.code) assert.isDefined(exactFault(payload))
  }, fixed(3000))

  it.each([["1e400"], ["-1e400"], ["[0,[1e999]]"], [`{"a":{"b":1e309}}`], ["9".repeat(400)]])(
    "has no number beyond a double: %s",
    (text) => {
      assert.containSubset(payloadFault(JSON.parse(text)), { code: "malformed" })
      assert.containSubset(decode(encodeBatch(1, text, "", "")), { code: "malformed" })
    }
  )

  it("says where the fault is", () => {
    const fault = payloadFault(JSON.parse(`{"a":[0,{"b c":{"__proto__":1}}]}`))
    assert.strictEqual(pathText(fault?.path ?? []), `a[1]["b c"].__proto__`)
    assert.containSubset(exactFault({ a: [undefined] }), { path: ["a", 0] })
    assert.containSubset(exactFault({ a: { b: undefined } }), { path: ["a", "b"] })
    assert.isUndefined(valueFault({ a: { b: undefined } }))
    assert.isUndefined(pathText([]))
  })

  it("nests as deep as its receiver follows", () => {
    for (const walk of [payloadFault, valueFault, exactFault]) {
      assert.isUndefined(walk(nest(maxDepth)))
      assert.containSubset(walk(nest(maxDepth + 1)), { code: "tooDeep" })
    }
  })
})

// The kinds of faults that a receiver has, so that one that is added is added to the values above.
it("has as many rules as the properties above know", () => {
  const Code = Schema.Literals(["malformed", "tooDeep"])
  const details = [JSON.parse(`{"__proto__":1}`), JSON.parse("1e400"), nest(65)].map((value) => payloadFault(value))
  assert.strictEqual(new Set(details.map((fault) => fault?.detail)).size, 3)
  for (const fault of details) assert.isTrue(Schema.is(Code)(fault?.code))
})
