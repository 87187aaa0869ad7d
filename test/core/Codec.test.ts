import { describe, expect, it } from "@effect/vitest"
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
    expect(isValidFrame(JSON.parse(text))).toBe(true)
    expect(decode(text)).toEqual(JSON.parse(text))
  }, fixed(1500, 12))

  describe.each(subjects)("of $frame.t", ({ frame, wrong }) => {
    it("is written in its right form", () => {
      expect(decode(encode(frame as unknown as Frame))).toEqual(frame)
    })
    it.each(Object.entries(wrong))("does not write what would be refused as %s", (path, values) => {
      for (const value of values) {
        const text = withField(frame, path, value)
        expect(decode(text), text.slice(0, 200)).toBeInstanceOf(Violation)
        // What JSON.parse makes of it, or nothing at all: a `toString` of one's own is no frame either.
        expect(() => encode(JSON.parse(text) as Frame), text.slice(0, 200)).toThrow(TypeError)
      }
    })
  })

  it("splices a batch from payloads that are JSON already", () => {
    expect(decode(encodeBatch(7, `{"a":1},null`, "", ""))).toEqual({ t: "batch", o: 7, m: [{ a: 1 }, null] })
  })

  it("splices meta and an ack into a batch", () => {
    const meta = `${encodeMeta(0, "i\"d", undefined)},${encodeMeta(1, undefined, "t")}`
    expect(decode(encodeBatch(1, `1,2`, meta, encodeAckFields(5, 4)))).toEqual({
      t: "batch",
      o: 1,
      m: [1, 2],
      x: { 0: { id: "i\"d" }, 1: { trace: "t" } },
      a: [5, 4]
    })
  })

  it("tells of failures in an ack, if there are any", () => {
    expect(encodeAck(3, 2, [])).toBe(`{"t":"ack","a":[3,2]}`)
    expect(decode(encodeAck(3, 2, [[1, "failed"], [2, "undecodable"]])))
      .toEqual({ t: "ack", a: [3, 2], f: [[1, "failed"], [2, "undecodable"]] })
  })

  it("puts volatile messages into one frame", () => {
    expect(decode(encodeVolatile([`"a"`, `{"b":2}`]))).toEqual({ t: "volatile", m: ["a", { b: 2 }] })
  })

  it("overlooks what it does not know, so that later versions may add to a frame", () => {
    expect(decode(`{"t":"ping","new":{"field":[1]}}`)).toMatchObject({ t: "ping" })
    expect(decode(`{"t":"welcome","reason":"newReason"}`)).toBeInstanceOf(Violation) // but misses nothing
    expect(decode(`{"t":"reject","code":"newCode","detail":""}`)).toMatchObject({ code: "newCode" })
  })

  it.each([["[", "]"], [`{"a":`, "}"], [`[{"a":`, "}]"]])(
    "takes payloads of 64 levels of %s, and no more",
    (open, close) => {
      const perUnit = open.length === 6 ? 2 : 1
      expect(payloadFault(nested(64 / perUnit, open, close))).toBeUndefined()
      expect(payloadFault(nested(64 / perUnit + 1, open, close))).toMatchObject({ code: "tooDeep" })
    }
  )

  it("counts the depth of each branch by itself", () => {
    expect(payloadFault([nested(63, "[", "]"), nested(63, `{"a":`, "}")])).toBeUndefined()
    expect(payloadFault([0, { a: nested(63, "[", "]") }])).toMatchObject({ code: "tooDeep" })
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
    expect(decode(text)).toEqual(JSON.parse(text))
  }, fixed(50))
})
