import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { encode, encodeAck } from "../../src/core/Codec.ts"
import type { Flow } from "../../src/core/Flow.ts"
import type { Frame, InboxPosition } from "../../src/core/Frame.ts"
import { Inbox } from "../../src/core/Inbox.ts"
import type { Slot } from "../../src/core/Outbox.ts"
import { defaultWindow, type Window } from "../../src/core/Protocol.ts"
import { type Action, maxFrameBytes, resumeInbox, resumeOutbox, Session } from "../../src/core/Session.ts"
import { utf8Length } from "../../src/core/utf8.ts"
import { Violation } from "../../src/core/Violation.ts"
import { fixed, int } from "../support/coreArbitraries.ts"

const zero: InboxPosition = { epoch: "E", received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } }

/** A session with an open connection, at the start of both logs. */
const opened = (
  role: "server" | "client" = "server",
  window: Window = defaultWindow
): { readonly session: Session; readonly flow: Flow } => {
  const session = new Session({ role, window, maxPayload: 1000 })
  session.inbox.adopt("E", 0)
  session.open(window, zero, 0)
  if (session.flow === undefined) throw new Error("open opens a flow")
  return { session, flow: session.flow }
}

const receive = (session: Session, frame: Frame): ReadonlyArray<Action> | Violation => {
  const text = encode(frame)
  return session.receive(text, utf8Length(text))
}

const actions = (session: Session, text: string): ReadonlyArray<Action> => {
  const result = session.receive(text, utf8Length(text))
  if (result instanceof Violation) throw new Error(`${result.code}: ${result.detail}`)
  return result
}

const message = (offset: number, fields: { payload?: string; id?: string; trace?: string } = {}): Slot => {
  const payload = fields.payload ?? String(offset)
  return {
    kind: "message",
    offset,
    payload,
    bytes: utf8Length(payload),
    id: fields.id,
    trace: fields.trace,
    enqueuedAt: 0,
    expiresAt: Infinity
  }
}

const gap = (offset: number, end: number): Slot => ({ kind: "gap", offset, end, reason: "expired" })

const messages = (count: number, fields: { payload?: string; id?: string } = {}): Array<Slot> =>
  Array.from({ length: count }, (_, i) => message(i + 1, fields))

describe("Session", () => {
  describe("receiving", () => {
    it("takes of an ack's failures those that it can be about, each once, however many it lists", () => {
      const { session } = opened()
      session.compose(messages(10), session.flow as Flow)
      const failures = (...offsets: Array<number>) => offsets.map((offset) => [offset, "failed"] as const)
      const many = failures(...Array.from({ length: 1_000 }, (_, n) => n + 1), 2, 2, 1)
      const first = actions(session, JSON.stringify({ t: "ack", a: [10, 3], f: many }))
      assert.deepStrictEqual(first, [{ t: "acked", handled: 3, failed: failures(1, 2, 3) }])
      const second = actions(session, JSON.stringify({ t: "ack", a: [10, 5], f: failures(1, 3, 5, 6) }))
      assert.deepStrictEqual(second, [{ t: "acked", handled: 5, failed: failures(5) }])
      assert.deepStrictEqual(actions(session, JSON.stringify({ t: "ack", a: [10, 5], f: failures(5, 6) })), [])
    })

    it("takes no frame before the handshake, nor after the connection is lost", () => {
      const session = new Session({ role: "server", window: defaultWindow, maxPayload: 1000 })
      assert.containSubset(receive(session, { t: "ping" }), { code: "unexpected" })
      session.open(defaultWindow, zero, 0)
      assert.propertyVal(receive(session, { t: "ping" }), "length", 1)
      session.close()
      assert.containSubset(receive(session, { t: "ping" }), { code: "unexpected" })
    })

    it("delivers a batch, with its meta", () => {
      const { session } = opened()
      assert.deepStrictEqual(receive(session, { t: "batch", o: 1, m: ["a", "b"], x: { 1: { id: "B" } } }), [
        { t: "deliver", epoch: "E", first: 1, messages: ["a", "b"], meta: [undefined, { id: "B" }] }
      ])
      assert.isTrue(session.ackDue)
    })

    it("delivers of a repeated batch only what is new, with the meta of just that", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      assert.deepStrictEqual(
        receive(session, { t: "batch", o: 2, m: ["b", "c"], x: { 0: { id: "B" }, 1: { id: "C" } } }),
        [
          { t: "deliver", epoch: "E", first: 3, messages: ["c"], meta: [{ id: "C" }] }
        ]
      )
    })

    it("delivers nothing of a batch that it has, and acknowledges it again", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      session.composeAck()
      assert.deepStrictEqual(receive(session, { t: "batch", o: 1, m: ["a"] }), [])
      assert.strictEqual(session.composeAck(), encodeAck(1, 0, []))
    })

    it("tells of a gap once, and only of what it does not have", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      const expected = { t: "gap", epoch: "E", first: 2, end: 5, reason: "overflow" } as const
      assert.deepStrictEqual(receive(session, { t: "gap", o: 1, e: 5, reason: "overflow" }), [expected])
      assert.strictEqual(session.composeAck(), encodeAck(5, 0, []))
      assert.deepStrictEqual(receive(session, { t: "gap", o: 1, e: 5, reason: "overflow" }), [])
      assert.strictEqual(session.composeAck(), encodeAck(5, 0, []))
      assert.containSubset(receive(session, { t: "gap", o: 7, e: 8, reason: "overflow" }), { code: "future" })
    })

    it("passes on what the peer handled, once", () => {
      const { flow, session } = opened()
      session.compose(messages(3), flow)
      assert.deepStrictEqual(receive(session, { t: "ack", a: [3, 2], f: [[2, "failed"]] }), [
        { t: "acked", handled: 2, failed: [[2, "failed"]] }
      ])
      assert.deepStrictEqual(receive(session, { t: "ack", a: [3, 2] }), [])
      assert.containSubset(receive(session, { t: "batch", o: 1, m: [0], a: [3, 3] }), [
        { t: "acked", handled: 3, failed: [] },
        { t: "deliver" }
      ])
    })

    it("answers a ping with its position", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      session.handled("E", 1, 1)
      assert.deepStrictEqual(receive(session, { t: "ping" }), [{ t: "reply", frame: `{"t":"pong","a":[2,1]}` }])
    })

    it("takes a pong for an ack", () => {
      const { flow, session } = opened()
      session.compose(messages(1), flow)
      assert.deepStrictEqual(receive(session, { t: "pong", a: [1, 1] }), [{ t: "acked", handled: 1, failed: [] }])
    })

    it("does not say in a pong that it handled what failed, before an ack has told so", () => {
      const { session } = opened()
      const pong = () => receive(session, { t: "ping" })
      receive(session, { t: "batch", o: 1, m: ["a", "b", "c"] })
      session.handled("E", 1, 1)
      assert.deepStrictEqual(pong(), [{ t: "reply", frame: `{"t":"pong","a":[3,1]}` }])
      session.inbox.fail(2, "failed")
      session.handled("E", 3, 2)
      assert.deepStrictEqual(pong(), [{ t: "reply", frame: `{"t":"pong","a":[3,1]}` }])
      assert.strictEqual(session.composeAck(), encodeAck(3, 3, [[2, "failed"]]))
      assert.deepStrictEqual(pong(), [{ t: "reply", frame: `{"t":"pong","a":[3,3]}` }])
    })

    it("forgets failures that the sender has seen", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      session.inbox.fail(1, "failed")
      assert.containSubset(receive(session, { t: "seen", o: 1 }), { code: "future" })
      session.handled("E", 1, 1)
      assert.deepStrictEqual(receive(session, { t: "seen", o: 1 }), [])
      assert.strictEqual(session.inbox.unconfirmed, 0)
    })

    it("refuses more messages of a sender that confirms no failures", () => {
      const { session } = opened("server", { messages: 1, bytes: 1000 })
      for (let offset = 1; offset <= 5; offset++) {
        assert.propertyVal(receive(session, { t: "batch", o: offset, m: [0] }), "length", 1)
        session.inbox.fail(offset, "failed")
        session.handled("E", offset, 1)
      }
      assert.containSubset(receive(session, { t: "batch", o: 6, m: [0] }), { code: "window" })
      receive(session, { t: "seen", o: 5 })
      assert.propertyVal(receive(session, { t: "batch", o: 6, m: [0] }), "length", 1)
    })

    it("hands on volatile messages, ends and rejections", () => {
      const { session } = opened()
      assert.deepStrictEqual(receive(session, { t: "volatile", m: [1, 2] }), [{ t: "volatile", messages: [1, 2] }])
      assert.deepStrictEqual(receive(session, { t: "end" }), [{ t: "end" }])
      assert.propertyVal(receive(session, { t: "reject", code: "replaced", detail: "d" }), "length", 1)
    })

    it("lets only servers drain, and only clients renew their token", () => {
      const drain = { t: "drain", deadline: 1, window: 1 } as const
      const auth = { t: "auth", auth: "token" } as const
      assert.deepStrictEqual(receive(opened("client").session, drain), [drain])
      assert.containSubset(receive(opened("server").session, drain), { code: "unexpected" })
      assert.deepStrictEqual(receive(opened("server").session, auth), [auth])
      assert.containSubset(receive(opened("client").session, auth), { code: "unexpected" })
    })

    it("tells nobody of what was handled of a log that has been replaced", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      session.composeAck()
      session.inbox.adopt("F", 10)
      session.handled("E", 1, 1)
      assert.strictEqual(session.inbox.handled, 10)
      assert.isFalse(session.ackDue)
    })
  })

  describe("sending", () => {
    it("makes frames of slots in their order, and counts them as sent", () => {
      const { flow, session } = opened()
      const slots = [message(1), message(2), gap(3, 5), message(6, { id: "é", trace: "t" })]
      assert.deepStrictEqual(session.compose(slots, flow), [
        `{"t":"batch","o":1,"m":[1,2]}`,
        `{"t":"gap","o":3,"e":5,"reason":"expired"}`,
        `{"t":"batch","o":6,"m":[6],"x":{"0":{"id":"é","trace":"t"}}}`
      ])
      assert.strictEqual(flow.sent, 6)
    })

    it("sends a due ack with the first batch, and only once", () => {
      const { flow, session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      assert.deepStrictEqual(session.compose([message(1), gap(2, 2), message(3)], flow), [
        `{"t":"batch","o":1,"m":[1],"a":[1,0]}`,
        `{"t":"gap","o":2,"e":2,"reason":"expired"}`,
        `{"t":"batch","o":3,"m":[3]}`
      ])
      assert.isUndefined(session.composeAck())
    })

    it("tells of failures with acks of their own, again on each connection, until they are seen", () => {
      const { flow, session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      session.inbox.fail(1, "undecodable")
      session.handled("E", 2, 2)
      assert.deepStrictEqual(session.compose([message(1)], flow), [`{"t":"batch","o":1,"m":[1]}`])
      assert.strictEqual(session.composeAck(), encodeAck(2, 2, [[1, "undecodable"]]))
      assert.isUndefined(session.composeAck())
      session.close()
      assert.deepStrictEqual(session.inbox.position.failed, [[1, "undecodable"]])
    })

    it("owes an ack after a handshake that announced less than was handled since", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      session.handled("E", 2, 2)
      session.open(defaultWindow, zero, 2)
      assert.isUndefined(session.composeAck())
      session.open(defaultWindow, zero, 1)
      assert.strictEqual(session.composeAck(), encodeAck(2, 2, []))
    })

    it.each([0, 3, 9])(
      "tells of failures in a log taken up at %i by a handshake that announced 5 of another",
      (start) => {
        const { session } = opened()
        session.inbox.adopt("F", start)
        session.open(defaultWindow, zero, 5)
        assert.isFalse(session.ackDue)
        receive(session, { t: "batch", o: start + 1, m: ["a"] })
        session.inbox.fail(start + 1, "failed")
        session.handled("F", start + 1, 1)
        assert.deepStrictEqual(receive(session, { t: "ping" }), [
          { t: "reply", frame: `{"t":"pong","a":[${start + 1},${start}]}` }
        ])
        assert.strictEqual(session.composeAck(), encodeAck(start + 1, start + 1, [[start + 1, "failed"]]))
      }
    )

    it("stops where the window's bytes end, and goes on from there", () => {
      const { flow, session } = opened("server", { messages: 100, bytes: 1000 })
      const slots = messages(30, { payload: `"${"x".repeat(50)}"` })
      const sent: Array<number> = []
      while (flow.sent < 30) {
        const frames = session.compose(slots.slice(flow.sent), flow)
        assert.lengthOf(frames, 1)
        assert.deepStrictEqual(session.compose(slots.slice(flow.sent), flow), [])
        sent.push(flow.sent)
        flow.ack(flow.sent, flow.sent)
      }
      assert.isAbove(sent.length, 1)
    })

    it("sends a message alone that is larger than the window", () => {
      const { flow, session } = opened("server", { messages: 100, bytes: 100 })
      const large = message(1, { payload: `"${"x".repeat(900)}"` })
      assert.lengthOf(session.compose([large, message(2)], flow), 1)
      assert.strictEqual(flow.sent, 1)
    })

    it("makes no frame that is larger than a receiver takes, however long the ids are", () => {
      const { flow, session } = opened("server", { messages: 5000, bytes: 10_000_000 })
      const slots = messages(1000, { id: "\u{1F600}".repeat(128) })
      const frames = session.compose(slots, flow)
      assert.strictEqual(flow.sent, 1000)
      for (const frame of frames) assert.isAtMost(utf8Length(frame), maxFrameBytes(0))
    })

    it("makes no ack that is larger than a receiver takes, however much failed", () => {
      const count = 10_000
      const window = { messages: count, bytes: 10_000_000 }
      const receiver = opened("client", window)
      const sender = opened("server", window)
      for (const frame of sender.session.compose(messages(count), sender.flow)) actions(receiver.session, frame)
      for (let offset = 1; offset <= count; offset++) receiver.session.inbox.fail(offset, "undecodable")
      receiver.session.handled("E", count, count)
      let failed = 0
      while (receiver.session.ackDue) {
        const ack = receiver.session.composeAck() ?? ""
        assert.isAtMost(utf8Length(ack), maxFrameBytes(0))
        for (const action of actions(sender.session, ack)) {
          if (action.t !== "acked") continue
          failed += action.failed.length
          assert.strictEqual(action.handled, failed) // nothing is acknowledged before its failure is told
        }
        // A hello now would tell of no more than an ack does, and of nothing that was told before as still to come.
        const { announced } = receiver.session.inbox
        assert.isAtMost(announced.failed.length, 1024)
        assert.strictEqual(announced.handled, failed)
        assert.isFalse(receiver.session.ackDue) // until this has been seen
        actions(receiver.session, `{"t":"seen","o":${failed}}`)
      }
      assert.strictEqual(failed, count)
    })

    const units = ["a", "\"", "\\", "\u0000", "\n", "é", "€", "\u{1F600}", "\ud800", "\udc00"]
    const Text = Schema.Array(int(0, units.length - 1))
    const textOf = (indexes: ReadonlyArray<number>): string => indexes.map((index) => units[index] ?? "").join("")
    const idOf = (indexes: ReadonlyArray<number>): string =>
      textOf(indexes).slice(0, 8).toWellFormed().replaceAll("\u0000", "")
    const AnySlot = Schema.Struct({
      kind: Schema.Literals(["message", "message", "message", "gap"]),
      text: Text,
      id: Text,
      trace: Text
    })

    it.prop(
      "composes what the other side takes as it was meant, and both count the same bytes",
      [Schema.Array(AnySlot), Schema.Struct({ messages: int(1, 20), bytes: int(1, 1000) })],
      ([plan, window]) => {
        const sender = opened("server", window)
        const receiver = opened("client", window)
        const slots = plan.map((slot, i): Slot => {
          if (slot.kind === "gap") return gap(i + 1, i + 1)
          const [id, trace] = [idOf(slot.id), idOf(slot.trace)]
          return message(i + 1, {
            payload: JSON.stringify(textOf(slot.text)),
            ...(id === "" ? {} : { id }),
            ...(trace === "" ? {} : { trace })
          })
        })
        let delivered = 0
        while (delivered < slots.length) {
          const limit = slots.slice(delivered, delivered + sender.flow.roomMessages)
          for (const frame of sender.session.compose(limit, sender.flow)) {
            for (const action of actions(receiver.session, frame)) {
              if (action.t === "gap") {
                assert.deepStrictEqual(action, {
                  t: "gap",
                  epoch: "E",
                  first: ++delivered,
                  end: delivered,
                  reason: "expired"
                })
              } else if (action.t === "deliver") {
                action.messages.forEach((payload, i) => {
                  const slot = slots[delivered++]
                  if (slot?.kind !== "message") return assert.fail("a message where a gap was")
                  assert.strictEqual(payload, JSON.parse(slot.payload))
                  assert.strictEqual(action.first + i, slot.offset)
                  assert.deepStrictEqual({ id: action.meta?.[i]?.id, trace: action.meta?.[i]?.trace }, {
                    id: slot.id,
                    trace: slot.trace
                  })
                })
              }
            }
          }
          const { bytes, messages } = receiver.session.inbox.position.pending
          assert.strictEqual(sender.flow.roomMessages, window.messages - messages)
          assert.strictEqual(sender.flow.roomBytes, bytes === 0 ? Infinity : window.bytes - bytes)
          receiver.session.handled("E", delivered, messages)
          actions(sender.session, receiver.session.composeAck() ?? "")
        }
        assert.strictEqual(sender.flow.roomBytes, Infinity)
      },
      fixed(1000, 30)
    )
  })

  describe("resuming", () => {
    const out = { epoch: "E", acked: 3, last: 9 }
    const peer: InboxPosition = { ...zero, received: 7, handled: 5 }
    const at = (epoch: string, received: number, handled: number): Inbox => {
      const inbox = new Inbox()
      inbox.adopt(epoch, handled)
      inbox.acceptGap(handled + 1, received)
      return inbox
    }

    it("goes on with a peer that has a position in our log", () => {
      assert.deepStrictEqual(resumeOutbox(out, peer), { continued: true, position: peer })
      assert.containSubset(resumeOutbox(out, { ...peer, received: 9, handled: 3 }), { continued: true })
    })

    it("takes note only of failures that are settled: the others may yet be handled", () => {
      const failed = [[4, "failed"], [5, "undecodable"], [6, "failed"]] as const
      assert.deepStrictEqual(resumeOutbox(out, { ...peer, failed }), {
        continued: true,
        position: { ...peer, failed: [[4, "failed"], [5, "undecodable"]] }
      })
    })

    it("starts anew, from what was handled, with a peer that has none, or one before that", () => {
      const start = { continued: false, position: { ...zero, received: 3, handled: 3 } }
      assert.deepStrictEqual(resumeOutbox(out, { ...peer, epoch: null }), start)
      assert.deepStrictEqual(resumeOutbox(out, { ...peer, epoch: "F" }), start)
      assert.deepStrictEqual(resumeOutbox(out, { ...peer, handled: 2 }), start)
    })

    it("refuses a peer that received what was never accepted here", () => {
      assert.containSubset(resumeOutbox(out, { ...peer, received: 10 }), { code: "future" })
    })

    it("keeps its position in a log that goes on, and forgets the failures that were seen", () => {
      const inbox = at("E", 7, 5)
      inbox.fail(3, "failed")
      inbox.fail(4, "failed")
      assert.isTrue(resumeInbox(inbox, out))
      assert.containSubset(inbox.position, { epoch: "E", received: 7, handled: 5, failed: [[4, "failed"]] })
    })

    it("starts anew in a log that it does not know, or that has forgotten what comes next", () => {
      for (const inbox of [new Inbox(), at("F", 7, 5), at("E", 7, 2)]) {
        assert.isFalse(resumeInbox(inbox, out))
        assert.deepStrictEqual(inbox.position, { ...zero, received: 3, handled: 3 })
      }
    })

    it("refuses a log that ends before what was received of it, and stays as it was", () => {
      const inbox = at("E", 10, 10)
      assert.containSubset(resumeInbox(inbox, out), { code: "future" })
      assert.containSubset(inbox.position, { received: 10, handled: 10 })
    })
  })
})
