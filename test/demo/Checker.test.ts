import { assert, describe, it } from "@effect/vitest"
import * as Checker from "../../examples/demo/Checker.ts"

const lines = ["alpha", "beta", "gamma", "delta", "epsilon"]

/** A checker, and a stream of it that was accepted `sent` messages. */
const streamOf = (sent: number, options?: Partial<Checker.Options>) => {
  const checker = Checker.make({ lines, ...options })
  const stream = checker.stream("toServer", "client 1")
  stream.sent(sent)
  return { checker, stream, handle: (index: number) => stream.handled(index, stream.text(index)) }
}

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)

const clean = { lost: 0, duplicated: 0, reordered: 0, corrupted: 0 }

describe("the checker", () => {
  it("finds nothing if every message is handled once, in order, with its text", () => {
    const { checker, handle } = streamOf(1000)
    upTo(1000).forEach(handle)
    const verdict = checker.verdict()
    assert.isTrue(verdict.ok)
    assert.deepStrictEqual(verdict.toServer, { ...clean, sent: 1000, handled: 1000 })
    assert.deepStrictEqual(verdict.toClient, { ...clean, sent: 0, handled: 0 })
    assert.deepStrictEqual(verdict.total, verdict.toServer)
    assert.deepStrictEqual(verdict.failures, [])
  })

  it("finds a message that was lost in the middle, and one at the end", () => {
    const { checker, handle } = streamOf(100)
    upTo(99).filter((i) => i !== 40).forEach(handle)
    const { failures, ok, total } = checker.verdict()
    assert.isFalse(ok)
    assert.deepStrictEqual(total, { ...clean, sent: 100, handled: 98, lost: 2 })
    assert.deepStrictEqual(failures, [{
      kind: "lost",
      direction: "toServer",
      stream: "client 1",
      index: 40,
      detail: "never handled: 40, 2 in all"
    }])
  })

  it("finds that nothing came at all", () => {
    const { checker } = streamOf(50)
    const { failures, total } = checker.verdict()
    assert.deepStrictEqual(total, { ...clean, sent: 50, handled: 0, lost: 50 })
    assert.strictEqual(failures[0]?.detail, "never handled: 0 to 49, 50 in all")
  })

  it("tells a duplicate from a message out of order", () => {
    const duplicate = streamOf(4)
    ;[0, 1, 2, 1, 3, 3].forEach(duplicate.handle)
    assert.deepStrictEqual(duplicate.checker.verdict().total, { ...clean, sent: 4, handled: 6, duplicated: 2 })

    const swapped = streamOf(4)
    ;[0, 2, 1, 3].forEach(swapped.handle)
    const verdict = swapped.checker.verdict()
    assert.deepStrictEqual(verdict.total, { ...clean, sent: 4, handled: 4, reordered: 1 })
    assert.deepInclude(verdict.failures[0], { kind: "reordered", index: 1, detail: "handled after message 2" })

    const late = streamOf(4)
    ;[3, 0, 0, 1, 2].forEach(late.handle)
    assert.deepStrictEqual(late.checker.verdict().total, {
      ...clean,
      sent: 4,
      handled: 5,
      duplicated: 1,
      reordered: 3
    })
  })

  it("finds a changed text, and one that strayed from another stream", () => {
    const { checker, handle, stream } = streamOf(3)
    handle(0)
    stream.handled(1, `${stream.text(1)}!`)
    handle(2)
    assert.deepStrictEqual(checker.verdict().total, { ...clean, sent: 3, handled: 3, corrupted: 1 })
    assert.include(checker.verdict().failures[0]?.detail, "instead of")

    const many = Array.from({ length: 1000 }, (_, i) => `line ${i}`)
    const two = Checker.make({ lines: many })
    const [a, b] = [two.stream("toClient", "client 1"), two.stream("toClient", "client 2")]
    a.sent()
    b.sent()
    a.handled(0, b.text(0))
    b.handled(0, a.text(0))
    assert.strictEqual(two.verdict().toClient.corrupted, 2)
  })

  it("finds messages that were never sent", () => {
    const { checker, handle, stream } = streamOf(2)
    ;[0, 1, 2, 3].forEach(handle)
    assert.deepStrictEqual(checker.verdict().total, { ...clean, sent: 2, handled: 4, corrupted: 2 })
    for (const nonsense of [-1, 0.5, Number.NaN, 2 ** 53, Infinity]) stream.handled(nonsense, "alpha")
    assert.deepStrictEqual(checker.verdict().total, { ...clean, sent: 2, handled: 9, corrupted: 7 })
  })

  it("may be told of a message after its handler was: acceptance and handling race", () => {
    const { checker, handle, stream } = streamOf(0)
    handle(0)
    stream.sent()
    assert.isTrue(checker.verdict().ok)
  })

  it("keeps streams and directions apart, and adds them up", () => {
    const checker = Checker.make({ lines })
    for (const name of ["a", "b", "c"]) {
      const up = checker.stream("toServer", name)
      up.sent(2)
      up.handled(0, up.text(0))
      up.handled(1, up.text(1))
      const down = checker.stream("toClient", name)
      down.sent(1)
    }
    assert.strictEqual(checker.stream("toServer", "a"), checker.stream("toServer", "a"))
    assert.deepStrictEqual(checker.progress("toServer"), { sent: 6, handled: 6 })
    assert.deepStrictEqual(checker.progress("toClient"), { sent: 3, handled: 0 })
    const { toClient, toServer, total } = checker.verdict()
    assert.deepStrictEqual(toServer, { ...clean, sent: 6, handled: 6 })
    assert.deepStrictEqual(toClient, { ...clean, sent: 3, handled: 0, lost: 3 })
    assert.deepStrictEqual(total, { ...clean, sent: 9, handled: 6, lost: 3 })
  })

  it("keeps the first ten findings only, and counts them all", () => {
    const { checker, handle } = streamOf(1)
    upTo(101).forEach(() => handle(0))
    const { failures, total } = checker.verdict()
    assert.strictEqual(failures.length, 10)
    assert.strictEqual(total.duplicated, 100)
  })

  it("takes a bit a message: three million messages fit where a set would not", () => {
    const n = 3_000_000
    const { checker, stream } = streamOf(n)
    const before = process.memoryUsage().arrayBuffers
    for (let i = 0; i < n; i++) stream.handled(i, stream.text(i))
    assert.isTrue(checker.verdict().ok)
    assert.isBelow(process.memoryUsage().arrayBuffers - before, 2 * 1024 * 1024)
  })

  it("does not start without lines", () => {
    assert.throws(() => Checker.make({ lines: [] }), RangeError)
  })
})
