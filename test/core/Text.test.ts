import { describe, expect, it } from "@effect/vitest"
import { Schema } from "effect"
import { beginning, isAuth, isEndpoint, isId, isText } from "../../src/core/Text.ts"
import { utf8Length } from "../../src/core/utf8.ts"
import { fixed, int } from "../support/coreArbitraries.ts"

describe("Texts", () => {
  it.each([
    "",
    "\u0000",
    "a\u0000",
    "\ud800",
    "\udc00\ud800",
    "a\udfff",
    null,
    undefined,
    1,
    {},
    ["a"],
    new String("a")
  ])(
    "refuses %j, whatever it is for",
    (value) => {
      for (const is of [isText, isId, isAuth, isEndpoint]) expect(is(value)).toBe(false)
    }
  )

  it.each(["a", " ", "\u0001", "\u2028", "\uffff", "\ufeff", "\u{1F600}", "__proto__", "é"])("takes %j", (value) => {
    for (const is of [isText, isId, isAuth, isEndpoint]) expect(is(value)).toBe(true)
  })

  it("counts ids and endpoints in UTF-16 units, and tokens in bytes", () => {
    expect(isId("é".repeat(256))).toBe(true)
    expect(isId("é".repeat(257))).toBe(false)
    expect(isEndpoint("é".repeat(2048))).toBe(true)
    expect(isEndpoint("é".repeat(2049))).toBe(false)
    expect(isAuth("é".repeat(4096))).toBe(true)
    expect(isAuth(`${"é".repeat(4096)}a`)).toBe(false)
  })

  const units = ["a", "é", "€", "\u{1F600}"]
  it.prop(
    "cuts a text to its bytes, and no pair in two",
    [Schema.Array(int(0, units.length - 1)), int(0, 40)],
    ([indexes, bytes]) => {
      const text = indexes.map((index) => units[index] ?? "").join("")
      const start = beginning(text, bytes)
      expect(text.startsWith(start)).toBe(true)
      expect(utf8Length(start)).toBeLessThanOrEqual(bytes)
      expect(start.isWellFormed()).toBe(true)
      const [next] = text.slice(start.length)
      if (next !== undefined) {
        const whole = String.fromCodePoint(text.codePointAt(start.length) ?? 0)
        expect(utf8Length(start + whole)).toBeGreaterThan(bytes)
      }
    },
    fixed(500)
  )
})
