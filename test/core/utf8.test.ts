import { afterEach, assert, describe, it, vi } from "@effect/vitest"
import { Schema } from "effect"
import { utf8Length } from "../../src/core/utf8.ts"
import { fixed, int } from "../support/coreArbitraries.ts"

const encoder = new TextEncoder()
const bytesOf = (text: string): number => encoder.encode(text).length

// Every class of UTF-16 unit, at its borders; surrogates come in any order, so paired, reversed and alone.
const borders = [0, 0x41, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xd800, 0xdbff, 0xdc00, 0xdfff, 0xe000, 0xfeff, 0xffff]
const Text = Schema.Array(int(0, borders.length - 1))
const textOf = (indexes: ReadonlyArray<number>): string =>
  String.fromCharCode(...indexes.map((index) => borders[index] ?? 0))

/** The module as it is where there is no Buffer. */
const withoutBuffer = async (): Promise<typeof utf8Length> => {
  vi.resetModules()
  vi.stubGlobal("Buffer", undefined)
  const module = await import("../../src/core/utf8.ts")
  return module.utf8Length
}

describe("utf8Length", () => {
  afterEach(() => {
    vi.unstubAllGlobals()
    vi.resetModules()
  })

  it.prop("counts the bytes that an encoder writes", [Text], ([indexes]) => {
    assert.strictEqual(utf8Length(textOf(indexes)), bytesOf(textOf(indexes)))
  }, fixed(500))

  it("counts alike where there is no Buffer", async () => {
    const portable = await withoutBuffer()
    vi.unstubAllGlobals() // what asserts may want a Buffer
    for (const a of borders) {
      for (const b of borders) {
        for (const c of borders) {
          const text = String.fromCharCode(a, b, c)
          assert.strictEqual(portable(text), bytesOf(text), JSON.stringify(text))
        }
      }
    }
    assert.strictEqual(portable(""), 0)
    assert.strictEqual(portable("naïve € 𝄞"), bytesOf("naïve € 𝄞"))
  })
})
