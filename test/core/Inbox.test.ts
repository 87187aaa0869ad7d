import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Inbox } from "../../src/core/Inbox.ts"
import { Violation } from "../../src/core/Violation.ts"
import { command, fixed, int } from "../support/coreArbitraries.ts"

const window = { messages: 10, bytes: 1000 }

const started = (position = 0): Inbox => {
  const inbox = new Inbox()
  inbox.adopt("E", position)
  return inbox
}

describe("Inbox", () => {
  it("has no position before it adopts one", () => {
    assert.deepStrictEqual(new Inbox().position, {
      epoch: null,
      received: 0,
      handled: 0,
      failed: [],
      pending: { messages: 0, bytes: 0 }
    })
  })

  it("takes what comes next, and says what it took before", () => {
    const inbox = started()
    assert.strictEqual(inbox.accept(1, 3, 10, window), 0)
    assert.strictEqual(inbox.accept(1, 3, 10, window), 3)
    assert.strictEqual(inbox.accept(2, 3, 10, window), 2)
    assert.strictEqual(inbox.received, 4)
  })

  it("refuses what skips an offset, and stays as it was", () => {
    const inbox = started(5)
    assert.containSubset(inbox.accept(7, 1, 10, window), { code: "future" })
    assert.containSubset(inbox.acceptGap(7, 9), { code: "future" })
    assert.deepStrictEqual(inbox.position, started(5).position)
  })

  it("takes a gap as received, whole, in part or not at all", () => {
    const inbox = started()
    assert.isTrue(inbox.acceptGap(1, 3))
    assert.isFalse(inbox.acceptGap(1, 3))
    assert.isTrue(inbox.acceptGap(2, 5))
    assert.strictEqual(inbox.received, 5)
    assert.deepStrictEqual(inbox.position.pending, { messages: 0, bytes: 0 })
  })

  it("refuses more messages than its window, counting new ones only", () => {
    const inbox = started()
    inbox.accept(1, 8, 10, window)
    assert.containSubset(inbox.accept(9, 3, 10, window), { code: "window" })
    assert.strictEqual(inbox.accept(7, 4, 10, window), 2)
  })

  it("refuses more bytes than its window, but for a frame alone", () => {
    const inbox = started()
    assert.strictEqual(inbox.accept(1, 1, 5000, window), 0)
    assert.containSubset(inbox.accept(2, 1, 1, window), { code: "window" })
    inbox.settle(1, 1)
    assert.strictEqual(inbox.accept(2, 1, 1000, window), 0)
  })

  it("frees a message when it is handled, and a frame's bytes when all of it is", () => {
    const inbox = started()
    inbox.accept(1, 3, 100, window)
    inbox.accept(4, 2, 50, window)
    inbox.settle(2, 2)
    assert.deepStrictEqual(inbox.position.pending, { messages: 3, bytes: 150 })
    inbox.settle(4, 2)
    assert.deepStrictEqual(inbox.position.pending, { messages: 1, bytes: 50 })
    inbox.settle(5, 1)
    assert.deepStrictEqual(inbox.position.pending, { messages: 0, bytes: 0 })
  })

  it("never says that it handled what it did not receive, nor goes back", () => {
    const inbox = started()
    inbox.accept(1, 3, 10, window)
    inbox.settle(9, 3)
    assert.strictEqual(inbox.handled, 3)
    inbox.settle(1, 0)
    assert.strictEqual(inbox.handled, 3)
  })

  it("tells of a failure only once it is handled, and until it was seen", () => {
    const inbox = started()
    inbox.accept(1, 3, 10, window)
    inbox.fail(2, "failed")
    inbox.settle(1, 1)
    assert.deepStrictEqual(inbox.failedAfter(0), [])
    inbox.settle(3, 2)
    assert.deepStrictEqual(inbox.failedAfter(0), [[2, "failed"]])
    assert.deepStrictEqual(inbox.failedAfter(2), [])
    assert.deepStrictEqual(inbox.position.failed, [[2, "failed"]])
    assert.strictEqual(inbox.unconfirmed, 1)
    inbox.forgetFailures(1)
    assert.strictEqual(inbox.unconfirmed, 1)
    inbox.forgetFailures(2)
    assert.strictEqual(inbox.unconfirmed, 0)
  })

  it("starts anew with another log, forgetting all of the one before", () => {
    const inbox = started()
    inbox.accept(1, 3, 10, window)
    inbox.fail(1, "failed")
    inbox.settle(1, 1)
    inbox.adopt("F", 40)
    assert.deepStrictEqual(inbox.position, {
      epoch: "F",
      received: 40,
      handled: 40,
      failed: [],
      pending: { messages: 0, bytes: 0 }
    })
  })

  it("goes back to what was handled when its process died, and keeps the failures that were not seen", () => {
    const inbox = started()
    inbox.accept(1, 3, 10, window)
    inbox.fail(1, "undecodable")
    inbox.settle(2, 2)
    inbox.fail(3, "failed") // and dies before it is settled: it will be handled again
    const restored = new Inbox()
    restored.restore(inbox.position)
    assert.deepStrictEqual(restored.position, {
      epoch: "E",
      received: 2,
      handled: 2,
      failed: [[1, "undecodable"]],
      pending: { messages: 0, bytes: 0 }
    })
  })

  it("restores no position from none", () => {
    const restored = new Inbox()
    restored.restore(new Inbox().position)
    assert.deepStrictEqual(restored.position, new Inbox().position)
  })

  const Command = Schema.Union([
    command("accept", { ahead: int(-6, 2), count: int(1, 6), bytes: int(1, 400) }),
    command("gap", { ahead: int(-6, 2), count: int(1, 6) }),
    command("settle", { count: int(0, 5) })
  ])

  it.prop("takes each offset once, in order, and violations change nothing", [Schema.Array(Command)], ([commands]) => {
    const inbox = started()
    const taken: Array<number> = []
    const unhandled: Array<"message" | "gap"> = []
    for (const command of commands) {
      const before = structuredClone(inbox)
      if (command.t === "settle") {
        const done = unhandled.splice(0, command.count)
        inbox.settle(inbox.handled + done.length, done.filter((kind) => kind === "message").length)
        continue
      }
      const first = Math.max(1, inbox.received + command.ahead)
      const end = first + command.count - 1
      const known = inbox.received
      const answer = command.t === "accept"
        ? inbox.accept(first, command.count, command.bytes, window)
        : inbox.acceptGap(first, end)
      if (answer instanceof Violation) {
        assert.deepStrictEqual(structuredClone(inbox), before)
        assert.strictEqual(answer.code === "future", first > known + 1)
        continue
      }
      for (let offset = Math.max(first, known + 1); offset <= end; offset++) {
        taken.push(offset)
        unhandled.push(command.t === "accept" ? "message" : "gap")
      }
      if (command.t === "accept") assert.strictEqual(answer, Math.min(command.count, Math.max(0, known - first + 1)))
      else assert.strictEqual(answer, end > known)
      assert.strictEqual(inbox.received, Math.max(known, end))
      assert.strictEqual(inbox.position.pending.messages, unhandled.filter((kind) => kind === "message").length)
    }
    assert.deepStrictEqual(taken, taken.map((_, i) => i + 1))
  }, fixed(800, 60))
})
