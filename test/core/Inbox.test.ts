import { describe, expect, it } from "@effect/vitest"
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
    expect(new Inbox().position).toEqual({
      epoch: null,
      received: 0,
      handled: 0,
      failed: [],
      pending: { messages: 0, bytes: 0 }
    })
  })

  it("takes what comes next, and says what it took before", () => {
    const inbox = started()
    expect(inbox.accept(1, 3, 10, window)).toBe(0)
    expect(inbox.accept(1, 3, 10, window)).toBe(3)
    expect(inbox.accept(2, 3, 10, window)).toBe(2)
    expect(inbox.received).toBe(4)
  })

  it("refuses what skips an offset, and stays as it was", () => {
    const inbox = started(5)
    expect(inbox.accept(7, 1, 10, window)).toMatchObject({ code: "future" })
    expect(inbox.acceptGap(7, 9)).toMatchObject({ code: "future" })
    expect(inbox.position).toEqual(started(5).position)
  })

  it("takes a gap as received, whole, in part or not at all", () => {
    const inbox = started()
    expect(inbox.acceptGap(1, 3)).toBe(true)
    expect(inbox.acceptGap(1, 3)).toBe(false)
    expect(inbox.acceptGap(2, 5)).toBe(true)
    expect(inbox.received).toBe(5)
    expect(inbox.position.pending).toEqual({ messages: 0, bytes: 0 })
  })

  it("refuses more messages than its window, counting new ones only", () => {
    const inbox = started()
    inbox.accept(1, 8, 10, window)
    expect(inbox.accept(9, 3, 10, window)).toMatchObject({ code: "window" })
    expect(inbox.accept(7, 4, 10, window)).toBe(2)
  })

  it("refuses more bytes than its window, but for a frame alone", () => {
    const inbox = started()
    expect(inbox.accept(1, 1, 5000, window)).toBe(0)
    expect(inbox.accept(2, 1, 1, window)).toMatchObject({ code: "window" })
    inbox.settle(1, 1)
    expect(inbox.accept(2, 1, 1000, window)).toBe(0)
  })

  it("frees a message when it is handled, and a frame's bytes when all of it is", () => {
    const inbox = started()
    inbox.accept(1, 3, 100, window)
    inbox.accept(4, 2, 50, window)
    inbox.settle(2, 2)
    expect(inbox.position.pending).toEqual({ messages: 3, bytes: 150 })
    inbox.settle(4, 2)
    expect(inbox.position.pending).toEqual({ messages: 1, bytes: 50 })
    inbox.settle(5, 1)
    expect(inbox.position.pending).toEqual({ messages: 0, bytes: 0 })
  })

  it("never says that it handled what it did not receive, nor goes back", () => {
    const inbox = started()
    inbox.accept(1, 3, 10, window)
    inbox.settle(9, 3)
    expect(inbox.handled).toBe(3)
    inbox.settle(1, 0)
    expect(inbox.handled).toBe(3)
  })

  it("tells of a failure only once it is handled, and until it was seen", () => {
    const inbox = started()
    inbox.accept(1, 3, 10, window)
    inbox.fail(2, "failed")
    inbox.settle(1, 1)
    expect(inbox.failedAfter(0)).toEqual([])
    inbox.settle(3, 2)
    expect(inbox.failedAfter(0)).toEqual([[2, "failed"]])
    expect(inbox.failedAfter(2)).toEqual([])
    expect(inbox.position.failed).toEqual([[2, "failed"]])
    expect(inbox.unconfirmed).toBe(1)
    inbox.forgetFailures(1)
    expect(inbox.unconfirmed).toBe(1)
    inbox.forgetFailures(2)
    expect(inbox.unconfirmed).toBe(0)
  })

  it("starts anew with another log, forgetting all of the one before", () => {
    const inbox = started()
    inbox.accept(1, 3, 10, window)
    inbox.fail(1, "failed")
    inbox.settle(1, 1)
    inbox.adopt("F", 40)
    expect(inbox.position).toEqual({
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
    expect(restored.position).toEqual({
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
    expect(restored.position).toEqual(new Inbox().position)
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
        expect(structuredClone(inbox)).toEqual(before)
        expect(answer.code === "future").toBe(first > known + 1)
        continue
      }
      for (let offset = Math.max(first, known + 1); offset <= end; offset++) {
        taken.push(offset)
        unhandled.push(command.t === "accept" ? "message" : "gap")
      }
      if (command.t === "accept") expect(answer).toBe(Math.min(command.count, Math.max(0, known - first + 1)))
      else expect(answer).toBe(end > known)
      expect(inbox.received).toBe(Math.max(known, end))
      expect(inbox.position.pending.messages).toBe(unhandled.filter((kind) => kind === "message").length)
    }
    expect(taken).toEqual(taken.map((_, i) => i + 1))
  }, fixed(800, 60))
})
