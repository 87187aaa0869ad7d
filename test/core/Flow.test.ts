import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Flow } from "../../src/core/Flow.ts"
import { Inbox } from "../../src/core/Inbox.ts"
import { command, fixed, int } from "../support/coreArbitraries.ts"

const window = { messages: 10, bytes: 1000 }
const start = { received: 0, handled: 0, pending: { messages: 0, bytes: 0 } }
const room = (flow: Flow) => ({ messages: flow.roomMessages, bytes: flow.roomBytes })

describe("Flow", () => {
  it("has the whole window at first, and any one frame may go", () => {
    assert.deepStrictEqual(room(new Flow(window, start)), { messages: 10, bytes: Infinity })
  })

  it("frees messages one by one, and the bytes of a frame when all of it is handled", () => {
    const flow = new Flow(window, start)
    flow.sentBatch(1, 4, 400)
    flow.sentBatch(5, 6, 100)
    assert.deepStrictEqual(room(flow), { messages: 4, bytes: 500 })
    assert.isTrue(flow.ack(6, 3))
    assert.deepStrictEqual(room(flow), { messages: 7, bytes: 500 })
    assert.isTrue(flow.ack(6, 5))
    assert.deepStrictEqual(room(flow), { messages: 9, bytes: 900 })
    assert.isTrue(flow.ack(6, 6))
    assert.deepStrictEqual(room(flow), { messages: 10, bytes: Infinity })
  })

  it("does not count gaps", () => {
    const flow = new Flow(window, start)
    flow.sentBatch(1, 2, 50)
    flow.sentGap(90)
    flow.sentBatch(91, 91, 50)
    assert.deepStrictEqual(room(flow), { messages: 7, bytes: 900 })
    flow.ack(91, 90)
    assert.deepStrictEqual(room(flow), { messages: 9, bytes: 950 })
  })

  it("starts with what the peer has not handled in its window", () => {
    const flow = new Flow(window, { received: 9, handled: 3, pending: { messages: 4, bytes: 700 } })
    assert.deepStrictEqual(room(flow), { messages: 6, bytes: 300 })
    flow.ack(9, 5) // which of 4..9 are the two gaps is not known: these may be them
    assert.deepStrictEqual(room(flow), { messages: 6, bytes: 300 })
    flow.ack(9, 9)
    assert.deepStrictEqual(room(flow), { messages: 10, bytes: Infinity })
  })

  it("does not believe a peer that claims more to be pending than there can be", () => {
    const flow = new Flow(window, { received: 5, handled: 3, pending: { messages: 2 ** 53 - 1, bytes: 2 ** 53 - 1 } })
    assert.strictEqual(flow.roomMessages, 8)
    flow.ack(5, 5)
    assert.deepStrictEqual(room(flow), { messages: 10, bytes: Infinity })
  })

  it("is idle when all that was sent has been received", () => {
    const flow = new Flow(window, start)
    assert.isTrue(flow.idle)
    flow.sentBatch(1, 2, 50)
    assert.isFalse(flow.idle)
    flow.ack(2, 0)
    assert.isTrue(flow.idle)
  })

  it("says whether an ack told anything new", () => {
    const flow = new Flow(window, start)
    flow.sentBatch(1, 2, 50)
    assert.deepStrictEqual([flow.ack(1, 0), flow.ack(2, 1), flow.ack(2, 1)], [false, true, false])
  })

  it("refuses acks of what was not sent, and acks that go back", () => {
    const flow = new Flow(window, start)
    flow.sentBatch(1, 5, 50)
    flow.ack(4, 2)
    assert.containSubset(flow.check(6, 2), { code: "future" })
    assert.containSubset(flow.check(3, 2), { code: "regress" })
    assert.containSubset(flow.check(4, 1), { code: "regress" })
    assert.deepStrictEqual([flow.check(4, 2), flow.check(5, 5)], [undefined, undefined])
  })

  describe("with an honest inbox", () => {
    const Command = Schema.Union([
      command("batch", { count: int(1, 6), bytes: int(1, 80) }),
      command("batch", { count: int(1, 6), bytes: int(1, 80) }), // twice as often
      command("gap", { count: int(1, 4) }),
      command("receive", { count: int(1, 3) }),
      command("receive", { count: int(1, 3) }),
      command("handle", { count: int(1, 7) }),
      command("ack", {}),
      command("hear", { count: int(1, 2) }),
      command("reconnect", { arrive: int(0, 3) })
    ])
    const Window = Schema.Struct({ messages: int(1, 12), bytes: int(1, 200) })

    interface Sent {
      readonly first: number
      readonly end: number
      /** None for a gap. */
      readonly bytes: number | undefined
    }

    /** A sender that uses all the room it has, a receiver that handles in steps, and a connection that breaks. */
    class Pair {
      readonly window: typeof Window.Type
      readonly inbox = new Inbox()
      flow: Flow
      private readonly forth: Array<Sent> = []
      private readonly back: Array<readonly [received: number, handled: number]> = []
      private readonly pending: Array<{ readonly upTo: number; readonly messages: number }> = []

      constructor(window: typeof Window.Type) {
        this.window = window
        this.inbox.adopt("E", 0)
        this.flow = new Flow(window, this.inbox.position)
      }

      batch(count: number, bytes: number): void {
        const messages = Math.min(count, this.flow.roomMessages)
        if (messages <= 0 || bytes > this.flow.roomBytes) return
        const first = this.flow.sent + 1
        const end = this.flow.sent + messages
        this.flow.sentBatch(first, end, bytes)
        this.forth.push({ first, end, bytes })
      }

      gap(count: number): void {
        const first = this.flow.sent + 1
        this.flow.sentGap(this.flow.sent + count)
        this.forth.push({ first, end: this.flow.sent, bytes: undefined })
      }

      receive(count: number): void {
        for (const { bytes, end, first } of this.forth.splice(0, count)) {
          if (bytes === undefined) {
            assert.isTrue(this.inbox.acceptGap(first, end))
            this.pending.push({ upTo: end, messages: 0 })
          } else {
            assert.strictEqual(this.inbox.accept(first, end - first + 1, bytes, this.window), 0)
            for (let upTo = first; upTo <= end; upTo++) this.pending.push({ upTo, messages: 1 })
          }
        }
      }

      handle(count: number): void {
        const done = this.pending.splice(0, count)
        const last = done.at(-1)
        if (last !== undefined) this.inbox.settle(last.upTo, done.filter(({ messages }) => messages === 1).length)
      }

      ack(): void {
        this.back.push([this.inbox.received, this.inbox.handled])
      }

      hear(count: number): void {
        for (const [received, handled] of this.back.splice(0, count)) {
          assert.isUndefined(this.flow.check(received, handled))
          this.flow.ack(received, handled)
        }
      }

      reconnect(arrive: number): void {
        this.receive(arrive)
        this.forth.length = 0
        this.back.length = 0
        this.flow = new Flow(this.window, this.inbox.position)
      }
    }

    it.prop("never overruns the window, and has all of it again when everything was handled", [
      Window,
      Schema.Array(Command)
    ], ([window, commands]) => {
      const pair = new Pair(window)
      for (const command of commands) {
        if (command.t === "batch") pair.batch(command.count, command.bytes)
        else if (command.t === "gap") pair.gap(command.count)
        else if (command.t === "receive") pair.receive(command.count)
        else if (command.t === "handle") pair.handle(command.count)
        else if (command.t === "ack") pair.ack()
        else if (command.t === "hear") pair.hear(command.count)
        else pair.reconnect(command.arrive)
        const { messages } = pair.inbox.position.pending
        assert.isAtMost(messages, window.messages)
        assert.isAtMost(pair.flow.roomMessages, window.messages - messages)
      }
      pair.receive(Infinity)
      pair.handle(Infinity)
      pair.ack()
      pair.hear(Infinity)
      assert.deepStrictEqual(room(pair.flow), { messages: window.messages, bytes: Infinity })
      assert.deepStrictEqual(pair.inbox.position.pending, { messages: 0, bytes: 0 })
      assert.isTrue(pair.flow.idle)
    }, fixed(1000, 60))
  })
})
