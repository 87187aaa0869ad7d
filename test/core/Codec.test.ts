import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import {
  decode,
  encode,
  encodeAck,
  encodeAckFields,
  encodeBatch,
  encodeMeta,
  encodeVolatile
} from "../../src/core/Codec.ts"
import type { Frame } from "../../src/core/Frame.ts"
import { payloadFault } from "../../src/core/Payload.ts"
import { Violation } from "../../src/core/Violation.ts"
import { fixed } from "../support/coreArbitraries.ts"
import { AnyFrame, isValidFrame } from "../support/frames.ts"
import { subjects, withField } from "../support/hostileFrames.ts"

const nested = (levels: number, open: string, close: string): unknown =>
  JSON.parse(open.repeat(levels) + "0" + close.repeat(levels))

describe("Codec", () => {
  it.prop("decodes each frame that it encodes", [AnyFrame], ([frame]) => {
    const text = encode(frame)
    assert.isTrue(isValidFrame(JSON.parse(text)))
    assert.deepStrictEqual(decode(text), JSON.parse(text))
  }, fixed(1500, 12))

  describe.each(subjects)("of $frame.t", ({ frame, wrong }) => {
    it("is written in its right form", () => {
      assert.deepStrictEqual<unknown>(decode(encode(frame as unknown as Frame)), frame)
    })
    it.each(Object.entries(wrong))("does not write what would be refused as %s", (path, values) => {
      for (const value of values) {
        const text = withField(frame, path, value)
        assert.instanceOf(decode(text), Violation, text.slice(0, 200))
        // What JSON.parse makes of it, or nothing at all: a `toString` of one's own is no frame either.
        assert.throws(() => encode(JSON.parse(text) as Frame), TypeError, "", text.slice(0, 200))
      }
    })
  })

  it("splices a batch from payloads that are JSON already", () => {
    assert.deepStrictEqual(decode(encodeBatch(7, `{"a":1},null`, "", "")), { t: "batch", o: 7, m: [{ a: 1 }, null] })
  })

  it("splices meta and an ack into a batch", () => {
    const meta = `${encodeMeta(0, "i\"d", undefined)},${encodeMeta(1, undefined, "t")}`
    assert.deepStrictEqual(decode(encodeBatch(1, `1,2`, meta, encodeAckFields(5, 4))), {
      t: "batch",
      o: 1,
      m: [1, 2],
      x: { 0: { id: "i\"d" }, 1: { trace: "t" } },
      a: [5, 4]
    })
  })

  it("tells of failures in an ack, if there are any", () => {
    assert.strictEqual(encodeAck(3, 2, []), `{"t":"ack","a":[3,2]}`)
    assert.deepStrictEqual(decode(encodeAck(3, 2, [[1, "failed"], [2, "undecodable"]])), {
      t: "ack",
      a: [3, 2],
      f: [[1, "failed"], [2, "undecodable"]]
    })
  })

  it("puts volatile messages into one frame", () => {
    assert.deepStrictEqual(decode(encodeVolatile([`"a"`, `{"b":2}`])), { t: "volatile", m: ["a", { b: 2 }] })
  })

  it("overlooks what it does not know, so that later versions may add to a frame", () => {
    assert.containSubset(decode(`{"t":"ping","new":{"field":[1]}}`), { t: "ping" })
    assert.instanceOf(decode(`{"t":"welcome","reason":"newReason"}`), Violation) // but misses nothing
    assert.containSubset(decode(`{"t":"reject","code":"newCode","detail":""}`), { code: "newCode" })
  })

  it.each([["[", "]"], [`{"a":`, "}"], [`[{"a":`, "}]"]])(
    "takes payloads of 64 levels of %s, and no more",
    (open, close) => {
      const perUnit = open.length === 6 ? 2 : 1
      assert.isUndefined(payloadFault(nested(64 / perUnit, open, close)))
      assert.containSubset(payloadFault(nested(64 / perUnit + 1, open, close)), { code: "tooDeep" })
    }
  )

  it("counts the depth of each branch by itself", () => {
    assert.isUndefined(payloadFault([nested(63, "[", "]"), nested(63, `{"a":`, "}")]))
    assert.containSubset(payloadFault([0, { a: nested(63, "[", "]") }]), { code: "tooDeep" })
  })

  const Key = Schema.Literals([
    "constructor",
    "prototype",
    "toString",
    "hasOwnProperty",
    "__PROTO__",
    "_proto_",
    "proto"
  ])

  it.prop("takes payloads with any key but __proto__", [Key], ([key]) => {
    const text = `{"t":"volatile","m":[{"${key}":{"polluted":true}}]}`
    assert.deepStrictEqual(decode(text), JSON.parse(text))
  }, fixed(50))
})
