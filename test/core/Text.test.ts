import { assert, describe, it } from "@effect/vitest"
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
      for (const is of [isText, isId, isAuth, isEndpoint]) assert.isFalse(is(value))
    }
  )

  it.each(["a", " ", "\u0001", "\u2028", "\uffff", "\ufeff", "\u{1F600}", "__proto__", "é"])("takes %j", (value) => {
    for (const is of [isText, isId, isAuth, isEndpoint]) assert.isTrue(is(value))
  })

  it("counts ids and endpoints in UTF-16 units, and tokens in bytes", () => {
    assert.isTrue(isId("é".repeat(256)))
    assert.isFalse(isId("é".repeat(257)))
    assert.isTrue(isEndpoint("é".repeat(2048)))
    assert.isFalse(isEndpoint("é".repeat(2049)))
    assert.isTrue(isAuth("é".repeat(4096)))
    assert.isFalse(isAuth(`${"é".repeat(4096)}a`))
  })

  const units = ["a", "é", "€", "\u{1F600}"]
  it.prop(
    "cuts a text to its bytes, and no pair in two",
    [Schema.Array(int(0, units.length - 1)), int(0, 40)],
    ([indexes, bytes]) => {
      const text = indexes.map((index) => units[index] ?? "").join("")
      const start = beginning(text, bytes)
      assert.isTrue(text.startsWith(start))
      assert.isAtMost(utf8Length(start), bytes)
      assert.isTrue(start.isWellFormed())
      const [next] = text.slice(start.length)
      if (next !== undefined) {
        const whole = String.fromCodePoint(text.codePointAt(start.length) ?? 0)
        assert.isAbove(utf8Length(start + whole), bytes)
      }
    },
    fixed(500)
  )
})
